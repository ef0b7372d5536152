"""``--set``: units, effects, refusals, and the law that more of a resource never makes a machine worse."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.errors import ScenarioError
from windtunnel.hardware import Cluster, accelerator_names, override_keys, parse_cluster
from windtunnel.hardware.overrides import AMBIGUOUS, QUANTITIES, UNITS, parse_overrides


def get(cluster: Cluster, path: str) -> Any:
    value: Any = cluster
    for part in path.split("."):
        value = value[int(part)] if part.isdigit() else value[part] if isinstance(value, dict) else getattr(value, part)
    return value


@pytest.mark.parametrize(
    ("key", "value", "path", "expected"),
    [
        ("hbm_gbyte_per_s", 4800, "accelerator.hbm.bandwidth_bytes_per_s", 4.8e12),
        ("hbm_tbyte_per_s", "4.8", "accelerator.hbm.bandwidth_bytes_per_s", 4.8e12),
        ("hbm_gbit_per_s", 38400, "accelerator.hbm.bandwidth_bytes_per_s", 4.8e12),
        ("HBM-gbyte-per-s", "4.8e3", "accelerator.hbm.bandwidth_bytes_per_s", 4.8e12),
        ("hbm_gbyte", 100, "accelerator.hbm.capacity_bytes", 100e9),
        ("hbm_gibyte", 100, "accelerator.hbm.capacity_bytes", 100 * 2**30),
        ("l2_mbyte", 96, "accelerator.l2.capacity_bytes", 96e6),
        ("l2_mibyte", 96, "accelerator.l2.capacity_bytes", 96 * 2**20),
        ("l2_gbyte_per_s", 9000, "accelerator.l2.bandwidth_bytes_per_s", 9e12),
        ("bf16_tflops", 1200, "accelerator.peak_flops.bf16", 1.2e15),
        ("bf16_pflops", 1.2, "accelerator.peak_flops.bf16", 1.2e15),
        ("int8_tops", 2400, "accelerator.peak_flops.int8", 2.4e15),
        ("fp4_tflops", 3000, "accelerator.peak_flops.fp4", 3e15),  # adds what an H100 lacks
        ("vector_tflops", 80, "accelerator.vector_flops", 80e12),
        ("compute_units", 140, "accelerator.compute_units", 140),
        ("kernel_gap_us", 0, "accelerator.kernel_gap_s", 0),
        ("kernel_gap_ns", 500, "accelerator.kernel_gap_s", 5e-7),
        ("tdp_watt", 500, "accelerator.tdp_w", 500),
        ("tdp_watt", 50, "accelerator.idle_w", 50),  # idle power never exceeds the limit
        ("idle_watt", 60, "accelerator.idle_w", 60),
        ("scale_up_gbyte_per_s", 900, "levels.0.bandwidth_bytes_per_s", 900e9),
        ("scale_up_latency_us", 2, "levels.0.latency_s", 2e-6),
        ("scale_up_domain", 32, "levels.0.domain", 32),
        ("scale_out_gbyte_per_s", 25, "levels.2.bandwidth_bytes_per_s", 25e9),
        ("scale_out_latency_us", 0, "levels.2.latency_s", 0),
        ("scale_out_latency_us", 5.4, "levels.2.latency_s", 6.6e-6),
        ("nic_gbit_per_s", 100, "levels.1.bandwidth_bytes_per_s", 12.5e9),
        ("nic_gbyte_per_s", 100, "levels.1.bandwidth_bytes_per_s", 100e9),
        ("nics_per_node", 4, "levels.1.bandwidth_bytes_per_s", 25e9),
        ("oversubscription", 2, "levels.2.bandwidth_bytes_per_s", 25e9),
        ("gpus_per_node", 4, "node_size", 4),
        ("gpus_per_node", 4, "levels.0.domain", 4),
        ("gpus_per_node", 16, "levels.0.domain", 16),
        ("gpus_per_node", 4, "levels.1.bandwidth_bytes_per_s", 50e9),  # an accelerator keeps its share
        ("gpus_per_node", 4, "dram.capacity_bytes", 1024e9),
        ("gpus_per_node", 4, "node_power_w", 1400),
        ("pcie_gbyte_per_s", 128, "pcie_bytes_per_s", 128e9),
        ("dram_gbyte", 4096, "dram.capacity_bytes", 4096e9),
        ("dram_gbyte_per_s", 800, "dram.bandwidth_bytes_per_s", 800e9),
        ("nvme_tbyte", 60, "nvme.capacity_bytes", 60e12),
        ("nvme_gbyte", 0, "nvme.capacity_bytes", 0),
        ("nvme_gbyte_per_s", 100, "nvme.bandwidth_bytes_per_s", 100e9),
        ("node_power_watt", 0, "node_power_w", 0),
        ("price_usd_per_hour", "1.5", "price_usd_per_hour", 1.5),
        ("power_cap_watt", 350, "accelerator.power_cap_w", 350.0),
        ("host_relative_speed", 2, "host_relative_speed", 2),
        ("in_network_reduction", "false", "levels.0.in_network_reduction", False),
        ("in_network_reduction", True, "levels.2.in_network_reduction", True),
    ],
)
def test_what_a_key_changes(key: str, value: Any, path: str, expected: Any) -> None:
    before, after = parse_cluster("1024xh100-sxm"), parse_cluster("1024xh100-sxm", {key: value})
    assert get(after, path) == pytest.approx(expected, rel=1e-12)
    if key != "fp4_tflops":
        assert get(before, path) != expected or key == "gpus_per_node"


def test_every_key_is_tested_above() -> None:
    covered = {
        call[0].lower().replace("-", "_")
        for mark in test_what_a_key_changes.pytestmark  # type: ignore[attr-defined]
        for call in mark.args[1]
    }
    stems = {key.removesuffix("_tflops") for key in covered}
    missing = {key for key in override_keys() if key not in covered}
    # The dtypes are alike; node and fabric are tested with the clusters; hbm in MB/GB is one quantity.
    assert missing <= {
        "tf32_tflops",
        "fp16_tflops",
        "fp32_tflops",
        "fp8_tflops",
        "int8_tflops",
        "l2_gbyte",
        "node",
        "fabric",
    }
    assert "bf16" in stems


def test_sources_say_what_the_user_set() -> None:
    cluster = parse_cluster("16xh100-sxm", {"hbm_gbyte_per_s": 4000, "nic_gbit_per_s": 200, "price_usd_per_hour": 2})
    assert cluster.accelerator.sources["hbm_gbyte_per_s"] == "set by the user: hbm_gbyte_per_s=4000"
    assert "nic_gbit_per_s=200" in cluster.sources["rail.gbyte_per_s"]
    assert cluster.price_source == "set by the user: price_usd_per_hour=2"
    assert "datasheet" in cluster.accelerator.sources["bf16_tflops"]


def test_pcie_moves_links_over_pcie() -> None:
    assert parse_cluster("8xl40s", {"pcie_gbyte_per_s": 16}).levels[0].bandwidth_bytes_per_s == 16e9
    pairs = parse_cluster("8xh100-pcie", {"pcie_gbyte_per_s": 32, "scale_up_gbyte_per_s": 200})
    assert [level.bandwidth_bytes_per_s for level in pairs.levels[:2]] == [200e9, 32e9]


def test_scale_up_domain_one_leaves_the_network() -> None:
    cluster = parse_cluster("8xh100", {"scale_up_domain": 1})
    assert [level.resource for level in cluster.levels] == ["scale_out"]
    assert [level.domain for level in parse_cluster("8xh100-pcie", {"scale_up_domain": 2}).levels] == [2, 128]


def test_in_network_reduction_needs_a_switch() -> None:
    cluster = parse_cluster("16xh100-pcie", {"in_network_reduction": "true"})
    assert [level.in_network_reduction for level in cluster.levels] == [False, False, True]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"hbm_gbps": 3350}, "hbm_gbit_per_s or hbm_gbyte_per_s"),
        ({"nic_gbps": "100"}, "nic_gbit_per_s or nic_gbyte_per_s"),
        ({"scale_up_gb_s": 900}, "scale_up_gbit_per_s or scale_up_gbyte_per_s"),
        ({"hbm_gb": 80}, "hbm_gbyte or hbm_gibyte"),
        ({"l2_mb": 50}, "l2_mbyte or l2_mibyte"),
        ({"hbm": 80}, "names no unit: use hbm_gbyte_per_s or hbm_gbyte"),
        ({"tdp": 80}, "tdp_watt"),
        ({"bf16": 80}, "bf16_tflops"),
        ({"hbm_gbytes_per_s": 3}, "hbm_gbyte_per_s"),
        ({"hbm_watt": 3}, "unknown setting"),
        ({"foo": 3}, "unknown setting 'foo'"),
        ({"": 3}, "unknown setting"),
        ({"a\nb": 3}, r"a\\nb"),
        ({"hbm_gbyte_per_s": "fast"}, "a number, not fast"),
        ({"hbm_gbyte_per_s": ""}, "a number"),
        ({"hbm_gbyte_per_s": None}, "a number, not None"),
        ({"hbm_gbyte_per_s": True}, "a number, not True"),
        ({"hbm_gbyte_per_s": [1]}, "a number"),
        ({"hbm_gbyte_per_s": "1_000"}, "a number"),
        ({"hbm_gbyte_per_s": "3,350"}, "a number"),
        ({"hbm_gbyte_per_s": "١٢"}, "a number"),
        ({"hbm_gbyte_per_s": "nan"}, "finite"),
        ({"hbm_gbyte_per_s": math.inf}, "finite"),
        ({"hbm_gbyte_per_s": "-inf"}, "finite"),
        ({"hbm_gbyte_per_s": -1}, "above 0, not -1"),
        ({"hbm_gbyte_per_s": 0}, "above 0, not 0"),
        ({"scale_out_latency_us": -1}, "at least 0"),
        ({"hbm_gbyte_per_s": "1e30"}, "beyond belief"),
        ({"hbm_gbyte_per_s": 10**400}, "a number, not an integer of more than 40 digits"),
        ({"scale_up_latency_s": 100}, "beyond belief"),
        ({"oversubscription": 0.5}, "beyond belief"),
        ({"nics_per_node": 1.5}, "whole"),
        ({"gpus_per_node": "two"}, "a whole number, not two"),
        ({"gpus_per_node": 0}, "above 0"),
        ({"compute_units": 1e9}, "beyond belief"),
        ({"in_network_reduction": "yes"}, "true or false"),
        ({"in_network_reduction": 1}, "true or false"),
        ({"fabric": 3}, "a name"),
        ({"fabric": " "}, "a name"),
        ({"fabric": "leaf"}, "unknown fabric"),
        ({"node": "h100"}, "unknown node"),
        ({"hbm_gbyte_per_s": 1, "hbm_tbyte_per_s": 2}, "hbm_gbyte_per_s=1 and hbm_tbyte_per_s=2 set the same"),
        ({"scale_out_gbyte_per_s": 1, "nic_gbit_per_s": 2}, "set the same bandwidth"),
        ({"scale_out_gbyte_per_s": 1, "nics_per_node": 2}, "set the same bandwidth"),
        ({"idle_watt": 800}, "idle_watt=800 is above"),
    ],
)
def test_refusals(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ScenarioError, match=message) as error:
        parse_cluster("64xh100-sxm", overrides)
    assert "\n" not in str(error.value)


def test_scale_up_of_a_node_without_links() -> None:
    for key in ("scale_up_gbyte_per_s", "scale_up_latency_us", "scale_up_domain"):
        with pytest.raises(ScenarioError, match="no scale-up link"):
            parse_cluster("xeon-8480", {key: 4})


def test_every_ambiguous_key_names_keys_that_work() -> None:
    for short, readings in AMBIGUOUS.items():
        name = "dram"
        with pytest.raises(ScenarioError) as error:
            parse_overrides({f"{name}_{short}": 1})
        for reading in readings:
            assert f"{name}_{reading}" in str(error.value)
            assert parse_overrides({f"{name}_{reading}": 1}).values


KEYS = sorted(
    {f"{name}_{unit}" if unit else name for name, dimension in QUANTITIES for unit in UNITS[dimension] or [""]}
)
VALUES = st.floats() | st.integers() | st.text(max_size=6) | st.booleans() | st.none() | st.floats(1e-3, 1e3).map(str)


@given(
    st.sampled_from(accelerator_names()),
    st.integers(1, 5000),
    st.dictionaries(
        st.sampled_from([*KEYS, *(f"hbm_{short}" for short in AMBIGUOUS), "fabric", "node", "in_network_reduction"])
        | st.text(max_size=12),
        VALUES,
        max_size=4,
    ),
)
def test_any_override_is_a_cluster_or_a_scenario_error(name: str, count: int, overrides: dict[str, Any]) -> None:
    try:
        cluster = parse_cluster(f"{count}x{name}", overrides)
    except ScenarioError as error:
        message = str(error)
    else:
        message = "fine"
        assert 0 < cluster.accelerator.hbm.bandwidth_bytes_per_s < math.inf
        assert cluster.levels[-1].domain >= cluster.count
        assert 0 <= cluster.accelerator.idle_w <= cluster.accelerator.tdp_w
        assert all(0 < level.bandwidth_bytes_per_s < math.inf for level in cluster.levels)
    assert len(message.splitlines()) == 1
    assert message.isprintable()


def goods(cluster: Cluster) -> dict[str, float]:
    """Everything of which more is better."""
    device = cluster.accelerator
    figures = {f"{dtype}": float(rate) for dtype, rate in device.peak_flops.items()}
    figures |= {"vector": float(device.vector_flops), "pcie": float(cluster.pcie_bytes_per_s)}
    for name, memory in (("hbm", device.hbm), ("l2", device.l2), ("dram", cluster.dram), ("nvme", cluster.nvme)):
        figures[name] = memory.capacity_bytes
        figures[f"{name}_rate"] = float(memory.bandwidth_bytes_per_s)
    figures |= {level.name: float(level.bandwidth_bytes_per_s) for level in cluster.levels}
    return figures


RESOURCES = [
    "bf16_tflops", "vector_tflops", "hbm_gbyte_per_s", "hbm_gbyte", "l2_gbyte_per_s", "l2_mbyte", "nic_gbit_per_s",
    "nics_per_node", "scale_up_gbyte_per_s", "scale_out_gbyte_per_s", "pcie_gbyte_per_s", "dram_gbyte",
    "dram_gbyte_per_s", "nvme_gbyte", "nvme_gbyte_per_s", "scale_up_domain", "host_relative_speed", "compute_units",
]  # fmt: skip


@given(
    st.sampled_from(["h100-sxm", "h100-pcie", "gb200", "mi250x", "tpu-v5e", "l40s"]),
    st.sampled_from(RESOURCES),
    st.integers(1, 500),
    st.integers(1, 500),
    st.sampled_from(["rail-fat-tree", "leaf-spine", "wan"]),
)
def test_more_of_a_resource_never_reduces_a_figure(name: str, key: str, low: int, extra: int, fabric: str) -> None:
    less = goods(parse_cluster(f"2000x{name}", {key: low, "fabric": fabric}))
    more = goods(parse_cluster(f"2000x{name}", {key: low + extra, "fabric": fabric}))
    for figure in less.keys() & more.keys():
        assert more[figure] >= less[figure], figure
