"""What all kernel families share: the machine's rates, number formats it lacks, its memory system, the roofline.

A kernel's time is ``fixed + smooth maximum of the times its resources need``. Every term is at least the work over the
machine's rate, so no price beats physics, and every term falls when a rate grows, so more of anything never hurts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from windtunnel.cost.calibration import Calibration
from windtunnel.cost.runtime import Runtime
from windtunnel.errors import unknown
from windtunnel.hardware.machine import Accelerator, Cluster
from windtunnel.models.dtypes import BYTES
from windtunnel.ops.op import Op, Price
from windtunnel.ops.values import Value, maximum, sqrt

Kernel = Callable[[Op], Price]
K = TypeVar("K")
V = TypeVar("V")

_16_BIT = ("bf16", "fp16", "fp32")
WIDER: dict[str, tuple[str, ...]] = {
    "fp4": ("fp4", "fp8", *_16_BIT),
    "fp8": ("fp8", *_16_BIT),
    "int8": ("int8", *_16_BIT),
    "bf16": _16_BIT,
    "fp16": ("fp16", "bf16", "fp32"),
    "tf32": ("tf32", "fp32"),
    "fp32": ("fp32",),
}
"""For each type a matrix unit may compute in, the types that can stand in for it, best first."""

ALIASES = {"nvfp4": "fp4", "mxfp4": "fp4", "mxfp8": "fp8", "fp8_block": "fp8", "int4": "int8", "nf4": "bf16"}
"""Storage formats and scaling schemes, and the type whose rate serves them."""

COMPUTE_BYTES = {"fp4": 0.5, **{t: BYTES[t] for t in WIDER if t in BYTES}}


def effective_dtype(accelerator: Accelerator, dtype: str) -> str:
    """The type that ``accelerator`` computes in when asked for ``dtype``: itself if it has it, else the next wider.

    Narrow types are widened to bf16, then fp16, then fp32 (fp8 on A100 runs as bf16 after dequantisation, fp4 on
    Hopper as fp8, bf16 on V100 as fp16). Every device has fp32, on its vector unit if nowhere else.

    Raises:
        ScenarioError: ``dtype`` is no known number format.
    """
    name = ALIASES.get(dtype, dtype)
    if name not in WIDER:
        raise unknown("number format", dtype, (*WIDER, *ALIASES))
    return next((t for t in WIDER[name] if t in accelerator.peak_flops), "fp32")


@dataclass(frozen=True, slots=True)
class Rates:
    """A cluster's figures as the kernels use them, resolved once.

    ``reach``: square of the bytes that the last-level cache effectively holds for the next kernel. ``gap``: seconds
    between two kernels of a stream (none when they are replayed from a graph: the fitted fixed costs were measured so).
    """

    accelerator: Accelerator
    hbm: Value
    l2: Value
    reach: Value
    units: Value
    vector: Value
    gap: Value
    host: Value
    sustained: bool

    @staticmethod
    def of(cluster: Cluster, calibration: Calibration, runtime: Runtime) -> Rates:
        a = cluster.accelerator
        return Rates(
            accelerator=a,
            hbm=a.hbm.bandwidth_bytes_per_s,
            l2=a.l2.bandwidth_bytes_per_s,
            reach=maximum((calibration.cache.share * a.l2.capacity_bytes) ** 2, 1.0),
            units=a.compute_units,
            vector=a.vector_flops,
            gap=0.0 if runtime.graphs else a.kernel_gap_s,
            host=cluster.host_relative_speed,
            sustained=runtime.sustained,
        )

    def peak(self, dtype: str) -> tuple[str, Value]:
        """(resource, FLOP/s) of the matrix products of ``dtype`` on this device."""
        name = effective_dtype(self.accelerator, dtype)
        rate = self.accelerator.peak_flops.get(name)
        return ("vector", self.vector) if rate is None else ("tensor", rate)

    def from_memory(self, hbm: Value, cached: Value) -> Value:
        """Bytes that cross HBM: all of ``hbm`` and what of ``cached`` the last-level cache no longer holds.

        The fraction still held is 1 / (1 + (cached/c)^2), c a fitted share of the capacity: whole tensors well below
        it, next to nothing well above, because a stream longer than the cache evicts what it will need (the fall of
        activation kernels' bandwidth in LLMServingSim's profiles of an RTX 4090 and an RTX PRO 6000).
        """
        square = cached * cached
        return hbm + cached * (square / (square + self.reach))

    def launch(self, op: Op, fixed_s: float) -> Value:
        """Seconds that no rate shortens."""
        return op.kernels * (fixed_s + self.gap)

    def issue(self, op: Op) -> Value:
        """Host seconds of an operator."""
        # Nearly all operators leave the host nothing beside their layer's issue: a plain zero adds up fastest.
        nothing = isinstance(op.host_s, float) and op.host_s == 0.0
        return 0.0 if nothing else op.host_s / self.host


class Lazily(dict[K, V]):
    """A table whose entries are made when first asked for: a step meets few of all number formats."""

    def __init__(self, make: Callable[[K], V]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: K) -> V:
        value = self[key] = self._make(key)
        return value


def matrix_rates(rates: Rates, share: float) -> Lazily[str, tuple[str, Value]]:
    """(resource, seconds a FLOP) by number format, where kernels reach ``share`` of the peak."""

    def make(name: str) -> tuple[str, Value]:
        resource, peak = rates.peak(name)
        return resource, 1.0 / (share * peak)

    return Lazily(make)


def smooth_max(power: int, *times: Value) -> Value:
    """(Σ tᵖ)^(1/p) for p = 2, 4 or 8: at least the largest, at most the sum. Square roots only (NumPy's pow is slow).

    Kernels overlap computing and loading well but not perfectly where the two are near each other.
    """
    total: Value = 0.0
    for t in times:
        s = t * t
        if power > 2:
            s = s * s
        if power > 4:
            s = s * s
        total = total + s
    root = sqrt(total)
    if power > 2:
        root = sqrt(root)
    return sqrt(root) if power > 4 else root
