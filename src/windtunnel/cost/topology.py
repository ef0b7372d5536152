"""Where a group of ranks lies on a machine's interconnect, and how much of each level's bandwidth it can use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from windtunnel.cost.runtime import Runtime
from windtunnel.errors import ScenarioError
from windtunnel.hardware.machine import Cluster, Level
from windtunnel.ops.op import Group, Op
from windtunnel.ops.values import Value, ceil, log2, maximum, minimum, where


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """The part of a group's traffic that one level carries.

    ``inner``: members that reach each other without this level; ``fan`` = ``outer`` / ``inner``: how many such blocks
    meet here. ``used`` is 1.0 where the level joins anything (``fan`` > 1), else 0.0. All may be arrays.
    """

    level: Level
    inner: Value
    outer: Value
    fan: Value
    used: Value


def spans(group: Group, cluster: Cluster) -> list[Span]:
    """The levels that a group's bytes cross, innermost first; levels that no element of the group needs are left out.

    Ranks ``stride`` apart meet floor(domain / stride) at a time inside a domain. A group that does not divide into
    whole blocks counts the mean number of members a block. The last level reaches everyone.
    Raises :class:`ScenarioError` for a size or stride below one, or where no level joins the ranks.
    """
    size, stride = group.size, group.stride
    for what, value in (("size", size), ("stride", stride)):
        if not (value >= 1 if isinstance(value, int | float) else (value >= 1).all()):
            raise ScenarioError(f"a group's {what} of {value} is not possible; it is at least 1")
    if not cluster.levels:
        raise ScenarioError(f"a group of {size} needs an interconnect; this cluster has none")
    found: list[Span] = []
    inner: Value = 1.0
    for level in cluster.levels:
        blocks = 1.0 if level is cluster.levels[-1] else ceil(size / maximum(level.domain // stride, 1.0))
        outer = size / blocks
        fan = outer / inner
        found.append(Span(level, inner, outer, fan, where(fan > 1, 1.0, 0.0)))
        inner = outer
    result: list[Span] = []
    for span in reversed(found):
        idle = isinstance(span.fan, int | float) and span.fan <= 1
        if not idle or (result and span.level.resource == "scale_out"):
            result.insert(0, span)
    return result


def through_ports(
    path: Sequence[Span], own: Sequence[Value], join: Callable[[Span, Value, Value], Value]
) -> list[Value]:
    """Bytes on each level from the bytes ``own`` to it: a rank reaches the farther levels of a scale-out network
    through the same ports, so what goes farther passes the nearer ones too. ``join(span, own, farther)`` joins them.
    """
    result = list(own)
    for i in range(len(path) - 2, -1, -1):
        if path[i].level.resource == "scale_out":
            result[i] = join(path[i], result[i], result[i + 1])
    return result


def outermost(span: Span, size: Value) -> Value:
    """1.0 for the level that completes the group, else 0.0."""
    if isinstance(span.outer, int | float) and isinstance(size, int | float):
        return span.used if span.outer >= size else 0.0
    return where(span.outer >= size, span.used, 0.0)


def total(span: Span, own: Value, farther: Value) -> Value:
    return own + farther


def most(span: Span, own: Value, farther: Value) -> Value:
    return maximum(own, farther)


def past_switches(span: Span, own: Value, farther: Value) -> Value:
    """A switch that reduces sends one result on, not one a rank."""
    return maximum(own, farther) if span.level.in_network_reduction else own + farther


def least_wire_bytes(op: Op, cluster: Cluster, runtime: Runtime) -> list[tuple[Level, Value]]:
    """For each level that a collective crosses, the bytes per rank that no algorithm in use can avoid on it.

    A block of m ranks has m ports to a level where k blocks meet. Reducing across them takes 2(k-1)/k S a block and
    gathering or scattering (k-1)/k S (Thakur et al. 2005, applied to blocks); a switch that reduces needs S just
    once; the direct exchange sends each remote part by its own port. ``seconds`` >= bytes / bandwidth on each level.
    """
    group = op.group
    if group is None or (isinstance(group.size, int | float) and group.size <= 1):
        return []
    path = spans(group, cluster)
    switched = runtime.in_network and op.kind == "all_reduce"
    join = most if op.kind == "broadcast" else past_switches if switched else total
    shares = [_least_share(op.kind, span, group.size, switched and span.level.in_network_reduction) for span in path]
    return [
        (span.level, share * op.message_bytes)
        for span, share in zip(path, through_ports(path, shares, join), strict=True)
    ]


def _least_share(kind: str, span: Span, size: Value, switched: bool) -> Value:
    """Bytes that a rank must at least send across one level, over the collective's size."""
    if kind == "all_to_all":
        return (span.outer - span.inner) / size
    if kind == "send_recv":
        return outermost(span, size)
    if kind == "broadcast":
        return span.used / span.inner
    share = (span.fan - 1) / span.fan / span.inner
    if kind != "all_reduce":
        return share
    return minimum(2 * share, span.used / span.inner) if switched else 2 * share


