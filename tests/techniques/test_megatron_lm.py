"""Interleaving: nothing with one chunk, a bubble over v with v chunks, and never less than the work of a stage."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.errors import ScenarioError
from windtunnel.scenario.results import TrainResult
from windtunnel.studies.ask import train

BASE: dict[str, Any] = {
    "model": "megatron-gpt-18.4b", "on": "32xa100-80gb-sxm", "tp": 4, "pp": 4, "global_batch": 16, "seq": 2048,
    "engine": "megatron@2021",
}  # fmt: skip


def figures(result: Any) -> dict[str, Any]:
    """All of an answer but the plan, which names techniques."""
    return {k: v for k, v in result.to_dict().items() if k != "plan"}


def with_chunks(v: int, **changes: Any) -> TrainResult:
    return train(**{**BASE, **changes}, techniques=[f"megatron-lm:virtual_stages={v}"])


def test_one_chunk_changes_nothing() -> None:
    assert figures(with_chunks(1)) == figures(train(**BASE))


def test_it_is_the_schedule_that_options_can_ask_for() -> None:
    asked = train(**BASE, schedule="interleaved", virtual_stages=2)
    assert figures(with_chunks(2)) == figures(asked)


@settings(max_examples=10, deadline=None)
@given(v=st.sampled_from([2, 5, 10]), groups=st.sampled_from([1, 2, 4]))
def test_the_bubble_falls_to_a_part(v: int, groups: int) -> None:
    """(p - 1)/m of the ideal time becomes (p - 1)/(v m) (arXiv 2104.04473, section 2.2), where stages are alike."""
    batch = {"global_batch": 2 * 4 * groups}
    free = {"set": {"scale_out_gbyte_per_s": 1e6, "scale_up_gbyte_per_s": 1e6}}
    plain, cut = train(**{**BASE, **batch}, **free), with_chunks(v, **batch, **free)
    assert cut.time_s["pp_bubble"] == pytest.approx(plain.time_s["pp_bubble"] / v, rel=0.1)
    assert plain.step_time_s > cut.step_time_s > cut.time_s["compute"]


def test_more_chunks_send_more() -> None:
    """Every boundary of a chunk is crossed: v p - 1 of them for p - 1, so that slow links undo the gain."""
    two, ten = (with_chunks(v).tree.totals().messages["send_recv"] for v in (2, 10))
    assert ten / two == pytest.approx((10 * 4 - 1) / (2 * 4 - 1))
    slow = {"nic_gbit_per_s": 2}
    assert with_chunks(10, set=slow).step_time_s > train(**BASE, set=slow).step_time_s


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "gpipe"}, "megatron-lm sets schedule=interleaved; leave out schedule=gpipe"),
        ({"virtual_stages": 5}, "megatron-lm sets virtual-stages=2; leave out virtual-stages=5"),
        ({"global_batch": 10}, "multiple of pp=4 micro-batches"),
    ],
)
def test_wishes_that_do_not_go_together_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        with_chunks(2, **changes)


def test_two_pipeline_schedules_refuse_each_other() -> None:
    with pytest.raises(ScenarioError, match="gpipe and megatron-lm both decide the pipeline schedule"):
        train(**BASE, techniques=["gpipe", "megatron-lm"])
