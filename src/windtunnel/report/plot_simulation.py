"""Simulations as pictures: one run, a sweep of the request rate, variants side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.errors import ScenarioError
from windtunnel.report import units
from windtunnel.report.figure import Table, check_plot, save_figure
from windtunnel.report.plot import lines
from windtunnel.report.side_by_side import ROWS
from windtunnel.report.simulation import LATENCIES, SHOWN, slo_text
from windtunnel.report.table import Point
from windtunnel.scenario.simulation import SimulateResult
from windtunnel.serving.latency import request_latency_s

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d31")
"""Told apart by everybody (Okabe and Ito, Color Universal Design, 2008), the yellow replaced."""

SLO = "#b00020"
STEPS = 500
"""Points of a distribution's curve."""

FAR = 3
"""A limit so many times above all values would leave no room for them."""

WIDE = 30
"""The ratio of values from which on an axis is logarithmic."""

Curves = Mapping[str, Sequence[float]]
Value = Callable[[SimulateResult], float | None]


def plot_run(result: SimulateResult, path: str | Path) -> None:
    """TTFT and TPOT of the completed requests as distributions, and the service over time.

    Raises:
        ScenarioError: matplotlib is missing, the suffix is unknown, nothing was completed, or the file cannot be
            written.
    """
    check_plot(path)
    from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]

    if not result.completed:
        raise ScenarioError("--plot: no request was completed; there is nothing to draw")
    figure = Figure(figsize=(10.0, 8.5), layout="constrained")
    layout: Any = [["ttft_s", "tpot_s"], ["requests", "requests"], ["kv", "kv"], ["rate", "rate"]]
    axes = figure.subplot_mosaic(layout, height_ratios=[2.4, 1.2, 0.9, 0.9])
    for metric in ("ttft_s", "tpot_s"):
        _distribution(axes[metric], metric, {"": result})
    time, series = result.series["t_s"], result.series
    axes["requests"].plot(time, series["running"], color=COLOURS[0], label="running")
    axes["requests"].plot(time, series["waiting"], color=COLOURS[1], label="waiting")
    axes["requests"].legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    axes["kv"].fill_between(time, [100 * f for f in series["kv_fraction"]], color=COLOURS[2], alpha=0.5, linewidth=0)
    axes["rate"].plot(time, series["output_tokens_per_second"], color=COLOURS[3])
    labels = {"requests": "requests", "kv": "KV cache\nused (%)", "rate": "output\ntokens/s"}
    for name, label in labels.items():
        axes[name].set_ylabel(label)
        axes[name].set_xlim(0, time[-1] if time else 1)
        axes[name].set_ylim(0, 100 if name == "kv" else None)
        axes[name].grid(alpha=0.3)
        axes[name].tick_params(labelbottom=name == "rate")
    axes["rate"].set_xlabel("time (s)")
    title = _title(result)
    figure.suptitle(title, fontsize="medium")
    rows = [(name, *(units.seconds(getattr(result, m)[s]) for s in SHOWN)) for m, name in LATENCIES.items()]
    rows += [(row.name, row.shown(row.value(result)), *[""] * (len(SHOWN) - 1)) for row in _scalars()]
    save_figure(figure, path, Table(title, ("", *SHOWN), rows))


def plot_variants(key: str, runs: Sequence[tuple[Any, SimulateResult]], path: str | Path) -> None:
    """Distributions of the variants' latencies over each other, and their throughput. Raises: as :func:`plot_run`."""
    check_plot(path)
    from matplotlib.figure import Figure

    results = {f"{key}={value}": r for value, r in runs if r.completed}
    if not results:
        raise ScenarioError("--plot: no request was completed; there is nothing to draw")
    figure = Figure(figsize=(10.0, 7.0), layout="constrained")
    axes = figure.subplots(2, 2).flat
    for axis, metric in zip(axes, ("ttft_s", "tpot_s", "e2e_s"), strict=False):
        _distribution(axis, metric, results)
    bars, places = axes[3], range(len(results))
    bars.barh(places, [r.output_tokens_per_second for r in results.values()], color=[*_colours(len(results))])
    for place, r in zip(places, results.values(), strict=True):
        attained = f", {units.percent(r.slo_attainment)} within limits" if r.slo else ""
        text = f" {units.number(r.output_tokens_per_second)}{attained}"
        bars.text(0, place, text, va="center", fontsize="small", bbox={"fc": "white", "ec": "none", "alpha": 0.7})
    bars.set_yticks(places, [""] * len(results))
    bars.invert_yaxis()
    bars.set_xlabel("output tokens/s")
    bars.grid(alpha=0.3, axis="x")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    title = _title(next(iter(results.values())))
    figure.suptitle(title, fontsize="medium")
    rows = [(row.name, *(row.shown(row.value(r)) for r in results.values())) for row in ROWS]
    save_figure(figure, path, Table(title, ("", *results), rows))


