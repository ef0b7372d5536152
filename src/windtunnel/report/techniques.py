"""Techniques as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def render_techniques(every: Sequence[Mapping[str, Any]]) -> RenderableType:
    """One line a technique, as :func:`windtunnel.scenario.registry.describe` gives it."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for title in ("technique", "paper", "for"):
        table.add_column(title, no_wrap=True)
    table.add_column("what it does", overflow="fold")
    for t in every:
        table.add_row(t["name"], t["seed"], ", ".join(t["commands"]), first_sentence(t["summary"]))
    note = (
        f"{len(every)} techniques: windtunnel train|infer|simulate|plan … --with NAME:parameter=value. "
        "One of them with its parameters: windtunnel techniques NAME"
    )
    return Group(table, Text(""), Text(note, style="dim"))


def first_sentence(text: str) -> str:
    """Of a few."""
    end = text.find(". ")
    return text if end < 0 else text[: end + 1]


def render_technique(t: Mapping[str, Any]) -> RenderableType:
    """One technique with its parameters."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True, style="dim")
    facts.add_column(overflow="fold")
    facts.add_row("paper", f"{t['title']} ({', '.join(filter(None, [t['seed'], t['source']]))})")
    facts.add_row("what it does", t["summary"])
    facts.add_row("rewrites", "the " + ", the ".join(t["rewrites"]))
    facts.add_row("for", ", ".join(t["commands"]))
    if t["decides"]:
        facts.add_row("decides", "; ".join(t["decides"]))
    blocks: list[RenderableType] = [Text(t["name"], style="bold"), facts, Text("")]
    if not t["parameters"]:
        return Group(*blocks, Text("It has no parameters."))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("parameter", no_wrap=True)
    table.add_column("default", no_wrap=True, justify="right")
    table.add_column("meaning", overflow="fold")
    table.add_column("where the default comes from", overflow="fold", style="dim")
    for name, p in t["parameters"].items():
        where = ": ".join(filter(None, [p.get("provenance", ""), p.get("note", "")]))
        table.add_row(name, _shown(p["default"]), p["meaning"], where)
    return Group(*blocks, table, Text(""), Text(f"--with {example(t)}", style="dim"))


def example(t: Mapping[str, Any]) -> str:
    """What ``--with`` takes, the first parameter that has a default with it."""
    first = next(
        (f":{k}={_shown(p['default'])}" for k, p in t["parameters"].items() if p["default"] not in (None, "")), ""
    )
    return f"{t['name']}{first}"


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
