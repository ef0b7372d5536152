"""What a trace measured in a step: seconds by kind, by GEMM shape, busy, idle and exposed communication."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from windtunnel.errors import ScenarioError
from windtunnel.ops.build import COLLECTIVES
from windtunnel.validation.profile.classify import OTHER, classify_kernel, classify_operator
from windtunnel.validation.profile.trace import Dims, Span, Trace, Work

Shape = tuple[int, int, int]

OPERAND = {
    **dict.fromkeys(("mm", "bmm", "_scaled_mm", "_int_mm"), 0),
    **dict.fromkeys(("addmm", "baddbmm"), 1),
}
"""Operators that multiply two matrices, and which of their inputs is the first of the two."""


@dataclass(slots=True)
class Total:
    """Seconds and kernels of one step."""

    seconds: float = 0.0
    kernels: float = 0.0

    def add(self, seconds: float, kernels: float) -> None:
        self.seconds += seconds
        self.kernels += kernels


@dataclass(frozen=True, slots=True)
class Measured:
    """The mean step of a trace, in seconds.

    ``steps``: how many it is the mean of; ``dropped``: steps left out as warm-up. ``busy_s``: while any kernel ran;
    ``exposed_comm_s``: while none but communication did. ``gemms``: (m, n, k) to its products; ``other``: what is of
    no known kind, by name.
    """

    steps: int
    dropped: int
    step_s: float
    busy_s: float
    exposed_comm_s: float
    kinds: Mapping[str, Total]
    gemms: Mapping[Shape, Total] = field(default_factory=dict)
    other: Mapping[str, Total] = field(default_factory=dict)

    @property
    def idle_s(self) -> float:
        return max(self.step_s - self.busy_s, 0.0)


def measure(trace: Trace, steps: int | None = None) -> Measured:
    """The mean step. ``steps``: the whole trace is that many; by default its ProfilerStep spans are the steps, of which
    the first is left out where there are several, and a trace without any is one step.

    Raises:
        ScenarioError: the steps that count hold no work.
    """
    work, spans, n, dropped = _window(trace, steps)
    if not work:
        raise ScenarioError(f"no kernel or operator in the {n} ProfilerStep spans that count; give --steps N instead")
    kinds: dict[str, Total] = {}
    gemms: dict[Shape, Total] = {}
    other: dict[str, Total] = {}
    products: dict[Shape, set[tuple[str, float] | None]] = {}
    by_kind = [(w, _kind(trace, w)) for w in work]
    for w, kind in by_kind:
        kinds.setdefault(kind, Total()).add(w.seconds / n, 1 / n)
        if kind == OTHER:
            other.setdefault(w.name, Total()).add(w.seconds / n, 1 / n)
        shape = product_shape(w.asked[0], w.dims) if kind == "gemm" and w.asked is not None else None
        if shape is not None:
            # An operator may take several kernels (split-k and its sum): one product.
            known = products.setdefault(shape, set())
            gemms.setdefault(shape, Total()).add(w.seconds / n, 0 if w.asked in known else 1 / n)
            known.add(w.asked)
    everything = _union((w.start, w.end) for w in work)
    computing = _union((w.start, w.end) for w, kind in by_kind if kind not in COLLECTIVES)
    extent = max(w.end for w in work) - min(w.start for w in work)
    if spans:
        # A host that runs ahead ends its spans before the device ends the work that they asked for.
        extent = max(extent, spans[-1].end - spans[0].start)
    busy = min(everything, extent)
    return Measured(n, dropped, extent / n, busy / n, max(everything - computing, 0.0) / n, kinds, gemms, other)


def _window(trace: Trace, steps: int | None) -> tuple[Sequence[Work], Sequence[Span], int, int]:
    """(work of the steps that count, their spans, how many they are, how many were left out)."""
    if steps is not None or not trace.steps:
        return trace.work, (), steps or 1, 0
    dropped = 1 if len(trace.steps) > 1 else 0
    kept = trace.steps[dropped:]
    starts = [s.start for s in kept]

    def counts(w: Work) -> bool:
        i = bisect_right(starts, w.issued) - 1
        return i >= 0 and w.issued <= kept[i].end

    return [w for w in trace.work if counts(w)], kept, len(kept), dropped


def _kind(trace: Trace, w: Work) -> str:
    return classify_kernel(w.name, w.ops) if trace.on == "gpu" else classify_operator(w.ops, w.wraps)


def product_shape(operator: str, dims: Dims) -> Shape | None:
    """(m, n, k) of a matrix product from its operator's input shapes: [m, k] x [k, n]; a batch of them counts as rows.

    None where the operator is none or its shapes were not recorded.
    """
    at = OPERAND.get(operator.rpartition("::")[2])
    if at is None or len(dims) < at + 2:
        return None
    a, b = dims[at], dims[at + 1]
    if len(a) != len(b) or len(a) not in (2, 3) or a[-1] != b[-2] or a[:-2] != b[:-2]:
        return None
    batch = a[0] if len(a) == 3 else 1
    return batch * a[-2], b[-1], a[-1]


def _union(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds covered by at least one of them."""
    covered, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        if end > until:
            covered += end - max(start, until)
            until = end
    return covered
