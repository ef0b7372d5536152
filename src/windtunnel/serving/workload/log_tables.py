"""Per-request measurements from a table: CSV, JSON lines or Parquet with a row a request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from windtunnel.errors import ScenarioError
from windtunnel.scenario.text import shown
from windtunnel.serving.workload.layouts import UNITS, plain, recognise
from windtunnel.serving.workload.logged import LONGEST_S, Log, known, shifted, times_per_token, whole_tokens
from windtunnel.serving.workload.reader import Checks, Mask
from windtunnel.serving.workload.requests import Floats, Workload
from windtunnel.serving.workload.tables import LeftOut, Table, read_table

if TYPE_CHECKING:
    import polars as pl

DURATIONS: Mapping[str, tuple[str, ...]] = {
    "ttft_s": ("ttft", "time_to_first_token", "first_token_latency"),
    "tpot_s": ("tpot", "time_per_output_token", "mean_itl", "itl"),
    "e2e_s": ("e2e", "e2el", "e2e_latency", "end_to_end_latency", "request_latency", "latency", "total_time"),
    "queue_s": ("queue", "queue_time", "queueing_time", "queue_delay", "queueing_delay", "wait_time", "waiting_time"),
    "decode": ("decode", "decode_time", "decode_latency", "generation_time"),
}
"""Names of columns that hold a length of time."""

INSTANTS: Mapping[str, tuple[str, ...]] = {
    "ttft_s": ("first_token", "first_token_time", "first_token_at"),
    "e2e_s": ("finish", "finish_time", "finished_at", "end_time", "end"),
}
"""Names of columns that hold a time on the arrivals' clock, by the latency that it ends."""

ENDS = ("status", "state", "error", "errors", "error_message", "success")
"""Names of columns that say whether a request was answered."""

UNANSWERED = "fail|error|reject|time.?out|timed|abort|cancel|exception|refused|unfinished|too_long|queue_full|false"
"""What they say, in small letters, of one that was not."""


@dataclass(frozen=True, slots=True)
class _Times:
    """A column of times. ``assumed``: its name states no unit, so that it is read as seconds."""

    column: str
    unit_s: float
    assumed: bool


def read_table_log(path: Path, *, strict: bool = False) -> Log:
    """The requests of the file at ``path`` with what was measured of each.

    Columns of arrival times and tokens go by the names of ``layouts``, latencies by :data:`DURATIONS` and
    :data:`INSTANTS`, each with its unit as a suffix (``ttft_ms``). Requests that failed and malformed rows are left out
    and counted.

    Raises:
        ScenarioError: the file cannot be read, a column is missing, or no row is good; with ``strict`` any row that is
            malformed.
    """
    where = f"replay {shown(str(path))}"
    try:
        table = read_table(path)
    except ScenarioError as error:
        raise ScenarioError(str(error).replace("trace ", "replay ", 1)) from None
    layout = recognise(table.columns.columns, where)
    if layout.arrival is None:
        raise ScenarioError(
            f"{where} has no column of arrival times (arrival_s, start_time_ms, timestamp, …); without them its load "
            "is not known"
        )
    names: dict[str, str] = {}
    for column in table.columns.columns:
        names.setdefault(plain(column).replace("e2_e", "e2e"), column)
    checks = Checks(table.lines, np.ones(len(table.lines), dtype=bool), list(table.left_out))
    checks.leave_out(_unanswered(table, names), "failed requests")
    inputs, outputs = _values(table, layout.input), _values(table, layout.output)
    checks.leave_out(outputs == 0, "output tokens 0 (failed requests)")
    for what, tokens in (("input", inputs), ("output", outputs)):
        checks.leave_out(~whole_tokens(tokens), f"{what} tokens that are no whole number of at least 1")
    arrival = _values(table, layout.arrival) * layout.unit_s
    checks.leave_out(~np.isfinite(arrival), "an arrival time that is no number")
    assumed = [layout.arrival] if layout.assumed else []
    measured = _measured(table, names, arrival, checks, assumed)
    good = checks.good
    counted = [_counted(x, table.row) for x in checks.left_out]
    if not good.any():
        raise ScenarioError(f"{where} has no usable row: {'; '.join(counted) or 'it has none'}"[:500])
    malformed = [x for x in checks.left_out if "failed" not in x.why]
    if strict and malformed:
        raise ScenarioError(f"{where}, {table.row} {int(malformed[0].lines.min())}: {malformed[0].why}")
    chosen = np.flatnonzero(good)
    chosen = chosen[np.argsort(arrival[chosen], kind="stable")]
    tokens_in, tokens_out = (np.where(good, x, 1).astype(np.int64) for x in (inputs, outputs))
    measured["tpot_s"] = np.where(
        np.isfinite(own := times_per_token(measured["ttft_s"], measured["e2e_s"], tokens_out)), own, measured["tpot_s"]
    )
    measured["tpot_s"][tokens_out == 1] = np.nan
    warnings = [f"{where}: {said}" for said in counted]
    if assumed:
        listed = ", ".join(map(shown, dict.fromkeys(assumed)))
        warnings.append(f"{where}: {listed} state no unit; read as seconds")
    workload = Workload(
        name=path.name,
        arrival_s=shifted(arrival[chosen], where),
        input_tokens=tokens_in[chosen],
        output_tokens=tokens_out[chosen],
        warnings=tuple(warnings),
    )
    columns = known({m: values[chosen] for m, values in measured.items()}, where, list(names.values()))
    ends = workload.arrival_s + columns["e2e_s"] if "e2e_s" in columns else np.full(1, np.nan)
    return Log(workload, columns, duration_s=float(ends.max()) if np.isfinite(ends).all() else None)


