"""How fast bytes move between an accelerator and the memories below its own, and from one engine to another: what a
:class:`~windtunnel.cost.channel.Channel` is made with."""

from __future__ import annotations

from typing import NamedTuple

from windtunnel.cost.calibration import Copy
from windtunnel.hardware.machine import Cluster
from windtunnel.ops.build import collective
from windtunnel.ops.fold import Pricer
from windtunnel.ops.op import Group

SMALL, LARGE = 2.0**24, 2.0**30
"""Bytes of the two messages whose times tell a link's rate and its latency."""


class Link(NamedTuple):
    """Bytes a second, and seconds before the first of them."""

    bytes_per_s: float
    latency_s: float


def between_engines(price: Pricer, stride: int) -> Link:
    """One accelerator's wire to the one ``stride`` ranks on, as messages between pipeline stages are priced."""
    group = Group(2, stride)
    small, large = (float(price(collective("send_recv", size, group, "pp_comm")).seconds) for size in (SMALL, LARGE))
    rate = (LARGE - SMALL) / (large - small)
    return Link(rate, max(small - SMALL / rate, 0.0))


def from_store(link: Link, bytes_per_s: float, ratio: float, decode_bytes_per_s: float) -> Link:
    """The ``link`` of one accelerator to a store that sends it ``bytes_per_s`` at most, each of which stands for
    ``ratio`` bytes of its cache: no faster than the device restores them, which goes on while they come."""
    return Link(min(link.bytes_per_s, bytes_per_s, decode_bytes_per_s / ratio), link.latency_s)


def from_tier(name: str, cluster: Cluster, copies: Copy, price: Pricer) -> Link:
    """One accelerator's share of ``host`` memory, of the node's drives (``nvme``), or of storage on other nodes
    (``remote``), all through its own link to the host."""
    sharers = min(cluster.node_size, cluster.count)
    pcie = copies.pcie * float(cluster.pcie_bytes_per_s)
    if name == "remote":
        wire = between_engines(price, cluster.node_size)
        return Link(min(pcie, wire.bytes_per_s), wire.latency_s + copies.fixed_s)
    memory, share = (cluster.dram, copies.dram) if name == "host" else (cluster.nvme, copies.nvme)
    return Link(min(pcie, share * float(memory.bandwidth_bytes_per_s) / sharers), copies.fixed_s)
