"""What a collective costs: the cheapest algorithm that the runtime has, from hops, bytes on each link and its ramp.

Every algorithm takes ``fixed + max over levels of (x + sqrt(ramp * x))``, where ``fixed`` is a launch and its hops and
x = bytes / (efficiency * bandwidth) the wire time on a level. The root is what a message cut into the best number of
pieces costs in a pipeline: minimising (n + d)(a + x/n) over n gives x + 2 sqrt(a d x) + a d (Chan et al., Collective
communication: theory, practice, and experience, 2007, on pipelining), so that ``ramp`` stands for 4 a d.

Bytes per rank on each level, for S bytes, p ranks, k blocks of m ranks meeting at a level (m = 1 at the first):

    ring                all_reduce 2(p-1)/p S/m      gather, scatter (p-1)/p S/m      broadcast S/m
    tree                as the ring, at NCCL's lower efficiency, over fewer hops
    hierarchical        as the ring, but one level after the other instead of all at once, over (k-1) hops a level
    in the switch       all_reduce (1+1/k) S/m on scale-up (read once, a k-th written back), S/m on scale-out, and
                        2(k-1)/k S/m on the levels that cannot (scatter or reduce there, and gather)
    one shot, two shot  all_reduce (p-1) S, 2(p-1)/p S
    pairwise            all_to_all (members met at the level)/p S; send_recv S

A ring over nodes leaves each node through the ports of all its m members at once (NCCL: one ring a NIC), and a rank's
bytes never leave it faster than its innermost port takes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from windtunnel.cost.runtime import Runtime
from windtunnel.cost.topology import (
    Span,
    collective_rate,
    dilation,
    least_wire_bytes,
    message_rate,
    most,
    outermost,
    past_switches,
    ring_steps,
    spans,
    through_ports,
    total,
    tree_steps,
)
from windtunnel.errors import ScenarioError, unknown
from windtunnel.hardware.machine import Cluster, Level
from windtunnel.ops.build import COLLECTIVES
from windtunnel.ops.op import Op, Price
from windtunnel.ops.values import Value, log2, maximum, sqrt, where

__all__ = [
    "CollectiveConstants",
    "LinkConstants",
    "least_wire_bytes",
    "load_collective_constants",
    "parse_collective_constants",
    "price_collective",
]


@dataclass(frozen=True, slots=True)
class LinkConstants:
    """How well software drives one kind of link.

    ``ring``, ``pairwise``, ``message``, ``in_network``, ``custom``: the sustained share of the level's bandwidth, at
    most 1, of rings and trees, all-to-all exchange, one message between two ranks, in-switch reduction, and the
    one-shot and two-shot kernels. In latencies of the level: ``hop``, a ring's step; ``message_hop``, a direct
    message; ``doubling``, what each doubling of an all-to-all's ranks adds. ``ramp_s`` of rings and trees and
    ``pairwise_ramp_s`` of direct messages: see the module's text.
    """

    ring: float
    pairwise: float
    message: float
    in_network: float
    custom: float
    hop: float
    message_hop: float
    doubling: float
    ramp_s: float
    pairwise_ramp_s: float
    source: str = ""


@dataclass(frozen=True, slots=True)
class CollectiveConstants:
    """Fitted constants of one device or family, with where they come from.

    ``launch_s``, ``pairwise_launch_s``, ``in_network_launch_s``, ``one_shot_s``, ``two_shot_s``: fixed seconds of a
    call by algorithm; ``own_share`` and, in an all-to-all, ``pairwise_own_share``: cost of moving a rank's own chunk
    inside the device, against sending it;
    ``tree_hop``: a tree's step over a ring's; ``tree_efficiency``: a tree's bandwidth over a ring's.
    ``points``, ``median_error``, ``p90_error``: rows of the fit and |predicted/measured - 1| on a held-out fifth.
    """

    name: str
    scale_up: LinkConstants
    pcie: LinkConstants
    scale_out: LinkConstants
    launch_s: float
    pairwise_launch_s: float
    in_network_launch_s: float
    one_shot_s: float
    two_shot_s: float
    own_share: float
    pairwise_own_share: float
    tree_hop: float
    tree_efficiency: float
    source: str
    points: int
    median_error: float
    p90_error: float

    def link(self, level: Level) -> LinkConstants:
        """The constants of a level: scale-out, PCIe peer to peer, or the device's own scale-up links."""
        if level.resource == "scale_out":
            return self.scale_out
        return self.pcie if level.topology == "pcie" else self.scale_up


