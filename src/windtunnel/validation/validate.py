"""``validate``: every data set through the ordinary commands, and how far the answers are off."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windtunnel.calibration.published import read_published
from windtunnel.errors import ScenarioError
from windtunnel.validation.ask import answer_rows, cpus
from windtunnel.validation.kernels import answer_measured
from windtunnel.validation.residual import Answers
from windtunnel.validation.scores import fits, scores
from windtunnel.validation.sets import DataSet, data_folder, find

NO_DATA = "not available: its measurements are not shipped; name their folder with --data or WINDTUNNEL_DATA"


@dataclass(frozen=True, slots=True)
class SetResult:
    """One data set's answers. ``unavailable``: why there are none; ``left_out``: rows that need the data folder."""

    dataset: DataSet
    answers: Answers
    unavailable: str = ""
    left_out: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The entry of the JSON: the first metric's figures, and each metric's below ``metrics``."""
        found = scores(self.answers)
        head = {"name": self.dataset.name, "kind": self.dataset.kind, "title": self.dataset.title}
        memory = fits(self.answers.verdicts)
        first = next(iter(found.values()), None)
        figures: dict[str, Any] = {"rows": 0, "median_ape": None, "p90_ape": None, "bias": None, "worst": []}
        if first is not None:
            shown = first.to_dict()
            figures = {"metric": first.metric, **{k: shown[k] for k in figures}}
        return {
            **head,
            **figures,
            "metrics": {metric: s.to_dict() for metric, s in found.items()},
            "fits": None if memory is None else memory.to_dict(),
            "refused": [{"label": r.label, "why": r.why} for r in self.answers.refused],
            "left_out": self.left_out,
            "available": not self.unavailable,
            "note": self.unavailable or self.dataset.note,
            "source": self.dataset.source,
        }


@dataclass(frozen=True, slots=True)
class Validation:
    """All sets that were asked for."""

    sets: tuple[SetResult, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON object, as CONTRACT.md gives it, with more fields."""
        return {"datasets": [s.to_dict() for s in self.sets]}


Told = Callable[[str, int, int], None]


def validate(
    *names: str, data: str | os.PathLike[str] | None = None, workers: int | None = None, told: Told | None = None
) -> Validation:
    """Predictions beside the measured data sets ``names`` (or kinds: kernel, collective, train, serve; all by default).

    ``data``: folder of the measurements that are not shipped (kernels, collectives, request logs), by default
    WINDTUNNEL_DATA; sets that need it are ``not available`` without. ``workers``: processes, by default one a
    processor. ``told`` hears (name, rows done, rows) while it runs.

    Raises:
        ScenarioError: an unknown name, or a folder that does not exist.
    """
    folder = data_folder(None if data is None else os.fspath(data), os.environ)
    if folder is not None and not folder.is_dir():
        raise ScenarioError(f"data folder {str(folder)!r} does not exist")
    return Validation(tuple(_one(s, folder, workers or cpus(), told) for s in find(names)))


def _one(dataset: DataSet, folder: Path | None, workers: int, told: Told | None) -> SetResult:
    if dataset.reader:
        measured = None if folder is None else read_published(dataset.reader, folder, dataset.device)
        if measured is None:
            return SetResult(dataset, Answers(()), NO_DATA)
        return SetResult(dataset, answer_measured(measured))
    rows = dataset.rows()
    usable = [row for row in rows if folder is not None or not row.needs_data]
    if not usable:
        return SetResult(dataset, Answers(()), NO_DATA, len(rows))

    def done(n: int) -> None:
        if told is not None:
            told(dataset.name, n, len(usable))

    return SetResult(dataset, answer_rows(usable, folder, workers, done), "", len(rows) - len(usable))


def residual_table(results: Sequence[SetResult]) -> list[dict[str, Any]]:
    """Every residual as a flat row, for plots and for fitting intervals."""
    return [
        {
            "dataset": s.dataset.name, "set_kind": s.dataset.kind, "label": r.label, "group": r.group,
            "metric": r.metric, "measured": r.measured, "predicted": r.predicted, **r.kind,
        }
        for s in results
        for r in s.answers.residuals
    ]  # fmt: skip
