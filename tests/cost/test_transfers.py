"""Links of channels: within the wires' rates, and no slower where more is there."""

from __future__ import annotations

import pytest

from windtunnel.cost import Runtime, load_calibration, make_pricer
from windtunnel.cost.transfers import Link, between_engines, from_store, from_tier
from windtunnel.hardware import parse_cluster

CLUSTERS = ("8xh100-sxm", "16xa100-80gb-sxm", "1xh100-sxm", "4xrtx-4090", "8xmi300x")


@pytest.mark.parametrize("name", CLUSTERS)
def test_links_keep_to_what_the_machine_states(name: str) -> None:
    cluster = parse_cluster(name, {})
    calibration = load_calibration(cluster.accelerator)
    price = make_pricer(cluster, Runtime(), calibration)
    wires = [float(level.bandwidth_bytes_per_s) for level in cluster.levels]
    near, far = between_engines(price, 1), between_engines(price, cluster.node_size)
    assert 0 < far.bytes_per_s <= near.bytes_per_s <= max(wires)
    assert all(0 < link.latency_s < 1e-3 for link in (near, far))
    tiers = {tier: from_tier(tier, cluster, calibration.copies, price) for tier in ("host", "nvme", "remote")}
    for link in tiers.values():
        assert 0 < link.bytes_per_s < float(cluster.pcie_bytes_per_s)
        assert 0 < link.latency_s < 1e-3
    sharers = min(cluster.node_size, cluster.count)
    assert tiers["nvme"].bytes_per_s <= float(cluster.nvme.bandwidth_bytes_per_s) / sharers


def test_a_faster_network_brings_caches_faster() -> None:
    rates = []
    for gbit in (100.0, 400.0):
        cluster = parse_cluster("16xh100-sxm", {"nic_gbit_per_s": gbit})
        calibration = load_calibration(cluster.accelerator)
        price = make_pricer(cluster, Runtime(), calibration)
        rates.append(between_engines(price, 8).bytes_per_s)
    assert rates[1] == pytest.approx(4 * rates[0], rel=0.05)


def test_a_store_sends_no_faster_than_the_link_or_than_the_device_restores() -> None:
    wire = Link(10e9, 1e-5)
    assert from_store(wire, 1e12, 1.0, float("inf")) == wire
    assert from_store(wire, 4e8, 8.0, 5e9) == Link(4e8, 1e-5)
    assert from_store(wire, 4e9, 8.0, 5e9) == Link(5e9 / 8, 1e-5)
