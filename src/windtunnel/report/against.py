"""A profiler's trace beside the prediction, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from windtunnel.report import units

SHOWN = 12
"""Rows of a long table; all of them are in the JSON."""

_STEP = (
    ("step_s", "step"), ("busy_s", "device busy"), ("idle_s", "device idle"),
    ("exposed_comm_s", "exposed communication"),
    ("host_s", "  waiting for the host"), ("bubble_s", "  pipeline bubble"),
)  # fmt: skip


def render_against(found: Mapping[str, Any], title: str = "") -> RenderableType:
    """The JSON object of ``explain --against`` for people; ``title``: what was predicted."""
    step = found["step"]
    blocks: list[RenderableType] = [Text(title, style="bold")] if title else []
    blocks += [Text(_recorded(step)), Text(""), _whole(step), Text(""), _kinds(found)]
    if found["gemms"]:
        blocks += [Text(""), _gemms(found["gemms"])]
        more = len(found["gemms"]) - SHOWN
        blocks += [Text(f"{more} more shapes are in the JSON", style="dim")] if more > 0 else []
    if found["other"]:
        blocks += [Text(""), _other(found["other"])]
    notes = ["Times are of one rank's step. p/m: predicted over measured; difference: predicted less measured."]
    if found["gemms"]:
        notes.append("Products [m, k] x [k, n]: times of one. Shapes that the plan does not have are priced, too.")
    blocks += [Text(""), *(Text(n, style="dim") for n in notes)]
    blocks += [Text(f"note: {' '.join(w.split())}") for w in found["warnings"]]
    return Group(*blocks)


def _recorded(step: Mapping[str, Any]) -> str:
    n, dropped = step["steps"], step["dropped_steps"]
    text = f"measured: the mean of {n} steps" if n > 1 else "measured: one step"
    if dropped:
        text += ", without the first"
    if step["device"]:
        text += f", on {step['device']}"
    return text + (f", rank {step['rank']}" if step["rank"] is not None else "")


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for i, title in enumerate(columns):
        table.add_column(title, justify="right" if i else "left", no_wrap=True)
    return table


def _whole(step: Mapping[str, Any]) -> Table:
    table = _table("", "measured", "predicted", "p/m", "difference")
    measured, predicted = step["measured"], step["predicted"]
    for key, name in _STEP:
        m, p = measured.get(key), predicted[key]
        if m is None:
            if p:
                table.add_row(Text(name, style="dim"), "", units.seconds(p), "", "")
            continue
        table.add_row(name, units.seconds(m), units.seconds(p), _ratio(p / m if m and p else None), _signed(p - m))
    return table


def _kinds(found: Mapping[str, Any]) -> Table:
    table = _table("kind", "measured", "kernels", "predicted", "kernels", "p/m", "difference")
    for row in found["kinds"]:
        table.add_row(
            row["kind"], _seconds(row["measured_s"]), _count(row["measured_kernels"]), _seconds(row["predicted_s"]),
            _count(row["predicted_kernels"]), _ratio(row["ratio"]), _signed(row["difference_s"]),
        )  # fmt: skip
    table.add_section()
    groups = {row["group"] for row in found["kinds"]}
    for row in found["groups"]:
        if len([k for k in found["kinds"] if k["group"] == row["group"]]) > 1 and len(groups) > 1:
            table.add_row(f"all {row['group']}", *_sum(row), style="dim")
    totals = {key: sum(row[key] for row in found["kinds"]) for key in ("measured_s", "predicted_s")}
    table.add_row("all", *_sum(totals), style="bold")
    return table


def _sum(row: Mapping[str, Any]) -> tuple[str, ...]:
    m, p = row["measured_s"], row["predicted_s"]
    return _seconds(m), "", _seconds(p), "", _ratio(p / m if m and p else None), _signed(p - m)


def _gemms(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("m", "n", "k", "runs", "measured", "in plan", "predicted", "p/m", "operators")
    table.columns[0].justify = "right"
    table.columns[-1].justify, table.columns[-1].no_wrap = "left", False
    for row in rows[:SHOWN]:
        planned = row["predicted_runs"] > 0
        table.add_row(
            *(f"{row[d]:,}" for d in "mnk"), _count(row["measured_runs"]), _seconds(row["measured_each_s"]),
            _count(row["predicted_runs"]), _seconds(row["predicted_each_s"]), _ratio(row["ratio"]),
            ", ".join(row["operators"]), style="" if planned and row["measured_runs"] else "dim",
        )  # fmt: skip
    return table


def _other(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("other", "measured", "kernels")
    table.columns[0].no_wrap, table.columns[0].overflow = True, "ellipsis"
    table.columns[0].max_width = 70
    for row in rows[:SHOWN]:
        table.add_row(Text(row["name"]), _seconds(row["seconds"]), _count(row["kernels"]))
    if len(rows) > SHOWN:
        left = rows[SHOWN:]
        table.add_row(f"{len(left)} others", _seconds(sum(r["seconds"] for r in left)), "")
    return table


def _seconds(value: float | None) -> str:
    return units.seconds(value) if value else ""


def _count(value: float) -> str:
    if not value:
        return ""
    return f"{value:,.0f}" if abs(value - round(value)) < 1e-6 * value else f"{value:,.1f}"


def _ratio(value: float | None) -> str:
    return "" if value is None else units.number(value)


def _signed(value: float) -> str:
    return ("+" if value > 0 else "-" if value < 0 else "") + units.seconds(abs(value))
