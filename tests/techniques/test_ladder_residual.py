"""Ladder Residual: neutral parameters, the ideal limit, and physics, in serving and in training."""

from __future__ import annotations

from typing import Any

import pytest

from windtunnel.scenario.engines import load_engine
from windtunnel.studies.ask import infer, simulate, train

SERVE = {"model": "llama-3-70b", "on": "8xh100-sxm", "tp": 8, "engine": "gpt-fast", "input": 512, "output": 64}
STEP = {"model": "llama-3-70b", "on": "64xh100-sxm", "tp": 8, "pp": 2, "global_batch": 32, "seq": 4096}


def served(*techniques: str, **others: Any) -> Any:
    return infer(**{"batch": 16, **SERVE, **others}, techniques=list(techniques))


def trained(*techniques: str, **others: Any) -> Any:
    return train(**{**STEP, **others}, techniques=list(techniques))


def test_no_converted_layers_are_the_baseline_exactly() -> None:
    for run in (served, trained):
        plain, neutral = run().to_dict(), run("ladder-residual:layers=0").to_dict()
        plain.pop("plan"), neutral.pop("plan")
        assert plain == neutral


def test_one_rank_has_nothing_to_hide() -> None:
    alone = {"model": "llama-3-8b", "on": "h100-sxm", "tp": 1}
    assert served("ladder-residual", **alone).e2e_s == served(**alone).e2e_s


def test_what_is_hidden_is_hidden_but_for_interference() -> None:
    """All-reduces of layers are shorter than the sub-layers beside them here: the interference is what shows (and the
    messages of the embedding and the head, which are two of 162)."""
    base, found = (served(*t).tree["decode"] for t in ((), ("ladder-residual",)))
    interference = load_engine("gpt-fast", "serve").interference
    exposed, before = (float(e.exposed()["tp_comm"]) for e in (found, base))
    assert exposed == pytest.approx(interference * before, abs=0.02 * before)
    assert found.totals().messages == pytest.approx(base.totals().messages)


@pytest.mark.parametrize("more", [{}, {"recompute": "full"}, {"recompute": "selective"}, {"sequence_parallel": False}])
def test_steps_are_shorter_by_no_more_than_their_messages(more: dict[str, Any]) -> None:
    base, found = trained(**more), trained("ladder-residual", **more)
    gained = base.step_time_s - found.step_time_s
    assert 0 < gained <= (base.time_s["tp_comm"] + base.time_s["pp_bubble"]) * (1 + 1e-9)
    assert found.memory_bytes == base.memory_bytes
    assert found.time_s["compute"] == pytest.approx(base.time_s["compute"], rel=1e-3)


def test_half_of_the_layers_gain_about_half() -> None:
    none, half, all_ = (served(f"ladder-residual:layers={x}").tpot_s for x in (0, 0.5, 1))
    assert half == pytest.approx((none + all_) / 2, rel=1e-3)


def test_simulations_have_it_too() -> None:
    load = {
        "model": "llama-3-70b", "on": "8xh100-sxm", "tp": 8, "rate": 4.0, "requests": 200, "input_length": 300,
        "output_length": 50, "chunk": 512,
    }  # fmt: skip
    one, other = (simulate(**load, techniques=["ladder-residual"], loop=x) for x in ("auto", "naive"))
    assert one.makespan_s == pytest.approx(other.makespan_s, rel=1e-9)
    assert one.tpot_s["mean"] < simulate(**load).tpot_s["mean"]


def test_it_and_nanoflow_both_decide_what_overlaps() -> None:
    with pytest.raises(Exception, match="overlap in the step"):
        served("ladder-residual", "nanoflow")
