"""Lazy checkpoints: nothing without host memory, all hidden in a long enough step, and no faster than the store."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.errors import ScenarioError
from windtunnel.studies.ask import train

STEP: dict[str, Any] = {
    "model": "llama-7b", "on": "8xa100-80gb-sxm", "tp": 4, "pp": 2, "micro_batch": 4, "global_batch": 64, "seq": 2048,
    "recompute": "full", "engine": "deepspeed@2024",
}  # fmt: skip
RUN: dict[str, Any] = {**STEP, "tokens": 100 * 64 * 2048, "checkpoint_every": "1step", "mtbf_hours": 1e11}
STORE = "parallel-fs:write_gbyte_per_s_per_node=20,aggregate_write_gbyte_per_s=100"


def figures(result: Any) -> dict[str, Any]:
    """All of an answer but the plan, which names techniques."""
    return {k: v for k, v in result.to_dict().items() if k != "plan"}


def run(techniques: list[str], **changes: Any) -> dict[str, Any]:
    found = train(**{**RUN, "checkpoint_to": STORE, **changes}, techniques=techniques).run
    assert found is not None
    return dict(found)


def test_without_host_memory_it_changes_nothing() -> None:
    asked = train(**RUN, techniques=["datastates-llm:host_cache_gbyte=0"])
    assert figures(asked) == figures(train(**RUN))


def test_a_step_is_as_long_as_before() -> None:
    assert train(**STEP, techniques=["datastates-llm"]).step_time_s == train(**STEP).step_time_s


def test_a_copy_that_fits_behind_the_passes_costs_nothing_but_the_last_write() -> None:
    """The ideal limit: 94 GB over PCIe in 0.4 s and to the store in 4.7 s, behind steps of some 9 s."""
    found = run(["datastates-llm"])
    step = found["useful_s"] / 100
    last = found["checkpoint_bytes"] / 20e9
    assert last < step
    assert found["lost_s"]["checkpoints"] == pytest.approx(last)
    assert found["time_to_train_s"] == pytest.approx(100 * step + last)


def test_torch_save_stops_training_for_a_writers_rate() -> None:
    """8 processes of 1 GB/s each hold an eighth of the state."""
    found = run([])
    assert found["lost_s"]["checkpoints"] == pytest.approx(100 * found["checkpoint_bytes"] / 8e9)


@settings(max_examples=25, deadline=None)
@given(store=st.floats(0.5, 200), every=st.sampled_from([1, 2, 7]), cache=st.floats(0.01, 40))
def test_no_run_is_faster_than_its_steps_or_the_store(store: float, every: int, cache: float) -> None:
    asked = {"checkpoint_to": f"parallel-fs:write_gbyte_per_s_per_node={store}", "checkpoint_every": f"{every} steps"}
    lazy = run([f"datastates-llm:host_cache_gbyte={cache}"], **asked)
    written = lazy["checkpoints"] * lazy["checkpoint_bytes"] / (store * 1e9)
    assert lazy["time_to_train_s"] >= max(lazy["useful_s"], written) * (1 - 1e-12)
    assert lazy["time_to_train_s"] <= run([], **asked)["time_to_train_s"] * (1 + 1e-9)


def test_a_larger_cache_never_hurts() -> None:
    asked = {"checkpoint_to": "parallel-fs:write_gbyte_per_s_per_node=2"}
    times = [
        run([f"datastates-llm:host_cache_gbyte={c}"], **asked)["time_to_train_s"] for c in (1e-3, 1, 4, 12, 16, 100)
    ]
    assert all(larger <= smaller * (1 + 1e-12) for smaller, larger in pairwise(times))
    assert times[-1] == times[-2] < times[0]


def test_the_best_interval_gets_shorter_as_checkpoints_get_cheaper() -> None:
    asked = {"checkpoint_every": "auto", "mtbf_hours": 2.0, "tokens": 1e10}
    before, after = run([], **asked), run(["datastates-llm"], **asked)
    assert after["checkpoint_every_s"] < before["checkpoint_every_s"]
    assert after["goodput_fraction"] > before["goodput_fraction"]
    assert after["lost_s"]["failures"] < before["lost_s"]["failures"]


def test_a_cache_beyond_the_nodes_memory_is_named() -> None:
    with pytest.raises(ScenarioError, match="host_cache_gbyte=1000 on each of 8 ranks is more than the 2048 GB"):
        train(**STEP, techniques=["datastates-llm:host_cache_gbyte=1000"])
