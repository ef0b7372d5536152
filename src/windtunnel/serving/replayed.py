"""A benchmark's measured requests beside the simulated ones (``--replay``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from windtunnel.serving.histogram import Floats
from windtunnel.serving.latency import distribution

WINDOWS = 8
"""Stretches of time over which means are compared."""

STATISTICS = ("mean", "p50", "p90", "p99")


@dataclass(frozen=True, slots=True)
class Agreement:
    """One metric by statistic (:data:`STATISTICS`; rates have a ``mean`` alone), and 100 (simulated - measured) /
    measured; None where there is nothing to compare."""

    measured: Mapping[str, float | None]
    simulated: Mapping[str, float | None]
    error_percent: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Window:
    """Mean latencies of the ``requests`` that arrive in [``from_s``, ``to_s``), by metric."""

    from_s: float
    to_s: float
    requests: int
    measured: Mapping[str, float | None]
    simulated: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class ReplayMetrics:
    """``requests``: those with a measured figure and a simulated one, of which alone the distributions are."""

    source: str
    requests: int
    metrics: Mapping[str, Agreement]
    windows: tuple[Window, ...]


def replay_metrics(
    source: str,
    arrival_s: Floats,
    measured: Mapping[str, Floats],
    simulated: Mapping[str, Floats],
    rates: Mapping[str, tuple[float, float]] | None = None,
) -> ReplayMetrics:
    """Compare columns of latencies by metric, a row [N] a request, NaN where one is not known.

    ``rates``: (measured, simulated) of the whole run, such as ``output_tokens_per_second``. Metrics that one side
    lacks are left out.
    """
    both = {m: np.isfinite(values) & np.isfinite(simulated[m]) for m, values in measured.items() if m in simulated}
    metrics = {m: _agreement(_statistics(measured[m][k]), _statistics(simulated[m][k])) for m, k in both.items()}
    for name, (was, found) in (rates or {}).items():
        metrics[name] = _agreement({"mean": was}, {"mean": found})
    known = np.logical_or.reduce(list(both.values())) if both else np.zeros(len(arrival_s), np.bool_)
    edges = np.linspace(0.0, float(arrival_s.max(initial=0.0)), WINDOWS + 1)
    place = np.clip(np.searchsorted(edges, arrival_s, side="right") - 1, 0, WINDOWS - 1)
    windows = []
    for i in range(WINDOWS):
        here = (place == i) & known
        if here.any():
            means = [{m: _mean(side[m][here & k]) for m, k in both.items()} for side in (measured, simulated)]
            windows.append(Window(float(edges[i]), float(edges[i + 1]), int(here.sum()), means[0], means[1]))
    return ReplayMetrics(source, int(known.sum()), metrics, tuple(windows))


def _agreement(measured: Mapping[str, float | None], simulated: Mapping[str, float | None]) -> Agreement:
    return Agreement(measured, simulated, {k: error_percent(measured[k], simulated[k]) for k in measured})


def error_percent(measured: float | None, simulated: float | None) -> float | None:
    """100 (simulated - measured) / measured."""
    return 100 * (simulated - measured) / measured if measured and simulated is not None else None


def _statistics(values: Floats) -> dict[str, float | None]:
    found = distribution(values)
    return {k: found[k] for k in STATISTICS}


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if values.size else None
