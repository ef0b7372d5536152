"""From what a user writes (``8xh100-sxm``, a cluster file, overrides) to a :class:`Cluster`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace

from windtunnel.errors import ScenarioError
from windtunnel.hardware.catalogue import (
    GIGA,
    accelerator_file,
    fabric_file,
    figure_sources,
    load_accelerator,
    node_file,
    price_per_hour,
    resolve_accelerator,
)
from windtunnel.hardware.cluster_file import plain, read_cluster_file
from windtunnel.hardware.links import build_levels, change_levels
from windtunnel.hardware.machine import Accelerator, Cluster, Level, Memory
from windtunnel.hardware.overrides import Overrides, merge, one_line, parse_overrides
from windtunnel.hardware.schema import DTYPES, LevelSpec, NodeFile
from windtunnel.ops.values import Value

MAX_COUNT = 1_000_000
"""Most accelerators in one cluster; the largest ever announced have a few hundred thousand."""

_COUNTED = re.compile(r"\s*([-+]?[0-9][0-9_,.eE+-]*)\s*[xX×*]\s*(\S.*)", re.DOTALL)


def parse_cluster(text: str | os.PathLike[str], overrides: Mapping[str, object] | None = None) -> Cluster:
    """The cluster that ``text`` names, with ``overrides`` (``--set``) applied.

    ``text``: ``COUNTxNAME`` (``64xh100-sxm``), ``NAME`` alone for one accelerator, or the path of a cluster file
    (``.yaml``, ``.yml`` or ``.json``, or anything with a folder in it; see
    :class:`windtunnel.hardware.schema.ClusterFile`). The accelerator's usual node and that node's usual network are
    taken unless ``node`` or ``fabric`` is set. ``count`` need not fill the last node.

    How overrides act: ``gpus_per_node`` makes a node the same fraction or multiple in every respect (adapters, memory,
    drives, power), so that an accelerator's share stays as it is; ``nics_per_node`` and ``nic_*`` count whole
    adapters, ``scale_out_*`` is each accelerator's bandwidth (one or the other); the ``scale_up_*`` rate and latency
    are those of the innermost link (a pair's NVLink bridge), ``scale_up_domain`` the reach of the outermost;
    ``pcie_*`` also moves links that run over PCIe; ``oversubscription`` divides the outermost network level.
    A call's overrides win over a file's.

    Raises :class:`ScenarioError` for anything that cannot be understood or believed.
    """
    given = parse_overrides(overrides)
    if isinstance(text, os.PathLike):
        return _from_file(os.fsdecode(text), given)
    if not isinstance(text, str):
        raise ScenarioError(f"a cluster is text such as 8xh100-sxm or the path of a YAML file, not {one_line(text)}")
    text = text.strip()
    if text.lower().endswith((".yaml", ".yml", ".json")) or "/" in text or os.sep in text:
        return _from_file(text, given)
    counted = _COUNTED.fullmatch(text)
    count, name = counted.groups() if counted else ("1", text)
    if not name:
        raise ScenarioError("a cluster is text such as 8xh100-sxm or the path of a YAML file, not ''")
    return build_cluster(name, _count(count), given)


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]+", text):
        raise ScenarioError(f"a cluster's count is a whole number from 1 to {MAX_COUNT:,}, not {one_line(text)}")
    digits = text.lstrip("0") or "0"
    return _checked_count(int(digits) if len(digits) <= 20 else 10**20)


def _checked_count(count: int) -> int:
    if not 1 <= count <= MAX_COUNT:
        raise ScenarioError(f"a cluster's count is from 1 to {MAX_COUNT:,}, not {one_line(count)}")
    return count


def _from_file(path: str, given: Overrides) -> Cluster:
    file = read_cluster_file(path)
    names = {key: value for key, value in (("node", file.node), ("fabric", file.fabric)) if value is not None}
    overrides = merge(parse_overrides({**file.set, **names}), given)
    return build_cluster(file.accelerator, _checked_count(file.count), overrides, file.levels)


def build_cluster(name: str, count: int, overrides: Overrides, levels: list[LevelSpec] | None = None) -> Cluster:
    """``count`` accelerators ``name`` in their usual or the overriding node and network; see :func:`parse_cluster`.

    ``levels`` replace the catalogue's interconnect.
    """
    o = overrides
    name = resolve_accelerator(name)
    device = _device(load_accelerator(name), o)
    node = node_file(o.node or accelerator_file(name).node)
    fabric = fabric_file(o.fabric or node.fabric)
    size = int(o.value("gpus_per_node", "whole", node.size))
    share = size / node.size
    if levels is None:
        links, link_sources = build_levels(node, fabric, count, size, o)
    else:
        links, link_sources = _given_levels(levels, count, o)
    price = price_per_hour(name)
    return Cluster(
        accelerator=device,
        count=count,
        node_size=size,
        levels=links,
        pcie_bytes_per_s=o.value("pcie", "rate", node.pcie_gbyte_per_s.value * GIGA),
        dram=Memory(
            o.value("dram", "capacity", node.dram_gbyte.value * GIGA * share),
            o.value("dram", "rate", node.dram_gbyte_per_s.value * GIGA * share),
        ),
        nvme=Memory(
            o.value("nvme", "capacity", node.nvme_gbyte.value * GIGA * share),
            o.value("nvme", "rate", node.nvme_gbyte_per_s.value * GIGA * share),
        ),
        price_usd_per_hour=o.value("price", "money", price),
        node=node.name,
        host_relative_speed=o.value("host_relative_speed", "number", node.host_relative_speed.value),
        node_power_w=o.value("node_power", "power", node.node_power_watt.value * share),
        price_source=device.sources["price_usd_per_hour"],
        sources=_node_sources(node, o) | link_sources,
        fabric=fabric.name if levels is None else "",
    )


# The catalogue's figure that each override replaces.
_DEVICE_FIGURES: dict[str, tuple[str, str]] = {
    **{f"{dtype}_tflops": (dtype, "flops") for dtype in DTYPES},
    "vector_tflops": ("vector", "flops"),
    "hbm_gbyte_per_s": ("hbm", "rate"),
    "hbm_gibyte": ("hbm", "capacity"),
    "l2_gbyte_per_s": ("l2", "rate"),
    "l2_mibyte": ("l2", "capacity"),
    "compute_units": ("compute_units", "whole"),
    "kernel_gap_us": ("kernel_gap", "time"),
    "tdp_watt": ("tdp", "power"),
    "idle_watt": ("idle", "power"),
    "power_cap_watt": ("power_cap", "power"),
    "price_usd_per_hour": ("price", "money"),
}
_NODE_FIGURES = {
    "pcie_gbyte_per_s": ("pcie", "rate"),
    "dram_gbyte": ("dram", "capacity"),
    "dram_gbyte_per_s": ("dram", "rate"),
    "nvme_gbyte": ("nvme", "capacity"),
    "nvme_gbyte_per_s": ("nvme", "rate"),
    "node_power_watt": ("node_power", "power"),
    "host_relative_speed": ("host_relative_speed", "number"),
}


def _device(device: Accelerator, o: Overrides) -> Accelerator:
    """The device with its overridden figures. A rate for a dtype that it lacks adds the dtype."""
    tdp = o.value("tdp", "power", device.tdp_w)
    idle = o.value("idle", "power", min(device.idle_w, tdp))
    if idle > tdp:
        raise ScenarioError(f"idle_watt={idle:g} is above the {tdp:g} W that the accelerator draws at most")
    cap = o.value("power_cap", "power", device.power_cap_w)
    if cap <= idle:
        raise ScenarioError(f"power_cap_watt={cap:g} is not above the {idle:g} W that the accelerator draws idle")
    new: dict[str, Value] = {dtype: o.values[dtype, "flops"] for dtype in DTYPES if (dtype, "flops") in o.values}
    sources = dict(device.sources)
    for key, entry in _DEVICE_FIGURES.items():
        if entry in o.given:
            sources[key] = o.source(*entry, "")
    return replace(
        device,
        peak_flops={**device.peak_flops, **new},
        vector_flops=o.value("vector", "flops", plain(device.vector_flops)),
        hbm=_memory("hbm", device.hbm, o),
        l2=_memory("l2", device.l2, o),
        compute_units=int(o.value("compute_units", "whole", device.compute_units)),
        kernel_gap_s=o.value("kernel_gap", "time", device.kernel_gap_s),
        tdp_w=tdp,
        idle_w=idle,
        power_cap_w=cap,
        sources=sources,
    )


def _memory(name: str, memory: Memory, o: Overrides) -> Memory:
    return Memory(
        o.value(name, "capacity", memory.capacity_bytes), o.value(name, "rate", plain(memory.bandwidth_bytes_per_s))
    )


def _node_sources(node: NodeFile, o: Overrides) -> dict[str, str]:
    own = figure_sources(node)
    return {key: o.source(*entry, own[key]) for key, entry in _NODE_FIGURES.items()}


def _given_levels(specs: list[LevelSpec], count: int, o: Overrides) -> tuple[tuple[Level, ...], dict[str, str]]:
    replaced = (
        ("nic", "rate"),
        ("nics_per_node", "whole"),
        ("oversubscription", "number"),
        ("scale_up_domain", "whole"),
    )
    useless = [o.given[entry] for entry in replaced if entry in o.given]
    useless += [f"fabric={o.fabric}"] if o.fabric else []
    if useless:
        raise ScenarioError(f"{useless[0]} has no effect on a cluster file that lists its levels")
    reach = specs[-1].domain if specs else 1
    if reach < count:
        raise ScenarioError(
            f"the outermost of the levels joins {reach:,} accelerators, fewer than the {count:,} there are"
        )
    levels = tuple(
        Level(
            s.name, s.resource, s.domain, s.gbyte_per_s * GIGA, s.latency_us / 1e6, s.topology, s.in_network_reduction
        )
        for s in specs
    )
    sources = {f"{s.name}.{key}": "given in the cluster file" for s in specs for key in ("gbyte_per_s", "latency_us")}
    return change_levels(levels, sources, o)