def plot_rates(points: Sequence[Point], path: str | Path) -> None:
    """Latency and goodput over the first swept option, and latency over the throughput that it gives; one colour for
    each value of the others. Raises: as :func:`plot_run`.
    """
    check_plot(path)
    from matplotlib.figure import Figure

    drawn = [p for p in points if isinstance(p.result, SimulateResult) and p.works and p.result.completed]
    if not drawn:
        raise ScenarioError(f"--plot: none of the {len(points)} points completed a request; there is nothing to draw")
    x_name, first = next(iter(points[0].values)), _simulated(drawn[0])
    names = list(dict.fromkeys(_word(p.values[x_name]) for p in drawn))
    numeric = all(_is_number(p.values[x_name]) for p in drawn)
    figure = Figure(figsize=(13.0, 7.0), layout="constrained")
    axes = figure.subplots(2, 3)

    def place(p: Point) -> float:
        return float(p.values[x_name]) if numeric else float(names.index(_word(p.values[x_name])))

    def throughput(p: Point) -> float:
        return _simulated(p).output_tokens_per_second

    label = "request rate (requests/s)" if x_name == "rate" else x_name.replace("_", "-")
    groups = lines(drawn, x_name)
    for column, metric in enumerate(("ttft_s", "tpot_s")):
        _latency_lines(axes[0, column], metric, groups, place, first.slo.get(metric))
        _latency_lines(axes[1, column], metric, groups, throughput, first.slo.get(metric))
        axes[1, column].set_xlabel("output tokens/s")
    right: list[tuple[str, Value]] = [
        ("goodput (requests/s within limits)", lambda r: r.goodput_requests_per_second),
        ("SLO attainment (%)", lambda r: None if r.slo_attainment is None else 100 * r.slo_attainment),
    ]
    if not first.slo:
        right = [
            ("completed requests/s", lambda r: r.requests_per_second),
            ("output tokens/s", lambda r: r.output_tokens_per_second),
        ]
    for row, (name, value) in enumerate(right):
        _lines_of(axes[row, 2], groups, place, value, name)
    if first.slo:
        axes[1, 2].set_ylim(0, 105)
    if numeric and x_name == "rate":
        ends = [place(p) for p in drawn]
        axes[0, 2].plot([0, max(ends)], [0, max(ends)], ":", color="grey", label="as many as arrive")
        axes[0, 2].legend(fontsize="small", frameon=False)
    for axis in (axes[0, 0], axes[0, 1], axes[0, 2], axes[1, 2]):
        axis.set_xlabel(label)
        if not numeric:
            axis.set_xticks(range(len(names)), names)
    handles, said = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, said, loc="outside lower center", ncols=4, frameon=False)
    title = _title(first, full=False) + (f", limits {slo_text(first.slo)}" if first.slo else "")
    figure.suptitle(title, fontsize="medium")
    rows = [(*map(_word, p.values.values()), *(row.shown(row.value(_simulated(p))) for row in ROWS)) for p in drawn]
    save_figure(figure, path, Table(title, (*points[0].values, *(row.name for row in ROWS)), rows))


