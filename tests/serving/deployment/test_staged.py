"""A disaggregated service run stage by stage is the service run in global order of time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import windtunnel.serving.deployment.driver as driver
from windtunnel.engine.simulate import simulate_workload
from windtunnel.scenario.options import read_options
from windtunnel.scenario.simulate import simulate_scenario
from windtunnel.scenario.simulate_options import SimulateOptions
from windtunnel.serving.workload.build import build_workload


@settings(max_examples=15)
@given(
    st.integers(1, 3), st.integers(1, 3), st.sampled_from([1.0, 10.0, 100.0, float("inf")]), st.integers(1, 120),
    st.sampled_from(["layerwise", "whole"]), st.integers(0, 99),
    st.sampled_from([{}, {"duration": 8.0}, {"kv_blocks": 400}, {"timeout": 0.5}, {"max_queue": 3}]),
)  # fmt: skip
def test_the_same_becomes_of_every_request(
    prefill: int, decode: int, rate: float, requests: int, transfer: str, seed: int, more: dict[str, Any]
) -> None:
    asked = {
        "model": "llama-3.1-8b", "on": "8xa100-80gb-sxm", "prefill": f"{prefill}x(chunk=1024)",
        "decode": f"{decode}x(max-batch=16)", "rate": rate, "requests": requests, "kv_transfer": transfer,
        "seed": seed, "input_length": "lognormal:mean=900,cv=1", "output_length": "uniform:1,80", **more,
    }  # fmt: skip
    scenario = simulate_scenario(read_options(SimulateOptions, asked))
    workload = build_workload(scenario.workload)
    found = []
    for whether in (driver.staged, lambda service, workload: False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(driver, "staged", whether)
            found.append(simulate_workload(scenario, workload))
    one, other = (r.outcome for r in found)
    for name in ("arrival", "start", "first", "finish", "status", "replica", "preempted"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)
    assert one.end == other.end
    assert one.transfer_mean_s == other.transfer_mean_s
    assert one.queue_integral_s == other.queue_integral_s
    assert found[0].energy_j == pytest.approx(found[1].energy_j, rel=1e-9)
    assert found[0].cost_usd == found[1].cost_usd
