"""``plan`` around a stand-in for the search: options in, reports, JSON and files out."""

from __future__ import annotations

import io
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import windtunnel.planning
from windtunnel.cli import main
from windtunnel.cli.progress import Progress
from windtunnel.errors import ScenarioError
from windtunnel.scenario.files import PLANS, read_scenario
from windtunnel.scenario.options import WORDS
from windtunnel.scenario.plans import PlanResult

Run = Callable[..., Any]

TRAIN = ("plan", "train", "llama-3.1-8b", "--on", "64xa100-80gb-sxm", "--global-batch", "512", "--seq", "4096")
SERVE = ("plan", "serve", "llama-3.1-8b", "--on", "2xh100-sxm", "--on", "4xa100-80gb-sxm", "--rate", "25",
         "--slo", "ttft=1,tpot=0.03")  # fmt: skip


@dataclass
class Search:
    """What the stand-in was asked, and what it answers."""

    train: PlanResult
    serve: PlanResult
    asked: list[Any] = field(default_factory=list)

    def __call__(self, options: Any, *, progress: Callable[[float, str], None] | None = None) -> PlanResult:
        self.asked.append(options)
        if options.model == "interrupted":
            raise KeyboardInterrupt
        if options.model == "gpt5":
            raise ScenarioError("unknown model 'gpt5'")
        if progress is not None:
            progress(0.5, "best so far: 8.9 s")
        found = self.serve if type(options) is PLANS["plan-serve"] else self.train
        return replace(found, exported={"run.sh": "torchrun\n\t--x\n"}) if options.export and found.best else found


@pytest.fixture(autouse=True)
def search(train_plans: PlanResult, serve_plans: PlanResult, monkeypatch: pytest.MonkeyPatch) -> Search:
    found = Search(train_plans, serve_plans)
    for name in ("plan_train", "plan_serve"):
        monkeypatch.setattr(windtunnel.planning, name, found, raising=False)
    return found


def test_the_fields_of_the_contract(run: Run) -> None:
    for arguments in (TRAIN, SERVE):
        ran = run(*arguments, "--json")
        assert ran.code == 0
        found = ran.json()
        for key in ("evaluated", "feasible", "seconds", "best", "pareto", "why_not", "objective", "on", "nearest"):
            assert key in found
        assert {"plan", "command"} <= set(found["best"][0])
        assert "export" not in found
        assert all(line.startswith("warning: ") for line in ran.err.splitlines())


def test_reports_are_for_people(run: Run) -> None:
    for arguments in (TRAIN, SERVE):
        ran = run(*arguments)
        assert (ran.code, ran.err) == (0, "")
        assert "\x1b" not in ran.out
        lines = ran.out.splitlines()
        assert all(line == line.rstrip() for line in lines)
        assert all(len(line) <= 100 or line.startswith("windtunnel ") for line in lines)


def test_the_command_is_one_line_that_repeats_the_best(run: Run, train_plans: PlanResult) -> None:
    best = train_plans.best[0]
    (line,) = (x for x in run(*TRAIN).out.splitlines() if x.startswith("windtunnel train"))
    assert line == best["command"]
    again = run(*shlex.split(line)[1:], "--json").json()
    assert again["step_time_s"] == best["step_time_s"]
    assert again["plan"] == best["plan"]


def test_options_reach_the_search(run: Run, search: Search) -> None:
    run(*TRAIN, "--tp", "4,8", "--sequence-parallel", "on,off", "--gpus", "32,64", "--objective", "cost", "--top", "3",
        "--workers", "ray", "--set", "nic_gbit_per_s=100", "--flash-attention")  # fmt: skip
    run(*SERVE, "--chunk", "512,2048", "--deployment", "both", "--budget", "12.5", "--percentile", "99")
    train, serve = search.asked
    assert (train.tp, train.sequence_parallel, train.gpus, train.objective, train.top) == (
        "4,8", "on,off", "32,64", "cost", 3,
    )  # fmt: skip
    assert (train.workers, train.set, train.flash_attention) == ("ray", {"nic_gbit_per_s": 100}, True)
    assert train.pp is None
    assert serve.on == ["2xh100-sxm", "4xa100-80gb-sxm"]
    assert (serve.chunk, serve.deployment, serve.budget, serve.percentile) == ("512,2048", "both", 12.5, 99)


