"""Step times from what training frameworks print, and from a table of runs."""

from __future__ import annotations

import csv
import io
import re
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windtunnel.errors import ScenarioError
from windtunnel.scenario.options import TrainOptions, read_options
from windtunnel.scenario.text import shown
from windtunnel.scenario.train import train_scenario

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
NUMBER = r"([0-9][0-9,]*\.?[0-9]*(?:[eE][+-]?[0-9]+)?)"

MEGATRON_STEP = re.compile(
    r"iteration\s+([0-9]+)\s*/\s*[0-9]+ \|.*?elapsed time per iteration \(ms\):\s*" + NUMBER, re.ASCII
)
"""Megatron-LM's and Megatron-DeepSpeed's ``training_log`` since 2020: milliseconds an iteration, the mean since the
line before."""
MEGATRON_BATCH = re.compile(r"global batch size:\s*([0-9]+)", re.ASCII)
MEGATRON_ARGUMENT = re.compile(r"^\s*(?:[0-9]+:\s*)?([a-z_]+) \.{3,} (\S+)\s*$", re.MULTILINE | re.ASCII)
ARGUMENTS = {
    "tensor_model_parallel_size": "tp", "pipeline_model_parallel_size": "pp", "context_parallel_size": "cp",
    "expert_model_parallel_size": "ep", "micro_batch_size": "micro_batch", "seq_length": "seq",
    "data_parallel_size": "dp",
}  # fmt: skip
"""Of the arguments that Megatron prints at its start, those that are options here."""

TITAN_STEP = re.compile(r"step:\s*([0-9]+)\s.*?\b(?:tps|wps):\s*" + NUMBER, re.ASCII)
"""torchtitan's ``MetricsProcessor.log``: tokens a second of one GPU since the line before (``wps`` until 2024)."""

STEP_TIMES = {"step_time_s": 1.0, "step_time_ms": 1e-3, "iteration_time_s": 1.0, "iteration_time_ms": 1e-3}
"""Columns of step times, and their unit in seconds."""

WARM = 0.1
"""Share of the first lines of a log that are left out: compilation, allocation and the first batches."""

MOST_RUNS = 100_000
MOST_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class TrainRun:
    """One configuration and the median of its step times. ``spread``: the standard error of that median over it."""

    options: TrainOptions
    step_time_s: float
    spread: float = 0.0


def without_colours(text: str) -> str:
    """The text without a terminal's colour codes."""
    return COLOURS.sub("", text)


def read_megatron(path: Path, given: Mapping[str, Any]) -> list[TrainRun]:
    """A run for each global batch size that the log passes through (a ramp-up makes several).

    Options that ``given`` lacks come from the arguments that Megatron prints before its first iteration.

    Raises:
        ScenarioError: the file cannot be read, has no iteration, or its options are no scenario.
    """
    text = without_colours(_text(path))
    printed = {ARGUMENTS[k]: v for k, v in MEGATRON_ARGUMENT.findall(text) if k in ARGUMENTS}
    times: dict[int | None, list[float]] = defaultdict(list)
    for line in text.splitlines():
        if (found := MEGATRON_STEP.search(line)) is None:
            continue
        batch = MEGATRON_BATCH.search(line)
        times[int(batch[1]) if batch else None].append(_positive(found[2], path) * 1e-3)
    if not times:
        raise ScenarioError(f"log {shown(str(path))} has no line 'iteration N/ M | ... elapsed time per iteration'")
    runs = []
    for size, each in times.items():
        asked = {**printed, **given, **({} if size is None else {"global_batch": size})}
        runs.append(_run(read_options(TrainOptions, asked), each))
    return runs


