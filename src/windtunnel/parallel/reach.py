"""How tokens reach their experts: what is exchanged in a layer of experts, as a rewrite of its tree."""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.ops.build import collective
from windtunnel.ops.op import Op
from windtunnel.ops.rewrite import operators, rewrite
from windtunnel.ops.tree import EMPTY, Node, Repeat, Seq
from windtunnel.ops.values import Value


@dataclass(frozen=True, slots=True)
class Reach:
    """A layer of experts whose tokens lie near their experts, or do not come back from them.

    ``affinity``: of the visits that would go to other ranks by chance, the share that placement keeps on the token's
    own (placed by which expert follows which, or with the tokens that an expert gets). ``returns``: after each layer a
    token comes back to the rank that has its context, in a second exchange. Otherwise it goes on from where its expert
    is; of ``top_k`` experts' results all but one still meet there. Every rank then holds all contexts: what a token
    adds to them (``context_bytes``) is gathered once an iteration, of which each of ``layers`` layers of experts
    carries its part.
    """

    affinity: Value = 0.0
    returns: bool = True
    top_k: int = 1
    layers: int = 1
    context_bytes: float = 0.0

    def __call__(self, tree: Node) -> Node:
        """The layer's tree; itself where it exchanges nothing."""
        found = operators(tree)
        dispatch = next((op for op in found if op.name == "ep.dispatch"), None)
        if dispatch is None or dispatch.group is None:
            return tree
        back = 1.0 if self.returns else 1.0 - 1.0 / self.top_k

        def change(op: Op) -> Node:
            if op.name == "ep.dispatch":
                return _scaled(op, 1.0 - self.affinity)
            if op.name == "ep.combine":
                return _scaled(op, back * (1.0 - self.affinity)) if back > 0 else EMPTY
            return op

        changed = rewrite(tree, change)
        if self.returns or self.context_bytes == 0:
            return changed
        tokens = next(op.shape["m"] for op in found if op.name == "moe.router")
        size = self.context_bytes * tokens * dispatch.group.size
        gather = collective("all_gather", size, dispatch.group, "ep_comm", name="ep.contexts")
        return Seq((changed, Repeat(1.0 / self.layers, gather)), getattr(tree, "name", ""))


def _scaled(op: Op, share: Value) -> Op:
    adjoint = None if op.adjoint is None else tuple(_scaled(o, share) for o in op.adjoint)
    return op.but(message_bytes=op.message_bytes * share, adjoint=adjoint)
