"""Pictures as files. They need the ``plot`` extra; nothing else of the package loads matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windtunnel.errors import ScenarioError
from windtunnel.scenario.files import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]

FORMATS = (".png", ".svg", ".pdf", ".html")

_STYLE = """body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1200px; margin: 2em auto }
svg { width: 100%; height: auto } table { border-collapse: collapse; margin-top: 1.5em }
th, td { padding: .25em .9em; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
th:first-child, td:first-child { text-align: left }"""


@dataclass(frozen=True, slots=True)
class Table:
    """A picture's key numbers, for pages: a title, the columns' names and rows of as many cells."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def check_plot(path: str | Path) -> str:
    """The picture format that the file's suffix asks for, before anything is computed.

    Raises:
        ScenarioError: a suffix that is none of ``FORMATS``, or matplotlib is missing.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ScenarioError(f"--plot {str(path)!r}: a file that ends in {', '.join(FORMATS)} is accepted")
    try:
        import matplotlib  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
    except ImportError:
        raise ScenarioError("--plot needs matplotlib: pip install 'windtunnel[plot]'") from None
    return suffix[1:]


def save_figure(figure: Figure, path: str | Path, table: Table) -> None:
    """Write a picture in the format of the file's suffix; an .html file is one page with the picture and ``table``.

    The same figure gives the same bytes. Raises:
        ScenarioError: an unknown suffix, or the file cannot be written.
    """
    kind = check_plot(path)
    from matplotlib import rc_context

    stream = io.BytesIO()
    # No date in the file, and the same names inside it.
    metadata: Mapping[str, Any] = {"svg": {"Date": None}, "html": {"Date": None}, "pdf": {"CreationDate": None}}
    with rc_context({"svg.hashsalt": "windtunnel"}):
        drawn = "svg" if kind == "html" else kind
        figure.savefig(stream, format=drawn, dpi=150 if kind == "png" else "figure", metadata=metadata.get(kind, {}))
    data = stream.getvalue()
    write_file(path, _page(data.decode(), table) if kind == "html" else data)


def _page(svg: str, table: Table) -> str:
    """One file that needs no other."""
    head = "".join(f"<th>{escape(h)}</th>" for h in table.head)
    rows = "\n".join(f"<tr>{''.join(f'<td>{escape(c)}</td>' for c in row)}</tr>" for row in table.rows)
    title = escape(table.title)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title>\n'
        f"<style>{_STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n{svg[svg.index('<svg') :]}\n"
        f"<table>\n<tr>{head}</tr>\n{rows}\n</table>\n</body>\n</html>\n"
    )
