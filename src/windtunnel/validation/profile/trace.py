"""Reads the Chrome trace that ``torch.profiler`` exports: what a device ran when, and which operators asked for it.

Events are objects with ``ph`` (only "X", a complete event, counts), ``cat``, ``name``, ``ts`` and ``dur`` in
microseconds, ``pid`` and ``tid``, and ``args``. A kernel carries the ``correlation`` of the runtime call that launched
it, and the ``External id`` of the operator around that call. With ``record_shapes`` operators carry ``Input Dims``.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from windtunnel.errors import ScenarioError

ACCEPTED = "a trace of torch.profiler's export_chrome_trace (.json or .json.gz) is accepted"

_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset", "memcpy", "memset")
_OPERATOR = ("cpu_op", "operator")
_RUNTIME = ("cuda_runtime", "cuda_driver", "runtime", "hip_runtime")
_ANNOTATION = ("user_annotation",)
STEP = "ProfilerStep#"

ROUNDING = 0.005
"""Microseconds by which an event may outlast the one around it: a double holds no more of a clock's 10^12."""

Dims = tuple[tuple[int, ...], ...]
_Kernel = tuple[float, float, Mapping[str, Any], str]  # start, microseconds, args, name


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of the trace, in seconds from its first event."""

    name: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Work:
    """A kernel of a GPU, or on a trace without kernels an operator of the CPU. Times in seconds.

    ``seconds``: a kernel's duration, or an operator's own time, which is its duration without the operators that it
    calls. ``issued``: when it was asked for. ``ops``: names of the operators and annotations around it, the innermost
    first (an operator is its own first). ``asked``: which operator asked for it, the innermost (None: unknown), and
    ``dims``: that one's input shapes, empty where none were recorded. ``wraps``: a CPU operator that calls others.
    """

    name: str
    start: float
    end: float
    seconds: float
    issued: float
    ops: tuple[str, ...] = ()
    asked: tuple[str, float] | None = None
    dims: Dims = ()
    wraps: bool = False


@dataclass(frozen=True, slots=True)
class Trace:
    """One rank's trace. ``on``: "gpu" or "cpu"; ``steps``: its ProfilerStep spans in order; ``device``: the name of
    the GPU and ``rank``, ``world`` where the trace tells them."""

    on: str
    work: tuple[Work, ...]
    steps: tuple[Span, ...]
    device: str | None = None
    rank: int | None = None
    world: int | None = None
    warnings: tuple[str, ...] = ()


@dataclass(slots=True)
class _Call:
    """An event on the host. ``kind``: "operator", "annotation" (around operators) or "runtime". Microseconds."""

    name: str
    start: float
    end: float
    kind: str
    dims: Dims = ()
    parent: _Call | None = None
    inside: float = 0.0  # of the operators that it calls

    def around(self) -> Iterator[_Call]:
        """It and what is around it, the innermost first."""
        call: _Call | None = self
        while call is not None:
            yield call
            call = call.parent

    def operator(self) -> _Call | None:
        """The innermost operator of :meth:`around`."""
        return next((c for c in self.around() if c.kind == "operator"), None)

    def chain(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.around() if c.kind != "runtime")


@dataclass(slots=True)
class _Events:
    """The events that count, sorted by what they are."""

    kernels: list[_Kernel] = field(default_factory=list)
    calls: dict[Any, list[_Call]] = field(default_factory=lambda: defaultdict(list))
    by_correlation: dict[Any, _Call] = field(default_factory=dict)
    by_id: dict[Any, _Call] = field(default_factory=dict)
    steps: list[tuple[str, float, float]] = field(default_factory=list)
    broken: int = 0


def read_trace(path: str | Path) -> Trace:
    """The trace in a file, plain or gzip-compressed. It is read whole: about eight times its size in memory.

    Raises:
        ScenarioError: no such file, not a profiler's trace, or one without any kernel or operator.
    """
    shown = _short(str(path))
    data = _load(path, shown)
    events = data if isinstance(data, list) else data.get("traceEvents") if isinstance(data, dict) else None
    if not isinstance(events, list):
        raise ScenarioError(f"{shown!r} has no list of traceEvents; {ACCEPTED}")
    sorted_ = _sort(events)
    warnings = []
    if sorted_.broken:
        warnings.append(f"{sorted_.broken:,} events without a name, a time or a duration were left out")
    for calls in sorted_.calls.values():
        _nest(calls)
    zero = min(_starts(sorted_), default=0.0)
    if sorted_.kernels:
        kernels, more = _one_device(sorted_.kernels)
        work, on = tuple(_kernel(k, sorted_, zero) for k in kernels), "gpu"
        warnings += more
    else:
        called = (c for calls in sorted_.calls.values() for c in calls if c.kind == "operator")
        work, on = tuple(_operator(c, zero) for c in called), "cpu"
    if not work:
        raise ScenarioError(
            f"{shown!r} has no kernel or operator (a trace exported after the profiler's last step is empty: "
            f"export it in on_trace_ready); {ACCEPTED}"
        )
    head: Mapping[str, Any] = data if isinstance(data, dict) else {}
    about = head.get("distributedInfo")
    about = about if isinstance(about, dict) else {}
    spans = tuple(
        Span(name, (start - zero) * 1e-6, (end - zero) * 1e-6)
        for name, start, end in sorted(sorted_.steps, key=lambda s: s[1])
    )
    return Trace(
        on, tuple(sorted(work, key=lambda w: w.start)), spans, _device_name(head), _whole(about.get("rank")),
        _whole(about.get("world_size")), tuple(warnings),
    )  # fmt: skip


def _load(path: str | Path, shown: str) -> Any:
    try:
        file = Path(path)
        if not file.is_file():
            raise ScenarioError(f"no file {shown!r}; {ACCEPTED}")
        raw = file.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        return json.loads(raw)
    except ScenarioError:
        raise
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ScenarioError(f"{shown!r} cannot be read ({_short(reason.splitlines()[0])}); {ACCEPTED}") from None


def _sort(events: Sequence[Any]) -> _Events:
    found = _Events()
    for event in events:
        if not isinstance(event, dict) or event.get("ph") != "X":
            continue
        category = str(event.get("cat", "")).lower()
        if category not in (*_DEVICE, *_OPERATOR, *_RUNTIME, *_ANNOTATION):
            continue
        name, start, duration = event.get("name"), _number(event.get("ts")), _number(event.get("dur"))
        if not isinstance(name, str) or start is None or duration is None or duration < 0:
            found.broken += 1
            continue
        args = event.get("args")
        args = args if isinstance(args, dict) else {}
        if category in _DEVICE:
            found.kernels.append((start, duration, args, name))
        elif category in _ANNOTATION and name.startswith(STEP):
            found.steps.append((name, start, start + duration))
        else:
            _call(found, event, _Call(name, start, start + duration, _kind(category, name)), args)
    return found


def _kind(category: str, name: str) -> str:
    if category in _RUNTIME:
        return "runtime"
    # Optimizers mark their steps; older releases of PyTorch count these marks among the operators.
    return "annotation" if category in _ANNOTATION or name.startswith("Optimizer.") else "operator"


def _call(found: _Events, event: Mapping[str, Any], call: _Call, args: Mapping[str, Any]) -> None:
    found.calls[str(event.get("pid")), str(event.get("tid"))].append(call)
    if call.kind == "runtime":
        if args.get("correlation"):
            found.by_correlation[str(args["correlation"])] = call
    elif call.kind == "operator":
        call.dims = _dims(args.get("Input Dims", args.get("Input dims")))
        if args.get("External id") is not None:
            found.by_id[str(args["External id"])] = call


def _nest(calls: list[_Call]) -> None:
    """Give each call of one thread the call around it."""
    calls.sort(key=lambda c: (c.start, -c.end))
    open_: list[_Call] = []
    for call in calls:
        while open_ and (open_[-1].end <= call.start or open_[-1].end + ROUNDING < call.end):
            open_.pop()
        call.parent = open_[-1] if open_ else None
        around = call.parent.operator() if call.kind == "operator" and call.parent is not None else None
        if around is not None:
            around.inside += call.end - call.start
        open_.append(call)


def _kernel(kernel: _Kernel, events: _Events, zero: float) -> Work:
    start, duration, args, name = kernel
    launch = events.by_correlation.get(str(args.get("correlation")))
    call = launch if launch is not None and launch.operator() is not None else None
    call = call or events.by_id.get(str(args.get("External id")))
    issued = launch.start if launch is not None else call.start if call is not None else start
    around = call.operator() if call is not None else None
    return Work(
        name, (start - zero) * 1e-6, (start + duration - zero) * 1e-6, duration * 1e-6, (issued - zero) * 1e-6,
        call.chain() if call is not None else (), *((around.name, around.start), around.dims) if around else (None, ()),
    )  # fmt: skip


def _operator(call: _Call, zero: float) -> Work:
    own = max(call.end - call.start - call.inside, 0.0)
    start, end = (call.start - zero) * 1e-6, (call.end - zero) * 1e-6
    return Work(
        call.name, start, end, own * 1e-6, start, call.chain(), (call.name, call.start), call.dims, call.inside > 0
    )


def _one_device(kernels: list[_Kernel]) -> tuple[list[_Kernel], list[str]]:
    """The kernels of the busiest device; a prediction is for one."""
    busy: dict[str, float] = defaultdict(float)
    for _, duration, args, _ in kernels:
        busy[str(args.get("device"))] += duration
    if len(busy) == 1:
        return kernels, []
    most = max(busy, key=lambda d: busy[d])
    kept = [k for k in kernels if str(k[2].get("device")) == most]
    return kept, [f"kernels of {len(busy)} devices: those of the busiest one, device {most}, are compared"]


def _starts(events: _Events) -> Iterator[float]:
    yield from (k[0] for k in events.kernels)
    yield from (s[1] for s in events.steps)
    yield from (c.start for calls in events.calls.values() for c in calls)


def _dims(value: Any) -> Dims:
    if not isinstance(value, list):
        return ()
    return tuple(tuple(d) if isinstance(d, list) and all(type(n) is int for n in d) else () for d in value)


def _device_name(head: Mapping[str, Any]) -> str | None:
    devices = head.get("deviceProperties")
    if isinstance(devices, list) and devices and isinstance(devices[0], dict):
        name = devices[0].get("name")
        return name if isinstance(name, str) and name.isprintable() else None
    return None


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _short(text: str) -> str:
    return text if len(text) <= 120 else text[:117] + "..."
