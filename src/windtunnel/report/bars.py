"""Shapes for the terminal: horizontal bars, lines over time, tables without lines, figures in a row."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

BAR = 28
"""Columns of a full bar."""

_EIGHTHS = " ▏▎▍▌▋▊▉"
_LEVELS = " ▁▂▃▄▅▆▇█"


def bar(fraction: float, style: str, columns: int = BAR) -> Text:
    """A bar of ``fraction`` (0 to 1) of ``columns``, to an eighth of a column."""
    eighths = round(max(0.0, min(fraction, 1.0)) * columns * 8)
    whole, rest = divmod(eighths, 8)
    drawn = "█" * whole + (_EIGHTHS[rest] if rest else "")
    return Text(drawn or ("▏" if fraction > 0 else ""), style=style, no_wrap=True)


def sparkline(values: Sequence[float], style: str) -> Text:
    """A column for each value, as high as the value over the largest of them; a blank where it is 0."""
    most = max(values, default=0.0)
    if most <= 0:
        return Text(" " * len(values), no_wrap=True)
    return Text("".join(_LEVELS[math.ceil(8 * max(v, 0.0) / most)] for v in values), style=style, no_wrap=True)


def grid(*justify: str) -> Table:
    """A table without lines; one of "left", "right" for each column."""
    table = Table.grid(padding=(0, 2))
    for how in justify:
        table.add_column(justify=how, no_wrap=True)  # type: ignore[arg-type]
    return table


def bars(rows: Iterable[tuple[str, float, str, tuple[str, ...]]], columns: int = BAR) -> Table:
    """Rows of (label, fraction, style, figures); the fractions are shown over the largest of them."""
    rows = list(rows)
    most = max((abs(f) for _, f, _, _ in rows), default=0.0) or 1.0
    figures = max((len(f) for *_, f in rows), default=0)
    table = grid("left", *("right",) * figures, "left")
    for label, fraction, style, cells in rows:
        table.add_row(label, *cells, bar(fraction / most, style, columns))
    return table


SEPARATOR = " · "


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures one after the other, as many a line as there is room for; none is broken over two lines."""

    pieces: Sequence[Text]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = Text(no_wrap=True, overflow="fold")
        for piece in self.pieces:
            if line and len(line) + len(SEPARATOR) + len(piece) > options.max_width:
                yield line
                line = Text(no_wrap=True, overflow="fold")
            line = line + Text(SEPARATOR, style="dim") + piece if line else line + piece
        yield line
