"""Where tensor parallelism enters and leaves a sharded region, and how its collectives overlap."""

from __future__ import annotations

from windtunnel.ops.build import collective
from windtunnel.ops.op import Beside, Op
from windtunnel.ops.tree import Flow, Node, Repeat, seq
from windtunnel.ops.values import Value
from windtunnel.parallel.style import Style

PIECES = 4
"""Pieces of an overlapped collective (asynchronous TP and userbuffers cut a GEMM into about this many)."""


def _single(value: Value) -> bool:
    return isinstance(value, int | float) and value <= 1


def enter(tokens: Value, hidden: int, style: Style) -> Op | None:
    """Before a column-parallel layer: gather the sequence (sequence parallel), or nothing.

    Backward: the input gradient is reduced; under sequence parallelism the input, of which only a shard was kept, is
    gathered again for the weight gradient (Korthikanti et al., arXiv 2205.05198, section 4.2.2).
    """
    if _single(style.layout.tp):
        return None
    size = style.act * tokens * hidden
    group = style.layout.tp_group
    if style.sequence_parallel:
        again = collective("all_gather", size, group, "tp_comm", name="tp.regather")
        back = collective("reduce_scatter", size, group, "tp_comm", name="tp.grad_scatter")
        return collective("all_gather", size, group, "tp_comm", name="tp.gather", adjoint=(again, back))
    if not style.training:
        return None
    back = collective("all_reduce", size, group, "tp_comm", name="tp.grad_reduce")
    return Op("tp.enter", "none", "tp_comm", kernels=0.0, adjoint=(back,))


def leave(tokens: Value, hidden: int, style: Style) -> Op | None:
    """After a row-parallel layer: sum the partial results (and scatter them over the sequence)."""
    if _single(style.layout.tp):
        return None
    size = style.act * tokens * hidden
    group = style.layout.tp_group
    if style.sequence_parallel:
        back = collective("all_gather", size, group, "tp_comm", name="tp.grad_gather")
        return collective("reduce_scatter", size, group, "tp_comm", name="tp.scatter", adjoint=(back,))
    return collective("all_reduce", size, group, "tp_comm", name="tp.reduce")


def beside(linear: Node, comm: Op | None, style: Style, *, before: bool) -> Node:
    """A linear layer and the collective before or after it, overlapped piece by piece if the engine does so.

    In the backward pass of a column-parallel layer, the input is gathered again beside the input gradient's kernel and
    the gradient is reduced beside the weight gradient's (Megatron-LM's asynchronous all-reduce; Korthikanti et al.,
    arXiv 2205.05198, section 4.2.2), where the engine does that.
    """
    if comm is None:
        return linear
    if before and style.overlap_backward and isinstance(linear, Op) and comm.adjoint:
        *again, back = comm.adjoint
        linear = linear.but(beside=Beside(again[0] if again else None, back, style.interference))
        comm = comm.but(adjoint=())
    if not style.overlap_tp:
        return seq(comm, linear) if before else seq(linear, comm)
    work, talk = Repeat(1 / PIECES, linear), Repeat(1 / PIECES, comm)
    if before:
        return Flow(PIECES, (talk, work), ("tp", "compute"), style.interference, main=1)
    return Flow(PIECES, (work, talk), ("compute", "tp"), style.interference, main=0)
