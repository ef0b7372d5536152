"""A simulated service on a terminal: throughput and latencies, what holds it back, how it went over time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from rich.console import Group, RenderableType
from rich.text import Text

from windtunnel.report import units
from windtunnel.report.bars import Figures, bar, grid, sparkline
from windtunnel.report.sections import (
    band,
    confidence,
    heading,
    headline,
    memory,
    notes,
    per_million,
    section,
    shortage,
)
from windtunnel.report.suggest import Suggestion
from windtunnel.report.words import RESOURCES, bottleneck
from windtunnel.scenario.simulation import SimulateResult

LATENCIES: Mapping[str, str] = {
    "ttft_s": "TTFT", "tpot_s": "TPOT", "itl_s": "ITL", "e2e_s": "E2E", "queue_s": "queue",
}  # fmt: skip
"""Metrics that have a distribution, and what they are called."""

SHOWN = ("mean", "p50", "p90", "p99", "max")
"""Statistics of the table; JSON has p95, too."""

COLUMNS = 40
"""Of a line over time."""

NOTICED = 0.005
"""The smallest fraction of time worth telling."""


def render_simulation(result: SimulateResult, suggestions: Sequence[Suggestion] | None = None) -> RenderableType:
    """The answer. ``suggestions``: what was found to fit, for a model that does not (None: nothing was tried)."""
    top = heading(result.model, result.on, result.plan)
    if not result.fits:
        return Group(
            top,
            headline((), False, ()),
            *shortage(result, suggestions),
            section("Memory per GPU", memory(result.memory_bytes)),
            *confidence(result.confidence),
            *notes(result.warnings),
        )
    return Group(
        top,
        headline(_figures(result), True, _more(result)),
        Text(""),
        Figures(list(_counts(result))),
        Text(_effort(result), style="dim"),
        section("Latency of completed requests", _latencies(result)),
        section("What holds it back", _limits(result)),
        *_over_time(result.series),
        section("Engines", Group(_engines(result), Figures(list(_cache(result))))),
        section("Memory per GPU", memory(result.memory_bytes)),
        *confidence(result.confidence),
        *notes(result.warnings),
    )


def spread(name: str, found: Mapping[str, float | None]) -> str:
    """``TTFT p50 38 ms, p99 157 ms``."""
    return f"{name} p50 {units.seconds(found['p50'])}, p99 {units.seconds(found['p99'])}"


def slo_text(slo: Mapping[str, float]) -> str:
    """``ttft ≤ 1.00 s, tpot ≤ 50.0 ms``."""
    return ", ".join(f"{metric.removesuffix('_s')} ≤ {units.seconds(limit)}" for metric, limit in slo.items())


def _figures(result: SimulateResult) -> list[str]:
    return [
        f"{units.number(result.output_tokens_per_second)} output tokens/s",
        spread("TTFT", result.ttft_s),
        spread("TPOT", result.tpot_s),
        "nothing completed" if not result.completed else per_million(result.cost_usd_per_million_tokens),
    ]


def _more(result: SimulateResult) -> list[str]:
    goodput = []
    if result.slo:
        goodput = [
            f"goodput {units.number(result.goodput_requests_per_second)} requests/s",
            f"{units.percent(result.slo_attainment)} meet {slo_text(result.slo)}",
        ]
    return [
        *goodput,
        f"{units.number(result.requests_per_second)} requests/s",
        f"{units.number(result.total_tokens_per_second)} tokens/s in and out",
        f"{units.number(result.output_tokens_per_second_per_gpu)} output tokens/s/GPU",
        f"{units.energy(result.energy_j_per_token)} an output token",
        *band(result.interval, "ttft_s"),
        *band(result.interval, "tpot_s"),
    ]


def _counts(result: SimulateResult) -> Iterable[Text]:
    """How the requests ended; what did not go well in red."""
    if result.partial:
        yield Text(f"PARTIAL: interrupted at {units.duration(result.makespan_s)}", style="bold red")
    yield Text(f"{result.requests:,} requests in {units.duration(result.makespan_s)}")
    yield Text(f"{result.completed:,} completed")
    if result.rejected:
        reasons = (f"{reason.replace('_', ' ')} {n:,}" for reason, n in result.rejected_by_reason.items() if n)
        yield Text(f"{result.rejected:,} rejected ({', '.join(reasons)})", style="red")
    if result.unfinished:
        yield Text(f"{result.unfinished:,} UNFINISHED", style="bold red")
    if result.failures:
        yield Text(f"{result.failures:,} failures of replicas, {result.retries:,} retries", style="yellow")
    if result.cold_starts:
        yield Text(f"{result.cold_starts:,} cold starts")
    if result.left_out:
        yield Text(f"{result.left_out:,} of the warm-up left out", style="dim")


def _effort(result: SimulateResult) -> str:
    took = result.simulator
    return (
        f"simulated in {units.seconds(took['wall_s'])}: {units.number(took['requests_per_second'])} requests/s, "
        f"{took['events']:,} events, seed {result.seed}"
    )


def _latencies(result: SimulateResult) -> RenderableType:
    table = grid("left", *("right",) * len(SHOWN))
    table.add_row("", *(Text(s, style="dim") for s in SHOWN))
    for metric, name in LATENCIES.items():
        found = getattr(result, metric)
        table.add_row(name, *(units.seconds(found[s]) for s in SHOWN))
    return table


def _limits(result: SimulateResult) -> RenderableType:
    lines: list[RenderableType] = []
    if result.bottleneck is not None:
        said = bottleneck(result.bottleneck.resource, result.bottleneck.share, "engine")
        lines.append(Text(said, style="bold yellow"))
    table = grid("right", "left")
    for limit in result.limits:
        if limit["fraction"] >= NOTICED:
            where = f"{limit['pool']}: " if len(result.pools) > 1 else ""
            table.add_row(units.percent(limit["fraction"]), f"{where}{limit['text']}")
    if table.row_count:
        lines += [Text("of the engines' time:", style="dim"), table]
    used = [(r, f) for r, f in sorted(result.utilization.items(), key=lambda item: -item[1]) if f >= NOTICED]
    if used:
        lines.append(Text("use of resources:", style="dim"))
        table = grid("left", "right", "left")
        for resource, fraction in used:
            table.add_row(RESOURCES.get(resource, resource), units.percent(fraction), bar(fraction, "blue"))
        lines.append(table)
    return Group(*lines) if lines else Text("nothing ran", style="dim")


def _over_time(series: Mapping[str, Sequence[float]]) -> list[RenderableType]:
    times = series["t_s"]
    if len(times) < 2:
        return []
    table = grid("left", "left", "right")
    for key, name, style, shown in (
        ("waiting", "waiting", "yellow", units.count),
        ("running", "running", "green", units.count),
        ("kv_fraction", "KV cache", "magenta", units.percent),
        ("output_tokens_per_second", "tokens/s", "cyan", units.number),
    ):
        values = series[key]
        table.add_row(name, sparkline(columns(times, values), style), f"up to {shown(max(values))}")
    return [section(f"Over time, 0 to {units.duration(times[-1])}", table)]


def columns(times: Sequence[float], values: Sequence[float], count: int = COLUMNS) -> list[float]:
    """A series of samples at ``times`` as ``count`` means over equal stretches of time; each sample stands for the time
    since the one before."""
    whole = times[-1] or 1.0
    sums, weights = [0.0] * count, [0.0] * count
    for (start, end), value in zip(pairwise((0.0, *times)), values, strict=True):
        first, last = (min(int(t / whole * count), count - 1) for t in (start, end))
        for place in range(first, last + 1):
            inside = min(end, (place + 1) * whole / count) - max(start, place * whole / count)
            sums[place] += max(inside, 0.0) * value
            weights[place] += max(inside, 0.0)
    return [s / w if w > 0 else 0.0 for s, w in zip(sums, weights, strict=True)]


def _engines(result: SimulateResult) -> RenderableType:
    several = len(result.pools) > 1
    head: tuple[str, ...] = ("", "replicas", "busy", "KV mean", "KV peak", "batch", "iterations")
    head += ("cost", "energy", "power limit") if several else ()
    table = grid("left", *("right",) * (len(head) - 1))
    table.add_row(*(Text(h, style="dim") for h in head))
    for p in result.pools:
        paid = (
            units.dollars(p["cost_usd"]), units.energy(p["energy_j"]), f"{p['provisioned_power_w'] / 1e3:,.1f} kW",
        )  # fmt: skip
        table.add_row(
            p["name"], f"{p['replicas']:,}", units.percent(p["busy_fraction"]), units.percent(p["kv_mean_fraction"]),
            units.percent(p["kv_peak_fraction"]), units.number(p["batch_mean"]), units.count(p["iterations"]),
            *(paid if several else ()),
        )  # fmt: skip
    return table


def _cache(result: SimulateResult) -> Iterable[Text]:
    yield Text(f"KV cache of {units.count(result.kv_cache['capacity_tokens'])} tokens")
    if result.kv_cache["hit_rate"] is not None:
        yield Text(f"{units.percent(result.kv_cache['hit_rate'])} of prompt tokens found in it")
    yield Text(f"{result.preemptions:,} preemptions", style="red" if result.preemptions else "")