def test_nothing_feasible_is_three(run: Run, search: Search, nothing_found: PlanResult, tmp_path: Path) -> None:
    search.train = nothing_found
    plot, folder = tmp_path / "a.png", tmp_path / "out"
    files = ("--plot", str(plot), "--export", "megatron", "--export-to", str(folder))
    ran = run(*TRAIN, "--json", *files)
    assert ran.code == 3
    found = ran.json()
    assert found["feasible"] == 0
    assert found["binding"]["constraint"] == "memory_bytes"
    assert found["nearest"]["command"].startswith("windtunnel train")
    assert "--plot: nothing was written" in ran.err
    assert not list(tmp_path.iterdir())
    ran = run(*TRAIN)
    assert ran.code == 3
    assert "NO PLAN IS FEASIBLE" in ran.out
    assert "What could be changed" in ran.out


def test_files_are_written(run: Run, tmp_path: Path) -> None:
    page, folder = tmp_path / "a.html", tmp_path / "out"
    ran = run(*TRAIN, "--plot", str(page), "--export", "megatron", "--export-to", str(folder), "--json")
    assert ran.code == 0
    assert ran.json()["export"] == {"tool": "megatron", "files": {"run.sh": "torchrun\n\t--x\n"}}
    assert "<svg" in page.read_text()
    assert (folder / "run.sh").read_text() == "torchrun\n\t--x\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "out"]


def test_what_is_exported_is_printed(run: Run) -> None:
    ran = run(*TRAIN, "--export", "megatron")
    assert "megatron: run.sh\n\ntorchrun\n\t--x" in ran.out


@pytest.mark.parametrize("arguments", [(*TRAIN, "--tp", "4,8", "--days", "3"), (*SERVE, "--kv-precision", "fp8,bf16")])
def test_a_saved_scenario_repeats_the_search(
    run: Run, search: Search, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    saved = tmp_path / "plan.yaml"
    first = run(*arguments, "--save-scenario", str(saved), "--json")
    assert (saved.exists(), first.code) == (True, 0)
    again = run("run", str(saved), "--json")
    assert again.out == first.out
    assert search.asked[0] == search.asked[1]
    assert read_scenario(saved)[0] == f"plan-{arguments[1]}"


def test_a_file_lists_values_in_its_own_way(run: Run, search: Search, tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    asked = {"command": "plan-serve", "model": "toy", "on": "2xh100-sxm", "tp": [1, 2], "max-batch": 64, "rate": 2}
    file.write_text(yaml.safe_dump(asked))
    assert run("run", str(file)).code == 0
    options = search.asked[0]
    assert (options.on, options.tp, options.max_batch) == (["2xh100-sxm"], "1,2", "64")


WRONG: list[tuple[tuple[str, ...], str]] = [
    (("plan",), "windtunnel plan --help"),
    (("plan", "trian"), "'train'"),
    (("plan", "train"), "model is missing"),
    (("plan", "train", "gpt2"), "on is missing"),
    (("plan", "serve", "gpt2"), "on is missing"),
    (("plan", "train", "gpt5", "--on", "8xh100-sxm"), "'gpt5'"),
    ((*TRAIN, "--bogus", "1"), "See: windtunnel plan train --help"),
    ((*SERVE, "--bogus"), "See: windtunnel plan serve --help"),
    ((*TRAIN, "--on", "8xh100-sxm", "more"), "more"),
    ((*TRAIN, "--objective", "speed"), "'speed'"),
    ((*TRAIN, "--top", "0"), "top='0'"),
    ((*TRAIN, "--top", "many"), "'many'"),
    ((*TRAIN, "--days", "-1"), "'-1'"),
    ((*TRAIN, "--export", "vllm"), "'vllm'"),
    ((*SERVE, "--export", "megatron"), "'megatron'"),
    ((*SERVE, "--percentile", "100"), "'100'"),
    ((*SERVE, "--budget", "nan"), "'nan'"),
    ((*TRAIN, "--export-to", "somewhere"), "--export TOOL"),
    ((*TRAIN, "--export", "megatron", "--export-to", "/no/such/folder/a"), "/no/such/folder/a"),
    ((*TRAIN, "--export", "megatron", "--export-to", __file__), "Not a directory"),
    ((*TRAIN, "--plot", "a.bmp"), "a.bmp"),
    ((*TRAIN, "--plot", "/no/such/folder/a.png"), "/no/such/folder"),
    ((*TRAIN, "--save-scenario", "/no/such/folder/a.yaml"), "/no/such/folder"),
    ((*TRAIN, "--sweep", "tp=1,2"), "--sweep"),
    ((*TRAIN, "--set", "hbm"), "'hbm'"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "said"), WRONG, ids=[" ".join(a)[-60:] for a, _ in WRONG])
def test_a_wrong_request_is_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    more = ("--json", "--save-scenario", "s.yaml") if len(arguments) > 2 and "--save-scenario" not in arguments else ()
    ran = run(*arguments, *more)
    assert (ran.code, ran.out) == (2, "")
    assert len(ran.err.splitlines()) == 1
    assert said in ran.err
    assert not list(tmp_path.iterdir())


def test_no_argument_meets_a_traceback(
    search: Search, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """INV: whatever is typed, the exit code is 0 or 2, and on 2 there is one line."""
    monkeypatch.chdir(tmp_path)
    words = st.sampled_from(
        ["train", "serve", "gpt2", "--on", "8xh100-sxm", "--tp", "2,4", "--top", "--slo", "ttft=1", "--export", "vllm",
         "megatron", "--json", "--plot", "a.svg", "--export-to", "out", "--objective", "cost", "-1", "", "--percentile",
         "\0", "é", "--workers", "ray", "--store", "--save-scenario", "--set", "a=b", "--help"]
    )  # fmt: skip

    @given(st.lists(words, max_size=9))
    @settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow])
    def check(more: list[str]) -> None:
        capsys.readouterr()
        code = main(["plan", *more])
        captured = capsys.readouterr()
        assert code in (0, 2), (more, captured.err)
        if code == 2:
            assert (captured.out, len(captured.err.splitlines())) == ("", 1)

    check()


@pytest.mark.parametrize("change", [{"tp": {"a": 1}}, {"top": True}, {"bogus": 1}, {"on": []}, {"on": [{}]}])
def test_a_wrong_file_is_one_line(run: Run, tmp_path: Path, change: dict[str, Any]) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump({"command": "plan-serve", "model": "toy", "on": ["1xt4"], **change}))
    ran = run("run", str(file))
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (2, "", 1)
    assert next(iter(change)) in ran.err