def _measured(
    table: Table, names: Mapping[str, str], arrival: Floats, checks: Checks, assumed: list[str]
) -> dict[str, Floats]:
    """[rows] seconds by metric, NaN where one is not known: stated, or from instants, or from the decoding time."""

    def read(found: _Times | None) -> Floats:
        if found is None:
            return np.full(len(arrival), np.nan)
        column = table.columns[found.column]
        values = _values(table, found.column) * found.unit_s
        checks.leave_out(np.isnan(values) & _given(column), f"{shown(found.column)} that is no number")
        if found.assumed:
            assumed.append(found.column)
        return values

    spans = {metric: read(_times(names, bases)) for metric, bases in DURATIONS.items()}
    for metric, bases in INSTANTS.items():
        if np.isnan(spans[metric]).all():
            spans[metric] = read(_times(names, bases)) - arrival
    decode = spans.pop("decode")
    if np.isnan(spans["e2e_s"]).all():
        spans["e2e_s"] = spans["ttft_s"] + decode
    for metric, values in spans.items():
        wrong = np.isfinite(values) & ~((values >= 0) & (values <= LONGEST_S)) | np.isinf(values)
        checks.leave_out(wrong, f"a {metric.removesuffix('_s')} outside of 0 to {LONGEST_S:g} s")
    return spans


def _times(names: Mapping[str, str], bases: Iterable[str]) -> _Times | None:
    """The column that goes by one of these names, with a unit or without."""
    for base in bases:
        for suffix, seconds in UNITS.items():
            if f"{base}_{suffix}" in names:
                return _Times(names[f"{base}_{suffix}"], seconds, False)
    return next((_Times(names[base], 1.0, True) for base in bases if base in names), None)


def _values(table: Table, column: str) -> Floats:
    """[rows] numbers, NaN where the text is none."""
    import polars as pl

    return table.columns[column].cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()


def _given(column: pl.Series) -> Mask:
    """Where there is a text that is not one of those that stand for nothing."""
    return column.is_not_null().to_numpy() & ~_matches(column, "^(nan|none|null|n/a|-)$")


def _unanswered(table: Table, names: Mapping[str, str]) -> Mask:
    bad = np.zeros(len(table.lines), dtype=bool)
    for name in (n for n in ENDS if n in names):
        column = table.columns[names[name]]
        if name.startswith("error"):
            bad |= _given(column) & ~_matches(column, "^(false|0)$")
        elif name == "success":
            bad |= _matches(column, "^(false|0|no)$")
        else:
            bad |= _matches(column, f"{UNANSWERED}|^[45][0-9][0-9]$")
    return bad


def _matches(column: pl.Series, pattern: str) -> Mask:
    return column.str.to_lowercase().str.contains(pattern).fill_null(False).to_numpy()


def _counted(found: LeftOut, row: str) -> str:
    n = len(found.lines)
    first = ", ".join(str(x) for x in np.sort(found.lines)[:3])
    return f"{n:,} row{'s' if n > 1 else ''} left out: {found.why} ({row} {first}{', …' if n > 3 else ''})"