def load_collective_constants(
    accelerator_name: str, family: str, section: Mapping[str, Any] | None = None
) -> CollectiveConstants:
    """Constants of a device, else of its family (architecture), else the generic ones, fitted to all NVLink data.

    ``name`` of the result says which were found. The links that are not the accelerator's own (PCIe peer to peer,
    scale-out) are the same for all. ``section``: the section ``collectives`` of a calibration, in place of the
    shipped one. Raises :class:`ScenarioError` if it is malformed.
    """
    entries = parse_collective_constants(section) if section else _entries()
    for name in (accelerator_name, family):
        if name in entries:
            return entries[name]
    return entries["generic"]


@cache
def _entries() -> dict[str, CollectiveConstants]:
    text = resources.files("windtunnel.cost").joinpath("calibrations/collectives.yaml").read_text(encoding="utf-8")
    return parse_collective_constants(yaml.safe_load(text)["collectives"])


def parse_collective_constants(data: Mapping[str, Any]) -> dict[str, CollectiveConstants]:
    """Entries by device or family name, from the section ``collectives`` of a calibration file.

    Raises :class:`ScenarioError` that names the entry for a missing, unknown or impossible figure.
    """
    result: dict[str, CollectiveConstants] = {}
    try:
        for name, entry in data["entries"].items():
            links = {**data["links"], **entry}
            fields = {**data["common"], **entry}
            fields |= {link: LinkConstants(**links[link]) for link in ("pcie", "scale_out", "scale_up")}
            result[name] = CollectiveConstants(name=name, **fields)
        for name, like in data["same_as"].items():
            result[name] = result[like]
        _check(result)
    except (KeyError, TypeError, AttributeError) as error:
        raise ScenarioError(f"collective constants: missing or unknown figure ({error})") from None
    return result


def _check(entries: Mapping[str, CollectiveConstants]) -> None:
    """No constant may beat physics."""
    if "generic" not in entries:
        raise ScenarioError("collective constants: an entry 'generic' is needed")
    for name, entry in entries.items():
        times = (entry.launch_s, entry.pairwise_launch_s, entry.in_network_launch_s, entry.one_shot_s, entry.two_shot_s)
        positive = [*times, entry.own_share, entry.pairwise_own_share, entry.tree_hop]
        shares = [entry.tree_efficiency]
        for link in (entry.scale_up, entry.pcie, entry.scale_out):
            shares += [link.ring, link.pairwise, link.message, link.in_network, link.custom]
            positive += [link.hop, link.message_hop, link.doubling, link.ramp_s, link.pairwise_ramp_s]
        if not all(0 < share <= 1 for share in shares):
            raise ScenarioError(f"collective constants of {name!r}: efficiencies are above 0 and at most 1")
        if not all(value >= 0 for value in positive):
            raise ScenarioError(f"collective constants of {name!r}: times are at least 0")


def price_collective(op: Op, cluster: Cluster, constants: CollectiveConstants, runtime: Runtime) -> Price:
    """Price of one collective on its own; every quantity of op and cluster may be an array.

    ``busy`` holds the wire seconds on each resource at the sustained rate, ``latency`` launch and hops (the launch on
    the device is included: nothing is to be added for it). The kernels of other work on the device are not slowed.
    Raises :class:`ScenarioError` for an unknown kind or an operator without a group.
    """
    if op.kind not in COLLECTIVES:
        raise unknown("collective", op.kind, COLLECTIVES)
    if op.group is None:
        raise ScenarioError(f"collective {op.name!r} names no group; it needs one")
    size = op.group.size
    if isinstance(size, int | float) and size <= 1:
        return Price(0.0, {}, 0.0)
    path = spans(op.group, cluster)
    pricer = _Pricer(op.message_bytes * 1.0, size, path, constants, _port(cluster))
    if op.kind == "all_to_all":
        ways = [pricer.all_to_all()]
    elif op.kind == "send_recv":
        ways = [pricer.send_recv()]
    elif op.kind == "broadcast":
        ways = [way(1, size, 0.0) for way in (pricer.ring, pricer.tree)]
    elif op.kind == "all_reduce":
        ways = [way(2, 2 * (size - 1), pricer.own) for way in (pricer.ring, pricer.tree)]
        if runtime.hierarchical:
            ways.append(pricer.hierarchical(2))
        if runtime.in_network and any(s.level.in_network_reduction for s in path):
            ways += pricer.in_network()
        if runtime.all_reduce == "custom":
            ways += pricer.custom()
    else:
        ways = [pricer.ring(1, size - 1, pricer.own)]
        if runtime.hierarchical:
            ways.append(pricer.hierarchical(1))
    best = _cheapest(ways)
    if isinstance(size, int | float):
        return best
    several = where(size > 1, 1.0, 0.0)
    return Price(best.seconds * several, {r: b * several for r, b in best.busy.items()}, best.latency * several)


def _port(cluster: Cluster) -> Level:
    """The innermost level that joins anything: where a rank's bytes leave it."""
    for level in cluster.levels:
        if level.domain > 1:
            return level
    return cluster.levels[-1]


