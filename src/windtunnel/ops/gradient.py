"""The backward pass of a tree, derived from its forward pass.

Every operator has an input gradient and, where it holds trained parameters, a weight gradient (the split that
zero-bubble schedules use; arXiv 2401.10241, section 2).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from windtunnel.ops.op import Op
from windtunnel.ops.tree import EMPTY, Exposed, Flow, Node, Par, Repeat, Seq, Sync


def gradient(node: Node, gradient_bytes: float = 4.0) -> tuple[Node, Node]:
    """The (input gradient, weight gradient) trees of a forward tree, in reverse order.

    ``gradient_bytes``: of one accumulated gradient element, which a weight-gradient kernel reads and writes.

    Raises:
        TypeError: for a node that a forward pass cannot hold (a pipeline).
    """
    if isinstance(node, Op):
        return _input_gradient(node), _weight_gradient(node, gradient_bytes)
    if isinstance(node, Seq):
        both = [gradient(part, gradient_bytes) for part in reversed(node.parts)]
        return _seq([b[0] for b in both], node.name), _seq([b[1] for b in both], node.name)
    if isinstance(node, Repeat):
        i, w = gradient(node.part, gradient_bytes)
        return Repeat(node.n, i, node.name), Repeat(node.n, w, node.name) if w is not EMPTY else EMPTY
    if isinstance(node, Sync):
        return gradient(node.part, gradient_bytes)
    if isinstance(node, Par):
        both = [gradient(part, gradient_bytes) for part in node.parts]
        beside = replace(node, parts=tuple(b[0] for b in both))
        return beside, _seq([b[1] for b in both], node.name)
    if isinstance(node, Flow):
        both = [gradient(stage, gradient_bytes) for stage in node.stages]
        flow = replace(
            node,
            stages=tuple(b[0] for b in reversed(both)),
            streams=tuple(reversed(node.streams)),
            main=len(both) - 1 - node.main,
            shares=tuple(reversed(node.shares)),
        )
        weights = _seq([b[1] for b in both], node.name)
        return flow, Repeat(node.n, weights) if weights is not EMPTY else EMPTY
    raise TypeError(f"{type(node).__name__} has no backward pass")


def _seq(parts: list[Node], name: str) -> Node:
    kept = tuple(p for p in parts if p is not EMPTY)
    return Seq(kept, name) if kept else EMPTY


def _input_gradient(op: Op) -> Node:
    if op.adjoint is not None:
        return _seq(list(op.adjoint), op.name)
    common = {"parameters": 0.0, "saved_bytes": 0.0, "name": op.name + ".dgrad"}
    if op.kind in ("gemm", "grouped_gemm"):
        shape = {**op.shape, "n": op.shape["k"], "k": op.shape["n"]}
        dgrad = op.but(shape=shape, beside=None, **common)
        if op.beside is None:
            return dgrad
        # Without a weight gradient to hide behind, its collective is a part of the input gradient.
        alone = op.beside.wgrad if op.frozen else None
        return _seq([_beside(dgrad, op.beside.dgrad, op.beside.interference), alone or EMPTY], op.name)
    if op.kind == "attention":
        # Five products instead of two, and twice the tensors (FlashAttention-2, arXiv 2307.08691, section 2.3.2).
        return op.but(
            kind="attention_backward",
            flops=2.5 * op.flops,
            vector_flops=2.5 * op.vector_flops,
            cached_bytes=2.0 * op.cached_bytes,
            **common,
        )
    if op.backward == 0:
        return EMPTY
    return op.but(
        cached_bytes=op.backward * op.cached_bytes,
        vector_flops=op.backward * op.vector_flops,
        flops=2.0 * op.flops,
        **common,
    )


def _beside(kernel: Op, collective: Op | None, interference: float) -> Node:
    return kernel if collective is None else Par((kernel, collective), interference)


def _weight_gradient(op: Op, gradient_bytes: float) -> Node:
    if op.kind not in ("gemm", "grouped_gemm") or op.frozen or op.adjoint is not None:
        return EMPTY
    m, n, k = op.shape["m"], op.shape["n"], op.shape["k"]
    held = n * k
    shape = {**op.shape, "m": k, "k": m}
    if op.kind == "grouped_gemm":
        # Each visited expert has its own [k, n] product over its share of the rows.
        groups = op.shape["groups"]
        held = held * groups
        shape = {**op.shape, "m": k * groups, "k": m / groups}
    wgrad = op.but(
        name=op.name + ".wgrad",
        shape=shape,
        hbm_bytes=2 * gradient_bytes * held,
        cached_bytes=op.shape["act"] * m * (n + k),
        parameters=0.0,
        saved_bytes=0.0,
        beside=None,
    )
    return wgrad if op.beside is None else _beside(wgrad, op.beside.wgrad, op.beside.interference)


def only(node: Node, keep: Literal["core", "all"]) -> Node:
    """The part of a forward tree that recomputation runs again: ``core`` operators, or ``all`` of it.

    What runs beside core work feeds it (the keys that a ring passes on) and runs again with it.

    Raises:
        TypeError: for a node that a forward pass cannot hold (a choice, a pipeline).
    """
    if keep == "all":
        return node
    if isinstance(node, Op):
        return node if node.core else EMPTY
    if isinstance(node, Seq):
        return _seq([only(p, keep) for p in node.parts], node.name)
    if isinstance(node, Repeat):
        part = only(node.part, keep)
        return Repeat(node.n, part, node.name) if part is not EMPTY else EMPTY
    if isinstance(node, Par):
        kept = [only(p, keep) for p in node.parts]
        if not node.feeds:
            return _seq(kept, node.name)
        again = tuple(p if k is EMPTY else k for p, k in zip(node.parts, kept, strict=True))
        return replace(node, parts=again) if any(k is not EMPTY for k in kept) else EMPTY
    if isinstance(node, Flow):
        part = _seq([only(s, keep) for s in node.stages], node.name)
        return Repeat(node.n, part) if part is not EMPTY else EMPTY
    if isinstance(node, Exposed | Sync):
        return EMPTY
    raise TypeError(f"{type(node).__name__} cannot be recomputed")
