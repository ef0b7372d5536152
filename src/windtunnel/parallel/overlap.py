"""Overlapped regions: a layer's operators sorted into streams that run side by side instead of one after the other.

Two ways to find independent work. The batch is cut into pieces (nano-batches, micro-batches) that take turns in the
streams, so that one's attention or message runs beside another's products (:class:`Pieces`). Or the network itself
does not wait for a sub-layer's sum before the next one begins (:func:`behind_next`). Both are tree rewrites of one
layer (:data:`windtunnel.scenario.plan.TreeRewrite`), in serving and in training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from windtunnel.ops.op import Beside, Op
from windtunnel.ops.rewrite import operators, rewrite
from windtunnel.ops.tree import EMPTY, Flow, Node, Par, Repeat, Seq
from windtunnel.ops.values import Value
from windtunnel.parallel.feedforward import active_experts

OUTSIDE = ("embedding", "head")
"""Trees before and after the layers: nothing is beside them."""


def stream_of(op: Op) -> str:
    """``network``: messages; ``memory``: attention of decodes, which reads the cache; ``compute``: all else."""
    if op.group is not None:
        return "network"
    return "memory" if op.kind == "attention_decode" else "compute"


@dataclass(frozen=True, slots=True)
class Pieces:
    """A layer in ``n`` pieces of the batch, with ``beside`` run beside computing (NanoFlow, arXiv 2408.12757, section
    4; DeepSeek's dual micro-batches; NeuPIMs' sub-batches).

    Layers follow each other without a gap: while one piece ends a layer another may be in the next. A layer so lasts as
    long as its slowest stream has work with all pieces, or as one piece takes from end to end, whichever is longer.
    ``shares``: of the device's compute units that a stream's kernels hold while they run: computing gets the rest.
    ``interference`` as in :class:`~windtunnel.ops.tree.Par`. ``part``: only the part of a layer that has this name
    (``attention``, ``mlp``, ``moe``) is cut, and drains before what follows begins (Tutel, arXiv 2206.03382, section
    3.2; T3, arXiv 2401.16677). What cutting costs is in the pieces' own prices: each product reads its weights and
    fills its last wave once a piece, each message has its hops.
    """

    n: int = 2
    beside: tuple[str, ...] = ("memory", "network")
    shares: Mapping[str, float] = field(default_factory=dict)
    interference: float = 0.0
    part: str = ""

    def __call__(self, tree: Node) -> Node:
        """The layer's tree, in pieces. One piece is the tree itself."""
        if self.n <= 1 or getattr(tree, "name", "") in OUTSIDE:
            return tree
        return self._within(tree) if self.part else self._cut(tree, closed=True)

    def _within(self, node: Node) -> Node:
        if getattr(node, "name", "") == self.part:
            return self._cut(node, closed=False)
        return replace(node, parts=tuple(self._within(p) for p in node.parts)) if isinstance(node, Seq) else node

    def _cut(self, tree: Node, *, closed: bool) -> Flow:
        streams = ("compute", *self.beside)

        def of(stream: str) -> Node:
            def change(op: Op) -> Node:
                own = stream_of(op)
                return piece(op, self.n) if (own if own in streams else "compute") == stream else EMPTY

            return rewrite(tree, change)

        stages = tuple(of(s) for s in streams)
        shares = tuple(self.shares.get(s, 1.0 if s == "compute" else 0.0) for s in streams) if self.shares else ()
        return Flow(self.n, stages, streams, self.interference, 0, "pieces", closed=closed, shares=shares)


_OF_TOKENS = ("m", "tokens", "pairs", "context", "sequences")
"""What of an operator's shape is proportional to the batch."""


def piece(op: Op, n: Value) -> Op:
    """One of ``n`` equal parts of an operator's batch. Weights are read whole with each; of experts, those that the
    fewer tokens visit. What is held counts once."""
    shape = {k: v / n if k in _OF_TOKENS else v for k, v in op.shape.items()}
    hbm = op.hbm_bytes
    if op.kind == "grouped_gemm":
        each = shape["n"] * shape["k"]
        active = active_experts(op.parameters / each, shape["m"])
        shape["groups"], hbm = active, shape["weight"] * active * each
    elif op.kind != "gemm":
        hbm = hbm / n
    return op.but(
        flops=op.flops / n,
        vector_flops=op.vector_flops / n,
        hbm_bytes=hbm,
        cached_bytes=op.cached_bytes / n,
        message_bytes=op.message_bytes / n,
        pcie_bytes=op.pcie_bytes / n,
        nvme_bytes=op.nvme_bytes / n,
        host_s=op.host_s / n,
        shape=shape,
        parameters=op.parameters / n,
        saved_bytes=op.saved_bytes / n,
        adjoint=None if op.adjoint is None else tuple(piece(o, n) for o in op.adjoint),
        beside=None if op.beside is None else _beside(op.beside, n),
    )


def _beside(b: Beside, n: Value) -> Beside:
    return replace(b, dgrad=b.dgrad and piece(b.dgrad, n), wgrad=b.wgrad and piece(b.wgrad, n))


def _talks(op: Op) -> bool:
    """A message of tensor parallelism, of the forward or the backward pass."""
    return op.category == "tp_comm"


def behind_next(interference: float, share: float = 1.0) -> Callable[[Node], Node]:
    """A rewrite after which a sub-layer's tensor-parallel messages run beside the computing of the next one, which does
    not need their result (Ladder Residual, arXiv 2501.06589, section 3). The first sub-layer of a layer hides those of
    the layer before; that the network's last ones have nothing to hide behind is left out (one of twice its layers).

    ``share``: of the layers that are built so; the others stay as they are. In the backward pass the messages of
    gradients run beside the computing of the sub-layer before, likewise.
    """

    def change(tree: Node) -> Node:
        if share <= 0 or getattr(tree, "name", "") in OUTSIDE or not isinstance(tree, Seq):
            return tree
        segments = _segments(tree)
        if not segments:
            return tree
        work = [
            rewrite(s, lambda op: EMPTY if _talks(op) else op.but(beside=None) if op.beside else op) for s in segments
        ]
        talk = [rewrite(s, _messages) for s in segments]
        laid = tuple(
            Par((w, talk[i - 1]), interference, "sub-layer beside the last one's sum", feeds=False)
            for i, w in enumerate(work)
        )
        laddered = Seq(laid, tree.name)
        return laddered if share >= 1 else Seq((Repeat(share, laddered), Repeat(1 - share, tree)), tree.name)

    return change


def _messages(op: Op) -> Node:
    if _talks(op):
        return op
    if op.beside is None:
        return EMPTY
    back = tuple(o for o in (op.beside.dgrad, op.beside.wgrad) if o is not None)
    return Op("tp.beside", "none", "tp_comm", kernels=0.0, shape={"weight": op.shape["act"]}, adjoint=back)


def _segments(tree: Seq) -> list[Seq]:
    """The sub-layers of a layer: what leads to each part that has tensor-parallel messages, and that part."""
    found: list[Seq] = []
    gathered: list[Node] = []
    for part in tree.parts:
        gathered.append(part)
        if any(_talks(op) for op in operators(part)):
            found.append(Seq(tuple(gathered)))
            gathered = []
    if found and gathered:
        found[-1] = Seq((*found[-1].parts, *gathered))
    return found