def torus_dimensions(level: Level) -> int:
    """Dimensions of a ring (1) or torus: 2 up to 256 chips, 3 beyond, which is how TPU pods are published
    (v5e, v6e: 16x16; v4: 16x16x16, v5p: 16x20x28; Google Cloud documentation of TPU versions).
    """
    return 1 if level.topology == "ring" else 2 if level.domain <= 256 else 3


def is_ring(level: Level) -> bool:
    """True where accelerators are wired to their neighbours only."""
    return level.topology in ("ring", "torus")


def spanned(span: Span) -> Value:
    """How many of a torus's dimensions a group stretches over, filling one after the other."""
    d = torus_dimensions(span.level)
    if d == 1:
        return 1.0
    side = log2(maximum(span.level.domain, 2.0) * 1.0) / d
    # A hair is taken off so that a group of exactly one side counts one dimension in floating point, too.
    return minimum(maximum(ceil(log2(maximum(span.outer, 2.0)) / side - 1e-9), 1.0), float(d))


def collective_rate(span: Span) -> Value:
    """Bytes/s a member can send when all members take part.

    Full mesh: only the links to members count, (m-1)/(D-1) of the total. Torus: rings in both directions of the
    dimensions spanned. Switches give all of it.
    """
    level = span.level
    if level.topology == "mesh":
        return level.bandwidth_bytes_per_s * minimum(maximum(span.outer - 1, 1.0) / max(level.domain - 1, 1), 1.0)
    if is_ring(level):
        return level.bandwidth_bytes_per_s * spanned(span) / torus_dimensions(level)
    return level.bandwidth_bytes_per_s


def message_rate(level: Level) -> Value:
    """Bytes/s between two neighbours: one link of a mesh or torus, the whole port of a switch."""
    if level.topology == "mesh":
        return level.bandwidth_bytes_per_s / max(level.domain - 1, 1)
    if is_ring(level):
        return level.bandwidth_bytes_per_s / (2 * torus_dimensions(level))
    return level.bandwidth_bytes_per_s


def ring_steps(span: Span) -> Value:
    """Messages in a row to pass once round the members of one block: fan - 1, or half of each torus ring's length."""
    if not is_ring(span.level):
        return span.fan - 1
    d = spanned(span)
    return minimum(span.fan - 1, d * span.fan ** (1 / d) / 2)


def tree_steps(span: Span) -> Value:
    """Messages in a row from the root of a binary tree to its leaves; a torus has no shorter way than its rings."""
    return ring_steps(span) if is_ring(span.level) else log2(span.fan)


def dilation(span: Span) -> Value:
    """Links that a message between two random members crosses: 1 with switches and in a mesh; a quarter of the side
    per torus dimension (Dally and Towles, Principles and Practices of Interconnection Networks, section 5.1).
    """
    if not is_ring(span.level):
        return 1.0
    d = spanned(span)
    return maximum(d * span.outer ** (1 / d) / 4, 1.0)
