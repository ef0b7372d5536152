"""ExFlow: neutral parameters, the ideal limit, and physics."""

from __future__ import annotations

from typing import Any

import pytest

from windtunnel.errors import ScenarioError
from windtunnel.studies.ask import infer, simulate

BASE = {
    "model": "gpt-moe-350m-16e", "on": "16xa100-80gb-sxm", "dp": 16, "ep": 16, "engine": "deepspeed-inference",
    "batch": 256, "input": 512, "output": 16,
}  # fmt: skip


def asked(*techniques: str, **others: Any) -> Any:
    return infer(**{**BASE, **others}, techniques=list(techniques))


def test_neutral_parameters_are_the_baseline_exactly() -> None:
    plain, neutral = asked().to_dict(), asked("exflow:affinity=0,context_coherent=false").to_dict()
    plain.pop("plan"), neutral.pop("plan")
    assert plain == neutral


def test_one_exchange_takes_half_of_what_two_took() -> None:
    base, found = asked(), asked("exflow:affinity=0,gathered=0")
    for phase in ("prefill", "decode"):
        exchanged = [float(r.tree[phase].by_kind()["all_to_all"]) for r in (base, found)]
        assert exchanged[1] == pytest.approx(exchanged[0] / 2)
        others = [float(r.tree[phase].seconds()) - e for r, e in zip((base, found), exchanged, strict=True)]
        assert others[1] == pytest.approx(others[0])


def test_with_every_next_expert_at_hand_only_calls_remain() -> None:
    """Nothing crosses: what an exchange still takes is its launch and its hops."""
    found = asked("exflow:affinity=1,gathered=0")
    totals = found.tree["prefill"].totals()
    assert totals.messages["all_to_all"] == 0
    assert 0 < float(found.tree["prefill"].by_kind()["all_to_all"]) < 0.02 * float(asked().tree["prefill"].seconds())


def test_every_rank_keeps_all_contexts() -> None:
    base, found = asked(), asked("exflow")
    assert found.memory_bytes["kv_cache"] == pytest.approx(16 * base.memory_bytes["kv_cache"])
    assert found.max_batch == pytest.approx(base.max_batch / 16, rel=0.01)
    assert asked("exflow:context_coherent=false").memory_bytes == base.memory_bytes


def test_gathering_whole_caches_may_cost_more_than_it_saves() -> None:
    """Two vectors a layer to all ranks, against two exchanges of one vector a layer."""
    assert asked("exflow:gathered=48").total_tokens_per_second < asked().total_tokens_per_second


def test_dense_models_are_refused_and_one_rank_has_nothing_to_exchange() -> None:
    with pytest.raises(ScenarioError, match=r"exflow: .*has no experts"):
        infer(model="llama-3-8b", on="h100-sxm", techniques=["exflow"])
    alone = {"on": "a100-80gb-sxm", "dp": 1, "ep": 1, "batch": 16}
    assert asked("exflow", **alone).e2e_s == asked(**alone).e2e_s


def test_tokens_of_several_experts_still_meet() -> None:
    """Of two experts' results one travels: half of the second exchange remains."""
    mixtral = {"model": "mixtral-8x7b", "on": "8xh100-sxm", "dp": 8, "ep": 8, "engine": "vllm", "batch": 64}
    base, found = asked(**mixtral), asked("exflow:affinity=0,gathered=0", **mixtral)
    sent = [r.tree["decode"].totals().messages["all_to_all"] for r in (base, found)]
    assert sent[1] == pytest.approx(0.75 * sent[0])


def test_simulations_have_it_too() -> None:
    load = {
        "model": "mixtral-8x7b", "on": "8xh100-sxm", "dp": 8, "ep": 8, "rate": 20.0, "requests": 100,
        "input_length": 300, "output_length": 20, "set": {"gpus_per_node": 2, "nics_per_node": 1},
    }  # fmt: skip
    base, found = simulate(**load), simulate(**load, techniques=["exflow"])
    assert found.ttft_s["mean"] < base.ttft_s["mean"]
    assert found.kv_cache["capacity_tokens"] == pytest.approx(base.kv_cache["capacity_tokens"] / 8, rel=0.01)
