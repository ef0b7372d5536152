"""What a serving benchmark measured, as plain arrays beside the workload that it put on its engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from windtunnel.errors import ScenarioError
from windtunnel.scenario.workload import MOST_TOKENS
from windtunnel.serving.workload.build import LATEST_S
from windtunnel.serving.workload.requests import Floats, Ints, Workload

LONGEST_S = 1e9
"""Longest latency of a log: numbers beyond are no seconds."""


@dataclass(frozen=True, slots=True, eq=False)
class Log:
    """``N`` answered requests of a benchmark's result file, in order of arrival, the first at 0.

    ``measured``: seconds by metric (names as in ``serving.latency``) [N], NaN where one is not known; metrics of which
    nothing is known are absent. ``gaps_s``: all gaps between tokens of all requests, where the file has every one.
    ``duration_s``: from the first request to the last token, where the file says so.
    """

    workload: Workload
    measured: Mapping[str, Floats]
    gaps_s: Floats | None = None
    duration_s: float | None = None


def known(measured: Mapping[str, Floats], where: str, found: Sequence[str]) -> dict[str, Floats]:
    """The metrics of which something is known.

    Raises:
        ScenarioError: nothing at all was measured; it lists what was ``found``.
    """
    kept = {metric: values for metric, values in measured.items() if np.isfinite(values).any()}
    if not kept:
        listed = ", ".join(map(repr, found[:12]))
        raise ScenarioError(f"{where} has no measured latency (ttft, tpot, e2e or queue); it has: {listed}"[:500])
    return kept


def times_per_token(ttft: Floats, e2e: Floats, outputs: Ints) -> Floats:
    """(End - first token) / (output tokens - 1) [N], NaN for one-token outputs and where one is not known."""
    gaps = outputs - 1
    found: Floats = np.divide(e2e - ttft, gaps, out=np.full(len(gaps), np.nan), where=gaps > 0)
    return np.where(found >= 0, found, np.nan)


def whole_tokens(values: Floats) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which of them a prompt or an answer may have."""
    found: np.ndarray[tuple[int], np.dtype[np.bool_]]
    found = (values >= 1) & (values <= MOST_TOKENS) & (values == np.floor(values))
    return found


def shifted(arrival: Floats, where: str) -> Floats:
    """Sorted times counted from the first one.

    Raises:
        ScenarioError: the last comes later than can be simulated.
    """
    times: Floats = arrival - arrival[0]
    if not times[-1] <= LATEST_S:
        raise ScenarioError(
            f"{where}: its requests come over {times[-1]:.4g} s; at most {LATEST_S:g} s can be simulated"
        )
    return times
