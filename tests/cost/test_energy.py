"""Power between idle and the limit, and the measured power of an A100 that decodes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.cost import energy_j
from windtunnel.hardware import parse_cluster
from windtunnel.ops.fold import Totals

A100 = parse_cluster("8xa100-80gb-sxm")


def totals(flops=0.0, hbm=0.0, vector=0.0, sent=0.0, dtype="bf16") -> Totals:
    moved = {"hbm": hbm, "cached": 0.0, "pcie": 0.0, "nvme": 0.0}
    return Totals({dtype: flops, "vector": vector}, moved, {"all_reduce": sent}, {})


formats = st.sampled_from(["bf16", "fp8", "fp32"])


@given(st.floats(0, 1e16), st.floats(0, 1e14), st.floats(0, 1e15), st.floats(1e-6, 100), formats)
def test_power_lies_between_idle_and_the_limit(flops, hbm, vector, seconds, dtype):
    for cluster in (A100, parse_cluster("8xh100-sxm")):
        node = cluster.node_power_w / cluster.node_size
        power = energy_j(totals(flops, hbm, vector, dtype=dtype), seconds, cluster) / seconds - node
        assert cluster.accelerator.idle_w * (1 - 1e-9) <= power <= cluster.accelerator.tdp_w * (1 + 1e-9)


@pytest.mark.parametrize(
    ("tp", "token_s", "share_of_tdp"), [(2, 0.0549, 0.7360), (4, 0.0450, 0.5993), (8, 0.0449, 0.4349)]
)
def test_decoding_power_of_an_a100(tp, token_s, share_of_tdp):
    """Llama-2-70B, prompts of 512, one sequence: splitwise-sim@8f99e7d data/perf_model.csv (mean power over TDP)."""
    work = totals(flops=2 * 69e9 / tp, hbm=2 * 69e9 / tp)
    node = A100.node_power_w / A100.node_size
    power = energy_j(work, token_s, A100) / token_s - node
    assert power / A100.accelerator.tdp_w == pytest.approx(share_of_tdp, rel=0.1)


def test_messages_cost_more_between_nodes_and_arrays_are_many_scalars():
    wide = parse_cluster("16xa100-80gb-sxm")
    sent = np.array([0.0, 1e9, 1e10])
    near, far = (energy_j(totals(sent=sent), 1.0, c) for c in (A100, wide))
    assert near[0] == pytest.approx(far[0])
    assert np.all(np.diff(near) > 0)
    assert far[2] - far[0] > 10 * (near[2] - near[0])
    assert far[1] == pytest.approx(energy_j(totals(sent=1e9), 1.0, wide))
