"""What activation recomputation runs again in the backward pass, and what is kept for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from windtunnel.ops.fold import Totals, tree_totals
from windtunnel.ops.gradient import only
from windtunnel.ops.op import Op
from windtunnel.ops.rewrite import rewrite
from windtunnel.ops.tree import EMPTY, Node, Repeat
from windtunnel.ops.values import Value
from windtunnel.scenario.plan import Recompute


@dataclass(frozen=True, slots=True, eq=False)
class Recomputed:
    """``tree`` runs before a layer's backward pass; ``kept``: bytes of a micro-batch held until then, a layer's input
    not counted; ``brought_back``: bytes that it holds while the backward pass runs."""

    tree: Node
    kept: Value
    brought_back: Value


def recomputed(
    tree: Node, holds: Totals, recompute: Recompute, selective: Literal["core", "operators"], stops: bool = False
) -> Recomputed:
    """Of a layer's forward tree, which ``holds`` so much: nothing, attention's inside (Korthikanti et al., arXiv
    2205.05198, section 4), all of it (where it ``stops`` early, without the last product), or single operators."""
    held = holds.held
    saved, core = held.get("saved", 0.0), held.get("saved_core", 0.0)
    if recompute == "full":
        again = rewrite(tree, lambda op: EMPTY if op.name in UNUSED else op) if stops else tree
        return Recomputed(again, 0.0, saved)
    if recompute == "selective" and selective == "operators":
        kept = tree_totals(rewrite(tree, _output_kept)).held.get("saved", 0.0)
        return Recomputed(rewrite(tree, _again), kept, saved)
    if recompute == "selective":
        return Recomputed(only(tree, "core"), saved - core, core)
    return Recomputed(EMPTY, saved, 0.0)


PRODUCTS_AGAIN = {"attn.out": 1.0, "mlp.up": 0.5, "shared.up": 0.5}
"""Of a layer's products q, k, v, out, gate, up, down every second runs again (torchtitan,
distributed/activation_checkpoint.py: every other ``mm``). The keys' part of the joint product is left out."""
UNUSED = ("mlp.down", "shared.down", "moe.down")
"""Products whose output no gradient needs: the compiler does not keep it."""


def _again(op: Op) -> Node:
    """Attention and reductions are kept, every second product too; the rest runs again."""
    if op.kind == "gemm":
        share = PRODUCTS_AGAIN.get(op.name, 0.0)
        return Repeat(share, op) if share else EMPTY
    if op.kind in ("attention", "grouped_gemm", "reduce_scatter", "all_reduce", "all_to_all", "scan"):
        return EMPTY
    return op


def _output_kept(op: Op) -> Node:
    """The operator with the bytes of its output, where that is kept, in place of what its backward pass needs."""
    shape = op.shape
    if op.kind in ("gemm", "grouped_gemm"):
        share = 0.0 if op.name in UNUSED else 1.0 - PRODUCTS_AGAIN.get(op.name, 0.0)
        return op.but(saved_bytes=share * shape["act"] * shape["m"] * shape["n"])
    if op.kind == "attention":
        return op.but(saved_bytes=op.saved_bytes + 2.0 * shape["tokens"] * shape["heads"] * shape["head_dim"])
    if op.kind == "scan":
        return op
    if op.kind == "reduce_scatter" and op.group is not None:
        return op.but(saved_bytes=op.message_bytes / op.group.size)
    return op.but(saved_bytes=0.0)
