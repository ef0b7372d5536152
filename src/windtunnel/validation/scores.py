"""How far predictions are off: the figures that ``validate`` prints."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.validation.residual import Answers, Residual, Verdict

WORST = 5
"""Rows that are named for each metric."""


@dataclass(frozen=True, slots=True)
class Score:
    """Errors |predicted/measured - 1| over rows. ``coverage``: share of measurements inside the prediction's interval;
    ``width``: median of high/low of those intervals; both None where predictions have none."""

    metric: str
    rows: int
    groups: int
    median_ape: float
    p90_ape: float
    bias: float
    coverage: float | None
    width: float | None
    worst: tuple[Residual, ...]

    def to_dict(self) -> dict[str, Any]:
        fields = ("rows", "groups", "median_ape", "p90_ape", "bias", "coverage", "width")
        return {**{f: getattr(self, f) for f in fields}, "worst": [_row(r) for r in self.worst]}


def _row(r: Residual) -> dict[str, Any]:
    shown = {"label": r.label, "metric": r.metric, "measured": r.measured, "predicted": r.predicted, "error": r.error}
    return {**shown, "remark": r.remark, "command": r.ask}


def score(residuals: Sequence[Residual]) -> Score:
    """The figures of one metric's residuals (at least one)."""
    errors = np.array([r.error for r in residuals])
    known = [r for r in residuals if r.interval is not None]
    ranked = sorted(residuals, key=lambda r: -abs(r.log_ratio))
    return Score(
        metric=residuals[0].metric,
        rows=len(residuals),
        groups=len({r.group for r in residuals}),
        median_ape=float(np.median(np.abs(errors))),
        p90_ape=float(np.percentile(np.abs(errors), 90)),
        bias=float(errors.mean()),
        coverage=sum(bool(r.covered) for r in known) / len(known) if known else None,
        width=statistics.median(r.interval[1] / r.interval[0] for r in known if r.interval) if known else None,
        worst=tuple(ranked[:WORST]),
    )


def by_metric(residuals: Iterable[Residual]) -> dict[str, list[Residual]]:
    """Residuals by metric, in the order in which metrics first come."""
    found: dict[str, list[Residual]] = defaultdict(list)
    for r in residuals:
        found[r.metric].append(r)
    return dict(found)


@dataclass(frozen=True, slots=True)
class Fits:
    """Verdicts on memory: ``false_no`` of the runs that ran were said not to fit, ``false_yes`` of the others to."""

    ran: int
    false_no: tuple[Verdict, ...]
    failed: int
    false_yes: tuple[Verdict, ...]

    def to_dict(self) -> dict[str, Any]:
        counts: Mapping[str, Any] = {
            "ran": self.ran, "false_no": len(self.false_no), "failed": self.failed, "false_yes": len(self.false_yes),
        }  # fmt: skip
        return {**counts, "rows": [v.label for v in (*self.false_no, *self.false_yes)]}


def fits(verdicts: Sequence[Verdict]) -> Fits | None:
    """The count of right and wrong verdicts; None where nothing is known."""
    if not verdicts:
        return None
    ran, failed = [v for v in verdicts if v.measured], [v for v in verdicts if not v.measured]
    return Fits(
        len(ran), tuple(v for v in ran if not v.predicted), len(failed), tuple(v for v in failed if v.predicted)
    )


def scores(answers: Answers) -> dict[str, Score]:
    """A score for each metric that has rows."""
    return {metric: score(found) for metric, found in by_metric(answers.residuals).items()}


def constant_mfu(residuals: Sequence[Residual]) -> tuple[float, float] | None:
    """(median, p90) error of step times from one MFU for each device and number format: the median of those measured.

    What a prediction has to beat. Rows of one setup at several sizes count as they stand. None where there is no MFU.
    """
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for r in residuals:
        if r.metric == "step_time_s" and r.kind.get("mfu"):
            # By the same FLOPs and peak, the measured MFU is the predicted one times predicted over measured seconds.
            found[r.kind["device"], r.kind["precision"]].append(r.kind["mfu"] * r.predicted / r.measured)
    errors = [abs(mfu / statistics.median(of) - 1) for of in found.values() for mfu in of]
    return (statistics.median(errors), float(np.percentile(errors, 90))) if errors else None
