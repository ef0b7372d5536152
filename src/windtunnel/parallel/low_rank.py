"""Optimizers that work in a subspace of each matrix: what they keep, and the work of projecting gradients.

GaLore (Zhao et al., arXiv 2403.03507, algorithm 2): of a gradient G [m, n] with m <= n, R = P^T G is [r, n]; moments
are kept of R, and their step N comes back as P N. P holds the leading left singular vectors of G, found anew from time
to time. A matrix that is no larger than the rank is updated as it is, and so is what is no layer's matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.ops.build import gemm
from windtunnel.ops.fold import Evaluation
from windtunnel.ops.op import Op, Price
from windtunnel.ops.rewrite import rewrite
from windtunnel.ops.tree import EMPTY, Node, Repeat, seq
from windtunnel.ops.values import Value, maximum, minimum, where
from windtunnel.scenario.plan import LowRank, Optimizer


@dataclass(frozen=True, slots=True, eq=False)
class Subspace:
    """Elements of a group of parameters: ``projected`` parameters, for which there are ``moments`` elements of each
    moment and ``projectors`` elements of projectors."""

    projected: Value = 0.0
    moments: Value = 0.0
    projectors: Value = 0.0

    def plus(self, other: Subspace, times: Value = 1) -> Subspace:
        """The sum of both, the other ``times`` times."""
        return Subspace(
            self.projected + times * other.projected,
            self.moments + times * other.moments,
            self.projectors + times * other.projectors,
        )


def subspaces(tree: Node, low_rank: LowRank) -> tuple[Subspace, Subspace]:
    """Of a layer's forward tree: (dense, expert)."""

    def elements(op: Op) -> tuple[Value, ...]:
        sums: list[Value] = [0.0] * 6
        at = 3 if op.expert else 0
        for count, short, long in _matrices(op):
            low = where(low_rank.rank < short, count, 0.0)
            sums[at] = sums[at] + low * short * long
            sums[at + 1] = sums[at + 1] + low * low_rank.rank * long
            sums[at + 2] = sums[at + 2] + low * low_rank.rank * short
        return tuple(sums)

    found = Evaluation(tree, _unpriced).sums(tree, elements) or (0.0,) * 6
    return Subspace(*found[:3]), Subspace(*found[3:])


def kept_bytes(optimizer: Optimizer, parameters: Value, own: Subspace) -> tuple[Value, Value]:
    """(bytes of the moments, bytes of the projectors) that an optimizer keeps for a group of parameters."""
    low_rank = optimizer.low_rank
    assert low_rank is not None
    elements = parameters - own.projected + own.moments
    return optimizer.state_bytes * elements, low_rank.projector_bytes * own.projectors


def projecting(tree: Node, low_rank: LowRank, dtype: str, gradient_bytes: float) -> Node:
    """What a step adds for a layer with this forward tree: gradients go into the subspace, their step comes back."""

    def work(op: Op) -> Node:
        each = [_projected(*matrix, low_rank, dtype, gradient_bytes) for matrix in _matrices(op)]
        return seq(*each) if each else EMPTY

    return rewrite(tree, work)


def _matrices(op: Op) -> list[tuple[Value, Value, Value]]:
    """(how many, short side, long side) of the trained matrices of one operator."""
    if op.kind not in ("gemm", "grouped_gemm") or op.frozen:
        return []
    n, k = op.shape["n"], op.shape["k"]
    # Biases, which belong to the same operator, are no matrices.
    held = op.parameters / (n * k)
    count = held // 1 if op.kind == "grouped_gemm" else minimum(held, 1.0)
    return [(count, minimum(width, k), maximum(width, k)) for width in op.widths or (n,)]


def _projected(count: Value, short: Value, long: Value, low_rank: LowRank, dtype: str, gradient_bytes: float) -> Node:
    r = minimum(low_rank.rank, short)
    nothing = {"category": "optimizer", "parameters": 0.0, "saved_bytes": 0.0, "adjoint": ()}
    into = gemm("optimizer.project", r, long, short, dtype=dtype, weight=gradient_bytes, act=2.0).but(**nothing)
    back = gemm("optimizer.back", short, long, r, dtype=dtype, weight=2.0, act=2.0).but(**nothing)
    refresh = _svd(short, long, low_rank.refresh_steps) if low_rank.refresh_steps else None
    return Repeat(where(low_rank.rank < short, count, 0.0), seq(into, back, refresh))


def _svd(short: Value, long: Value, steps: float) -> Op:
    """A step's share of a singular value decomposition in fp32: 6 m n^2 + 20 n^3 FLOPs for all of U, S and V (Golub and
    Van Loan, Matrix Computations, section 8.6, R-bidiagonalisation). Half of the work on the square factor is products
    with vectors, which read what is left of it twice for each column: 8/3 n^3 bytes. A bound from below: real ones
    take many small kernels."""
    return Op(
        "optimizer.svd", "optimizer", "optimizer",
        vector_flops=(6.0 * long * short**2 + 20.0 * short**3) / steps,
        hbm_bytes=8.0 / 3.0 * short**3 / steps, kernels=1.0 / steps, shape={"weight": 4.0}, adjoint=(),
    )  # fmt: skip


def _unpriced(op: Op) -> Price:
    raise TypeError(f"{op.name}: a choice between algorithms needs a price")