def _cheapest(ways: Sequence[Price]) -> Price:
    """The elementwise fastest."""
    best = ways[0]
    for way in ways[1:]:
        better: Any = way.seconds < best.seconds
        if isinstance(better, bool) or better.ndim == 0 or better.all():
            best = way if (better if isinstance(better, bool) else better.all()) else best
        elif better.any():
            names = {**best.busy, **way.busy}
            best = Price(
                where(better, way.seconds, best.seconds),
                {r: where(better, way.busy.get(r, 0.0), best.busy.get(r, 0.0)) for r in names},
                where(better, way.latency, best.latency),
            )
    return best


class _Pricer:
    """One collective's algorithms over one path. ``size`` ranks, ``sent`` bytes; each method prices one way."""

    __slots__ = (
        "constants", "links", "on_port", "own", "own_pairwise", "path", "port", "port_link", "sent", "size", "units",
    )  # fmt: skip

    def __init__(
        self, sent: Value, size: Value, path: Sequence[Span], constants: CollectiveConstants, port: Level
    ) -> None:
        self.sent = sent
        self.size = size
        self.path = path
        self.constants = constants
        self.port = port
        self.port_link = constants.link(port)
        # What a rank keeps is moved inside the device at a cost measured against scale-up links.
        self.own, self.own_pairwise = (
            (constants.own_share, constants.pairwise_own_share) if port.resource == "scale_up" else (0.0, 0.0)
        )
        self.on_port = path[0].level is port and isinstance(path[0].fan, int | float)
        self.links = [constants.link(s.level) for s in path]
        self.units = [1.0 / collective_rate(s) for s in path]

    def _price(self, fixed: Value, wires: Sequence[Value], through_port: Value | None, pairwise: bool = False) -> Price:
        """A price from the wire seconds on each span and the bytes, over efficiency, that pass the innermost port
        (None where the span on that port has them all).
        """
        slowest: Value = 0.0
        busy: dict[str, Value] = {}
        for span, link, wire in zip(self.path, self.links, wires, strict=True):
            slowest = maximum(slowest, wire + sqrt((link.pairwise_ramp_s if pairwise else link.ramp_s) * wire))
            resource = span.level.resource
            busy[resource] = maximum(busy[resource], wire) if resource in busy else wire
        if through_port is not None:
            link = self.port_link
            wire = through_port / self.port.bandwidth_bytes_per_s
            slowest = maximum(slowest, wire + sqrt((link.pairwise_ramp_s if pairwise else link.ramp_s) * wire))
        return Price(fixed + slowest, busy, fixed)

    def ring(self, passes: int, chunks: Value, own: float) -> Price:
        """``passes`` times around, each rank sending ``chunks`` of S/p and moving ``own`` chunks inside itself."""
        chunk = self.sent / self.size
        fixed: Value = self.constants.launch_s
        amounts = []
        for span, link in zip(self.path, self.links, strict=True):
            moved = chunks + own if span.level is self.port else chunks
            amounts.append(chunk * moved * span.used / span.inner)
            hops = passes * ring_steps(span) * self.size / span.outer * link.hop
            fixed = fixed + hops * span.level.latency_s
        passing = through_ports(self.path, amounts, most)
        wires = [b / k.ring * unit for b, k, unit in zip(passing, self.links, self.units, strict=True)]
        return self._price(fixed, wires, None if self.on_port else chunk * (chunks + own) / self.port_link.ring)

    def hierarchical(self, passes: int) -> Price:
        """Blocks reduce and scatter inside, meet outside and gather inside: a ring on each level, in turn.

        ``passes``: 2 for an all-reduce, 1 for a gather or scatter alone. Every pass over a level is a call of its own,
        but for the two of the outermost one (Horovod's hierarchical all-reduce; Jia et al., arXiv 1807.11205,
        section 3.2).
        """
        levels: Value = 0.0
        for span in self.path:
            levels = levels + span.used
        fixed: Value = (passes * levels - (passes - 1)) * self.constants.launch_s
        busy: dict[str, Value] = {}
        taken: Value = 0.0
        for span, link, unit in zip(self.path, self.links, self.units, strict=True):
            moved = passes * (span.fan - 1) / span.fan * self.sent / span.inner
            through_port = moved / self.port_link.ring / self.port.bandwidth_bytes_per_s
            wire = maximum(moved / link.ring * unit, through_port)
            taken = taken + wire + passes * sqrt(link.ramp_s * wire / passes)
            fixed = fixed + passes * ring_steps(span) * link.hop * span.level.latency_s
            resource = span.level.resource
            busy[resource] = busy.get(resource, 0.0) + wire
        # On one level it is the ring.
        return Price(where(levels > 1, fixed + taken, float("inf")), busy, fixed)

    def tree(self, passes: int, chunks: Value, own: float) -> Price:
        """Up and down (or only down) a double binary tree, each with half of the bytes (Sanders et al. 2009).

        NCCL's tuning gives it a share of a ring's bandwidth at every size, so only its few hops are in its favour.
        """
        c = self.constants
        chunk = self.sent / self.size / c.tree_efficiency
        fixed: Value = c.launch_s
        amounts = []
        for span, link in zip(self.path, self.links, strict=True):
            moved = chunks + own if span.level is self.port else chunks
            amounts.append(chunk * moved * span.used / span.inner)
            fixed = fixed + self._up_and_down(span, link, passes)
        passing = through_ports(self.path, amounts, most)
        wires = [b / k.ring * unit for b, k, unit in zip(passing, self.links, self.units, strict=True)]
        return self._price(fixed, wires, None if self.on_port else chunk * (chunks + own) / self.port_link.ring)

    def _up_and_down(self, span: Span, link: LinkConstants, passes: int) -> Value:
        return passes * tree_steps(span) * self.constants.tree_hop * link.hop * span.level.latency_s

    def in_network(self) -> list[Price]:
        """Switches reduce where they can; elsewhere blocks scatter and gather, or meet in a tree."""
        fixed: Value = self.constants.in_network_launch_s
        switched: Value = 0.0
        amounts = []
        for span, link in zip(self.path, self.links, strict=True):
            if span.level.in_network_reduction:
                back = 1 / span.fan if span.level.resource == "scale_up" else 0.0
                amounts.append(span.used * (1 + back) * self.sent / span.inner)
                fixed = fixed + 2 * link.hop * span.used * span.level.latency_s
                switched = maximum(switched, span.used)
            else:
                amounts.append(2 * (span.fan - 1) / span.fan * self.sent / span.inner)
                fixed = fixed + self._up_and_down(span, link, 2)
        wires = []
        passing = through_ports(self.path, amounts, past_switches)
        for span, b, link, unit in zip(self.path, passing, self.links, self.units, strict=True):
            wires.append(b / (link.in_network if span.level.in_network_reduction else link.ring) * unit)
        price = self._price(fixed, wires, self.sent)
        return [Price(where(switched > 0, price.seconds, float("inf")), price.busy, price.latency)]

    def custom(self) -> list[Price]:
        """One-shot (everyone reads all buffers) and two-shot (scatter, then gather) kernels, inside one level only.

        Serving engines run them where all pairs are linked directly, and on PCIe for two devices.
        """
        c = self.constants
        result = []
        for span, link, unit in zip(self.path, self.links, self.units, strict=True):
            level = span.level
            inside: Any = (span.inner <= 1) & (span.outer >= self.size) & (span.used > 0)
            if level.topology == "pcie":
                inside = inside & (self.size <= 2)
            linked = level.resource == "scale_up" and level.topology in ("switch", "mesh", "pcie")
            if not linked or (isinstance(inside, bool) and not inside):
                continue
            peers = self.size - 1
            wire = peers * self.sent / link.custom * unit
            hop = link.hop * level.latency_s
            for fixed, x in ((c.one_shot_s + hop, wire), (c.two_shot_s + peers * hop, wire * (2 / self.size))):
                result.append(Price(where(inside, fixed + x, float("inf")), {level.resource: x}, fixed))
        return result

    def all_to_all(self) -> Price:
        """Every rank sends to every other directly, on all levels at once."""
        part = self.sent / self.size
        fixed: Value = self.constants.pairwise_launch_s
        amounts = []
        for span, link in zip(self.path, self.links, strict=True):
            met = span.outer - span.inner
            moved = met + self.own_pairwise * span.used if span.level is self.port else met
            amounts.append(part * moved * dilation(span))
            hops = outermost(span, self.size) * link.message_hop + log2(span.fan) * link.doubling
            fixed = fixed + hops * span.level.latency_s
        passing = through_ports(self.path, amounts, total)
        wires = [b / k.pairwise * unit for b, k, unit in zip(passing, self.links, self.units, strict=True)]
        return self._price(fixed, wires, part * (self.size - 1 + self.own_pairwise) / self.port_link.pairwise, True)

    def send_recv(self) -> Price:
        """One message between neighbours of the group; the outermost level that they cross paces it."""
        fixed: Value = self.constants.pairwise_launch_s
        amounts = []
        for span, link in zip(self.path, self.links, strict=True):
            crossing = outermost(span, self.size)
            amounts.append(crossing * self.sent)
            fixed = fixed + crossing * link.message_hop * span.level.latency_s
        wires = []
        for span, b, link in zip(self.path, through_ports(self.path, amounts, total), self.links, strict=True):
            wires.append(b / link.message / message_rate(span.level))
        return self._price(fixed, wires, self.sent / self.port_link.message, True)
