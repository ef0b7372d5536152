"""How data-parallel ranks exchange gradients, whole or compressed, and local updates."""

from __future__ import annotations

from windtunnel.ops.build import collective, pointwise
from windtunnel.ops.op import Group
from windtunnel.ops.tree import EMPTY, Node, seq
from windtunnel.ops.values import Value, maximum, minimum, where
from windtunnel.scenario.plan import Compression, LocalSteps, TrainPlan


def split(group: Group, neighbours: Value, least: Value = 1) -> tuple[Group, Group]:
    """(ranks of the group among ``neighbours`` ranks of the world, at least ``least``; one of each such part)."""
    inner = minimum(maximum(1.0 * neighbours / group.stride, 1.0 * least), 1.0 * group.size)
    return Group(inner, group.stride), Group(group.size / inner, group.stride * inner)


def summed(elements: Value, group: Group, width: float, shard: bool, how: Compression | None) -> Node:
    """Sum ``elements`` gradients of ``width`` bytes over a group; each rank gets its shard of the sum, or all of it."""
    if how is None:
        kind = "reduce_scatter" if shard else "all_reduce"
        return collective(kind, width * elements, group, "dp_comm", name="dp.reduce")
    if how.node <= 1:
        return _compressed(elements, group, shard, how)
    inner, outer = split(group, how.node)
    return seq(
        collective("reduce_scatter", width * elements, inner, "dp_comm", name="dp.reduce"),
        _compressed(elements / inner.size, outer, shard, how),
        None if shard else collective("all_gather", width * elements, inner, "dp_comm", name="dp.gather"),
    )


def _compressed(elements: Value, group: Group, shard: bool, how: Compression) -> Node:
    payload = how.wire_bytes * elements
    if how.exchange == "sum":
        kind = "reduce_scatter" if shard else "all_reduce"
        return collective(kind, payload, group, "dp_comm", name="dp.reduce")
    if how.exchange == "gather" and not shard:
        # Everybody adds up what all have sent: the payloads are read, and their places read and written.
        every = group.size * (payload + 8.0 * how.density * elements)
        gathered = collective("all_gather", group.size * payload, group, "dp_comm", name="dp.reduce")
        return seq(gathered, _passes("dp.merge", every, group))
    part = collective("all_to_all", payload, group, "dp_comm", name="dp.reduce")
    if shard:
        return part
    return seq(part, collective("all_gather", payload, group, "dp_comm", name="dp.reduce"))


def selecting(elements: Value, group: Group, how: Compression) -> Node:
    """What a rank does to its gradients before it sends them."""
    return _passes("dp.select", how.select_bytes * elements, group) if how.select_bytes else EMPTY


def _passes(name: str, size: Value, group: Group) -> Node:
    """A kernel that moves ``size`` bytes, where there is anybody to exchange with."""
    alone = group.size <= 1
    return pointwise(
        name, "elementwise", reads=0.0, writes=0.0, act=1.0, cold_bytes=where(alone, 0.0, size),
        kernels=where(alone, 0.0, 1.0), adjoint=(),
    )  # fmt: skip


def local_exchange(elements: Value, inner: Group, outer: Group, shard: bool, how: LocalSteps) -> Node:
    """One exchange of ``elements`` parameters between workers, each of ``inner`` ranks that have divided them or, for
    the exchange, do so; the outer update follows."""
    size = how.wire_bytes * elements / inner.size
    if how.partners == "pair":
        met = collective("send_recv", size, Group(minimum(outer.size, 2.0), outer.stride), "dp_comm", name="dp.local")
    else:
        met = collective("all_reduce", size, outer, "dp_comm", name="dp.local")
    moved = 2.0 * (how.buffer_bytes + how.wire_bytes) * elements / inner.size
    return seq(
        met,
        pointwise(
            "optimizer.outer", "optimizer", reads=0.0, writes=0.0, act=1.0, cold_bytes=moved, category="optimizer",
            adjoint=(),
        ),
        None if shard else collective("all_gather", how.wire_bytes * elements, inner, "dp_comm", name="dp.local"),
    )  # fmt: skip


def workers(plan: TrainPlan) -> tuple[tuple[Group, Group], tuple[Group, Group]]:
    """(ranks that stay in step, one rank of each worker) of the groups that share dense and expert gradients.

    Ranks that hold parts of one sequence always stay in step.
    """
    layout = plan.layout
    if plan.local is None:
        return (layout.dp_group, Group()), (layout.edp_group, Group())
    near = plan.local.worker if plan.zero == 0 else max(plan.local.worker, plan.local.sharing)
    return split(layout.dp_group, near, layout.cp), split(layout.edp_group, near)
