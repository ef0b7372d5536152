"""How a node's links and a network's levels become the interconnect of a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from windtunnel.errors import ScenarioError
from windtunnel.hardware.machine import Level
from windtunnel.hardware.overrides import Overrides
from windtunnel.hardware.schema import FabricFile, NodeFile

GIGA = 1e9

Built = tuple[tuple[Level, ...], dict[str, str]]
"""Levels from the innermost outward, and the sources of their figures by ``LEVEL.gbyte_per_s`` and ``.latency_us``."""


def build_levels(node: NodeFile, fabric: FabricFile, count: int, size: int, o: Overrides) -> Built:
    """The levels of ``count`` accelerators in nodes of ``size``, overrides applied."""
    inner, inner_sources = _scale_up(node, size, o)
    reach = inner[-1].domain if inner else 1
    outer, outer_sources = _scale_out(node, fabric, count, size, reach, o)
    return change_levels((*inner, *outer), inner_sources | outer_sources, o)


def _scale_up(node: NodeFile, size: int, o: Overrides) -> Built:
    """Levels up to the node's edge shrink and grow with the node; larger ones (a rack, a pod) keep their reach."""
    if not node.levels:
        for entry in (("scale_up", "rate"), ("scale_up_latency", "time"), ("scale_up_domain", "whole")):
            if entry in o.given:
                raise ScenarioError(
                    f"{o.given[entry]}: node {node.name} has no scale-up link; a cluster file can list levels for it"
                )
    most = int(o.value("scale_up_domain", "whole", 0))
    pcie = o.value("pcie", "rate", node.pcie_gbyte_per_s.value * GIGA) / (node.pcie_gbyte_per_s.value * GIGA)
    levels: list[Level] = []
    sources: dict[str, str] = {}
    for i, spec in enumerate(node.levels):
        domain = spec.domain
        if domain <= node.size:
            domain = size if domain == node.size else min(domain, size)
        if most:
            domain = most if i == len(node.levels) - 1 else min(domain, most)
        if domain < 2 or (levels and domain <= levels[-1].domain):
            continue  # joins nobody that is not joined already
        over_pcie = spec.topology == "pcie"
        rate = spec.gbyte_per_s.value * GIGA * (pcie if over_pcie else 1.0)
        levels.append(
            Level(
                spec.name,
                "scale_up",
                domain,
                rate,
                spec.latency_us.value / 1e6,
                spec.topology,
                spec.in_network_reduction,
            )
        )
        own = spec.gbyte_per_s.source
        sources[f"{spec.name}.gbyte_per_s"] = o.source("pcie", "rate", own) if over_pcie else own
        sources[f"{spec.name}.latency_us"] = spec.latency_us.source
    return tuple(levels), sources


def _scale_out(node: NodeFile, fabric: FabricFile, count: int, size: int, reach: int, o: Overrides) -> Built:
    """The network's levels up to the first that covers the cluster; each accelerator has its share of the adapters."""
    whole = max(-(-count // size) * size, reach)
    nics, nic = fabric.nics_per_node, fabric.nic_gbit_per_s or node.nic_gbit_per_s
    adapters = nics.value if nics else node.nics_per_node.value * size / node.size
    adapters = o.value("nics_per_node", "whole", adapters)
    base = adapters * o.value("nic", "rate", nic.value * GIGA / 8) / size
    used = o.source("nics_per_node", "whole", (nics or node.nics_per_node).source)
    line = o.source("nic", "rate", nic.source)
    rate_source = used if used == line else f"adapters: {used}; each: {line}"
    levels: list[Level] = []
    sources: dict[str, str] = {}
    for spec in fabric.levels:
        everyone = spec.nodes == "all"
        domain = whole if spec.nodes == "all" else spec.nodes * size
        if domain <= reach and not everyone:
            continue  # within a rack that is joined already
        over = spec.oversubscription.value
        over_source = spec.oversubscription.source
        if everyone:
            over = o.value("oversubscription", "number", over)
            over_source = o.source("oversubscription", "number", over_source)
        levels.append(
            Level(
                spec.name,
                "scale_out",
                domain,
                base / over,
                spec.latency_us.value / 1e6,
                spec.topology,
                spec.in_network_reduction,
            )
        )
        sources[f"{spec.name}.gbyte_per_s"] = f"{rate_source}; oversubscription {over:g}: {over_source}"
        sources[f"{spec.name}.latency_us"] = spec.latency_us.source
        if domain >= whole:
            break
    return tuple(levels), sources


def change_levels(levels: Sequence[Level], sources: dict[str, str], o: Overrides) -> Built:
    """Apply the overrides of rate, latency and in-network reduction.

    ``scale_up`` is the innermost scale-up level; ``scale_out`` is the innermost network level, with those beyond it
    in proportion.
    """
    sources = dict(sources)
    changed = list(levels)
    for resource in ("scale_up", "scale_out"):
        mine = [i for i, level in enumerate(changed) if level.resource == resource]
        if not mine:
            continue
        for what, entry in (("gbyte_per_s", (resource, "rate")), ("latency_us", (f"{resource}_latency", "time"))):
            if entry not in o.values:
                continue
            first = _get(changed[mine[0]], what)
            for i in mine[:1] if resource == "scale_up" else mine:
                # Written so that the innermost level has the very number that was given.
                factor = _get(changed[i], what) / first if i != mine[0] and first else 1.0
                changed[i] = _with(changed[i], what, o.values[entry] * factor)
                sources[f"{changed[i].name}.{what}"] = o.source(*entry, "")
    if o.in_network_reduction is not None:
        changed = [
            replace(level, in_network_reduction=o.in_network_reduction and level.topology in ("switch", "fat-tree"))
            for level in changed
        ]
    return tuple(changed), sources


def _get(level: Level, what: str) -> float:
    value = level.bandwidth_bytes_per_s if what == "gbyte_per_s" else level.latency_s
    assert isinstance(value, float)
    return value


def _with(level: Level, what: str, value: float) -> Level:
    if what == "gbyte_per_s":
        return replace(level, bandwidth_bytes_per_s=value)
    return replace(level, latency_s=value)
