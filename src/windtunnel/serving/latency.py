"""Latencies of requests and their distributions, from the event loop's record.

Times become seconds as late as possible, one metric at a time: a million requests take 8 MB a column.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import EllipsisType

import numpy as np
from numpy.typing import NDArray

from windtunnel.serving.histogram import BITS, Floats, Ints, lower_edges
from windtunnel.serving.outcome import PS, Outcome, Status
from windtunnel.serving.workload.requests import Workload

Rows = Ints | NDArray[np.bool_] | EllipsisType
"""Which requests: their numbers, a mask, or all of them."""

METRICS = ("ttft_s", "tpot_s", "e2e_s", "queue_s")
"""Latencies that each request has one of."""

QUANTILES: Mapping[str, int] = {"p50": 50, "p90": 90, "p95": 95, "p99": 99}
NOTHING: Mapping[str, float | None] = dict.fromkeys(("mean", *QUANTILES, "max"))
"""The distribution of no values."""


def latency_s(outcome: Outcome, workload: Workload, metric: str, rows: Rows = ...) -> Floats:
    """One of :data:`METRICS` of completed requests ``rows``, in seconds: TTFT = first token - arrival, TPOT = (end -
    first token) / (output tokens - 1), NaN for one-token outputs, E2E = end - arrival, queue = first work - arrival.
    """
    if metric == "tpot_s":
        gaps = workload.output_tokens[rows] - 1
        seconds = (outcome.finish[rows] - outcome.first[rows]) / PS
        each: Floats = np.divide(seconds, gaps, out=np.full(len(gaps), np.nan), where=gaps > 0)
        return each
    end = {"ttft_s": outcome.first, "e2e_s": outcome.finish, "queue_s": outcome.start}[metric]
    found: Floats = (end[rows] - outcome.arrival[rows]) / PS
    return found


def request_latency_s(outcome: Outcome, workload: Workload, metric: str) -> Floats:
    """The same for every request [N]; NaN where a request is not completed."""
    done = outcome.status == Status.COMPLETED
    found = np.full(len(workload), np.nan)
    found[done] = latency_s(outcome, workload, metric, done)
    return found


def distribution(values: Floats) -> dict[str, float | None]:
    """Mean, percentiles by linear interpolation and maximum of finite ``values``, whose order is not kept."""
    if not values.size:
        return dict(NOTHING)
    most, mean = float(values.max()), float(values.mean())
    found = np.percentile(values, list(QUANTILES.values()), overwrite_input=True)
    # A mean of equal values may be rounded above them.
    return {"mean": min(mean, most), **dict(zip(QUANTILES, map(float, found), strict=True)), "max": most}


def gap_distribution(itl: Ints) -> dict[str, float | None]:
    """The distribution of gaps between tokens from their histogram: each counts as the middle of its bin, which is
    within 0.05 % of it."""
    bins = np.flatnonzero(itl)
    if not bins.size:
        return dict(NOTHING)
    counts = itl[bins]
    # A bin holds the whole numbers from its lower edge on, as many as a power of two.
    wide = np.int64(1) << np.maximum((bins >> BITS) - 1, 0)
    middle = (lower_edges(bins) + (wide - 1) / 2) / PS
    before = np.cumsum(counts)
    total = int(before[-1])
    place = np.asarray(list(QUANTILES.values())) / 100 * (total - 1)
    low = middle[np.searchsorted(before, np.floor(place), side="right")]
    high = middle[np.searchsorted(before, np.ceil(place), side="right")]
    found = low + (high - low) * (place - np.floor(place))
    mean, most = float(np.dot(counts, middle) / total), float(middle[-1])
    return {"mean": min(mean, most), **dict(zip(QUANTILES, map(float, found), strict=True)), "max": most}