def _distribution(axis: Any, metric: str, results: Mapping[str, SimulateResult]) -> None:
    """The cumulative distribution of a latency in each of the results, and the limit that it should keep."""
    curves = {}
    for name, result in results.items():
        values = request_latency_s(result.outcome, result.workload, metric)
        values = values[np.isfinite(values)]
        if values.size:
            curves[name] = np.quantile(values, np.linspace(0, 1, STEPS))
    if not curves:
        axis.set_axis_off()
        axis.text(0.5, 0.5, f"no {LATENCIES[metric]}: every output is one token", ha="center")
        return
    one = next(iter(results.values()))
    limit = one.slo.get(metric)
    highest = max(float(c[-1]) for c in curves.values())
    factor, unit = (1e3, "ms") if highest < 1 else (1.0, "s")
    for (name, curve), colour in zip(curves.items(), _colours(len(curves)), strict=False):
        axis.plot(factor * curve, np.linspace(0, 100, STEPS), color=colour, label=name or None)
    lowest = min(float(c[STEPS // 10]) for c in curves.values())
    if lowest > 0 and highest > WIDE * lowest:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
    else:
        axis.set_xlim(left=0)
    if limit is not None:
        _limit(axis, "x", factor * limit, factor * highest, units.seconds(limit))
    if len(results) == 1:
        found = getattr(one, metric)
        axis.set_title(f"p50 {units.seconds(found['p50'])}, p99 {units.seconds(found['p99'])}", fontsize="medium")
    axis.set_xlabel(f"{_WORDS[metric]} ({unit})")
    axis.set_ylabel("requests (%)")
    axis.set_ylim(0, 101)
    axis.grid(alpha=0.3)


_WORDS = {
    "ttft_s": "time to first token",
    "tpot_s": "time per output token",
    "e2e_s": "end-to-end latency",
}  # fmt: skip


def _latency_lines(
    axis: Any, metric: str, groups: Mapping[str, Sequence[Point]], x: Callable[[Point], float], limit: float | None
) -> None:
    """p50 (solid) and p99 (dashed) of each group over ``x``, and the limit."""
    every = [getattr(_simulated(p), metric) for g in groups.values() for p in g]
    values = [v for found in every for v in (found["p50"], found["p99"]) if v]
    factor, unit = (1e3, "ms") if max(values, default=0.0) < 1 else (1.0, "s")
    for (name, group), colour in zip(groups.items(), _colours(len(groups)), strict=False):
        for statistic, style in (("p50", "o-"), ("p99", "s--")):
            along = [(x(p), getattr(_simulated(p), metric)[statistic]) for p in group]
            known = [(a, factor * b) for a, b in along if b is not None]
            said = f"{name} {statistic}".strip()
            axis.plot(*_columns(known), style, color=colour, label=said, markersize=4)
    if values and max(values) > WIDE * min(values):
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
    else:
        axis.set_ylim(bottom=0)
    if limit is not None and values:
        _limit(axis, "y", factor * limit, factor * max(values), units.seconds(limit))
    axis.set_ylabel(f"{LATENCIES[metric]} ({unit})")
    axis.grid(alpha=0.3)


def _limit(axis: Any, along: str, limit: float, highest: float, shown: str) -> None:
    """A line at a limit, and its value; one far beyond the ``highest`` value is told in the corner alone."""
    if limit > FAR * highest:
        arrow = "→" if along == "x" else "↑"
        axis.text(0.98, 0.97 if along == "y" else 0.04, f"limit {shown} {arrow}", transform=axis.transAxes, color=SLO,
                  fontsize="small", ha="right", va="top" if along == "y" else "bottom")  # fmt: skip
        return
    right = 1.04 * max(limit, highest)
    if along == "x":
        axis.set_xlim(right=max(axis.get_xlim()[1], right))
        axis.axvline(limit, color=SLO, linestyle="--", linewidth=1)
        place = {"x": limit, "y": 0.03, "transform": axis.get_xaxis_transform(), "rotation": 90, "va": "bottom"}
    else:
        axis.set_ylim(top=max(axis.get_ylim()[1], right))
        axis.axhline(limit, color=SLO, linestyle="--", linewidth=1)
        place = {"x": 0.02, "y": limit, "transform": axis.get_yaxis_transform(), "va": "center"}
    box = {"fc": "white", "ec": "none", "alpha": 0.8, "pad": 0.5}
    axis.text(
        **place, s=f"limit {shown}", color=SLO, fontsize="small", bbox=box, ha="left" if along == "y" else "right"
    )


def _lines_of(
    axis: Any, groups: Mapping[str, Sequence[Point]], x: Callable[[Point], float], value: Value, label: str
) -> None:
    for group, colour in zip(groups.values(), _colours(len(groups)), strict=False):
        along = [(x(p), v) for p in group if (v := value(_simulated(p))) is not None]
        axis.plot(*_columns(along), "o-", color=colour, markersize=4)
    axis.set_ylabel(label)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)


def _columns(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [a for a, _ in pairs], [b for _, b in pairs]


def _colours(count: int) -> Iterable[str]:
    return (COLOURS[i % len(COLOURS)] for i in range(count))


def _scalars() -> list[Any]:
    names = tuple(LATENCIES.values())
    return [row for row in ROWS if not row.name.startswith(names)]


def _simulated(p: Point) -> SimulateResult:
    assert isinstance(p.result, SimulateResult)
    return p.result


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _title(result: SimulateResult, full: bool = True) -> str:
    where = f"{result.model} on {result.on}"
    return f"{where}: {result.completed:,} of {result.requests:,} requests completed" if full else where
