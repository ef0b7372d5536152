"""What a power limit leaves of the matrix unit's rate."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.cost import load_calibration
from windtunnel.cost.sustained import at_power, slowed
from windtunnel.hardware.catalogue import load_accelerator

H100 = load_accelerator("h100-sxm")


@given(tdp=st.floats(100, 2000), more=st.floats(1, 3), busy=st.floats(0.05, 1))
def test_more_power_never_slows(tdp: float, more: float, busy: float) -> None:
    low, high = (slowed(replace(H100, tdp_w=p), busy) for p in (tdp, tdp * more))
    assert low is not None
    assert high is not None
    assert 0 < low <= high <= 1


@given(busy=st.floats(0.05, 0.9), more=st.floats(1, 1.1))
def test_a_busier_kernel_is_slowed_more_but_not_slower(busy: float, more: float) -> None:
    idle, full = slowed(H100, busy), slowed(H100, busy * more)
    assert idle is not None
    assert full is not None
    assert full <= idle
    assert busy * idle <= busy * more * full * (1 + 1e-12)


@pytest.mark.parametrize("rate", [1.0, 2.0, 4.0])
def test_a_faster_unit_at_the_same_power_is_never_slower(rate: float) -> None:
    peaks = {k: rate * float(v) for k, v in H100.peak_flops.items()}
    left = slowed(replace(H100, peak_flops=peaks), 0.8)
    assert left is not None
    base = slowed(H100, 0.8)
    assert base is not None
    assert left * rate >= base


def test_constants_found_in_training_and_families_without_runs_stay() -> None:
    calibration = load_calibration(H100)
    held = at_power(calibration, H100)
    assert held.attention["flash1"] == calibration.attention["flash1"]
    assert held.gemm["bf16"].sustained < 1
    assert held.gemm["bf16"].compute == calibration.gemm["bf16"].compute
    assert held.calibrated == calibration.calibrated
    tpu = load_accelerator("tpu-v5e")
    assert at_power(load_calibration(tpu), tpu) == load_calibration(tpu)


def test_a_lower_limit_slows_products_and_attention() -> None:
    calibration = load_calibration(H100)
    full, half = (at_power(calibration, replace(H100, tdp_w=w)) for w in (700.0, 400.0))
    assert half.gemm["bf16"].sustained < full.gemm["bf16"].sustained
    assert half.attention["flash3"].sustained < full.attention["flash3"].sustained
