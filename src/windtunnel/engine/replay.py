"""``--replay``: a benchmark's own requests simulated, and what it measured beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from windtunnel.errors import ScenarioError
from windtunnel.scenario.simulate_options import SimulateOptions
from windtunnel.scenario.simulation import SimulateResult
from windtunnel.scenario.text import shown
from windtunnel.serving.latency import distribution, request_latency_s
from windtunnel.serving.outcome import PS, Status
from windtunnel.serving.replayed import STATISTICS, Agreement, ReplayMetrics, error_percent, replay_metrics
from windtunnel.serving.workload.logged import Log
from windtunnel.serving.workload.logs import read_log

INSTEAD = ("trace", "arrivals", "rate", "requests", "input_length", "output_length", "trace_from", "trace_to")
"""Options that ask for another workload than the log's."""


def replayed_log(options: SimulateOptions) -> Log | None:
    """The log that ``options`` name, if they name one.

    Raises:
        ScenarioError: it cannot be used, or another workload is asked for beside it.
    """
    if options.replay is None:
        return None
    beside = [name for name in INSTEAD if getattr(options, name) is not None]
    if beside:
        listed = ", ".join(name.replace("_", "-") for name in beside)
        raise ScenarioError(f"replay {shown(options.replay)} brings its own requests: leave out {listed}")
    return read_log(Path(options.replay), seed=options.seed, strict=options.strict)


def compared(result: SimulateResult, log: Log, warmup_s: float = 0.0) -> SimulateResult:
    """``result`` with the figures of ``log`` beside the simulated ones.

    Requests of the warm-up are left out of both; rates and gaps between tokens are of the whole run, and so compared
    where all of it is simulated and looked at.
    """
    outcome, workload = result.outcome, log.workload
    if not result.fits:
        return result
    came = outcome.arrival >= 0
    arrival = np.where(came, outcome.arrival / PS, workload.arrival_s)
    early = came & (arrival < warmup_s)
    simulated = {
        metric: np.where(early, np.nan, request_latency_s(outcome, workload, metric)) for metric in log.measured
    }
    whole = result.left_out == 0 and bool(np.all(outcome.status == Status.COMPLETED))
    rates: dict[str, tuple[float, float]] = {}
    if whole and log.duration_s:
        rates["requests_per_second"] = len(workload) / log.duration_s, result.requests_per_second
        tokens = float(workload.output_tokens.sum())
        rates["output_tokens_per_second"] = tokens / log.duration_s, result.output_tokens_per_second
    found = replay_metrics(workload.name, arrival, log.measured, simulated, rates)
    if whole and log.gaps_s is not None:
        found = _with_gaps(found, distribution(log.gaps_s.copy()), result.itl_s)
    return replace(result, replay=found)


def _with_gaps(
    found: ReplayMetrics, measured: Mapping[str, float | None], simulated: Mapping[str, float | None]
) -> ReplayMetrics:
    was, now = ({s: side[s] for s in STATISTICS} for side in (measured, simulated))
    gaps = Agreement(was, now, {s: error_percent(was[s], now[s]) for s in STATISTICS})
    return replace(found, metrics={**found.metrics, "itl_s": gaps})
