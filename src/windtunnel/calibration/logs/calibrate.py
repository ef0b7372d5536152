"""``calibrate --from LOG``: the constants that a log identifies, and how well they predict what was held out."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.calibration.logs.constants import Constant, Target, serve_constants, target, train_constants
from windtunnel.calibration.logs.fit import Fitted, Floats, Observations, fit
from windtunnel.calibration.logs.observe import observe_serving, observe_training
from windtunnel.calibration.logs.recognise import recognise
from windtunnel.calibration.logs.result import FittedConstant, LogCalibration, LogError, better
from windtunnel.calibration.logs.serving_logs import ServeRun, read_requests, read_serving_runs
from windtunnel.calibration.logs.training_logs import TrainRun, read_megatron, read_runs, read_torchtitan
from windtunnel.errors import ScenarioError
from windtunnel.scenario.simulate import simulate_scenario
from windtunnel.scenario.text import shown
from windtunnel.scenario.train import train_scenario

FOLDS = 4
"""Parts of a log, each predicted with constants fitted on the others."""

MOST_USED = 120
"""Training runs that are fitted: more of them narrow nothing, and each takes half a second."""

READERS = {"megatron": read_megatron, "torchtitan": read_torchtitan, "training runs": read_runs}
WORKLOAD = (
    "replay", "trace", "arrivals", "rate", "requests", "input_length", "output_length", "trace_from", "trace_to",
)  # fmt: skip


def calibrate_from_log(path: str | Path, options: Mapping[str, Any]) -> LogCalibration:
    """The constants of the options' engine that the log at ``path`` identifies.

    ``options``: those of ``train`` (for a training log) or ``simulate`` that say what ran, as for predicting it: model,
    on, engine, degrees ...; a CSV of training runs may have them as columns. With ``calibration`` the constants are
    laid over that file.

    Raises:
        ScenarioError: the file is no log that is known, or it and the options make no scenario.
    """
    file = Path(path)
    kind = recognise(file)
    if kind is None:
        why = "" if file.is_file() else " (no such file)"
        raise ScenarioError(
            f"{shown(str(path))} is no log that is known{why}; accepted: results of vllm bench serve or "
            "sglang.bench_serving, a table of requests, a Megatron or torchtitan log, a CSV with step_time_s a run"
        )
    with tempfile.TemporaryDirectory(prefix="windtunnel-") as folder:
        if kind in READERS:
            return _training(file, kind, READERS[kind](file, options), Path(folder))
        given = [k for k in WORKLOAD if options.get(k) is not None]
        if given:
            raise ScenarioError(f"log {shown(str(path))} brings its own requests: leave out {', '.join(given)}")
        read = read_requests if kind == "requests" else read_serving_runs
        return _serving(file, kind, read(file, options), Path(folder))


def _training(file: Path, kind: str, runs: Sequence[TrainRun], folder: Path) -> LogCalibration:
    used = runs
    if len(runs) > MOST_USED:
        used = [runs[i] for i in np.sort(np.random.default_rng(0).permutation(len(runs))[:MOST_USED])]
    scenarios = [train_scenario(r.options) for r in used]
    engine = scenarios[0].engine
    others = {s.engine.name for s in scenarios} - {engine.name}
    if others:
        listed = ", ".join(sorted({engine.name, *others}))
        raise ScenarioError(f"log {shown(str(file))} has runs of several engines ({listed}); calibrate each by itself")
    aim = target(engine.name, used[0].options.calibration, file.name, scenarios)
    log = observe_training(used, aim, folder, min(FOLDS, len(used)))
    said = list(dict.fromkeys(w for s in scenarios for w in s.warnings))
    return _calibrated(file, kind, aim, log, train_constants(engine), (len(runs), len(used)), said)


def _serving(file: Path, kind: str, runs: Sequence[ServeRun], folder: Path) -> LogCalibration:
    scenario = simulate_scenario(runs[0].options)
    setups = [setup for pool in scenario.pools.values() for setup in pool]
    engine = setups[0].engine
    if any(s.engine.name != engine.name for s in setups):
        raise ScenarioError("the options name several serving engines; a log is calibrated for one")
    options = [s.options for s in setups]
    aim = target(engine.name, runs[0].options.calibration, file.name)
    blocks = min(FOLDS, len(runs)) if len(runs) > 1 else FOLDS
    log = observe_serving(runs, aim, folder, blocks)
    said = list(dict.fromkeys([*scenario.warnings, *(w for r in runs for w in r.workload.warnings)]))
    return _calibrated(file, kind, aim, log, serve_constants(engine, options), (len(runs), len(runs)), said)


def _calibrated(
    file: Path, kind: str, aim: Target, log: Observations, constants: Sequence[Constant], runs: tuple[int, int],
    warnings: list[str],
) -> LogCalibration:  # fmt: skip
    fitted = fit(log, constants)
    values = fitted.values
    before, after = log.predict({}), log.predict(values)
    held = _held_out(log, fitted)
    metrics = np.array(log.metrics)
    errors = []
    for metric in dict.fromkeys(log.metrics):
        rows = metrics == metric
        ahead = None if held is None else _errors(log, held, rows)
        errors.append(LogError(metric, int(rows.sum()), _errors(log, before, rows), _errors(log, after, rows), ahead))
    if not values:
        warnings.append("the log identifies none of the constants: all keep their values")
    if held is None:
        warnings.append("the log is one piece: nothing could be held out, so its errors say nothing of other runs")
    elif not better(errors):
        warnings.append("the parts held out are not predicted better than before: the constants as they were may do")
    return LogCalibration(
        log=file.name,
        kind=kind,
        engine=aim.engine,
        runs=runs[0],
        used=runs[1],
        folds=len(fitted.parts),
        constants=[_told(c, float(d), values) for c, d in zip(constants, fitted.deviation, strict=True)],
        errors=errors,
        content=aim.content(values),
        warnings=warnings,
    )


def _held_out(log: Observations, fitted: Fitted) -> Floats | None:
    """[N] each block's predictions by constants fitted on the others; None for a log of one block."""
    if not fitted.parts:
        return None
    held = np.full(len(log.measured), np.nan)
    for block, values in fitted.parts.items():
        out = log.block == block
        held[out] = log.predict(values)[out]
    return held


def _told(c: Constant, deviation: float, values: Mapping[str, float]) -> FittedConstant:
    kept = c.name not in values
    value = values.get(c.name, c.shipped)
    edge = 1e-3 * c.width
    at_bound = not kept and (value - c.low < edge or c.high - value < edge)
    error = None if kept else deviation * c.width
    return FittedConstant(c.name, c.about, c.shipped, value, error, c.width, min(deviation, 1.0), kept, at_bound)


def _errors(log: Observations, predicted: Floats, rows: Any) -> dict[str, float]:
    off = np.expm1(log.errors(predicted)[rows])
    return {
        "median": float(np.median(np.abs(off))),
        "p90": float(np.percentile(np.abs(off), 90)),
        "bias": float(np.median(off)),
    }
