"""What goes where: reports and JSON to standard output, warnings and progress to standard error."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from windtunnel.report.plain import to_json

PIPE_WIDTH = 100
"""Columns of a report that is not read on a terminal."""

_PLAIN = {
    "→": "->", "·": "-", "–": "-", "×": "x", "µ": "u", "−": "-", "…": "...", "≤": "<=", "█": "#",
    **dict(zip("▁▂▃▄▅▆▇", "_.-=+*%", strict=True)),
}  # fmt: skip


def _spelled(error: UnicodeError) -> tuple[str, int]:
    """Characters that the terminal's encoding lacks, written with those that it has."""
    assert isinstance(error, UnicodeEncodeError)
    missing = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c, "" if "▉" <= c <= "▏" else "?") for c in missing), error.end


codecs.register_error("windtunnel", _spelled)


def print_json(value: Any, warnings: Iterable[str] = ()) -> None:
    """One JSON object on standard output and nothing else there; warnings go to standard error."""
    text = to_json(value)
    for warning in warnings:
        print(f"warning: {' '.join(warning.split())}", file=sys.stderr)
    print(text)


def print_report(*renderables: Any, width: int | None = None) -> None:
    """A report for people; in colour on a terminal that wants it (NO_COLOR, TERM=dumb and pipes do not)."""
    from rich.console import Console

    out = _tolerant(sys.stdout)
    if width is None and not out.isatty() and "COLUMNS" not in os.environ:
        width = PIPE_WIDTH
    console = Console(file=out, width=width, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        for renderable in renderables:
            console.print(renderable)
    for line in captured.get().splitlines():
        print(line.rstrip(), file=out)


def _tolerant(stream: TextIO) -> TextIO:
    """The same stream, which no longer fails on a character that it cannot encode."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="windtunnel")
    return stream
