"""What is special to plans of a service: figures against limits, and how latency rises with throughput."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from windtunnel.report import units
from windtunnel.report.bars import bar, grid
from windtunnel.report.plan_figures import LATENCIES, MOST_RATE, OUTPUT, RATE, Plan, at_percentile, limits
from windtunnel.report.plan_words import curves
from windtunnel.report.sections import band, per_million, section
from windtunnel.report.simulation import slo_text
from windtunnel.scenario.options import Options
from windtunnel.scenario.plans import PlanResult

MOST_POINTS = 6
"""Of a plan's curve in the table; JSON has all."""


def serve_figures(plan: Plan, options: Options) -> tuple[list[str], list[str]]:
    """What matters most of a service, and what also matters."""
    latencies = [at_percentile(metric, options) for metric in ("ttft_s", "tpot_s")]
    used = plan["accelerators"]
    first = [
        per_million(plan.get("cost_usd_per_million_tokens")),
        "price unknown" if plan.get("cost_usd_per_hour") is None else f"{units.dollars(plan['cost_usd_per_hour'])}/h",
        f"{used:,} accelerator{'' if used == 1 else 's'}",
        *(f"{f.title} {f.text(plan)}" for f in latencies if f.of(plan) is not None),
    ]
    more = [
        f"{units.number(plan.get('requests_per_second'))} requests/s",
        *([] if MOST_RATE.of(plan) is None else [f"up to {MOST_RATE.text(plan)} within the limits"]),
        f"{units.number(plan.get('output_tokens_per_second'))} output tokens/s",
        f"{units.number(plan.get('output_tokens_per_second_per_gpu'))} a GPU",
        f"{units.energy(plan.get('energy_j_per_token'))} an output token",
        *(
            text.replace("80 %: ", "80 %: mean ")
            for metric in ("ttft_s", "tpot_s")
            for text in band(plan.get("interval"), metric)
        ),
    ]
    return first, more


def limits_table(plan: Plan, options: Options) -> list[RenderableType]:
    """The latencies that are limited, against their limits."""
    slo = limits(options)
    if not slo:
        return []
    table = grid("left", "right", "left", "right", "left")
    for metric, limit in slo.items():
        figure = at_percentile(metric, options)
        value = figure.of(plan)
        if value is None:
            continue
        style = "green" if value <= limit else "red"
        used = value / limit
        table.add_row(
            figure.title, figure.shown(value), f"of {units.seconds(limit)}", units.percent(used), bar(used, style)
        )
    lines: list[RenderableType] = [table, *(Text(said, style="yellow") for said in _close(plan, slo, options))]
    met = plan.get("slo_attainment")
    if met is not None:
        lines.append(Text(f"{units.percent(met)} of the requests meet {slo_text(slo)}", style="dim"))
    return [section("Limits", Group(*lines))]


def _close(plan: Plan, slo: Mapping[str, float], options: Options) -> Iterable[str]:
    """Limits that are met by less than predictions are off."""
    for metric, limit in slo.items():
        figure, mean = at_percentile(metric, options), (plan.get(metric) or {}).get("mean")
        high = ((plan.get("interval") or {}).get(metric) or {}).get("high")
        value = figure.of(plan)
        if value is None or not mean or high is None:
            continue
        late = value * high / mean
        if value <= limit < late:
            shown = f"{figure.shown(late)} at the upper end of the prediction's 80 % interval"
            yield f"{figure.title} meets its limit by less than the prediction may be off: {shown}"


def frontier_table(result: PlanResult, options: Options) -> list[RenderableType]:
    """The best plan's latencies as the rate rises."""
    found = curves(result)
    if not found:
        return []
    name, points = found[0]
    # Here latencies are those at the percentile already.
    latencies = [replace(at_percentile(metric, options), path=metric) for metric in LATENCIES]
    shown = [RATE, OUTPUT, *latencies]
    table = grid(*("right",) * len(shown), "left")
    table.add_row(*(Text(f.title, style="dim") for f in shown), "")
    for point in _telling(points):
        within = Text("") if point["meets"] else Text("misses the limits", style="red")
        table.add_row(*(f.text(point) for f in shown), within)
    return [section(f"Latency of {name} as the rate rises", table)]


def _telling(points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """At most some :data:`MOST_POINTS`, evenly spaced, and those where the limits begin to be missed."""
    step = max(1, -(-len(points) // MOST_POINTS))
    turns = {i for i in range(len(points) - 1) if points[i]["meets"] != points[i + 1]["meets"]}
    shown = {*range(0, len(points), step), *turns, *(i + 1 for i in turns), len(points) - 1}
    return [p for i, p in enumerate(points) if i in shown]