def test_other_commands_do_not_take_a_search(run: Run, tmp_path: Path) -> None:
    file = str(tmp_path / "plan.yaml")
    run(*TRAIN, "--save-scenario", file)
    for arguments in (("compare", file, file), ("explain", file), ("run", file, "--sweep", "tp=1,2"),
                      ("run", file, "--explain")):  # fmt: skip
        ran = run(*arguments)
        assert (ran.code, ran.out) == (2, "")
        assert "plan-train" in ran.err
        assert len(ran.err.splitlines()) == 1


@pytest.mark.parametrize("name", ["train", "serve"])
def test_every_option_has_help(run: Run, name: str) -> None:
    text = run("plan", name, "--help").out
    for option, info in PLANS[f"plan-{name}"].model_fields.items():
        assert info.description, f"{option} has no description"
        if option != "model":
            assert f"--{WORDS.get(option, option).replace('_', '-')}" in text
    assert text.index("Goals and search") < text.index("Searched") < text.index("Machine")


def test_help_names_both_questions(run: Run) -> None:
    ran = run("plan", "--help")
    assert ran.code == 0
    assert {"train", "serve"} <= set(ran.out.split())


def test_an_interruption_says_how_to_go_on(run: Run) -> None:
    asked = ("plan", "train", "interrupted", "--on", "8xh100-sxm")
    ran = run(*asked)
    assert (ran.code, ran.out, ran.err) == (130, "", "windtunnel: interrupted\n")
    ran = run(*asked, "--store", "plans.duckdb")
    assert (ran.code, ran.out) == (130, "")
    assert "resumes" in ran.err


def test_progress_tells_the_best_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    stream = io.StringIO()
    times = iter([0.0, 2.0, 4.0])
    progress = Progress(stream, lambda: next(times), what="planning")
    progress(0.25, "best so far: 8.9 s\nx")
    progress(0.5, "long " * 100)
    progress.close()
    lines = stream.getvalue().split("\r")
    assert lines[1].startswith("planning [#")
    assert lines[1].endswith("25 %, 6.00 s left; best so far: 8.9 s x")
    assert len(lines[2]) == 89  # a line that wraps could not be drawn over


def test_progress_reaches_the_search(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(Progress, "__call__", lambda self, *args: told.append(args))
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", stream)
        run(*TRAIN)
    assert told == [(0.5, "best so far: 8.9 s")]
