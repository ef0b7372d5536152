"""A simulation's requests as a Parquet file, a row each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from windtunnel.scenario.files import write_through
from windtunnel.serving.latency import METRICS, request_latency_s
from windtunnel.serving.outcome import PS, Ints, Outcome, Status
from windtunnel.serving.workload.requests import Workload

if TYPE_CHECKING:
    import polars as pl

STATUSES = tuple(status.name.lower() for status in Status)
"""How the ends of requests are spelled, by number."""


def write_requests(outcome: Outcome, workload: Workload, path: str | Path) -> None:
    """Write :func:`requests_frame`; the file appears as a whole.

    Raises:
        ScenarioError: the file cannot be written.
    """
    import polars as pl

    frame = requests_frame(outcome, workload)

    def write(stream: BinaryIO) -> None:
        try:
            frame.write_parquet(stream)
        except pl.exceptions.PolarsError as error:  # a full disk, among others
            raise OSError(str(error)) from error

    write_through(path, write)


def requests_frame(outcome: Outcome, workload: Workload) -> pl.DataFrame:
    """A row a request, in order of the workload: times in seconds from the start, null for what never was; latencies of
    completed requests alone; ``session`` and ``client`` null where the workload knows none."""
    import polars as pl

    n = len(workload)
    columns: dict[str, Any] = {}
    for name, times in (
        ("arrival_s", outcome.arrival), ("start_s", outcome.start),
        ("first_token_s", outcome.first), ("finish_s", outcome.finish),
    ):  # fmt: skip
        columns[name] = pl.Series(np.where(times >= 0, times / PS, np.nan)).fill_nan(None)
    for metric in METRICS:
        columns[metric] = pl.Series(request_latency_s(outcome, workload, metric)).fill_nan(None)
    columns |= {
        "input_tokens": workload.input_tokens,
        "output_tokens": workload.output_tokens,
        "status": pl.Series(STATUSES).gather(outcome.status.astype(np.int64)),
        "preemptions": outcome.preempted,
        "cached_tokens": outcome.cached_tokens,
        "replica": _known(outcome.replica.astype(np.int64)),
        "session": _known(workload.session, n),
        "client": _known(workload.client, n),
        "retries": outcome.retries,
    }
    return pl.DataFrame(columns)


def _known(numbers: Ints | None, rows: int = 0) -> Any:
    """Numbers with null for -1, or nulls where there are none."""
    import polars as pl

    if numbers is None:
        return pl.Series([None] * rows, dtype=pl.Int64)
    return pl.select(pl.when(pl.lit(pl.Series(numbers)) >= 0).then(pl.lit(pl.Series(numbers)))).to_series()
