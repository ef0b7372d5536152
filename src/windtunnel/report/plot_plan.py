"""What a search found as a picture: step time against memory left, or latency against throughput."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from windtunnel.errors import ScenarioError
from windtunnel.report import units
from windtunnel.report.figure import Table, check_plot, save_figure
from windtunnel.report.plan_figures import Plan, at_percentile, figures, limits, trade_offs
from windtunnel.report.plan_words import BEST, curves, differences, named
from windtunnel.report.plot_simulation import COLOURS, SLO
from windtunnel.scenario.options import Options
from windtunnel.scenario.plans import PlanResult

GIB = 2.0**30
FAR = 3
"""The ratio of step times from which on their axis is logarithmic."""

MOST_CURVES = 5
LINE = 110
"""Letters of a line of the legend."""


def plot_plans(result: PlanResult, path: str | Path, options: Options) -> None:
    """Training: the Pareto front of step time and memory left, the best plan marked. Serving: latencies (at
    the percentile asked for) against throughput of the best plans, with their limits.

    Raises:
        ScenarioError: matplotlib is missing, the suffix is unknown, no plan is feasible, or the file cannot be written.
    """
    check_plot(path)
    if not result.best:
        raise ScenarioError("--plot: no plan is feasible; there is nothing to draw")
    title = f"{result.model} on {', '.join(result.on)}"
    figure = _front(result, title) if result.question == "train" else _latencies(result, title, options)
    shown = figures(result, options)
    best = result.best[0]
    every = [*result.best, *(p for p in result.pareto if p["plan"] not in [b["plan"] for b in result.best])]
    rows = [(" ".join(differences(p, best)) or BEST, *(f.text(p) for f in shown)) for p in every]
    save_figure(figure, path, Table(title, ("what differs", *(f.title for f in shown)), rows))


def _front(result: PlanResult, title: str) -> Any:
    from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]
    from matplotlib.lines import Line2D  # type: ignore[import-not-found,unused-ignore]

    best, pareto = result.best[0], sorted(result.pareto, key=lambda p: float(p["step_time_s"]))
    figure = Figure(figsize=(9.0, 7.0), layout="constrained")
    axis = figure.subplots()
    priced = [p.get("cost_usd_per_million_tokens") for p in pareto]
    coloured = None not in priced and len({f"{c:.3g}" for c in priced}) > 1
    colour: dict[str, Any] = {"c": priced, "cmap": "viridis_r"} if coloured else {"color": COLOURS[0]}
    points = axis.scatter(*_places(pareto), s=22, zorder=3, label="no plan is better in every respect", **colour)
    if coloured:
        figure.colorbar(points, ax=axis, label="$ per million tokens")
    others = [p for p in result.best[1:] if p["plan"] not in [q["plan"] for q in pareto]]
    if others:
        axis.scatter(*_places(others), s=30, marker="x", color="grey", zorder=2, label="runners-up")
    (x,), (y,) = _places([best])
    axis.scatter([x], [y], s=190, marker="*", color=COLOURS[1], edgecolor="white", zorder=4, label=_line(result))
    if result.runnable is not None:
        axis.scatter(*_places([result.runnable]), s=50, marker="D", color=COLOURS[2], edgecolor="white", zorder=4,
                     label=f"with the framework's own schedules: {named(result.runnable, result)}")  # fmt: skip
    handles, labels = axis.get_legend_handles_labels()
    for number, plan in enumerate([p for p in trade_offs(pareto) if differences(p, best)], start=1):
        (x,), (y,) = _places([plan])
        axis.annotate(str(number), (x, y), xytext=(5, 4), textcoords="offset points", fontsize="small")
        handles.append(Line2D([], [], linestyle="none"))
        labels.append(f"{number}: {' '.join(differences(plan, best))}")
    axis.set_xlabel("memory left on a GPU (GiB)")
    axis.set_ylabel("step time (s)")
    axis.grid(alpha=0.3, which="both")
    axis.margins(0.08, 0.1)
    if pareto[-1]["step_time_s"] > FAR * pareto[0]["step_time_s"]:
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("{x:g}")
    figure.legend(handles, labels, loc="outside lower left", fontsize="small", frameon=False, handlelength=1.0)
    figure.suptitle(title, fontsize="medium")
    return figure


def _line(result: PlanResult) -> str:
    return fill(f"{BEST}: {named(result.best[0], result)}", LINE)


def _places(plans: Sequence[Plan]) -> tuple[list[float], list[float]]:
    return [p["head_room_bytes"] / GIB for p in plans], [float(p["step_time_s"]) for p in plans]


def _latencies(result: PlanResult, title: str, options: Options) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 5.0), layout="constrained")
    slo = limits(options)
    metrics = [m for m in ("ttft_s", "tpot_s", "e2e_s") if m in slo] or ["ttft_s", "tpot_s"]
    axes = figure.subplots(1, len(metrics), squeeze=False)[0]
    lines = curves(result)[:MOST_CURVES]
    for axis, metric in zip(axes, metrics, strict=True):
        shown = at_percentile(metric, options)
        limit = slo.get(metric)
        values = [v for _, points in lines for p in points if (v := p[metric]) is not None]
        values += [v for p in result.best[:1] if (v := shown.of(p)) is not None]
        factor, unit = (1e3, "ms") if max([*values, limit or 0.0], default=1.0) < 1 else (1.0, "s")
        for number, (name, points) in enumerate(lines):
            along = [(p["output_tokens_per_second"], factor * v) for p in points if (v := p[metric]) is not None]
            style = {"color": COLOURS[number % len(COLOURS)], "zorder": 3 if number == 0 else 2}
            axis.plot([x for x, _ in along], [y for _, y in along], "o-", markersize=4, label=name, **style)
        best = result.best[0]
        if (value := shown.of(best)) is not None:
            axis.scatter([best["output_tokens_per_second"]], [factor * value], s=170, marker="*", color=COLOURS[0],
                         edgecolor="black", zorder=4, label=_line(result))  # fmt: skip
        if limit is not None:
            axis.axhline(factor * limit, color=SLO, linestyle="--", linewidth=1)
            box = {"fc": "white", "ec": "none", "alpha": 0.8, "pad": 0.5}
            axis.text(0.02, factor * limit, f"limit {units.seconds(limit)}", color=SLO, fontsize="small", bbox=box,
                      va="center", transform=axis.get_yaxis_transform())  # fmt: skip
            # Far beyond the limit, a service that is too full says nothing more.
            axis.set_ylim(0, min(3 * factor * limit, 1.1 * factor * max([*values, limit])))
        axis.set_xlim(left=0)
        axis.set_xlabel("output tokens/s")
        axis.set_ylabel(f"{shown.title} ({unit})")
        axis.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", frameon=False, fontsize="small")
    figure.suptitle(title, fontsize="medium")
    return figure
