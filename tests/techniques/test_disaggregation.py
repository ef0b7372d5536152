"""DistServe and Splitwise: pools of engines, on machines of their own."""

from __future__ import annotations

from typing import Any

import pytest

import windtunnel as wt
from windtunnel.errors import ScenarioError

SMALL: dict[str, Any] = {
    "model": "llama-3.2-1b", "on": "8xa100-80gb-sxm", "rate": 10, "requests": 60, "input_length": "800",
    "output_length": "60", "loop": "python",
}  # fmt: skip


def simulate(**options: Any) -> Any:
    given = {**SMALL, **options}
    return wt.simulate(given.pop("model"), **given)


def figures(result: Any) -> dict[str, Any]:
    return {k: v for k, v in result.to_dict().items() if k not in ("simulator", "plan")}


def test_distserve_splits_what_is_asked_for() -> None:
    """Three engines: one for prompts, two that decode; one engine of tp=4: two of half."""
    plan = simulate(replicas=3, tp=2, techniques=["distserve"]).plan
    assert (plan["prefill"], plan["decode"]) == ("1x(tp=2)", "2x(tp=2)")
    plan = simulate(tp=4, techniques=["distserve"]).plan
    assert (plan["prefill"], plan["decode"]) == ("1x(tp=2)", "1x(tp=2)")
    with pytest.raises(ScenarioError, match="cannot be split"):
        simulate(techniques=["distserve"])


def test_distserve_is_the_pools_by_hand() -> None:
    treated = simulate(
        techniques=["distserve:prefill_engines=1,prefill_tp=2,decode_engines=2,decode_tp=1,decode_pp=2,near=false"]
    )
    by_hand = simulate(prefill="1x(tp=2)", decode="2x(tp=1,pp=2)")
    assert figures(treated) == figures(by_hand)


def test_a_lone_request_takes_prompt_and_decodes_of_their_engines() -> None:
    """The ideal limit: nothing interferes, so TTFT is the prompts' engine's and TPOT the decoding one's."""
    lone = simulate(requests=1, replicas=2, techniques=["distserve"])
    prompt = wt.infer(SMALL["model"], on=SMALL["on"], batch=1, input=800, output=1)
    alone = simulate(requests=1)
    assert lone.ttft_s["mean"] == pytest.approx(alone.ttft_s["mean"], rel=1e-9)
    assert lone.ttft_s["mean"] > prompt.ttft_s * 0.99
    assert lone.tpot_s["mean"] >= alone.tpot_s["mean"]


def test_decoding_beside_the_prompts_is_never_later_than_behind_them() -> None:
    slow = {"on": "32xa100-80gb-sxm", "set": {"nics_per_node": 1, "nic_gbit_per_s": 10}, "kv_transfer": "whole"}
    plan = "distserve:prefill_engines=2,prefill_tp=4,decode_engines=2,decode_tp=4"
    near, far = (simulate(techniques=[f"{plan},near={n}"], **slow) for n in ("true", "false"))
    assert near.e2e_s["mean"] < far.e2e_s["mean"]
    # Engines that do not fit a node together are apart all the same.
    wide = {**slow, "model": "llama-3.1-8b", "on": "32xa100-80gb-sxm"}
    plan = "distserve:prefill_engines=1,prefill_tp=8,decode_engines=1,decode_tp=8"
    near, far = (simulate(techniques=[f"{plan},near={n}"], **wide) for n in ("true", "false"))
    assert near.e2e_s["mean"] == far.e2e_s["mean"]


