from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]

TRAIN = (
    "train",
    "llama-3.1-8b",
    "--on",
    "8xh100-sxm",
    "--tp",
    "2",
    "--pp",
    "2",
    "--global-batch",
    "16",
    "--seq",
    "4096",
)
INFER = ("infer", "llama-3.1-8b", "--on", "1xh100-sxm", "--batch", "8", "--input", "512", "--output", "64")
LARGE = ("train", "llama-3.1-70b", "--on", "8xh100-sxm", "--tp", "8", "--seq", "4096")


def test_train_prints_the_fields_of_the_contract(run: Run) -> None:
    ran = run(*TRAIN, "--json")
    assert ran.code == 0
    answer = ran.json()
    for key in ("step_time_s", "tokens_per_second", "tokens_per_second_per_gpu", "samples_per_second",
                "energy_j", "model_tflops_per_gpu", "flops_convention", "mfu", "hfu", "fits", "memory_bytes", "time_s",
                "bottleneck", "elasticity", "cost_usd_per_step", "interval", "warnings"):  # fmt: skip
        assert key in answer
    assert sum(answer["time_s"].values()) == pytest.approx(answer["step_time_s"])
    assert answer["tokens_per_second"] == pytest.approx(16 * 4096 / answer["step_time_s"])
    assert all(line.startswith("warning: ") for line in ran.err.splitlines())


def test_infer_prints_the_fields_of_the_contract(run: Run) -> None:
    answer = run(*INFER, "--json").json()
    for key in ("ttft_s", "tpot_s", "e2e_s", "output_tokens_per_second", "total_tokens_per_second", "fits", "max_batch",
                "output_tokens_per_second_per_gpu", "memory_bytes", "prefill", "decode", "energy_j_per_token",
                "cost_usd_per_million_tokens", "interval", "warnings"):  # fmt: skip
        assert key in answer
    assert answer["e2e_s"] > answer["ttft_s"] > answer["tpot_s"] > 0


def test_reports_are_for_people(run: Run) -> None:
    for arguments, word in ((TRAIN, "MFU"), (INFER, "TPOT")):
        ran = run(*arguments)
        assert ran.code == 0
        assert word in ran.out
        assert "\x1b" not in ran.out  # no colours where nobody sees them
        assert all(line == line.rstrip() and len(line) <= 100 for line in ran.out.splitlines())


def test_what_does_not_fit_is_answered_in_full(run: Run) -> None:
    ran = run(*LARGE, "--json")
    assert ran.code == 3
    answer = ran.json()
    assert answer["fits"] is False
    memory = answer["memory_bytes"]
    assert answer["shortfall_bytes"] == pytest.approx(memory["total"] - memory["capacity"])
    assert answer["step_time_s"] > 0
    assert answer["suggestions"]
    text = run(*LARGE)
    assert text.code == 3
    assert "DOES NOT FIT" in text.out
    assert "fits with " in text.out


def test_a_suggestion_does_fit(run: Run) -> None:
    changes = run(*LARGE, "--json").json()["suggestions"][0]["options"]
    given = [part for k, v in changes.items() if v is not None for part in (f"--{k.replace('_', '-')}", str(v))]
    assert run(*LARGE, *given, "--json").code == 0


def test_the_operator_tree(run: Run) -> None:
    ran = run(*TRAIN, "--explain")
    assert "of roof" in ran.out
    assert "pipeline bubble" in ran.out
    rows = run(*TRAIN, "--explain", "--json").json()["operators"]
    assert sum(r["share"] for r in rows if r["leaf"]) == pytest.approx(1.0)
    phases = run(*INFER, "--explain", "--json").json()["operators"]
    assert set(phases) == {"prefill", "decode"}
    assert "decode   " in run(*INFER, "--explain").out


