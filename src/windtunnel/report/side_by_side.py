"""Simulations side by side: variants of one option (``--compare``), and measured against simulated (``--replay``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from windtunnel.report import units
from windtunnel.report.bars import grid
from windtunnel.report.plain import plain
from windtunnel.report.sections import heading, notes, section
from windtunnel.report.simulation import LATENCIES, slo_text
from windtunnel.scenario.simulation import SimulateResult
from windtunnel.serving.replayed import STATISTICS, ReplayMetrics, error_percent

LONGEST = 20
"""Letters of a variant's name."""

Figure = float | None


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the comparison. ``better``: +1 where more is, -1 where less is, 0 where neither."""

    name: str
    value: Callable[[SimulateResult], Figure]
    shown: Callable[[Figure], str]
    better: int


def _latency(metric: str, statistic: str) -> Row:
    return Row(f"{LATENCIES[metric]} {statistic}", lambda r: getattr(r, metric)[statistic], units.seconds, -1)


ROWS = (
    Row("output tokens/s", lambda r: r.output_tokens_per_second, units.number, 1),
    Row("output tokens/s/GPU", lambda r: r.output_tokens_per_second_per_gpu, units.number, 1),
    Row("requests/s", lambda r: r.requests_per_second, units.number, 1),
    Row("goodput, requests/s", lambda r: r.goodput_requests_per_second, units.number, 1),
    Row("SLO attainment", lambda r: r.slo_attainment, units.percent, 1),
    *(_latency(m, s) for m in ("ttft_s", "tpot_s", "itl_s", "e2e_s", "queue_s") for s in ("p50", "p99")),
    Row("$/Mtok", lambda r: r.cost_usd_per_million_tokens, units.dollars, -1),
    Row("energy a token", lambda r: r.energy_j_per_token, units.energy, -1),
    Row("batch, mean", lambda r: r.batch["mean"], units.number, 0),
    Row("KV cache, peak", lambda r: r.kv_cache["peak_fraction"], units.percent, 0),
    Row("prefix hit rate", lambda r: r.kv_cache["hit_rate"], units.percent, 1),
    Row("preemptions", lambda r: float(r.preemptions), units.count, -1),
    Row("completed", lambda r: float(r.completed), units.count, 1),
    Row("rejected", lambda r: float(r.rejected), units.count, -1),
    Row("unfinished", lambda r: float(r.unfinished), units.count, -1),
    Row("makespan", lambda r: r.makespan_s, units.duration, 0),
)
_ASKED = ("goodput, requests/s", "SLO attainment")
"""Told only where limits were given."""

Runs = Sequence[tuple[Any, SimulateResult]]


def render_variants(key: str, runs: Runs) -> RenderableType:
    """Metrics as rows, variants of the option ``key`` as columns; the best of each row is marked."""
    first = next((r for _, r in runs if r.fits), runs[0][1])
    plans = [{"model": r.model, "on": r.on, **r.plan} for _, r in runs]
    names = [k for k in dict.fromkeys(k for plan in plans for k in plan) if k != key]
    unlike = [k for k in names if any(plan.get(k) != plans[0].get(k) for plan in plans)]
    same = {k: v for k, v in first.plan.items() if k != key and k not in unlike}
    table = grid("left", *("right",) * len(runs))
    table.add_row(Text(key, style="bold"), *(Text(_named(value), style="bold") for value, _ in runs))
    for name in unlike:
        table.add_row(name, *(Text(f"{_named(plan.get(name))} ", style="dim") for plan in plans))
    for row in ROWS:
        if row.name in _ASKED and not first.slo:
            continue
        values = [row.value(r) if r.fits else None for _, r in runs]
        if any(v is not None for v in values):
            table.add_row(row.name, *_cells(values, row))
    bound = [r.bottleneck.resource if r.bottleneck else units.MISSING for _, r in runs]
    table.add_row("bound by", *(Text(f"{b} ") for b in bound))
    said = [
        Text(f"{_named(v)} does not fit: short by {units.size(r.shortfall_bytes)} a GPU", style="red")
        for v, r in runs
        if not r.fits
    ]
    said += [Text(f"{_named(v)} is PARTIAL: it was interrupted", style="bold red") for v, r in runs if r.partial]
    foot = f"* best; {first.requests:,} requests, seed {first.seed}"
    return Group(
        heading(first.model, first.on, same), Text(""), table, Text(""), *said,
        Text(foot + (f"; goodput within {slo_text(first.slo)}" if first.slo else ""), style="dim"),
        *notes(list(dict.fromkeys(w for _, r in runs for w in r.warnings))),
    )  # fmt: skip


def variants_to_dict(key: str, runs: Runs) -> dict[str, Any]:
    """The JSON object of a comparison."""
    found: dict[str, Any] = plain({"compare": key, "runs": [{"value": v, "result": r.to_dict()} for v, r in runs]})
    return found


def _named(value: Any) -> str:
    text = units.option(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _cells(values: Sequence[Figure], row: Row) -> list[Text]:
    """The figures, a star on those that read like the best unless all read alike."""
    texts = [row.shown(v) for v in values]
    known = [(row.better * v, text) for v, text in zip(values, texts, strict=True) if v is not None]
    best = max(known)[1] if row.better and len({text for _, text in known}) > 1 else None
    return [Text(f"{t}*", style="bold green") if t == best else Text(f"{t} ") for t in texts]


def render_replay(found: ReplayMetrics) -> RenderableType:
    """Measured against simulated: each metric's statistics with the error, then means over time."""
    head = ("", "", "measured", "simulated", "error")
    table = grid("left", "left", "right", "right", "right")
    table.add_row(*(Text(h, style="dim") for h in head))
    for metric, agreement in found.metrics.items():
        name = LATENCIES.get(metric, metric.removesuffix("_per_second").replace("_", " ") + "/s")
        for statistic in (s for s in STATISTICS if s in agreement.measured):
            shown = units.seconds if metric in LATENCIES else units.number
            table.add_row(
                name, statistic, shown(agreement.measured[statistic]), shown(agreement.simulated[statistic]),
                _error(agreement.error_percent[statistic]),
            )  # fmt: skip
            name = ""
    title = f"Measured against simulated: {found.requests:,} requests of {found.source}"
    return Group(section(title, table), *_windows(found))


def _windows(found: ReplayMetrics) -> list[RenderableType]:
    metrics = [m for m in LATENCIES if any(m in w.measured for w in found.windows)]
    if not metrics or len(found.windows) < 2:
        return []
    table = grid("right", "right", *("right",) * len(metrics))
    table.add_row(*(Text(h, style="dim") for h in ("arrival", "requests", *(LATENCIES[m] for m in metrics))))
    for w in found.windows:
        cells = (_pair(w.measured, w.simulated, m) for m in metrics)
        table.add_row(f"from {units.duration(w.from_s)}", f"{w.requests:,}", *cells)
    return [section("Simulated means over time (error against measured)", table)]


def _pair(measured: Mapping[str, Figure], simulated: Mapping[str, Figure], metric: str) -> Text:
    now = simulated.get(metric)
    return Text(f"{units.seconds(now)} (") + _error(error_percent(measured.get(metric), now)) + ")"


def _error(percent: Figure) -> Text:
    if percent is None:
        return Text(units.MISSING)
    style = "green" if abs(percent) <= 10 else "yellow" if abs(percent) <= 25 else "red"
    return Text(f"{percent:+.1f} %", style=style)
