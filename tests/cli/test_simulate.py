"""The command around a stand-in for the engine: options in, reports and files out."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import windtunnel as wt
import windtunnel.engine
from windtunnel.cli import main
from windtunnel.errors import ScenarioError
from windtunnel.scenario.files import read_scenario
from windtunnel.scenario.simulate_options import SimulateOptions
from windtunnel.scenario.workload import slo

Run = Callable[..., Any]

SIMULATE = ("simulate", "llama-3.1-8b", "--on", "1xh100-sxm", "--requests", "40", "--slo", "ttft=1,tpot=0.05")


@pytest.fixture(autouse=True)
def asked(service: Any, monkeypatch: pytest.MonkeyPatch) -> list[SimulateOptions]:
    """Answers with the small service, and keeps what was asked: tp=3 is wrong, tp=1 is too small for the 70B model,
    timeout=1 is interrupted."""
    asked: list[SimulateOptions] = []

    def simulate(options: SimulateOptions, *, progress: Callable[[float], None] | None = None) -> Any:
        asked.append(options)
        if options.tp == 3:
            raise ScenarioError("tp=3 does not divide the 32 attention heads")
        rate = options.rate if options.rate and math.isfinite(options.rate) else 25.0
        workload = service.workload(min(options.requests or 20, 100), max(rate, 0.01), options.seed % 1000)
        plan = {"tp": options.tp, "engine": options.engine, "scheduler": options.scheduler}
        known = {"model": options.model, "on": options.on, "plan": plan, "seed": options.seed}
        limits = slo(options.slo) if options.slo else None
        if "70b" in options.model and options.tp < 4:
            return service.result(None, workload, slo=limits, **known)
        outcome = service.outcome(workload, slots=min(options.max_batch or 32, 64), stop_s=options.duration or math.inf)
        outcome = replace(outcome, partial=options.timeout == 1)
        return service.result(outcome, workload, slo=limits, warmup_s=options.warmup, **known)

    monkeypatch.setattr(windtunnel.engine, "simulate", simulate, raising=False)
    return asked


def test_the_fields_of_the_contract(run: Run) -> None:
    ran = run(*SIMULATE, "--json")
    assert ran.code == 0
    found = ran.json()
    for key in ("requests", "completed", "ttft_s", "itl_s", "goodput_requests_per_second", "kv_cache", "bottleneck",
                "simulator", "interval", "warnings", "fits"):  # fmt: skip
        assert key in found
    assert found["requests"] == 40
    assert all(line.startswith("warning: ") for line in ran.err.splitlines())


def test_a_report_for_people(run: Run) -> None:
    ran = run(*SIMULATE)
    assert ran.code == 0
    assert ran.err == ""
    assert "What holds it back" in ran.out
    assert "\x1b" not in ran.out
    assert all(line == line.rstrip() and len(line) <= 100 for line in ran.out.splitlines())


def test_a_poor_terminal_gets_plain_letters() -> None:
    import windtunnel.cli.output  # noqa: F401 - it says how

    assert "▁▃█ 3▎ ≤ …".encode("ascii", "windtunnel") == b"_-# 3 <= ..."


def test_options_reach_the_engine(run: Run, asked: list[SimulateOptions]) -> None:
    run(*SIMULATE, "--rate", "inf", "--input-length", "512", "--prefix-cache", "--kv-transfer", "whole", "--strict",
        "--set", "hbm_gbyte_per_s=1000", "--prefill", "2x(tp=4)", "--decode", "4x(tp=2)")  # fmt: skip
    options = asked[0]
    assert options.rate == math.inf
    assert (options.input_length, options.prefix_cache, options.strict) == ("512", True, True)
    assert (options.prefill, options.decode, options.kv_transfer) == ("2x(tp=4)", "4x(tp=2)", "whole")
    assert options.set == {"hbm_gbyte_per_s": 1000}


def test_files_are_written(run: Run, tmp_path: Path) -> None:
    page, trace, table, again = (tmp_path / name for name in ("a.html", "t.json", "r.parquet", "s.yaml"))
    ran = run(*SIMULATE, "--rate", "inf", "--plot", str(page), "--timeline", str(trace), "--requests-out", str(table),
              "--save-scenario", str(again), "--json")  # fmt: skip
    assert ran.code == 0
    assert ran.json()["completed"] == 40
    assert "<svg" in page.read_text()
    assert json.loads(trace.read_text())["traceEvents"]
    assert table.read_bytes().startswith(b"PAR1")
    assert "--timeline shows: everything" in ran.err
    command, options = read_scenario(again)
    assert command == "simulate"
    assert isinstance(options, SimulateOptions)
    assert (options.rate, options.slo) == (math.inf, "ttft=1,tpot=0.05")
    assert run("run", str(again), "--json").json() == ran.json()


def test_a_sweep_of_the_rate(run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    ran = run(*SIMULATE, "--sweep", "rate=5,20,inf", "--plot", str(picture), "--json")
    assert ran.code == 0
    assert [row["point"]["rate"] for row in ran.json()["sweep"]] == [5, 20, "inf"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    text = run(*SIMULATE, "--sweep", "tp=1,3").out
    assert "wrong (1)" in text
    assert "goodput/s" in text


def test_variants_side_by_side(run: Run, asked: list[SimulateOptions], tmp_path: Path) -> None:
    picture = tmp_path / "a.svg"
    line = (*SIMULATE, "--compare", "scheduler=vllm,chunked", "--plot", str(picture))
    found = run(*line, "--json").json()
    assert found["compare"] == "scheduler"
    assert [r["value"] for r in found["runs"]] == ["vllm", "chunked"]
    assert {o.seed for o in asked} == {0}
    assert "<!-- scheduler=vllm -->" in picture.read_text()
    text = run(*line)
    assert text.code == 0
    assert "bound by" in text.out
    assert [o.max_batch for o in asked[-2:]] == [None, None]
    run(*SIMULATE, "--compare", "set.hbm_gbyte_per_s=1000,2000")
    assert [o.set["hbm_gbyte_per_s"] for o in asked[-2:]] == [1000, 2000]
    run("simulate", "--on", "1xh100-sxm", "--compare", "model=gpt2,llama-3.1-8b")
    assert [o.model for o in asked[-2:]] == ["gpt2", "llama-3.1-8b"]


def test_files_are_compared(run: Run, tmp_path: Path) -> None:
    a, b = str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")
    run(*SIMULATE, "--save-scenario", a)
    run(*SIMULATE, "--max-batch", "4", "--save-scenario", b)
    found = run("compare", a, b, "--json").json()
    assert [r["value"] for r in found["runs"]] == [a, b]
    assert "TTFT p99" in run("compare", a, b).out


def test_what_does_not_fit_is_answered_in_full(run: Run, asked: list[SimulateOptions], tmp_path: Path) -> None:
    line = ("simulate", "llama-3.1-70b", "--on", "8xh100-sxm", "--requests", "90")
    picture = tmp_path / "a.png"
    ran = run(*line, "--json", "--plot", str(picture))
    assert ran.code == 3
    assert ran.json()["fits"] is False
    assert ran.json()["shortfall_bytes"] > 0
    assert ran.json()["suggestions"][0]["options"] == {"tp": 4}
    assert "nothing was written" in ran.err
    assert not picture.exists()
    assert {o.requests for o in asked[1:]} == {16}  # a change is tried on few requests
    text = run(*line)
    assert text.code == 3
    assert "fits with tp=4" in text.out
    assert run(*line, "--compare", "seed=1,2").code == 3
    with pytest.raises(wt.Infeasible, match="does not fit"):
        wt.simulate("llama-3.1-70b", on="8xh100-sxm")


def test_an_interrupted_run_shows_what_there_is(run: Run) -> None:
    ran = run(*SIMULATE, "--timeout", "1", "--json")
    assert ran.code == 130
    assert ran.json()["partial"] is True
    assert ran.err.splitlines()[-1] == "windtunnel: interrupted: the answer is partial"
    assert "PARTIAL" in run(*SIMULATE, "--timeout", "1").out
    swept = run(*SIMULATE, "--timeout", "1", "--sweep", "tp=1,2,4", "--json")
    assert swept.code == 130
    assert len(swept.json()["sweep"]) == 1
    compared = run(*SIMULATE, "--timeout", "1", "--compare", "tp=1,2,4", "--json")
    assert compared.code == 130
    assert len(compared.json()["runs"]) == 1


def test_progress_is_for_terminals(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    def simulate(options: Any, *, progress: Any = None) -> Any:
        told.append(progress)
        raise ScenarioError("enough")

    monkeypatch.setattr(windtunnel.engine, "simulate", simulate)
    run(*SIMULATE)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run(*SIMULATE)
    assert told[0] is None
    assert callable(told[1])


def test_from_python(capsys: pytest.CaptureFixture[str]) -> None:
    found = wt.simulate("llama-3.1-8b", on="1xh100-sxm", requests=40, slo="ttft=1,tpot=0.05")
    assert main([*SIMULATE, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(found.to_dict()))
    assert found.ttft_s["p99"] > 0
    assert found.outcome is not None


WRONG: list[tuple[tuple[str, ...], str]] = [
    (("--bogus",), "--bogus"),
    (("--rate", "0"), "'0'"),
    (("--rate", "nan"), "nan"),
    (("--requests", "-1"), "'-1'"),
    (("--kv-transfer", "half"), "'half'"),
    (("--tp", "3"), "tp=3 does not divide"),
    (("--explain",), "--explain"),
    (("--plot", "a.bmp"), "a.bmp"),
    (("--plot", "/no/such/folder/a.png"), "/no/such/folder"),
    (("--timeline", "/no/such/folder/a.json"), "/no/such/folder"),
    (("--requests-out", "/no/such/folder/a.parquet"), "/no/such/folder"),
    (("--requests-out", "/"), "Is a directory"),
    (("--sweep", "rate=1,2", "--plot", "/no/such/folder/a.png"), "/no/such/folder"),
    (("--compare", "scheduler"), "'scheduler'"),
    (("--compare", "shceduler=a,b"), "scheduler"),
    (("--compare", "tp=1,2,3,4,5,6,7,8,9"), "9 values"),
    (("--compare", "tp=1,3"), "--compare tp=3: tp=3 does not divide"),
    (("--compare", "tp=1,x"), "'x'"),
    (("--compare", "tp=1,2", "--sweep", "pp=1,2"), "--compare and --sweep"),
    (("--compare", "tp=1,2", "--timeline", "a.json"), "--timeline"),
    (("--sweep", "tp=1,2", "--requests-out", "a.parquet"), "--requests-out"),
]


@pytest.mark.parametrize(("more", "said"), WRONG, ids=[" ".join(a)[:50] for a, _ in WRONG])
def test_a_wrong_request_is_one_line(run: Run, more: tuple[str, ...], said: str) -> None:
    for line in ((*SIMULATE, *more), (*SIMULATE, "--json", *more)):
        ran = run(*line)
        assert (ran.code, ran.out) == (2, "")
        assert len(ran.err.splitlines()) == 1
        assert said in ran.err


def test_outputs_of_other_commands(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "infer.yaml"
    file.write_text("command: infer\nmodel: gpt2\non: 1xh100-sxm\n")
    for flag, value in (("--requests-out", ("a",)), ("--compare", ("tp=1,2",)), ("--timeline", ("a",))):
        ran = run("run", str(file), flag, *value)
        assert ran.code == 2
        assert f"{flag} is for" in ran.err
        assert "asks for infer" in ran.err
    file.write_text("command: simulate\nmodel: gpt2\non: 1xh100-sxm\n")
    assert "asks for simulate" in run("run", str(file), "--explain").err


def test_no_argument_meets_a_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """INV: whatever is typed, the exit code is 0, 2, 3 or 130, and on 2 there is one line."""
    words = st.sampled_from(
        ["llama-3.1-8b", "llama-3.1-70b", "--on", "8xh100-sxm", "--tp", "2", "3", "-1", "1e99", "nan", "inf", "--json",
         "--rate", "--requests", "--slo", "ttft=1", "--sweep", "--compare", "rate=1,inf", "seed=1,2", "--plot", "a.bmp",
         "/x/y.png", "--timeline", "/", "--requests-out", "--prefix-cache", "--timeout", "1", "--duration", "--warmup",
         "0.5", "--", "-", "", "\N{SNOWMAN}", "\x1b[31m", "a\nb"]
    )  # fmt: skip
    monkeypatch.delenv("WINDTUNNEL_DEBUG", raising=False)

    @settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(words | st.text(max_size=5), max_size=7), st.booleans())
    def check(arguments: list[str], whole: bool) -> None:
        capsys.readouterr()
        code = main(["simulate", *(["gpt2", "--on", "1xh100-sxm"] if whole else []), *arguments])
        captured = capsys.readouterr()
        assert code in (0, 2, 3, 130), captured.err
        if code == 2:
            assert captured.out == ""
            assert len(captured.err.splitlines()) == 1

    check()
