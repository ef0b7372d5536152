"""A power cap below the TDP: clocks fall where the matrix unit is busy, and nothing draws more than the cap."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import windtunnel as wt
from windtunnel.cost import load_calibration, make_pricer
from windtunnel.cost.sustained import capped
from windtunnel.errors import ScenarioError
from windtunnel.hardware import parse_cluster
from windtunnel.ops.build import gemm

DEVICES = ("a100-80gb-sxm", "h100-sxm", "mi300x", "v100-sxm")


def seconds(device: str, cap: float | None, m: float) -> float:
    cluster = parse_cluster(device, {} if cap is None else {"power_cap_watt": cap})
    product = gemm("p", m, 8192.0, 8192.0, dtype="fp16", act=2.0, weight=2.0)
    return float(make_pricer(cluster)(product).seconds)


@pytest.mark.parametrize("device", DEVICES)
def test_a_cap_at_the_limit_changes_nothing(device: str) -> None:
    accelerator = parse_cluster(device).accelerator
    at = parse_cluster(device, {"power_cap_watt": accelerator.tdp_w}).accelerator
    calibration = load_calibration(accelerator)
    assert capped(calibration, at) is calibration


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(DEVICES), st.floats(0.3, 1.2), st.floats(0.3, 1.2), st.sampled_from((1.0, 64.0, 4096.0)))
def test_less_power_is_never_faster(device: str, a: float, b: float, m: float) -> None:
    tdp = parse_cluster(device).accelerator.tdp_w
    low, high = sorted((a, b))
    slow, fast = (seconds(device, share * tdp, m) for share in (low, high))
    assert slow >= fast >= seconds(device, None, m)


@pytest.mark.parametrize("device", DEVICES)
def test_large_products_slow_with_the_root_of_the_power_and_small_ones_do_not(device: str) -> None:
    accelerator = parse_cluster(device).accelerator
    cap = accelerator.idle_w + (accelerator.tdp_w - accelerator.idle_w) / 4
    # A quarter of the power is half of the rate, less slow where the unit did not draw all of it.
    assert 1.4 <= seconds(device, cap, 8192.0) / seconds(device, None, 8192.0) <= 2.01
    assert seconds(device, cap, 1.0) / seconds(device, None, 1.0) == pytest.approx(1.0, abs=0.1)


def test_nothing_draws_more_than_the_cap() -> None:
    free = wt.infer("llama-3.1-8b", on="1xh100-sxm", batch=16, input=8000, output=2)
    cap = wt.infer("llama-3.1-8b", on="1xh100-sxm", batch=16, input=8000, output=2, set={"power_cap_watt": 300})
    node = parse_cluster("1xh100-sxm")
    watts = cap.energy_j_per_token * cap.output_tokens_per_second
    assert watts <= 300 + node.node_power_w + 1e-6
    assert watts < free.energy_j_per_token * free.output_tokens_per_second
    assert cap.ttft_s > free.ttft_s


def test_a_cap_below_what_it_draws_idle_is_refused() -> None:
    with pytest.raises(ScenarioError, match="power_cap_watt=20 is not above"):
        parse_cluster("1xh100-sxm", {"power_cap_watt": 20})
