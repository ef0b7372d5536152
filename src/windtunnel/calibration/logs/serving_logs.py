"""The workloads and measured latencies of a serving benchmark's results."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windtunnel.errors import ScenarioError
from windtunnel.scenario.options import read_options
from windtunnel.scenario.simulate import simulate_scenario
from windtunnel.scenario.simulate_options import SimulateOptions
from windtunnel.scenario.text import shown
from windtunnel.serving.workload.build import build_workload
from windtunnel.serving.workload.log_runs import read_run
from windtunnel.serving.workload.logged import Log
from windtunnel.serving.workload.logs import read_log
from windtunnel.serving.workload.requests import Workload

FIGURES: Mapping[str, tuple[str, str, float]] = {
    "mean_ttft_ms": ("ttft_s", "mean", 1e-3), "median_ttft_ms": ("ttft_s", "p50", 1e-3),
    "p99_ttft_ms": ("ttft_s", "p99", 1e-3), "mean_tpot_ms": ("tpot_s", "mean", 1e-3),
    "median_tpot_ms": ("tpot_s", "p50", 1e-3), "p99_tpot_ms": ("tpot_s", "p99", 1e-3),
    "mean_e2el_ms": ("e2e_s", "mean", 1e-3), "median_e2el_ms": ("e2e_s", "p50", 1e-3),
    "mean_e2e_latency_ms": ("e2e_s", "mean", 1e-3), "median_e2e_latency_ms": ("e2e_s", "p50", 1e-3),
    "output_throughput": ("output_tokens_per_second", "mean", 1.0),
}  # fmt: skip
"""Aggregate figures of both tools: (metric, statistic, unit in SI). vLLM writes ``e2el``, SGLang ``e2e_latency``."""

MOST_RUNS = 1000
MOST_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, eq=False)
class ServeRun:
    """What was put on the engine, and either its single requests' latencies (``log``) or ``figures`` of the whole run
    by (metric, statistic)."""

    options: SimulateOptions
    workload: Workload
    log: Log | None
    figures: Mapping[tuple[str, str], float]


def read_requests(path: Path, given: Mapping[str, Any]) -> list[ServeRun]:
    """The run of a table with a row a request (as ``simulate --replay`` reads it).

    Raises:
        ScenarioError: the file or the options cannot be used.
    """
    options = read_options(SimulateOptions, given)
    log = read_log(path, seed=options.seed, strict=options.strict)
    return [ServeRun(options, log.workload, log, {})]


def read_serving_runs(path: Path, given: Mapping[str, Any]) -> list[ServeRun]:
    """Runs of ``vllm bench serve --save-result`` (``benchmark_serving.py`` before; one JSON object) or of
    ``python -m sglang.bench_serving --output-file`` (JSON lines, a run each).

    With single requests (``--save-detailed``, ``--output-details``) these are used; otherwise the aggregate figures of
    :data:`FIGURES`, with prompts and answers of the run's mean lengths (uniform ones where SGLang states the range of
    its random lengths).

    Raises:
        ScenarioError: no such file, a run without figures, or options that make no scenario.
    """
    where = f"log {shown(str(path))}"
    options = read_options(SimulateOptions, given)
    runs = []
    for number, found in enumerate(_objects(path, where)):
        if all(isinstance(found.get(key), list) and found[key] for key in ("input_lens", "output_lens", "ttfts")):
            log = read_run(found, path.name, where, options.seed)
            runs.append(ServeRun(options, log.workload, log, {}))
        else:
            runs.append(_summary(found, options, f"{where}, run {number + 1}"))
    return runs


def _objects(path: Path, where: str) -> list[dict[str, Any]]:
    try:
        with path.open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ScenarioError(f"{where} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MOST_BYTES:
        raise ScenarioError(f"{where} is larger than the {MOST_BYTES >> 30} GiB accepted")
    text = data.decode("utf-8-sig", "replace")
    lines = [line for line in text.split("\n") if line.strip()]
    try:
        found = [json.loads(line) for line in lines]
    except (ValueError, RecursionError):
        try:
            found = [json.loads(text)]
        except (ValueError, RecursionError):
            raise ScenarioError(f"{where} is no JSON object and no JSON lines") from None
    if not found or len(found) > MOST_RUNS or not all(isinstance(x, dict) for x in found):
        raise ScenarioError(f"{where} does not hold 1 to {MOST_RUNS:,} JSON objects, a run each")
    return found


def _summary(found: Mapping[str, Any], options: SimulateOptions, where: str) -> ServeRun:
    figures = {}
    for key, (metric, statistic, unit) in FIGURES.items():
        value = _above_zero(found, key)
        if value is not None:
            figures[metric, statistic] = value * unit
    if not figures:
        raise ScenarioError(f"{where} has no latency or throughput, such as mean_ttft_ms, of answered requests")
    n, tokens_in, tokens_out = (
        _above_zero(found, key) for key in ("completed", "total_input_tokens", "total_output_tokens")
    )
    if n is None or tokens_in is None or tokens_out is None:
        raise ScenarioError(f"{where} does not say completed, total_input_tokens and total_output_tokens")
    rate = _rate(found, where)
    most = _above_zero(found, "max_concurrency")
    asked: dict[str, Any] = {
        "requests": round(n),
        "input_length": _lengths(tokens_in / n, found, "random_input_len"),
        "output_length": _lengths(tokens_out / n, found, "random_output_len"),
    }
    if math.isfinite(rate):
        asked["rate"] = rate
    elif most is not None and most < n:
        asked["arrivals"] = f"closed:concurrency={round(most)}"
    else:
        asked["rate"] = math.inf
    own = read_options(SimulateOptions, {**options.model_dump(exclude_unset=True, exclude_none=True), **asked})
    return ServeRun(own, build_workload(simulate_scenario(own).workload), None, figures)


def _lengths(mean: float, found: Mapping[str, Any], key: str) -> str:
    """Uniform between the range ratio and 1 of the longest, where the run says so and its mean agrees."""
    ratio, longest = _above_zero(found, "random_range_ratio"), _above_zero(found, key)
    if found.get("dataset_name") == "random" and ratio and longest and ratio < 1:
        low = max(round(longest * ratio), 1)
        if abs((low + longest) / 2 / mean - 1) < 0.1:
            return f"uniform:{low},{round(longest)}"
    return str(max(round(mean), 1))


def _rate(found: Mapping[str, Any], where: str) -> float:
    given = found.get("request_rate", math.inf)
    try:
        rate = math.inf if given is None else float(given)
    except (TypeError, ValueError):
        rate = math.nan
    if not rate > 0:
        raise ScenarioError(f"{where}: request_rate {shown(given)} is no number above 0")
    return rate


def _above_zero(found: Mapping[str, Any], key: str) -> float | None:
    value = found.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e15:
        return None
    return float(value)
