"""The answer of ``plan serve``: what it says of the best plan, of those that lost, and of what cannot be met."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import windtunnel.planning.serve as plan
from windtunnel.engine.simulate import simulate
from windtunnel.errors import ScenarioError
from windtunnel.planning import plan_serve
from windtunnel.planning.serve.search import rungs
from windtunnel.planning.serve.trial import SHOWN
from windtunnel.scenario.options import read_options
from windtunnel.scenario.plan_options import PlanServeOptions
from windtunnel.scenario.plans import PlanResult
from windtunnel.scenario.simulate_options import SimulateOptions

BASE: dict[str, Any] = {
    "model": "llama-3.1-8b", "on": ["4xl4", "4xa100-80gb-sxm"], "rate": 8.0, "requests": 200,
    "input_length": "lognormal:mean=700,cv=1", "output_length": "exponential:mean=80", "slo": "ttft=1.0,tpot=0.1",
    "tp": "1,2", "chunk": "2048", "max_batch": "64,256",
}  # fmt: skip
"""A question that takes a second."""


def ask(**changed: Any) -> PlanResult:
    given = {k: v for k, v in {**BASE, **changed}.items() if v is not None}
    return plan_serve(read_options(PlanServeOptions, given))


def timeless(result: PlanResult) -> dict[str, Any]:
    found = result.to_dict()
    del found["seconds"], found["resumed"]
    return found


@pytest.fixture(scope="module")
def answer() -> PlanResult:
    return ask()


def test_the_command_gives_the_same_figures(answer: PlanResult, run: Callable[..., Any]) -> None:
    best = answer.best[0]
    words = shlex.split(best["command"])
    assert words[:3] == ["windtunnel", "simulate", "llama-3.1-8b"]
    assert f"{best['accelerators']}x" in best["command"]
    ran = run(*words[1:], "--json")
    assert ran.code == 0
    said = ran.json()
    for name in SHOWN:
        assert said[name] == json.loads(json.dumps(best[name])), name
    assert best["slo_percentile"]["ttft_s"] == said["ttft_s"]["p90"] <= 1.0
    assert best["slo_percentile"]["tpot_s"] == said["tpot_s"]["p90"] <= 0.1


def test_every_plan_reproduces(answer: PlanResult) -> None:
    for shown in [*answer.best, *answer.pareto, answer.obvious]:
        assert shown is not None
        result = simulate(read_options(SimulateOptions, shown["plan"])).to_dict()
        assert result["cost_usd_per_million_tokens"] == shown["cost_usd_per_million_tokens"]
        assert result["e2e_s"] == shown["e2e_s"]
        assert not any("not used" in warning for warning in result["warnings"])


def test_what_the_answer_says(answer: PlanResult) -> None:
    assert (answer.question, answer.objective, answer.on) == ("serve", "cost", ["4xl4", "4xa100-80gb-sxm"])
    costs = [p["cost_usd_per_million_tokens"] for p in answer.best]
    assert costs == sorted(costs)
    assert answer.feasible + sum(answer.why_not.values()) == answer.search["designs"]
    assert answer.evaluated <= answer.search["in_memory"]
    assert answer.nearest is answer.binding is None
    for best in answer.best:
        assert best["cost_usd_per_hour"] > 0
        assert best["slo_ratio"] <= 1
        highest = best["max_rate_requests_per_second"]
        assert highest >= 8.0
        points = [p for p in answer.frontier if answer.best[p["plan"]] is best]
        rates = [p["rate_requests_per_second"] for p in points]
        assert rates == sorted(set(rates))
        assert all(p["meets"] == (p["rate_requests_per_second"] <= highest) for p in points)
        if points:
            assert 8.0 in rates


def test_no_plan_of_the_front_beats_another(answer: PlanResult) -> None:
    rows = [[p["slo_percentile"].get(axis, p.get(axis)) for axis in answer.pareto_axes] for p in answer.pareto]
    assert len(rows) > 1
    assert answer.best[0] in answer.pareto or answer.best[0]["command"] in {p["command"] for p in answer.pareto}
    for row in rows:
        assert not any(other != row and all(a <= b for a, b in zip(other, row, strict=True)) for other in rows)


def test_the_obvious_plan_and_why_it_lost(answer: PlanResult) -> None:
    obvious = answer.obvious
    assert obvious is not None
    best = answer.best[0]
    assert obvious["plan"]["on"].split("x", 1)[1] == best["plan"]["on"].split("x", 1)[1]
    assert "tp" in obvious["plan"]  # over the node, as far as is allowed
    ratio = obvious["cost_usd_per_million_tokens"] / best["cost_usd_per_million_tokens"]
    assert ratio > 1
    assert f"{ratio:.2f} times" in obvious["why"]


def test_workers_and_resuming_change_nothing(answer: PlanResult, tmp_path: Path) -> None:
    store = tmp_path / "points.duckdb"
    first = ask(workers="2", store=str(store))
    assert timeless(first) == timeless(answer)
    again = ask(store=str(store))
    assert timeless(again) == timeless(answer)
    assert (first.resumed, again.resumed) == (0, again.search["simulations"])


def test_one_that_was_stopped_goes_on(answer: PlanResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, done = str(tmp_path / "points.duckdb"), [0]
    evaluate = plan.evaluate

    def stopping(shared: Any, chunk: Any) -> Any:
        done[0] += 1
        if done[0] == 9:
            raise KeyboardInterrupt
        return evaluate(shared, chunk)

    monkeypatch.setattr(plan, "evaluate", stopping)
    with pytest.raises(KeyboardInterrupt):
        ask(store=store)
    monkeypatch.setattr(plan, "evaluate", evaluate)
    again = ask(store=store)
    assert timeless(again) == timeless(answer)
    assert 0 < again.resumed < again.search["simulations"]


def test_an_slo_that_no_machine_meets() -> None:
    result = ask(slo="ttft=1.0,tpot=0.004", on="4xa100-80gb-sxm")
    assert (result.feasible, result.best, result.pareto, result.frontier) == (0, [], [], [])
    assert result.nearest is not None
    assert result.binding is not None
    assert result.binding["constraint"] == "tpot_s p90"
    assert result.binding["limit"] == 0.004
    said = simulate(read_options(SimulateOptions, result.nearest["plan"]))
    assert result.binding["value"] == said.tpot_s["p90"]
    assert result.binding["ratio"] == pytest.approx(said.tpot_s["p90"] / 0.004)
    # Nothing is nearer: with two ranks a decode is quicker than with one.
    assert result.nearest["plan"]["tp"] == 2


def test_too_much_work_for_the_cluster() -> None:
    result = ask(rate=500.0, on="2xl4", deployment="colocated")
    assert result.feasible == 0
    assert result.binding is not None
    assert result.binding["ratio"] > 1
    assert result.nearest is not None
    assert result.nearest["accelerators"] == 2


def test_a_model_that_does_not_fit() -> None:
    result = ask(model="llama-3.1-70b", on="4xl4", tp=None)
    assert (result.evaluated, result.feasible) == (0, 0)
    assert result.binding is not None
    assert result.binding["constraint"] == "memory_bytes"
    assert result.binding["value"] > result.binding["limit"]
    assert result.why_not == {"does not fit in memory": sum(result.why_not.values())}


def test_pipeline_stages_where_a_model_fits_no_other_way() -> None:
    result = ask(model="llama-3.1-70b", on="8xl4", tp="4", slo="tpot=0.3", requests=50, rate=0.1)
    assert result.best[0]["plan"]["pp"] == 2


def test_kinds_of_experts() -> None:
    result = ask(
        model="mixtral-8x7b", on="8xh100-sxm", tp="2,4", slo="ttft=2,tpot=0.1", chunk="8192", max_batch="256",
        deployment="colocated",
    )  # fmt: skip
    assert result.best
    tried = {(p["plan"].get("tp", 1), p["plan"].get("dp", 1), p["plan"].get("ep", 1)) for p in result.best}
    assert len(tried) == len(result.best) > 2


def test_only_counts_that_are_allowed() -> None:
    result = ask(replicas="2,4", on="4xl4")
    assert {p["plan"]["replicas"] for p in result.best} <= {2, 4}
    assert not any("prefill" in p["plan"] for p in result.best)


def test_the_length_of_rungs() -> None:
    assert rungs(300) == [300]
    assert rungs(19366) == [1210, 4841, 19366]
    assert rungs(5000) == [1250, 5000]
    assert rungs(10**6) == [62500, 250000, 10**6]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"slo": "ttl=1"}, "unknown parameter of slo 'ttl'"),
        ({"slo": None}, "objective=cost needs an --slo"),
        ({"percentile": 120}, "percentile=120"),
        ({"rate": None}, "requests need a pace"),
        ({"tp": "2,x"}, "tp='2,x': 'x' is not a whole number from 1; accepted: 2,4,8"),
        ({"chunk": "0"}, "chunk='0': '0' is not a whole number"),
        ({"max_batch": "8,,9"}, "has an empty value"),
        ({"tp": "3"}, "tp=3 does not divide the 32 attention heads"),
        ({"deployment": "split"}, "unknown deployment 'split'; known: both, colocated, disaggregated"),
        ({"deployment": "disaggregated", "replicas": "2"}, "replicas='2' counts engines side by side"),
        ({"workers": "two"}, "workers=two"),
        ({"engine": "vlm"}, "unknown engine 'vlm'; did you mean vllm"),
        ({"engine": "sglang", "export": "vllm"}, "engine=sglang cannot be exported for vllm"),
        ({"precision": "bf17"}, "unknown precision 'bf17'"),
        ({"kv_precision": "fp3"}, "unknown kv_precision 'fp3'"),
        ({"prefill": "2x(tp=4)"}, "prefill='2x(tp=4)': plan serve finds the engines itself"),
        ({"objective": "throughput", "rate": float("inf")}, "leave out --rate"),
        ({"objective": "throughput", "rate": None, "arrivals": "closed:concurrency=4"}, "a closed loop has no rate"),
        ({"budget": 0.01}, "budget=0.01"),
        ({"on": "4xl5"}, "l5"),
        ({"replicas": "9"}, "no plan can be tried: not even the fewest engines"),
    ],
)
def test_bad_input_is_one_clear_line(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ScenarioError) as raised:
        ask(**changed)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_progress_is_told() -> None:
    told: list[tuple[float, str]] = []
    options = read_options(PlanServeOptions, {**BASE, "on": "2xa100-80gb-sxm", "tp": "1", "max_batch": "64"})
    plan_serve(options, progress=lambda fraction, best: told.append((fraction, best)))
    fractions = [f for f, _ in told]
    assert fractions == sorted(fractions)
    assert 0 < fractions[0] <= fractions[-1] <= 1
    assert any("best so far 1x(max_batch=64 chunk=2048)" in best or "1x(chunk=2048" in best for _, best in told)
    assert told[-1][1].partition(" simulations")[0].isdigit()
