"""The operator tree as text: what runs how often, what it costs, what holds it, how near the roof it is."""

from __future__ import annotations

from collections.abc import Sequence

from windtunnel.hardware.machine import Cluster
from windtunnel.ops.fold import Evaluation
from windtunnel.report.operators import Row, operator_rows
from windtunnel.report.units import number, percent, seconds

WIDTH = 120
SMALL = 0.0005
"""Operators below this share of the step are told together, one line for each parent."""

_COLUMNS = (("runs", 9), ("each", 9), ("total", 9), ("share", 8), ("bound by", 10), ("of roof", 8))


def explain(evaluation: Evaluation, cluster: Cluster | None = None, *, width: int = WIDTH, title: str = "") -> str:
    """The operator tree in ``width`` columns. ``cluster``: the machine, for the last column; see :class:`Row`.

    Pipeline stages other than the busiest, which does not wait for them, are one line each; all rows are in
    :func:`~windtunnel.report.operators.operator_rows`.
    """
    rows = operator_rows(evaluation, cluster)
    columns = _COLUMNS if cluster is not None else _COLUMNS[:-1]
    room = width - sum(w for _, w in columns)
    lines = [(title or "operator").ljust(room) + "".join(title.rjust(w) for title, w in columns)]
    lines += [_line(row, room, len(columns)) for row in _shortened(rows)]
    lines.append("")
    lines.append("share: of the whole time, overlapped work not counted; the operators' shares add up to 100 %.")
    if cluster is not None:
        lines.append("of roof: time at the peak rate of the resource that binds it, over the predicted time.")
    return "\n".join(line.rstrip() for line in lines)


def _shortened(rows: Sequence[Row]) -> list[Row]:
    """What is worth reading: no inside of idle stages, small operators of one parent told together."""
    whole = rows[0].total_s if rows else 0.0
    kept: list[Row] = []
    skip: int | None = None
    small: dict[int, list[Row]] = {}

    def tell(depth: int) -> None:
        """Close every parent at this depth or deeper."""
        for d in sorted((d for d in small if d >= depth), reverse=True):
            few = small.pop(d)
            if len(few) == 1:
                kept.append(few[0])
                continue
            totals = sum(r.total_s for r in few), sum(r.exposed_s for r in few), sum(r.share for r in few)
            kept.append(Row(f"{len(few)} smaller", "", d, True, 0.0, 0.0, *totals, "", None, ()))

    for row in rows:
        if skip is not None and row.depth > skip:
            continue
        skip = None
        tell(row.depth + 1)
        if row.leaf and abs(row.total_s) < SMALL * whole:
            small.setdefault(row.depth, []).append(row)
            continue
        kept.append(row)
        if row.kind == "stage" and row.exposed_s == 0:
            skip = row.depth
    tell(0)
    return kept


def _line(row: Row, room: int, columns: int) -> str:
    name = "  " * row.depth + row.name
    if len(name) >= room:
        name = name[: room - 2] + "…"
    once = row.runs != 0
    cells = (
        _runs(row.runs) if once else "",
        seconds(row.each_s) if once else "",
        seconds(row.total_s),
        percent(row.share) if row.exposed_s != 0 else "hidden" if row.leaf else "",
        row.binding,
        "" if row.roof is None else f"{100 * row.roof:.0f} %",
    )
    return name.ljust(room) + "".join(cell.rjust(w) for cell, (_, w) in zip(cells, _COLUMNS[:columns], strict=False))


def _runs(runs: float) -> str:
    return f"{runs:,.0f}" if abs(runs - round(runs)) < 1e-6 * max(runs, 1.0) else number(runs)