def read_torchtitan(path: Path, given: Mapping[str, Any]) -> list[TrainRun]:
    """The run of a log: seconds a step are the tokens of a step (``global_batch`` x ``seq`` of the options) over the
    tokens a second of all GPUs.

    Raises:
        ScenarioError: the file cannot be read, has no step, or its options are no scenario.
    """
    options = read_options(TrainOptions, given)
    plan = train_scenario(options).plan
    tokens = float(plan.global_batch) * plan.seq / int(plan.layout.world)
    text = without_colours(_text(path))
    steps = [(int(n), _positive(rate, path)) for n, rate in TITAN_STEP.findall(text)]
    if not steps:
        raise ScenarioError(f"log {shown(str(path))} has no line 'step: N ... tps: ...'")
    by_step = dict(steps)  # every logging rank prints the same step
    return [_run(options, [tokens / rate for rate in by_step.values()])]


def read_runs(path: Path, given: Mapping[str, Any]) -> list[TrainRun]:
    """A CSV with a row a run: ``step_time_s`` (or ``step_time_ms``, ``iteration_time_s``, ``iteration_time_ms``), and
    options of ``train`` as columns with underscores, over those ``given``; empty cells say nothing. A model's path is
    looked for beside the file, too. Repeated configurations are one run with the median of their times.

    Raises:
        ScenarioError: the file cannot be read, or a row is wrong; the error names its line.
    """
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    column = next((name for name in STEP_TIMES if name in (reader.fieldnames or [])), None)
    if column is None:
        raise ScenarioError(f"log {shown(str(path))} has no column {', '.join(STEP_TIMES)}")
    times: dict[str, list[float]] = defaultdict(list)
    asked: dict[str, TrainOptions] = {}
    try:
        for cells in reader:
            where = f"log {shown(str(path))}, line {reader.line_num}"
            options = _row_options(cells, column, path, given, where)
            key = options.model_dump_json()
            asked[key] = options
            times[key].append(_positive(cells[column], path) * STEP_TIMES[column])
            if len(asked) > MOST_RUNS:
                raise ScenarioError(f"log {shown(str(path))} has more than {MOST_RUNS:,} runs")
    except csv.Error as error:
        raise ScenarioError(f"log {shown(str(path))}, line {reader.line_num}: {error}") from None
    if not asked:
        raise ScenarioError(f"log {shown(str(path))} has no row")
    return [_run(options, times[key], warm=0.0) for key, options in asked.items()]


def _row_options(
    cells: Mapping[str | None, Any], column: str, path: Path, given: Mapping[str, Any], where: str
) -> TrainOptions:
    if None in cells or None in cells.values():
        raise ScenarioError(f"{where}: not as many cells as the header has")
    own: dict[str, Any] = {str(k): v for k, v in cells.items() if k != column and v != ""}
    for key, value in own.items():
        if value.lower() in ("true", "false"):
            own[key] = value.lower() == "true"
    beside = path.parent / str(own.get("model", ""))
    if "model" in own and beside.exists():
        own["model"] = str(beside)
    try:
        return read_options(TrainOptions, {**given, **own})
    except ScenarioError as error:
        raise ScenarioError(f"{where}: {error}") from None


def _run(options: TrainOptions, times: Sequence[float], warm: float = WARM) -> TrainRun:
    kept = list(times)
    if len(times) > 1 and warm:
        kept = kept[max(round(len(times) * warm), 1) :]
    middle = statistics.median(kept)
    spread = 0.0
    if len(kept) > 1:
        # 1.48 x the median deviation is a normal distribution's standard deviation, 1.25 that of its median.
        deviation = 1.48 * statistics.median(abs(t - middle) for t in kept)
        spread = 1.25 * deviation / len(kept) ** 0.5 / middle
    return TrainRun(options, middle, spread)


def _positive(text: str | None, path: Path) -> float:
    try:
        value = float((text or "").replace(",", ""))
    except ValueError:
        value = 0.0
    if not 0 < value < 1e12:
        raise ScenarioError(f"log {shown(str(path))}: {shown(text)} is no time or rate above 0")
    return value


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise ScenarioError(f"log {shown(str(path))} cannot be read: {said}") from None
    if len(data) > MOST_BYTES:
        raise ScenarioError(f"log {shown(str(path))} is larger than the {MOST_BYTES >> 30} GiB accepted")
    return data.decode("utf-8-sig", "replace")
