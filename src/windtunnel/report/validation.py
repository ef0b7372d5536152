"""Measured against predicted, a line a data set and metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from windtunnel.report import units
from windtunnel.report.words import metric_name

FEW = 6
"""Metrics of a set up to which more than one row of each is named."""


def render_validation(found: Mapping[str, Any], *, worst: int = 3) -> RenderableType:
    """The JSON object of ``validate`` as a table, with the ``worst`` rows of each metric below it."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for title, justify in (
        ("data set", "left"), ("metric", "left"), ("rows", "right"), ("median", "right"), ("p90", "right"),
        ("bias", "right"), ("in 80 %\ninterval", "right"), ("width", "right"),
    ):  # fmt: skip
        table.add_column(title, justify=justify, no_wrap=title != "metric", overflow="fold")  # type: ignore[arg-type]
    for entry in found["datasets"]:
        _lines(table, entry)
    blocks: list[RenderableType] = [table]
    for entry in found["datasets"]:
        blocks += _details(entry, worst)
    absent = next((e["note"] for e in found["datasets"] if not e["available"]), None)
    if absent is not None:
        blocks += [Text(""), Text(absent[:1].upper() + absent[1:])]
    return Group(*blocks)


def _lines(table: Table, entry: Mapping[str, Any]) -> None:
    name = Text(entry["name"], style="bold")
    if not entry["metrics"]:
        table.add_row(name, Text("not available" if not entry["available"] else "no answers", style="dim"))
    for metric, s in entry["metrics"].items():
        width = "" if s["width"] is None else f"x {s['width']:.2f}"
        table.add_row(
            name, metric_name(metric), f"{s['rows']:,}", units.percent(s["median_ape"]), units.percent(s["p90_ape"]),
            f"{100 * s['bias']:+.1f} %", units.percent(s["coverage"]) if s["coverage"] is not None else "", width,
        )  # fmt: skip
        name = Text("")


def _details(entry: Mapping[str, Any], worst: int) -> list[RenderableType]:
    lines: list[RenderableType] = []
    if not entry["available"]:
        return lines
    if len(entry["metrics"]) > FEW:
        worst = 1
    for metric, s in entry["metrics"].items():
        for row in s["worst"][:worst]:
            why = f" ({row['remark']})" if row["remark"] else ""
            lines.append(Text(f"  {metric_name(metric)} {100 * row['error']:+.0f} %: {row['label']}{why}", style="dim"))
    fits = entry["fits"]
    if fits is not None:
        wrong = f"{fits['false_no']} of {fits['ran']:,} runs said not to fit"
        if fits["failed"]:
            wrong += f", {fits['false_yes']} of {fits['failed']:,} that ran out of memory said to fit"
        lines.append(Text(f"  memory: {wrong}"))
    refused = entry["refused"]
    if refused:
        lines.append(Text(f"  {len(refused)} without an answer, such as {refused[0]['label']}: {refused[0]['why']}"))
    if entry["left_out"]:
        lines.append(Text(f"  {entry['left_out']} rows need the data folder (--data)"))
    if entry["note"]:
        lines.append(Text(f"  {entry['note']}", style="dim"))
    return [Text(""), Text(f"{entry['name']}: {entry['title']}", style="bold"), *lines] if lines else []
