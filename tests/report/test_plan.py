"""What a search found, in words and as a picture."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from rich.console import Console

from windtunnel.errors import ScenarioError
from windtunnel.report.plan import render_findings, render_headline, render_runnable, reproduce
from windtunnel.report.plan_figures import GOALS, Figure, trade_offs, worse_by
from windtunnel.report.plan_words import advice, constraint_text, curves, differences, effort, reasons, stages
from windtunnel.report.plot_plan import plot_plans
from windtunnel.scenario.options import read_options
from windtunnel.scenario.plan_options import (
    PlanServeOptions,
    PlanTrainOptions,
)
from windtunnel.scenario.plans import PlanResult

TRAIN = read_options(PlanTrainOptions, {"model": "llama-3.1-8b", "on": "64xa100-80gb-sxm", "tp": "2,4,8"})
SERVE = read_options(PlanServeOptions, {"model": "toy", "on": ["2xh100-sxm"], "slo": "ttft=1,tpot=0.03"})


def text(result: PlanResult, options: Any, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None, highlight=False)
    with console.capture() as captured:
        console.print(render_headline(result, options))
        console.print(reproduce(result.best[0] if result.best else result.nearest), soft_wrap=True)
        console.print(render_runnable(result))
        console.print(reproduce(result.runnable), soft_wrap=True)
        console.print(render_findings(result, options))
    return captured.get()


def test_the_answer_comes_first(train_plans: PlanResult) -> None:
    best = train_plans.best[0]
    lines = [line for line in text(train_plans, TRAIN).splitlines() if line]
    assert lines[1].startswith("Best: tp=4")
    assert f"{best['step_time_s']:.3g} s a step" in " ".join(lines[:5])
    assert any(line == best["command"] for line in lines[:9])


def test_what_the_framework_can_run_is_told(train_plans: PlanResult, tmp_path: Path) -> None:
    best, own = train_plans.best[0], train_plans.best[2]
    said = text(replace(train_plans, runnable=own), TRAIN)
    assert "With the framework's own schedules: tp=2 pp=4" in said
    assert f"step 10.0 s, {100 * (own['step_time_s'] / best['step_time_s'] - 1):.1f} % worse" in said
    assert said.index(best["command"]) < said.index(own["command"]) < said.index("Runners-up")
    pytest.importorskip("matplotlib")
    plot_plans(replace(train_plans, runnable=own), tmp_path / "a.svg", TRAIN)
    assert "own schedules" in (tmp_path / "a.svg").read_text()


def test_runners_up_say_what_differs_and_by_how_much(train_plans: PlanResult) -> None:
    best, second, _ = train_plans.best
    said = text(train_plans, TRAIN)
    row = next(line for line in said.splitlines() if line.strip().startswith("2 "))
    assert f"{100 * (second['step_time_s'] / best['step_time_s'] - 1):.1f} %" in row
    assert row.rstrip().endswith("tp=2 pp=2 micro_batch=1")
    assert "1 of them within 2%" in said


@pytest.mark.parametrize(("question", "options"), [("train", PlanTrainOptions), ("serve", PlanServeOptions)])
def test_every_objective_has_words(question: str, options: type[PlanTrainOptions] | type[PlanServeOptions]) -> None:
    assert set(GOALS[question]) == set(get_args(options.model_fields["objective"].annotation))


@pytest.mark.parametrize("objective", GOALS["train"])
def test_the_first_column_is_the_goal(train_plans: PlanResult, objective: str) -> None:
    said = text(replace(train_plans, objective=objective), TRAIN)
    words, figure = GOALS["train"][objective]
    assert words in said.splitlines()[0]
    table = said[said.index("Runners-up") :].splitlines()
    assert table[1].strip().startswith(figure.title)


def test_a_rate_is_worse_where_it_is_lower() -> None:
    rate, time = Figure("rate", "a.b", str, more=True), Figure("time", "a.b", str)
    low, high = {"a": {"b": 8.0}}, {"a": {"b": 10.0}}
    assert rate.worse(low, high) == pytest.approx(0.25)
    assert time.worse(high, low) == pytest.approx(0.25)
    assert time.worse({}, low) is None
    assert time.of({"a": 3}) is None


def test_what_differs(train_plans: PlanResult) -> None:
    a: Mapping[str, Any] = {"plan": {"tp": 2, "offload": "all", "sequence_parallel": True}, "on": "1xt4"}
    b: Mapping[str, Any] = {"plan": {"tp": 2, "sequence_parallel": False}, "on": "2xt4"}
    assert differences(a, b) == ["on=1xt4", "offload=all", "sequence_parallel=yes"]
    assert differences(b, a) == ["on=2xt4", "sequence_parallel=no", "offload=none"]
    assert differences({"plan": {"chunk": 8}}, {"plan": {"tp": 2}}) == ["chunk=8", "tp=1"]
    assert differences({"plan": {"tp": 2}}, {"plan": {"chunk": 8, "rate": 2}}) == ["tp=2", "chunk=default"]
    assert differences(a, a) == []


def test_pools_differ_from_one_kind_of_engine_as_a_whole() -> None:
    apart = {"plan": {"on": "4xh100-sxm", "prefill": "2x(tp=1)", "decode": "1x(tp=2)"}}
    one = {"plan": {"on": "4xh100-sxm", "replicas": 4, "chunk": 2048}}
    assert differences(apart, one) == ["prefill=2x(tp=1)", "decode=1x(tp=2)"]
    assert differences(one, apart) == ["tp=1", "replicas=4", "chunk=2048"]


def test_reasons_are_sorted_and_shares_add_up(train_plans: PlanResult) -> None:
    assert reasons({"b": 1, "a": 1, "c": 5, "none": 0}) == [("c", 5), ("a", 1), ("b", 1)]
    said = text(train_plans, TRAIN)
    assert "15,281 of 20,402 combinations" in said
    assert "12,000  58.8 %" in said


def test_the_search_is_told(train_plans: PlanResult) -> None:
    assert effort(train_plans) == (
        "8,402 plans in 310 ms (27,103 a second), 400 of them kept from before; 5,121 feasible"
    )
    assert "0 plans in 0 s; 0 feasible" in effort(replace(train_plans, evaluated=0, feasible=0, seconds=0.0, resumed=0))


def test_why_the_obvious_plan_lost(train_plans: PlanResult) -> None:
    said = text(train_plans, TRAIN)
    part = said[said.index("Why the obvious plan lost") :].splitlines()
    assert part[1].startswith("  tp=8 dp=8 ")
    assert part[2].rstrip() == "  it takes 1.57 times as long, most of it computing"


def test_what_binds_the_best(train_plans: PlanResult) -> None:
    assert re.search(r"What binds the best\n  matrix units \(tensor\): \d+ % of the step's", text(train_plans, TRAIN))


@pytest.mark.parametrize(
    ("binding", "said"),
    [
        ({"constraint": "memory_bytes", "value": 96 * 2.0**30, "limit": 80 * 2.0**30, "ratio": 1.2},
         "memory of an accelerator: 96.0 GiB against a limit of 80.0 GiB, 1.20 times it"),
        ({"constraint": "ttft_s p90", "value": 1.5, "limit": 1.0, "ratio": 1.5},
         "TTFT p90: 1.50 s against a limit of 1.00 s, 1.50 times it"),
        ({"constraint": "tpot_s p99", "value": None, "limit": 0.05, "ratio": None},
         "TPOT p99: never against a limit of 50.0 ms"),
        ({"constraint": "time_to_train_s", "value": 45 * 86400.0, "limit": 30 * 86400.0, "ratio": 1.5},
         "time for the whole run: 45.0 days against a limit of 30.0 days, 1.50 times it"),
        (
            {"constraint": "host_memory_bytes", "value": 90 * 2.0**30, "limit": 45 * 2.0**30, "ratio": 2.0},
            "host memory of a node: 90.0 GiB against a limit of 45.0 GiB, 2.00 times it",
        ),
    ],
)  # fmt: skip
def test_by_how_much_it_misses(binding: Mapping[str, Any], said: str) -> None:
    assert constraint_text(binding) == said


def test_where_nothing_is_feasible_it_says_what_to_change(nothing_found: PlanResult) -> None:
    said = text(nothing_found, TRAIN)
    assert "NO PLAN IS FEASIBLE" in said
    assert "Nearest: tp=2" in said
    assert nothing_found.nearest is not None
    assert nothing_found.nearest["command"] in said
    assert "this search was held to --tp 2,4,8" in said
    assert "--offload all" in said


def test_where_nothing_is_legal_only_a_wider_search_helps(nothing_found: PlanResult) -> None:
    nothing = replace(nothing_found, nearest=None, binding=None, evaluated=0, why_not={"few": 1, "tp is too large": 5})
    said = text(nothing, TRAIN)
    assert "no combination that was searched is legal: tp is too large" in said
    assert "held to --tp 2,4,8" in said
    assert "--precision" not in said


def test_what_is_advised_is_not_what_was_done(nothing_found: PlanResult) -> None:
    asked = {"precision": "fp8", "offload": "all", "optimizer": "adam8bit"}
    said = " ".join(advice(nothing_found, asked))
    assert "--offload all:" not in said
    assert "--precision bf16" not in said
    assert "adam8bit" not in said


def test_a_service_is_held_to_its_limits(serve_plans: PlanResult) -> None:
    said = text(serve_plans, SERVE)
    assert "Best: on=2xh100-sxm tp=2" in said
    assert re.search(r"TPOT p90 +19\.8 ms +of 30\.0 ms +66", said)
    assert "on=4xa100-80gb-sxm max_batch=32" in said
    assert "up to 26.5 within the limits" in said
    part = said[said.index("Latency of the best as the rate rises") :].splitlines()
    assert part[2].split()[0] == "5.00"
    late = replace(serve_plans, frontier=[{**p, "meets": False, "ttft_s": None} for p in serve_plans.frontier])
    assert text(late, SERVE).count("misses the limits") == 4


def test_a_limit_that_is_only_just_met_is_told(serve_plans: PlanResult) -> None:
    best = serve_plans.best[0]
    mean, value = best["tpot_s"]["mean"], best["slo_percentile"]["tpot_s"]
    for factor, told in ((1.1, False), (2.0, True)):
        sure = {**best, "interval": {"tpot_s": {"low": mean / factor, "high": mean * factor}}}
        said = text(replace(serve_plans, best=[sure, *serve_plans.best[1:]]), SERVE)
        assert "80 %: mean TPOT" in said
        assert ("by less than the prediction may be off" in said) is told
        assert (f"{1e3 * value * factor:.1f} ms at the upper end" in said) is told


def test_a_long_curve_is_thinned_but_not_where_it_turns(serve_plans: PlanResult) -> None:
    one = serve_plans.frontier[0]
    many = [{**one, "rate_requests_per_second": float(i), "meets": i < 25} for i in range(1, 41)]
    said = text(replace(serve_plans, frontier=many), SERVE)
    table = said[said.index("Latency of the best as the rate rises") :].split("\n\n")[0].splitlines()[2:]
    assert 6 <= len(table) <= 9
    assert {line.split()[0] for line in table} >= {"1.00", "24.0", "25.0", "40.0"}


def test_curves_are_by_plan_and_rise(serve_plans: PlanResult) -> None:
    found = curves(serve_plans)
    assert [name for name, _ in found] == ["the best", "on=4xa100-80gb-sxm max_batch=32", "max_batch=8"]
    for _, points in found:
        assert [p["rate_requests_per_second"] for p in points] == [5, 10, 20, 30]


def test_a_long_front_is_told_by_what_it_trades(train_plans: PlanResult) -> None:
    many = [{**train_plans.pareto[0], "step_time_s": 10 + i / 10, "head_room_bytes": 1e9 * i} for i in range(120)]
    assert [p["step_time_s"] for p in trade_offs(many)] == [10, 10.2, 10.5, 11, 12, 15, 20]
    assert trade_offs([]) == []
    said = text(replace(train_plans, pareto=many), TRAIN)
    assert "7 of 120 shown" in said


def test_of_equally_good_plans_the_slower_is_worse(train_plans: PlanResult) -> None:
    found = replace(train_plans, objective="cluster")
    assert worse_by(found, found.best[1]) == worse_by(train_plans, train_plans.best[1]) > 0
    assert stages({"same": 2, "laid_out": 1200, "evaluated": 9, "workers": "1", "chunks": 0}) == [
        "other names of the same plans 2", "laid out in time 1,200",
    ]  # fmt: skip


def test_figures_that_are_missing_are_no_failure(train_plans: PlanResult) -> None:
    bare = {"plan": {"tp": 1}, "command": "windtunnel train", "step_time_s": 1.0}
    said = text(replace(train_plans, best=[bare], pareto=[bare], obvious=None, search={}), TRAIN)
    assert "price unknown" in said
    lost = replace(train_plans, best=(), nearest=None, binding=None, feasible=0, pareto=(), obvious=None)
    assert "NO PLAN IS FEASIBLE" in text(lost, TRAIN)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf", ".html"])
def test_pictures(train_plans: PlanResult, serve_plans: PlanResult, tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    starts = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF", ".html": b"<!DOCTYPE html>"}
    for name, result, options in (("train", train_plans, TRAIN), ("serve", serve_plans, SERVE)):
        path = tmp_path / (name + suffix)
        plot_plans(result, path, options)
        first = path.read_bytes()
        assert first.startswith(starts[suffix])
        plot_plans(result, path, options)
        assert path.read_bytes() == first


def test_a_page_has_the_plans(train_plans: PlanResult, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "a.html"
    plot_plans(train_plans, path, TRAIN)
    page = path.read_text()
    assert page.count("<tr>") == 1 + len(train_plans.pareto)
    assert "tp=8 dp=8 micro_batch=4 recompute=full" in page


def test_nothing_is_drawn_of_nothing(nothing_found: PlanResult, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(ScenarioError, match="no plan is feasible"):
        plot_plans(nothing_found, tmp_path / "a.png", TRAIN)
    assert not list(tmp_path.iterdir())