def test_a_timeline(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "step.json"
    step = run(*TRAIN, "--timeline", str(file), "--json").json()["step_time_s"]
    events = [e for e in json.loads(file.read_text())["traceEvents"] if e["ph"] == "X"]
    assert {e["pid"] for e in events} == {0, 1}
    assert max(e["ts"] + e["dur"] for e in events) == pytest.approx(1e6 * step, rel=1e-3)


@pytest.mark.parametrize("arguments", [TRAIN, INFER, (*TRAIN, "--set", "nic_gbit_per_s=100", "--no-sequence-parallel")])
def test_a_saved_request_gives_the_same_answer(run: Run, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    file = str(tmp_path / "request.yaml")
    first = run(*arguments, "--json", "--save-scenario", file).json()
    assert run("run", file, "--json").json() == first


def test_changed_hardware_changes_the_answer(run: Run) -> None:
    def seconds(*more: str) -> float:
        return float(run(*INFER, "--json", *more).json()["tpot_s"])

    assert seconds("--set", "hbm_gbyte_per_s=6700") < seconds() < seconds("--set", "hbm_gbyte_per_s=1000")


def test_a_sweep_is_one_object(run: Run) -> None:
    ran = run(*TRAIN, "--sweep", "tp=1,2,3", "--sweep", "set.nic_gbit_per_s=100,400", "--json")
    assert ran.code == 0
    rows = ran.json()["sweep"]
    assert [(r["point"]["tp"], r["point"]["set.nic_gbit_per_s"]) for r in rows] == [
        (tp, nic) for tp in (1, 2, 3) for nic in (100, 400)
    ]
    assert rows[2]["step_time_s"] == run(*TRAIN, "--set", "nic_gbit_per_s=100", "--json").json()["step_time_s"]
    assert rows[4]["error"]
    assert "step_time_s" not in rows[4]


def test_a_sweep_is_a_table(run: Run) -> None:
    ran = run("infer", "gpt2", "--input", "512", "--sweep", "on=1xa100-80gb-sxm,1xh100-sxm", "--sweep", "batch=1,8")
    assert ran.code == 0
    assert len([line for line in ran.out.splitlines() if "00-" in line]) == 4


def test_a_sweep_without_any_answer(run: Run) -> None:
    wrong = run(*TRAIN, "--sweep", "tp=3,5", "--json")
    assert (wrong.code, wrong.out) == (2, "")
    assert "tp" in wrong.err
    short = run(*LARGE, "--sweep", "micro_batch=1,2", "--json")
    assert short.code == 3
    assert [r["fits"] for r in short.json()["sweep"]] == [False, False]


def test_files_are_compared(run: Run, tmp_path: Path) -> None:
    a, b = str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")
    one = run(*TRAIN, "--save-scenario", a, "--json").json()
    other = run(*TRAIN, "--recompute", "full", "--set", "nic_gbit_per_s=100", "--save-scenario", b, "--json").json()
    found = run("compare", a, b, "--json").json()
    step = found["parts"]["step"]
    assert step["delta_s"] == pytest.approx(other["step_time_s"] - one["step_time_s"])
    assert sum(d["delta_s"] for d in step["operators"]) == pytest.approx(step["delta_s"])
    assert found["options"] == {"recompute": {"a": "none", "b": "full"}, "set.nic_gbit_per_s": {"a": None, "b": 100.0}}
    assert any(d["name"].startswith("recompute ") for d in step["operators"])
    assert "recompute" in run("compare", a, b).out


def test_only_like_is_compared(run: Run, tmp_path: Path) -> None:
    a, b = str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")
    run(*TRAIN, "--save-scenario", a)
    run(*INFER, "--save-scenario", b)
    ran = run("compare", a, b)
    assert (ran.code, ran.out) == (2, "")
    assert "asks for train" in ran.err


@pytest.mark.parametrize("name", ["train", "infer", "simulate"])
def test_every_option_has_help(run: Run, name: str) -> None:
    from windtunnel.scenario.files import COMMANDS
    from windtunnel.scenario.options import WORDS

    text = run(name, "--help").out
    for field, info in COMMANDS[name].model_fields.items():
        assert info.description, f"{field} has no description"
        if field != "model":
            assert f"--{WORDS.get(field, field).replace('_', '-')}" in text
