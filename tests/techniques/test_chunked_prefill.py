"""Chunked prefill, SARATHI and Sarathi-Serve: three ways to name one scheduler."""

from __future__ import annotations

from typing import Any

import pytest

import windtunnel as wt
from windtunnel.errors import ScenarioError

SMALL: dict[str, Any] = {"model": "llama-3.2-1b", "on": "1xa100-80gb-sxm", "engine": "vllm@2023"}
LOAD: dict[str, Any] = {
    **SMALL, "rate": 30, "requests": 120, "input_length": "lognormal:mean=900,cv=1", "output_length": "80",
    "loop": "python",
}  # fmt: skip
NAMES = ("chunked-prefill", "sarathi", "sarathi-serve")


def infer(**options: Any) -> Any:
    return wt.infer(SMALL["model"], **{k: v for k, v in {**SMALL, **options}.items() if k != "model"})


def simulate(**options: Any) -> Any:
    given = {**LOAD, **options}
    return wt.simulate(given.pop("model"), **given)


def figures(result: Any) -> dict[str, Any]:
    told = result.to_dict()
    return {k: v for k, v in told.items() if k not in ("simulator", "plan")}


@pytest.mark.parametrize("name", NAMES)
def test_a_budget_of_nothing_leaves_the_engine_as_it_is(name: str) -> None:
    neutral = [f"{name}:token_budget=0"]
    assert figures(infer(batch=8, techniques=neutral)) == figures(infer(batch=8))
    assert figures(simulate(techniques=neutral)) == figures(simulate())


@pytest.mark.parametrize("name", NAMES)
def test_is_what_the_scheduler_by_hand_is(name: str) -> None:
    treated = simulate(techniques=[f"{name}:token_budget=384"])
    by_hand = simulate(scheduler="chunked", chunk=384)
    assert figures(treated) == figures(by_hand)


def test_one_prompt_within_the_budget_takes_what_it_takes_whole() -> None:
    """The ideal limit: nothing to cut, nothing to wait for."""
    for name in NAMES:
        treated = infer(batch=1, input=200, techniques=[f"{name}:token_budget=256"])
        assert treated.ttft_s == infer(batch=1, input=200).ttft_s


def test_a_chunk_bounds_the_time_between_tokens() -> None:
    """The longest gap falls with the budget, and is never below an iteration of decodes alone."""
    gaps = [simulate(techniques=[f"sarathi-serve:token_budget={n}"]).itl_s["max"] for n in (128, 512, 2048)]
    assert gaps == sorted(gaps)
    assert gaps[-1] < simulate(scheduler="vllm", chunk=16384).itl_s["max"]
    assert gaps[0] > simulate(techniques=["sarathi-serve"], rate=0.1, input_length="1").itl_s["p50"]


def test_chunks_cost_weights_again() -> None:
    """Cutting a prompt never makes its prefill faster than it is whole: the physics of it."""
    whole = infer(batch=1, input=4096, chunk=8192).ttft_s
    cut = [infer(batch=1, input=4096, techniques=[f"chunked-prefill:token_budget={n}"]).ttft_s for n in (256, 1024)]
    assert whole < cut[1] < cut[0]


def test_a_user_who_asks_for_something_else_is_told() -> None:
    with pytest.raises(ScenarioError, match="chunk=256; leave out chunk=100"):
        simulate(techniques=["sarathi:token_budget=256"], chunk=100)
    with pytest.raises(ScenarioError, match="max-tokens=256; leave out max-tokens=100"):
        simulate(techniques=["sarathi:token_budget=256"], max_tokens=100)
    with pytest.raises(ScenarioError, match="leave out scheduler=static"):
        simulate(techniques=["sarathi"], scheduler="static")
    assert simulate(techniques=["sarathi"], scheduler="vllm-v1").completed == LOAD["requests"]


def test_the_chunk_of_a_user_stands_for_the_usual_budget() -> None:
    assert figures(simulate(techniques=["sarathi"], chunk=700)) == figures(simulate(scheduler="chunked", chunk=700))
    assert infer(batch=4, techniques=["sarathi"], chunk=700).plan["chunk"] == 700


def test_two_of_them_do_not_go_together() -> None:
    with pytest.raises(ScenarioError, match="both decide the scheduler"):
        infer(techniques=["sarathi", "sarathi-serve"])