def test_splitwise_pools_add_up_and_keep_their_machines() -> None:
    r = simulate(
        on="8xh100-sxm", replicas=3,
        techniques=["splitwise:token_engines=2,token_on=a100-80gb-sxm,token_price=2,token_power_cap=200"],
    )  # fmt: skip
    prompts, tokens = r.pools
    assert r.plan["decode"] == "2x(on=a100-80gb-sxm,price_usd_per_hour=2.0,power_cap_watt=200.0)"
    assert sum(p["energy_j"] for p in r.pools) == pytest.approx(r.energy_j, rel=1e-12)
    assert sum(p["cost_usd"] for p in r.pools) == pytest.approx(r.cost_usd, rel=1e-12)
    assert r.provisioned_power_w == prompts["provisioned_power_w"] + tokens["provisioned_power_w"]
    assert tokens["cost_usd"] == pytest.approx(tokens["accelerator_hours"] * 2)
    assert tokens["energy_j"] <= 1800 * tokens["accelerator_hours"] * tokens["provisioned_power_w"] * (1 + 1e-9)
    assert prompts["kv_capacity_tokens"] > 0


def test_a_cap_slows_prompts_and_leaves_decoding() -> None:
    """Splitwise, section 3.5: tokens lose nothing under half of the power, prompts do."""
    base = {"on": "8xh100-sxm", "model": "llama-3.1-8b", "input_length": "3000"}
    free = simulate(prefill="1x()", decode="1x()", **base)
    tokens = simulate(prefill="1x()", decode="1x(power-cap-watt=350)", **base)
    prompts = simulate(prefill="1x(power-cap-watt=350)", decode="1x()", **base)
    neutral = simulate(prefill="1x(power-cap-watt=700)", decode="1x(power-cap-watt=900)", **base)
    assert tokens.tpot_s["mean"] == pytest.approx(free.tpot_s["mean"], rel=0.05)
    assert tokens.provisioned_power_w < free.provisioned_power_w
    assert prompts.ttft_s["mean"] > 1.1 * free.ttft_s["mean"]
    assert figures(neutral) == figures(free)


def test_pools_on_unlike_machines_meet_at_the_slower_wire() -> None:
    options = {"kv_transfer": "whole", "prefill": "1x()"}
    fast = simulate(decode="1x(on=a100-80gb-sxm)", **options)
    slow = simulate(decode="1x(on=a100-80gb-sxm,nic-gbit-per-s=5)", **options)
    assert slow.tpot_s["mean"] > fast.tpot_s["mean"]
    assert slow.ttft_s == fast.ttft_s


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ("1x(on=h100-sxn)", "h100-sxn"),
        ("2x(tp=4,on=4xh100-sxm)", "need 8 accelerators"),
        ("1x(nic_gbps=3)", "nic_gbps"),
        ("1x(power-cap-watt=10)", "idle"),
        ("1x(power-cap-watt=300,power_cap_watt=300)", "twice"),
    ],
)
def test_machines_that_cannot_be(group: str, said: str) -> None:
    with pytest.raises(ScenarioError, match=said):
        simulate(prefill="1x()", decode=group)


def test_users_own_pools_are_not_overruled() -> None:
    """They stay, so that an answer's plan can be asked again; parameters that say otherwise are an error."""
    own = {"prefill": "2x()", "decode": "1x(tp=2)"}
    for name, parameter in (("distserve", "prefill_engines=1,decode_engines=1"), ("splitwise", "prompt_engines=1,token_engines=1")):
        plan = simulate(techniques=[name], **own).plan
        assert (plan["prefill"], plan["decode"]) == ("2x()", "1x(tp=2)")
        with pytest.raises(ScenarioError, match="leave out"):
            simulate(techniques=[f"{name}:{parameter}"], **own)
    with pytest.raises(ScenarioError, match="both decide the pools"):
        simulate(replicas=2, techniques=["distserve", "splitwise"])


@pytest.mark.parametrize("name", ["distserve", "splitwise"])
def test_the_plan_of_an_answer_gives_it_again(name: str) -> None:
    first = simulate(replicas=3, techniques=[name])
    kept = {k: first.plan[k] for k in ("tp", "replicas", "prefill", "decode", "with") if k in first.plan}
    again = simulate(techniques=kept.pop("with"), **kept)
    assert figures(again) == figures(first)
