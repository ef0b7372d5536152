"""What was fitted to a user's log: constants with their errors, and how well held-out parts are predicted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from windtunnel.report import units
from windtunnel.report.bars import grid
from windtunnel.report.sections import notes, section

SHOWN = ("before", "after", "held_out")


def render_log_calibration(found: Mapping[str, Any]) -> RenderableType:
    """``found``: the JSON object of :class:`windtunnel.calibration.logs.LogCalibration`."""
    runs = f"{found['used']:,} of {found['runs']:,} runs" if found["runs"] > 1 else "1 run"
    head = Text.assemble((found["engine"], "bold"), " fitted on ", (found["log"], "bold"))
    return Group(
        head,
        Text(f"{found['kind']}, {runs}", style="dim"),
        section("Constants", _constants(found["constants"])),
        section(f"Error on the log, median / p90 ({found['folds']} parts held out in turn)", _errors(found["errors"])),
        *notes(found["warnings"]),
    )


def _constants(constants: Any) -> RenderableType:
    table = grid("left", "right", "right", "left")
    table.add_row(*(Text(t, style="dim") for t in ("", "before", "fitted", "how sure")))
    for c in constants:
        if c["kept"]:
            fitted, sure = Text("kept", style="dim"), Text("the log does not identify it", style="dim")
        else:
            fitted = Text(units.number(c["value"]), style="bold cyan")
            sure = Text(f"± {units.number(c['standard_error'], 2)}" + (", at its bound" if c["at_bound"] else ""))
        table.add_row(c["name"], units.number(c["shipped"]), fitted, sure)
    return table


def _errors(errors: Any) -> RenderableType:
    table = grid("left", "right", "right", "right", "right")
    table.add_row(*(Text(t, style="dim") for t in ("", "figures", "before", "fitted", "held out")))
    for e in errors:
        cells = [
            units.MISSING if e[k] is None else f"{units.percent(e[k]['median'])} / {units.percent(e[k]['p90'])}"
            for k in SHOWN
        ]
        table.add_row(e["metric"], str(e["observations"]), *cells)
    return table
