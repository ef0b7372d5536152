"""The leaf of every step: what one operator asks of each resource, on one rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from windtunnel.ops.values import Value


@dataclass(frozen=True, slots=True)
class Group:
    """Ranks that take part in a collective: ``size`` of them, ``stride`` ranks apart.

    With ranks numbered tp first, then cp, dp (ep inside), pp, a stride of 1 lies inside a node as far as it can.
    """

    size: Value = 1
    stride: Value = 1


@dataclass(frozen=True, slots=True, eq=False)
class Beside:
    """Collectives that run while a linear layer's two gradient kernels do.

    ``dgrad``: beside the input gradient, ``wgrad``: beside the weight gradient; ``interference`` as in a Par.
    """

    dgrad: Op | None
    wgrad: Op | None
    interference: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """One operator on one rank. Every quantity is a :data:`~windtunnel.ops.values.Value`.

    ``kind`` names the kernel family that prices it (``gemm``, ``attention``, ``all_reduce`` …) and ``category`` the
    line of ``time_s`` that its exposed time goes to. Demands: ``flops`` on the matrix unit (two a multiply-add) at
    the rate of ``dtype``; ``vector_flops`` on the rest; ``hbm_bytes`` that must cross the device's memory (weights,
    KV); ``cached_bytes`` that a neighbour just wrote or will read at once, served by the last-level cache where they
    fit; ``message_bytes`` a rank puts into a collective over ``group`` (see :mod:`windtunnel.ops.build` for what is
    counted by kind); ``pcie_bytes`` and ``nvme_bytes`` one way; ``host_s`` seconds of the reference host;
    ``kernels`` launches. ``shape`` holds what the family's efficiency depends on.

    For the folds that are not about time: ``parameters`` held by this rank for this operator, ``expert`` if they
    belong to the expert group, ``frozen`` if they are not trained, ``saved_bytes`` of activations that its backward
    pass needs, and ``core`` if selective recomputation drops them (attention's inside). ``adjoint``: all operators of
    its backward pass where they do not follow from the kind (collectives, products without weights); ``backward``: how
    many times its bytes and vector FLOPs the backward pass of a bandwidth-bound operator moves. ``beside``: what
    runs beside its gradient kernels. ``widths``: outputs of the matrices that one product joins (queries, keys and
    values; gate and up), where they are several.
    """

    name: str
    kind: str
    category: str = "compute"
    dtype: str = "bf16"
    flops: Value = 0.0
    vector_flops: Value = 0.0
    hbm_bytes: Value = 0.0
    cached_bytes: Value = 0.0
    message_bytes: Value = 0.0
    group: Group | None = None
    pcie_bytes: Value = 0.0
    nvme_bytes: Value = 0.0
    host_s: Value = 0.0
    kernels: Value = 1.0
    shape: Mapping[str, Value] = field(default_factory=dict)
    parameters: Value = 0.0
    expert: bool = False
    frozen: bool = False
    saved_bytes: Value = 0.0
    core: bool = False
    adjoint: tuple[Op, ...] | None = None
    backward: float = 1.5
    beside: Beside | None = None
    widths: tuple[Value, ...] = ()

    def but(self, **changes: Any) -> Op:
        """A copy with some fields changed."""
        return replace(self, **changes)


@dataclass(frozen=True, slots=True, eq=False)
class Price:
    """What a machine charges for an Op run alone.

    ``seconds`` on the device, at least every entry of ``busy``; ``busy``: {resource: seconds that the operator keeps
    it busy at the rate it can reach}; ``latency``: the part of ``seconds`` that no rate would shorten (launches,
    hops); ``host``: seconds of issue work on the host.
    """

    seconds: Value
    busy: Mapping[str, Value]
    latency: Value = 0.0
    host: Value = 0.0
