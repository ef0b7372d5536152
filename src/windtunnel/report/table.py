"""Sweeps: one row a point, as a table and as JSON. A point that is wrong or does not fit is a row that says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from windtunnel.report import units
from windtunnel.report.plain import plain
from windtunnel.report.suggest import Result
from windtunnel.scenario.results import TrainResult
from windtunnel.scenario.simulation import SimulateResult


@dataclass(frozen=True, slots=True)
class Point:
    """``values``: the swept options. ``error``: why no answer is usable; ``code``: the exit code it stands for."""

    values: Mapping[str, Any]
    result: Result | None
    error: str | None = None
    code: int = 0

    @property
    def works(self) -> bool:
        return self.error is None

    def to_dict(self) -> dict[str, Any]:
        """The answer's JSON with the point's ``point`` (swept options) and ``error`` before it."""
        answer: dict[str, Any] = self.result.to_dict() if self.result is not None else {}
        result: dict[str, Any] = plain({"point": dict(self.values), "error": self.error, **answer})
        return result


def point(values: Mapping[str, Any], result: Result) -> Point:
    """The row of an answer, without its tree; one that does not fit is an error that says by how much."""
    private: dict[str, Any] = {f.name: f.default for f in fields(result) if not f.metadata.get("json", True)}
    result = replace(result, **private)
    if result.fits:
        return Point(values, result)
    return Point(values, result, f"does not fit: short by {units.size(result.shortfall_bytes)} a GPU", 3)


def sweep_to_dict(points: Sequence[Point]) -> dict[str, Any]:
    """The JSON object of a sweep."""
    return {"sweep": [p.to_dict() for p in points]}


def render_sweep(points: Sequence[Point]) -> RenderableType:
    """The sweep as a table; the fastest point that fits is marked."""
    keys = list(dict.fromkeys(key for p in points for key in p.values))
    head = _head(next((p.result for p in points if p.result is not None), None))
    best = max((p for p in points if p.works), key=_rate, default=None)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("", no_wrap=True)
    for key in keys:
        table.add_column(key, justify="right", no_wrap=True, style="bold")
    for title in head:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("")
    notes: dict[str, int] = {}
    for p in points:
        cells = _cells(p.result) if p.result is not None else ("",) * len(head)
        said = p.error or _left(p.result)
        if p.code == 2:
            said = f"wrong ({notes.setdefault(said, len(notes) + 1)})"
        error = Text(said, style="red" if p.code == 2 else "yellow")
        mark = Text("*" if p is best else "", style="bold green")
        table.add_row(mark, *(_shown(p.values.get(k)) for k in keys), *cells, error, style="" if p.works else "dim")
    below = [Text(f"({n}) {message}", style="red") for message, n in notes.items()]
    working = sum(p.works for p in points)
    foot = (
        f"* most {_most(best.result)} a GPU; {working} of {len(points)} points fit"
        if best
        else f"none of {len(points)} points fits"
    )
    return Group(table, Text(""), *below, Text(foot, style="dim"))


_TRAIN_HEAD = ("step", "tok/s/GPU", "MFU", "memory", "bound by")
_INFER_HEAD = ("TTFT", "TPOT", "out tok/s/GPU", "$/Mtok", "memory", "decode by")
_SIMULATE_HEAD = ("TTFT p50", "p99", "TPOT p50", "p99", "out tok/s", "goodput/s", "$/Mtok", "bound by")


def _head(result: Result | None) -> tuple[str, ...]:
    if isinstance(result, SimulateResult):
        return _SIMULATE_HEAD
    return _TRAIN_HEAD if isinstance(result, TrainResult) else _INFER_HEAD


def _cells(result: Result) -> tuple[str, ...]:
    memory = f"{units.size(result.memory_bytes['total'])}"
    if isinstance(result, TrainResult):
        return (
            units.seconds(result.step_time_s), units.number(result.tokens_per_second_per_gpu),
            units.percent(result.mfu), memory, result.bottleneck.resource,
        )  # fmt: skip
    if isinstance(result, SimulateResult):
        latencies = (units.seconds(d[s]) for d in (result.ttft_s, result.tpot_s) for s in ("p50", "p99"))
        return (
            *latencies, units.number(result.output_tokens_per_second),
            units.number(result.goodput_requests_per_second), units.dollars(result.cost_usd_per_million_tokens),
            result.bottleneck.resource if result.bottleneck else units.MISSING,
        )  # fmt: skip
    return (
        units.seconds(result.ttft_s), units.seconds(result.tpot_s),
        units.number(result.output_tokens_per_second_per_gpu),
        units.dollars(result.cost_usd_per_million_tokens), memory, result.decode.bottleneck.resource,
    )  # fmt: skip


def _left(result: Result | None) -> str:
    """What did not end well in a simulation."""
    if not isinstance(result, SimulateResult):
        return ""
    counts = (("unfinished", result.unfinished), ("rejected", result.rejected))
    told = [f"{n:,} {what}" for what, n in counts if n]
    return ", ".join(["partial", *told] if result.partial else told)


def _most(result: Result | None) -> str:
    """What the best point has most of."""
    return "goodput" if isinstance(result, SimulateResult) and result.slo else "tokens/s"


def _rate(p: Point) -> float:
    r = p.result
    if r is None:
        return 0.0
    if isinstance(r, TrainResult):
        return r.tokens_per_second_per_gpu
    if isinstance(r, SimulateResult) and r.slo and r.output_tokens_per_second > 0:
        return r.goodput_requests_per_second * r.output_tokens_per_second_per_gpu / r.output_tokens_per_second
    return r.output_tokens_per_second_per_gpu


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
