"""A search with techniques on and off is the searches one by one."""

from __future__ import annotations

from typing import Any

import pytest

from windtunnel import planning
from windtunnel.engine import train
from windtunnel.errors import ScenarioError
from windtunnel.scenario.options import TrainOptions, read_options
from windtunnel.scenario.plan_options import PlanServeOptions, PlanTrainOptions
from windtunnel.scenario.plans import PlanResult

ASKED = {
    "model": "llama-3.1-8b", "on": "16xa100-80gb-sxm", "global_batch": 64, "seq": 4096, "tp": "2", "pp": "2,4,8",
    "recompute": "none", "schedule": "1f1b,interleaved", "virtual_stages": "1,2", "engine": "megatron@2021",
}  # fmt: skip


def search(**others: Any) -> PlanResult:
    asked = {k: v for k, v in {**ASKED, **others}.items() if v is not None}
    return planning.plan_train(read_options(PlanTrainOptions, asked))


@pytest.fixture(scope="module")
def both() -> PlanResult:
    return search(schedule=None, virtual_stages=None, tries="megatron-lm,zero")


def test_each_combination_is_searched(both: PlanResult) -> None:
    assert [t["techniques"] for t in both.tried] == [[], ["megatron-lm"], ["zero"], ["megatron-lm", "zero"]]
    alone = search(schedule=None, virtual_stages=None, techniques=["megatron-lm"])
    assert both.tried[1]["objective"] == alone.best[0]["step_time_s"]
    assert alone.best[0]["plan"]["schedule"] == "interleaved"
    assert both.best[0]["step_time_s"] == min(t["objective"] for t in both.tried)
    assert both.evaluated > alone.evaluated


def test_the_best_is_reproduced_by_its_own_line(both: PlanResult) -> None:
    for entry in both.best:
        again = train(read_options(TrainOptions, {"model": ASKED["model"], "on": ASKED["on"], **entry["plan"]}))
        assert again.step_time_s == entry["step_time_s"]
        assert ("--with" in entry["command"]) == bool(entry["plan"].get("with"))


def test_the_front_is_beaten_by_nothing(both: PlanResult) -> None:
    rows = [(p["step_time_s"], -p["head_room_bytes"], p["cost_usd_per_step"]) for p in both.pareto]
    assert rows == sorted(rows)
    for row in rows:
        assert not any(other != row and all(a <= b for a, b in zip(other, row, strict=True)) for other in rows)


def test_what_a_technique_settles_is_not_searched(both: PlanResult) -> None:
    with pytest.raises(ScenarioError, match="megatron-lm sets schedule=interleaved; leave out schedule=1f1b"):
        search(schedule="1f1b", virtual_stages=None, techniques=["megatron-lm"])
    found = search(schedule="1f1b", virtual_stages=None, tries=["megatron-lm"])
    assert found.tried[1]["objective"] is None
    assert "leave out schedule=1f1b" in found.tried[1]["why"]


def test_unknown_ones_and_too_many_are_refused() -> None:
    with pytest.raises(ScenarioError, match="unknown technique 'megatron'"):
        search(tries="megatron")
    with pytest.raises(ScenarioError, match="at most 5 techniques"):
        search(tries="a,b,c,d,e,f")


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("a,b", ["a", "b"]),
        ("a:x=1,y=2;b", ["a:x=1,y=2", "b"]),
        (["a", "b:x=1,y=2"], ["a", "b:x=1,y=2"]),
        ("a:x=1,y=2", ["a:x=1,y=2"]),
    ],
)
def test_how_they_are_written(text: Any, listed: list[str]) -> None:
    for kind in (PlanTrainOptions, PlanServeOptions):
        assert read_options(kind, {"model": "m", "on": "c", "try": text}).tries == listed


def test_plans_that_a_technique_refuses_are_counted_not_found() -> None:
    """CO2 wants no expert parallelism: where every rank count of experts is tried, the best plan has none."""
    asked = {
        "model": "mixtral-8x7b", "on": "16xa100-80gb-sxm", "global_batch": 64, "seq": 2048, "tp": "4", "pp": "2",
        "ep": "1,2", "zero": "1", "recompute": "none", "schedule": "1f1b", "techniques": ["co2"],
    }  # fmt: skip
    found = planning.plan_train(read_options(PlanTrainOptions, asked))
    without = planning.plan_train(read_options(PlanTrainOptions, {k: v for k, v in asked.items() if k != "techniques"}))
    assert found.why_not["refused by co2"] > 0
    assert all(entry["plan"].get("ep", 1) == 1 for entry in found.best)
    assert found.evaluated + found.why_not["refused by co2"] == without.evaluated


SERVED = {
    "model": "llama-3.1-8b", "on": ["1xa100-80gb-sxm"], "rate": 3, "requests": 100, "input_length": "600",
    "output_length": "60", "slo": "ttft=1,tpot=0.05", "engine": "vllm@2023", "max_batch": "64", "chunk": "512",
}  # fmt: skip


def serve(**others: Any) -> PlanResult:
    return planning.plan_serve(read_options(PlanServeOptions, {**SERVED, **others}))


def test_services_are_searched_with_techniques_too() -> None:
    found = serve(tries="chunked-prefill,speculative-decoding")
    assert [t["techniques"] for t in found.tried] == [
        [], ["chunked-prefill"], ["speculative-decoding"], ["chunked-prefill", "speculative-decoding"],
    ]  # fmt: skip
    alone = serve(techniques=["speculative-decoding"])
    assert found.tried[2]["objective"] == alone.best[0]["cost_usd_per_million_tokens"]
    assert alone.best[0]["plan"]["with"] == ["speculative-decoding"]
    assert alone.best[0]["tpot_s"]["mean"] < serve().best[0]["tpot_s"]["mean"]
    assert "--with speculative-decoding" in alone.best[0]["command"]


def test_a_search_finds_the_pools_itself() -> None:
    with pytest.raises(ScenarioError, match="distserve decides the pools, which plan serve finds itself"):
        serve(techniques=["distserve"])
    assert "finds itself" in serve(tries=["distserve"]).tried[1]["why"]
