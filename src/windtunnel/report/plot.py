"""A sweep of training steps or served batches as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from windtunnel.errors import ScenarioError
from windtunnel.report import units
from windtunnel.report.figure import Table, check_plot, save_figure
from windtunnel.report.table import Point
from windtunnel.scenario.results import TrainResult

MOST_TICKS = 12

_TRAIN = (("tokens_per_second_per_gpu", "tokens/s per GPU", 1.0), ("step_time_s", "step time (s)", 1.0))
_INFER = (
    ("output_tokens_per_second_per_gpu", "output tokens/s per GPU", 1.0),
    ("tpot_s", "time per output token (ms)", 1e3),
)


def plot_sweep(points: Sequence[Point], path: str | Path) -> None:
    """Draw throughput and latency over the first swept option, one line for each value of the others.

    A plan that does not fit is an empty circle, off its line; a point without an answer is left out. Raises:
        ScenarioError: matplotlib is missing, the suffix is unknown, no point has an answer, or the file cannot be
            written.
    """
    check_plot(path)
    from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]

    result = next((p.result for p in points if p.result is not None), None)
    if result is None:
        raise ScenarioError(f"--plot: none of the {len(points)} points of the sweep is right; there is nothing to draw")
    x_name = next(iter(points[0].values))
    metrics = _TRAIN if isinstance(result, TrainResult) else _INFER
    # The words of an axis stand in the order in which they were swept.
    names = list(dict.fromkeys(str(p.values[x_name]) for p in points))
    numeric = all(isinstance(p.values[x_name], int | float) for p in points)
    figure = Figure(figsize=(9.0, 4.0), layout="constrained")
    axes = figure.subplots(1, len(metrics))

    def place(p: Point) -> Any:
        return p.values[x_name] if numeric else names.index(str(p.values[x_name]))

    for axis, (metric, label, factor) in zip(axes, metrics, strict=True):
        highest = 0.0
        for number, (title, line) in enumerate(lines(points, x_name).items()):
            drawn = [
                (p.works, place(p), factor * y) for p in line if (y := getattr(p.result, metric, None)) is not None
            ]
            style = {"marker": "o", "color": f"C{number}"}
            fitting = [(x, y) for works, x, y in drawn if works]
            axis.plot([x for x, _ in fitting], [y for _, y in fitting], label=title, **style)
            for works, x, y in drawn:
                if not works:
                    axis.plot(x, y, fillstyle="none", **style)
                highest = max(highest, y)
        axis.set_xlabel(x_name)
        axis.set_ylabel(label)
        axis.set_ylim(0, 1.08 * highest or 1)
        axis.grid(alpha=0.3)
        if not numeric:
            axis.set_xticks(range(len(names)), names)
            continue
        ticks = sorted({p.values[x_name] for p in points})
        if ticks[0] > 0 and ticks[-1] >= 8 * ticks[0]:
            axis.set_xscale("log", base=2)
        if len(ticks) <= MOST_TICKS:
            axis.set_xticks(ticks, [f"{t:g}" for t in ticks], minor=False)
    if any(p.result is not None and not p.works for p in points):
        axes[0].plot([], [], "o", color="grey", fillstyle="none", label="does not fit")
    handles, labels = axes[0].get_legend_handles_labels()  # less the empty title of a line on its own
    if labels:
        axes[0].legend(handles, labels, fontsize="small")
    title = f"{result.model} on {result.on}" if "on" not in points[0].values else result.model
    figure.suptitle(title, fontsize="medium")
    head = (*points[0].values, *(label for _, label, _ in metrics), "")
    save_figure(figure, path, Table(title, head, [_row(p, metrics) for p in points]))


def _row(p: Point, metrics: Sequence[tuple[str, str, float]]) -> tuple[str, ...]:
    values = ((getattr(p.result, metric, None), factor) for metric, _, factor in metrics)
    figures = (units.MISSING if v is None else units.number(factor * v) for v, factor in values)
    return (*map(str, p.values.values()), *figures, p.error or "")


def lines(points: Sequence[Point], x_name: str) -> dict[str, list[Point]]:
    """Points by the values of the other swept options, each line in order of ``x_name`` where that is a number."""
    found: dict[str, list[Point]] = {}
    for p in points:
        title = " ".join(f"{k}={v}" for k, v in p.values.items() if k != x_name)
        found.setdefault(title, []).append(p)
    for line in found.values():
        if all(isinstance(p.values[x_name], int | float) for p in line):
            line.sort(key=lambda p: p.values[x_name])
    return found
