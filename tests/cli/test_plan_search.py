"""``plan`` with the real search: what it prints is true of the command that it names."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import windtunnel as wt

Run = Callable[..., Any]

ON = ("plan", "train", "gpt2", "--on", "8xa100-80gb-sxm", "--global-batch", "16", "--seq", "1024")


def test_the_command_gives_the_figures_of_the_best(run: Run) -> None:
    found = run(*ON, "--json").json()
    assert found["feasible"] > 100
    assert 0 < len(found["best"]) <= 5
    best = found["best"][0]
    alone = run(*shlex.split(best["command"])[1:], "--json").json()
    for name in ("step_time_s", "mfu", "memory_bytes", "time_s", "energy_j", "bottleneck", "tokens_per_second"):
        assert alone[name] == best[name], name
    times = [p["step_time_s"] for p in found["best"]]
    assert times == sorted(times)
    assert min(p["step_time_s"] for p in found["pareto"]) == times[0]


def test_python_is_the_command(run: Run) -> None:
    found = run(*ON, "--tp", "1,2", "--objective", "cost", "--top", "3", "--json").json()
    same = wt.plan_train(
        "gpt2", on="8xa100-80gb-sxm", global_batch=16, seq=1024, tp=[1, 2], objective="cost", top=3
    ).to_dict()
    for key in ("best", "pareto", "why_not", "evaluated", "feasible"):
        assert found[key] == same[key], key
    best = same["best"][0]
    assert wt.train("gpt2", on="8xa100-80gb-sxm", **best["plan"]).step_time_s == best["step_time_s"]


def test_too_small_a_cluster_is_three(run: Run) -> None:
    arguments = ("plan", "train", "llama-3.1-70b", "--on", "8xh100-sxm", "--global-batch", "8", "--seq", "4096",
                 "--zero", "0,1", "--recompute", "none")  # fmt: skip
    found = run(*arguments, "--json")
    assert found.code == 3
    answer = found.json()
    binding = answer["binding"]
    assert (answer["feasible"], answer["best"]) == (0, [])
    assert 1 < binding["ratio"] == binding["value"] / binding["limit"]
    nearest = run(*shlex.split(answer["nearest"]["command"])[1:], "--json")
    assert nearest.code == 3
    assert nearest.json()["memory_bytes"]["total"] == binding["value"]
    ran = run(*arguments)
    assert ran.code == 3
    assert "the nearest plan misses the memory of an accelerator" in ran.out
    with pytest.raises(wt.Infeasible, match="the nearest plan misses"):
        wt.plan_train("llama-3.1-70b", on="8xh100-sxm", global_batch=8, seq=4096, zero=[0, 1], recompute="none")


def test_a_saved_search_and_its_store_repeat_it(run: Run, tmp_path: Path) -> None:
    saved, store = tmp_path / "plan.yaml", tmp_path / "plans.duckdb"
    first = run(*ON, "--tp", "1,2", "--store", str(store), "--save-scenario", str(saved), "--json").json()
    again = run("run", str(saved), "--json").json()
    assert first["resumed"] == 0 < again["resumed"]
    for key in ("best", "pareto", "why_not", "evaluated"):
        assert again[key] == first[key]


def test_the_best_plan_is_exported(run: Run, tmp_path: Path) -> None:
    arguments = (*ON, "--tp", "2", "--export", "megatron")
    found = run(*arguments, "--export-to", str(tmp_path / "run"), "--json").json()
    files = found["export"]["files"]
    assert found["export"]["tool"] == "megatron"
    assert {p.name: p.read_text() for p in (tmp_path / "run").iterdir()} == files
    assert "--tensor-model-parallel-size 2" in files["launch.sh"]
    assert files["launch.sh"].rstrip() in run(*arguments).out
    wrong = run(*arguments, "--engine", "deepspeed")
    assert (wrong.code, wrong.out, len(wrong.err.splitlines())) == (2, "", 1)


def test_the_report_and_the_picture(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page = tmp_path / "front.html"
    ran = run(*ON, "--plot", str(page))
    assert (ran.code, ran.err) == (0, "")
    for title in ("Best: ", "Runners-up", "What binds the best", "Why the obvious plan lost", "Why not the others"):
        assert title in ran.out
    assert "the best" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--tp", "x"), "'x'"),
        (("--tp", "2,,4"), "'2,,4'"),
        (("--schedule", "spiral"), "'spiral'"),
        (("--zero", "7"), "7"),
        (("--gpus", "128"), "128"),
        (("--workers", "none"), "none"),
        (("--objective", "cluster"), "--tokens"),
        (("--sequence-parallel", "maybe"), "'maybe'"),
        (("--store", "/no/such/folder/a.duckdb"), "/no/such/folder"),
    ],
)
def test_what_cannot_be_searched_is_one_line(run: Run, arguments: tuple[str, ...], said: str) -> None:
    ran = run(*ON, *arguments, "--json")
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (2, "", 1)
    assert said.removeprefix("--") in ran.err
