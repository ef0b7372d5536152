"""Published against predicted, a line a claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from windtunnel.report import units

_STYLES = {"reproduced": "green", "direction": "yellow", "missed": "red"}


def render_list(every: Sequence[Mapping[str, Any]]) -> RenderableType:
    """One line a study."""
    table = _table(("study", "left"), ("paper", "left"), ("published", "right"))
    table.add_column("metric", overflow="fold")
    for s in every:
        table.add_row(s["name"], s["seed"], figure(s["published"]), s["metric"])
    note = f"{len(every)} studies: windtunnel study run NAME, or --all"
    return Group(table, Text(""), Text(note, style="dim"))


def render_studies(found: Mapping[str, Any], *, details: bool = False) -> RenderableType:
    """The JSON object of ``study run`` as a table; ``details``: with assumptions and reasons."""
    table = _table(
        ("study", "left"), ("paper", "left"), ("published", "right"), ("predicted", "right"), ("verdict", "left")
    )
    table.add_column("metric", overflow="fold")
    for s in found["studies"]:
        _line(table, s, s["name"], s["seed"])
        if details:
            for claim in s["also"]:
                _line(table, claim, "", "")
    blocks: list[RenderableType] = [table, Text("")]
    for s in found["studies"]:
        blocks += _remarks(s, details)
    counts = ", ".join(f"{n} {v}" for v, n in found["verdicts"].items() if n)
    return Group(*blocks, Text(counts, style="bold"))


def _line(table: Table, claim: Mapping[str, Any], name: str, seed: str) -> None:
    verdict = claim["verdict"]
    shown = Text(verdict or "no number", style=_STYLES.get(verdict, "dim"))
    table.add_row(name, seed, figure(claim["published"]), figure(claim["predicted"]), shown, claim["metric"])


def _remarks(study: Mapping[str, Any], details: bool) -> list[RenderableType]:
    claims = [study, *study["also"]] if details else [study]
    lines: list[RenderableType] = [
        Text(f"{study['name']}: {c['why']}") for c in claims if c["why"] and (details or c["verdict"] != "reproduced")
    ]
    if details:
        lines += [Text(f"assumed: {a}", style="dim") for a in study["assumptions"]]
    return [*lines, Text("")] if lines else []


def figure(value: Any) -> str:
    """A published or predicted figure, or a range of them."""
    if value is None:
        return units.MISSING
    if isinstance(value, list | tuple):
        return " to ".join(figure(v) for v in value)
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _table(*columns: tuple[str, str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for title, justify in columns:
        table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    return table
