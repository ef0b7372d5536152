"""Scaling one resource and spreading all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.errors import ScenarioError
from windtunnel.hardware import RESOURCES, Cluster, accelerator_names, parse_cluster, scale_resource, spread

CLUSTERS = st.builds(
    lambda name, count: parse_cluster(f"{count}x{name}"), st.sampled_from(accelerator_names()), st.integers(1, 10_000)
)


def rates(cluster: Cluster) -> dict[str, list[Any]]:
    """Every rate of a cluster, by the resource that it belongs to."""
    device = cluster.accelerator
    return {
        "tensor": list(device.peak_flops.values()),
        "vector": [device.vector_flops],
        "hbm": [device.hbm.bandwidth_bytes_per_s],
        "l2": [device.l2.bandwidth_bytes_per_s],
        "scale_up": [level.bandwidth_bytes_per_s for level in cluster.levels if level.resource == "scale_up"],
        "scale_out": [level.bandwidth_bytes_per_s for level in cluster.levels if level.resource == "scale_out"],
        "pcie": [cluster.pcie_bytes_per_s],
        "nvme": [cluster.nvme.bandwidth_bytes_per_s],
        "host": [cluster.host_relative_speed],
    }


def rest(cluster: Cluster) -> list[Any]:
    """What is no rate and must stay."""
    device = cluster.accelerator
    return [
        device.name, device.hbm.capacity_bytes, device.l2.capacity_bytes, device.compute_units, device.kernel_gap_s,
        device.tdp_w, device.idle_w, cluster.count, cluster.node_size, cluster.dram, cluster.nvme.capacity_bytes,
        cluster.node_power_w, [(level.name, level.domain, level.latency_s) for level in cluster.levels],
    ]  # fmt: skip


@given(CLUSTERS, st.sampled_from(RESOURCES), st.floats(1e-3, 1e3))
def test_scaling_touches_one_resource(cluster: Cluster, resource: Any, factor: float) -> None:
    scaled = scale_resource(cluster, resource, factor)
    for name, before in rates(cluster).items():
        expected = [value * factor if name == resource else value for value in before]
        assert rates(scaled)[name] == expected
    assert rest(scaled) == rest(cluster)


@given(CLUSTERS, st.sampled_from(RESOURCES), st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=5))
def test_an_array_of_factors_is_many_machines(cluster: Cluster, resource: Any, factors: list[float]) -> None:
    many = rates(scale_resource(cluster, resource, np.array(factors)))[resource]
    for i, factor in enumerate(factors):
        one = rates(scale_resource(cluster, resource, factor))[resource]
        assert [value[i] for value in many] == one


@given(CLUSTERS, st.floats(-0.9, 10).filter(lambda e: abs(e) > 1e-6))
def test_spread_varies_one_resource_a_row(cluster: Cluster, epsilon: float) -> None:
    wide = spread(cluster, epsilon)
    before = rates(cluster)
    assert tuple(before) == RESOURCES
    for name, values in rates(wide).items():
        for value, old in zip(values, before[name], strict=True):
            assert value.shape == (1 + len(RESOURCES),)
            expected = np.full(1 + len(RESOURCES), old)
            expected[1 + RESOURCES.index(name)] *= 1 + epsilon  # type: ignore[arg-type]
            np.testing.assert_allclose(value, expected, rtol=1e-15)
            assert value[0] == old
    assert rest(wide) == rest(cluster)


@given(CLUSTERS, st.sampled_from(RESOURCES), st.floats(0.5, 2))
def test_scaling_there_and_back(cluster: Cluster, resource: Any, factor: float) -> None:
    back = scale_resource(scale_resource(cluster, resource, factor), resource, 1 / factor)
    for name, values in rates(back).items():
        assert values == pytest.approx(rates(cluster)[name], rel=1e-12)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf"), np.array([1.0, 0.0]), np.array([np.nan])])
def test_bad_factors(factor: Any) -> None:
    with pytest.raises(ScenarioError, match="above 0"):
        scale_resource(parse_cluster("8xh100"), "hbm", factor)


def test_unknown_resource() -> None:
    with pytest.raises(ScenarioError, match="did you mean hbm"):
        scale_resource(parse_cluster("8xh100"), "hbn", 2.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("epsilon", [0.0, -1.0, -2.0, float("nan"), float("inf")])
def test_bad_epsilon(epsilon: float) -> None:
    with pytest.raises(ScenarioError, match="above -1"):
        spread(parse_cluster("8xh100"), epsilon)
