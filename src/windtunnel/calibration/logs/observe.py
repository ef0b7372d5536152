"""Logs as observations: what was measured, and what the ordinary commands predict for it with other constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from windtunnel.calibration.logs.constants import Target
from windtunnel.calibration.logs.fit import Floats, Observations, Predict
from windtunnel.calibration.logs.serving_logs import ServeRun
from windtunnel.calibration.logs.training_logs import TrainRun
from windtunnel.engine.simulate import simulate_workload
from windtunnel.engine.train import train
from windtunnel.errors import ScenarioError
from windtunnel.scenario.files import write_file
from windtunnel.scenario.simulate import simulate_scenario
from windtunnel.scenario.simulation import SimulateResult
from windtunnel.serving.latency import request_latency_s

REQUESTS = 12
"""Requests of a window over which a mean latency is taken, at least: single ones depend on when an iteration ends."""
WINDOWS = 24
"""Windows of a run at most."""


def observe_training(runs: Sequence[TrainRun], target: Target, folder: Path, blocks: int) -> Observations:
    """Step times, a row a run; ``blocks`` parts drawn at random. ``folder``: for trial files."""

    def predict(file: str | None) -> Floats:
        return np.array([train(r.options.model_copy(update={"calibration": file})).step_time_s for r in runs])

    order = np.random.default_rng(0).permutation(len(runs))
    return Observations(
        metrics=["step_time_s"] * len(runs),
        measured=np.array([r.step_time_s for r in runs]),
        noise=np.array([r.spread for r in runs]),
        block=(order % blocks).astype(np.int64),
        predict=_with_files(target, folder, runs[0].options.calibration, predict),
    )


def observe_serving(runs: Sequence[ServeRun], target: Target, folder: Path, blocks: int) -> Observations:
    """Mean latencies of windows of requests in order of arrival, or the figures of whole runs. ``blocks``: stretches
    of time of one run; several runs are taken in turn.

    Raises:
        ScenarioError: the model does not fit in memory.
    """
    picks = [_picks(run) for run in runs]
    metrics, measured, block = [], [], []
    for number, (run, each) in enumerate(zip(runs, picks, strict=True)):
        for i, (metric, statistic, rows) in enumerate(each):
            metrics.append(metric)
            measured.append(_measured(run, metric, statistic, rows))
            block.append(number % blocks if len(runs) > 1 else _stretch(rows, run, blocks, i))

    def predict(file: str | None) -> Floats:
        found: list[float] = []
        for run, each in zip(runs, picks, strict=True):
            scenario = simulate_scenario(run.options.model_copy(update={"calibration": file}))
            found += _predicted(simulate_workload(scenario, run.workload), run, each)
        return np.array(found)

    if not np.isfinite(predict(runs[0].options.calibration)).any():
        raise ScenarioError("the log's model does not fit in memory with the shipped constants, or nothing is answered")
    return Observations(
        metrics, np.array(measured), np.zeros(len(measured)), np.array(block, np.int64),
        _with_files(target, folder, runs[0].options.calibration, predict),
    )  # fmt: skip


def _with_files(target: Target, folder: Path, base: str | None, predict: Callable[[str | None], Floats]) -> Predict:
    """Predictions by way of ``--calibration``, as a user has them; a file of its own for each set of values."""
    numbers = count()

    def predicted(values: Mapping[str, float]) -> Floats:
        if not values:
            return predict(base)
        file = folder / f"{next(numbers)}.yaml"
        write_file(file, yaml.safe_dump(target.content(values)))
        return predict(str(file))

    return predicted


Pick = tuple[str, str, Any]
"""(metric, statistic, which requests: a mask [N], or None for all)."""


def _picks(run: ServeRun) -> list[Pick]:
    if run.log is None:
        return [(metric, statistic, None) for metric, statistic in run.figures]
    known = run.log.measured
    # The end of a request is its first token and its decoding: with both measured it says nothing more.
    both = "ttft_s" in known and "tpot_s" in known
    wanted = ("ttft_s", "tpot_s") if both else ("ttft_s", "tpot_s", "e2e_s")
    picks: list[Pick] = []
    n = len(run.workload)
    for part in np.array_split(np.arange(n), min(max(n // REQUESTS, 1), WINDOWS)):
        for metric in (m for m in wanted if m in known):
            rows = part[np.isfinite(known[metric][part])]
            if rows.size and known[metric][rows].mean() > 0:
                picks.append((metric, "mean", rows))
    return picks


def _stretch(rows: Any, run: ServeRun, blocks: int, i: int) -> int:
    return i % blocks if rows is None else int(rows[0] * blocks // len(run.workload))


def _measured(run: ServeRun, metric: str, statistic: str, rows: Any) -> float:
    if run.log is None:
        return run.figures[metric, statistic]
    return float(run.log.measured[metric][rows].mean())


def _predicted(result: SimulateResult, run: ServeRun, picks: Sequence[Pick]) -> list[float]:
    if not result.fits:
        return [np.nan] * len(picks)
    if run.log is None:
        return [_figure(result, metric, statistic) for metric, statistic, _ in picks]
    each = {m: request_latency_s(result.outcome, run.workload, m) for m in {metric for metric, _, _ in picks}}
    return [float(each[metric][rows].mean()) for metric, _, rows in picks]


def _figure(result: SimulateResult, metric: str, statistic: str) -> float:
    found = getattr(result, metric)
    value = found[statistic] if isinstance(found, Mapping) else found
    return np.nan if value is None else float(value)
