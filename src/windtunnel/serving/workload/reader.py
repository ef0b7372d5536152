"""A trace from its file: rows checked, left out and counted where they are malformed, sorted by time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from windtunnel.errors import ScenarioError
from windtunnel.scenario.text import shown
from windtunnel.scenario.workload import MOST_TOKENS
from windtunnel.serving.workload.layouts import Layout, recognise
from windtunnel.serving.workload.requests import Floats, Ints
from windtunnel.serving.workload.tables import LeftOut, Table, read_table
from windtunnel.serving.workload.traces import MOST_BLOCKS, Trace

if TYPE_CHECKING:
    import polars as pl

Mask = NDArray[np.bool_]

LATEST_S = 1e12
"""Latest arrival time of a row: numbers beyond are no seconds."""


@dataclass(slots=True)
class Checks:
    """Which rows are good so far; a bad one is counted for the first reason found."""

    lines: Ints
    good: Mask
    left_out: list[LeftOut] = field(default_factory=list)

    def leave_out(self, bad: Mask, why: str) -> None:
        bad = bad & self.good
        if bad.any():
            self.left_out.append(LeftOut(why, self.lines[bad]))
            self.good &= ~bad


def read_trace(path: Path, *, strict: bool = False) -> Trace:
    """The requests of the file at ``path``, by time of arrival, from the first one.

    Malformed rows are left out, and a warning for each kind counts them and names the first lines; rows out of order
    are sorted in, and counted as well.

    Raises:
        ScenarioError: the file cannot be read, its layout is not known, no row is good; with ``strict`` the first row
            that is malformed or out of order.
    """
    table = read_table(path)
    where = f"trace {shown(str(path))}"
    layout = recognise(table.columns.columns, where)
    checks = Checks(table.lines, np.ones(len(table.lines), dtype=bool), list(table.left_out))
    arrival, dates = _arrivals(table, layout, checks)
    inputs = _tokens(table.columns[layout.input], "input tokens", checks)
    outputs = _tokens(table.columns[layout.output], "output tokens", checks)
    priority = None if layout.priority is None else _priorities(table.columns[layout.priority], checks)
    rows = len(table.lines) + sum(len(x.lines) for x in table.left_out)
    if strict:
        _raise_first(checks.left_out, where, table.row)
    if not checks.good.any():
        raise ScenarioError(f"{where} has no usable row of {rows:,}{_reasons(checks.left_out, table.row)}")
    chosen = np.flatnonzero(checks.good)
    warnings = [_warning(where, x, table.row) for x in checks.left_out]
    if arrival is not None:
        chosen, late = _in_order(chosen, arrival, table.lines)
        if strict:
            _raise_first(late, where, table.row)
        warnings += [_warning(where, x, table.row) for x in late]
        if layout.assumed and not dates:
            unit = "seconds" if layout.unit_s == 1 else "ms"
            warnings.append(f"{where}: column {shown(layout.arrival)} has no unit in its name; read as {unit}")
        arrival = arrival[chosen] - arrival[chosen[0]]
    blocks, offsets = _blocks(table, layout, chosen, inputs[chosen])
    session = _codes(table, layout.session, chosen)
    return Trace(
        name=path.name,
        arrival_s=arrival,
        input_tokens=inputs[chosen],
        output_tokens=outputs[chosen],
        blocks=blocks,
        block_offsets=offsets,
        block_tokens=layout.block_tokens,
        client=_codes(table, layout.client, chosen),
        priority=None if priority is None else priority[chosen],
        session=session,
        rows=rows,
        left_out=rows - len(chosen),
        warnings=tuple(warnings),
    )


def _numbers(column: pl.Series) -> Floats:
    """[rows] numbers, NaN where the text is none."""
    import polars as pl

    return column.cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()


def _missing(column: pl.Series) -> Mask:
    return column.is_null().to_numpy()


def _tokens(column: pl.Series, what: str, checks: Checks) -> Ints:
    values = _numbers(column)
    checks.leave_out(_missing(column), f"no {what}")
    checks.leave_out(np.isnan(values), f"{what} that are no number")
    checks.leave_out(values == 0, f"{what} 0" + (" (failed requests)" if what == "output tokens" else ""))
    whole = (values >= 1) & (values <= MOST_TOKENS) & (values == np.floor(values))
    checks.leave_out(~whole, f"{what} that are not a whole number from 1 to {MOST_TOKENS:,}")
    return np.where(whole, values, 1).astype(np.int64)


def _priorities(column: pl.Series, checks: Checks) -> Ints:
    """Whole numbers; 0 where none is given."""
    values = np.where(_missing(column), 0.0, _numbers(column))
    whole = (np.abs(values) <= 1e9) & (values == np.floor(values))
    checks.leave_out(~whole, "a priority that is not a whole number")
    return np.where(whole, values, 0).astype(np.int64)


def _arrivals(table: Table, layout: Layout, checks: Checks) -> tuple[Floats | None, bool]:
    """([rows] seconds from any origin, whether they are date-times)."""
    if layout.arrival is None:
        return None, False
    column = table.columns[layout.arrival]
    checks.leave_out(_missing(column), "no arrival time")
    seconds = _numbers(column) * layout.unit_s
    dates = False
    if np.isnan(seconds).sum() * 2 > len(seconds):  # most are no numbers: perhaps date-times
        stamps = _date_times(column)
        dates = bool(np.isnan(stamps).sum() < np.isnan(seconds).sum())
        seconds = stamps if dates else seconds
    checks.leave_out(np.isnan(seconds), "an arrival time that is no number of seconds or date-time")
    low = -LATEST_S if dates else 0.0
    checks.leave_out(~((seconds >= low) & (seconds <= LATEST_S)), f"an arrival time outside of 0 to {LATEST_S:g} s")
    return seconds, dates


def _date_times(column: pl.Series) -> Floats:
    """[rows] seconds from the earliest of ``2023-11-16 18:17:03.9799600`` and the like, in UTC or with an offset
    (``+02:00``); NaN where the text is none."""
    import polars as pl

    texts = column.str.replace(r"^(\d{4}-\d\d-\d\d)[T ]", "$1 ").str.replace(r"\s*(Z|UTC)$", "")
    zoned = pl.when(texts.str.contains(r"[+-]\d\d:?\d\d$")).then(texts).otherwise(texts + "+00:00")
    at = pl.select(zoned).to_series().str.to_datetime("%Y-%m-%d %H:%M:%S%.f%z", time_unit="ns", strict=False)
    stamps = at.dt.epoch("ns")
    earliest = stamps.min()
    if earliest is None:
        return np.full(len(column), np.nan)
    # Whole nanoseconds are subtracted before they become floating-point seconds, which could not tell them apart.
    return ((stamps - earliest).cast(pl.Float64) * 1e-9).fill_null(np.nan).to_numpy()


def _in_order(chosen: Ints, arrival: Floats, lines: Ints) -> tuple[Ints, list[LeftOut]]:
    """(``chosen`` by time, those that came after a later one)."""
    times = arrival[chosen]
    late = times < np.maximum.accumulate(times)
    if not late.any():
        return chosen, []
    return chosen[np.argsort(times, kind="stable")], [LeftOut("", lines[chosen[late]])]


def _blocks(table: Table, layout: Layout, chosen: Ints, inputs: Ints) -> tuple[Ints | None, Ints | None]:
    """(numbers of the prompts' blocks from 0, offsets). Blocks of a prompt that the trace does not name are new."""
    import polars as pl

    if layout.blocks is None:
        return None, None
    texts = table.columns[layout.blocks][chosen].str.replace_all(r"[\[\],;|\s]+", " ").str.strip_chars()
    items = pl.when(texts.str.len_bytes() > 0).then(texts)
    lists = pl.select(items).to_series().str.split(" ")
    given = lists.list.len().fill_null(0).to_numpy().astype(np.int64)
    counts = np.maximum(given, -(-inputs // layout.block_tokens))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    if offsets[-1] > MOST_BLOCKS:
        raise ScenarioError(
            f"the trace has {offsets[-1]:,} blocks of {layout.block_tokens} tokens; at most {MOST_BLOCKS:,}"
        )
    known = _numbered(lists.drop_nulls().explode())
    named = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts) < np.repeat(given, counts)
    blocks = np.empty(offsets[-1], dtype=np.int64)
    blocks[named] = known
    distinct = int(known.max()) + 1 if len(known) else 0
    blocks[~named] = distinct + np.arange(int((~named).sum()))
    return blocks, offsets


def _codes(table: Table, name: str | None, chosen: Ints) -> Ints | None:
    """[N] numbers from 0 in order of appearance for equal texts; -1 where there is none."""
    if name is None:
        return None
    column = table.columns[name][chosen]
    codes = np.full(len(column), -1, dtype=np.int64)
    codes[~_missing(column)] = _numbered(column.drop_nulls())
    return codes


def _numbered(texts: pl.Series) -> Ints:
    """Equal numbers for equal texts, from 0 in order of appearance."""
    import polars as pl

    distinct = texts.unique(maintain_order=True)
    if not len(distinct):
        return np.zeros(0, dtype=np.int64)
    numbers = pl.Series(np.arange(len(distinct), dtype=np.int64))
    return texts.replace_strict(distinct, numbers, return_dtype=pl.Int64).to_numpy().astype(np.int64)


def _some(lines: Ints, row: str) -> str:
    first = ", ".join(str(x) for x in np.sort(lines)[:3])
    return f"{row}{'s' if len(lines) > 1 else ''} {first}{', …' if len(lines) > 3 else ''}"


def _reasons(left_out: Iterable[LeftOut], row: str) -> str:
    parts = [f"{len(x.lines):,} with {x.why} ({_some(x.lines, row)})" for x in left_out]
    return ": " + "; ".join(parts) if parts else ""


def _warning(where: str, found: LeftOut, row: str) -> str:
    n = len(found.lines)
    rows = f"{n:,} row{'s' if n > 1 else ''}"
    if not found.why:
        return f"{where}: {rows} out of order, sorted by arrival time ({_some(found.lines, row)})"
    return f"{where}: {rows} left out: {found.why} ({_some(found.lines, row)})"


def _raise_first(left_out: Iterable[LeftOut], where: str, row: str) -> None:
    """Raises for the malformed row that comes first in the file, if there is any."""
    first = min(((int(x.lines.min()), x.why) for x in left_out), default=None)
    if first is not None:
        raise ScenarioError(f"{where}, {row} {first[0]}: {first[1] or 'earlier than a row before it'}")
