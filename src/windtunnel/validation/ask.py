"""Runs a table's rows through the ordinary commands and sets the answers beside what was measured."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from windtunnel import engine
from windtunnel.errors import Infeasible, ScenarioError
from windtunnel.hardware import parse_cluster
from windtunnel.models import load_network
from windtunnel.scenario.checks import has_experts
from windtunnel.validation.intervals import held_out_band
from windtunnel.validation.residual import Answers, Refused, Residual, Verdict
from windtunnel.validation.table import Row

PARALLEL_FROM = 40
"""Rows from which starting other processes pays."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one row gave; picklable, so that rows can be answered in other processes."""

    residuals: tuple[Residual, ...] = ()
    verdict: Verdict | None = None
    refused: Refused | None = None


def answer_rows(
    rows: Sequence[Row], data: Path | None, workers: int = 1, told: Callable[[int], None] = lambda n: None
) -> Answers:
    """All rows' answers in their order; ``told`` hears how many are done."""
    with tempfile.TemporaryDirectory() as folder:
        one = partial(answer_row, folder=Path(folder), data=data)
        found: list[Answer] = []
        for answer in _each(one, rows, workers):
            found.append(answer)
            told(len(found))
    return Answers(
        tuple(r for a in found for r in a.residuals),
        tuple(a.verdict for a in found if a.verdict is not None),
        tuple(a.refused for a in found if a.refused is not None),
    )


def _each(one: Callable[[Row], Answer], rows: Sequence[Row], workers: int) -> Iterator[Answer]:
    if workers == 1 or len(rows) < PARALLEL_FROM:
        yield from map(one, rows)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(one, rows, chunksize=max(len(rows) // (16 * workers), 1))


def cpus() -> int:
    """Processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def answer_row(row: Row, folder: Path, data: Path | None) -> Answer:
    """One row through its command."""
    try:
        options = row.request(folder, data)
        result = getattr(engine, row.command)(options)
    except (ScenarioError, Infeasible) as error:
        return Answer(refused=Refused(row.label, str(error)))
    answer = result.to_dict()
    cluster = parse_cluster(options.on, dict(options.set))
    kind = {
        "command": row.command,
        "engine": str(answer["plan"].get("engine", "")),
        "device": cluster.accelerator.name,
        "family": cluster.accelerator.family,
        "experts": has_experts(load_network(options.model)),
        "calibrated": bool(answer["calibrated"]),
        "precision": str(answer["plan"].get("precision", "")),
        "mfu": answer.get("mfu"),
    }
    verdict = None
    if row.fits is not None:
        verdict = Verdict(row.label, row.group, row.fits, answer["fits"], answer["shortfall_bytes"])
    residuals, missing = [], []
    for metric, measured in row.measured.items():
        predicted = figure(answer, metric)
        if predicted is None or not predicted > 0:
            missing.append(metric)
            continue
        band = held_out_band(kind, metric, row.group)
        interval = None if band is None else (predicted * band.low, predicted * band.high)
        residuals.append(
            Residual(row.label, row.group, metric, measured, predicted, kind, interval, row.remark, row.line())
        )
    refused = Refused(row.label, f"no {', '.join(missing)} in the answer") if missing else None
    return Answer(tuple(residuals), verdict, refused)


def figure(answer: Mapping[str, Any], metric: str) -> float | None:
    """The figure at a dotted path of an answer's JSON."""
    value: Any = answer
    for part in metric.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) else None
