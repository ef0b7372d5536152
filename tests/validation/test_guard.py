"""A change may not spoil accuracy unseen: a fixed part of the validation, with the errors that it had.

``scripts/refresh_guard.py`` writes them anew, for a change that is meant to move them.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from windtunnel.validation.ask import answer_rows
from windtunnel.validation.sets import data_sets

FILE = Path(__file__).parent / "data" / "guard.csv"
WORSE = 1.2
"""A set's median error may grow by a fifth"""
SLACK = 0.005
"""and by half a percentage point, below which it says nothing."""

Errors = Mapping[tuple[str, str], float]
"""Signed errors by (label, metric)."""


def recorded() -> dict[str, dict[tuple[str, str], float]]:
    found: dict[str, dict[tuple[str, str], float]] = {}
    with FILE.open(newline="") as file:
        for r in csv.DictReader(file):
            found.setdefault(r["dataset"], {})[r["label"], r["metric"]] = float(r["error"])
    return found


def spoilt(before: Errors, after: Errors) -> list[str]:
    """A table of before and after for each metric that got worse by more than a fifth."""
    lines: list[str] = []
    for metric in sorted({m for _, m in before}):
        keys = [key for key in before if key[1] == metric]
        was, now = (statistics.median(abs(e[k]) for k in keys) for e in (before, after))
        if now > WORSE * was + SLACK:
            lines.append(f"{metric}: median {100 * was:.1f} % before, {100 * now:.1f} % after")
            lines += [f"  {100 * before[k]:+7.1f} %  {100 * after[k]:+7.1f} %  {k[0]}" for k in keys]
    return lines


@pytest.mark.parametrize("name", list(recorded()))
def test_accuracy_is_kept(name: str) -> None:
    before = recorded()[name]
    labels = {label for label, _ in before}
    rows: Sequence = [row for row in data_sets()[name].rows() if row.label in labels]
    after = {(r.label, r.metric): r.error for r in answer_rows(rows, None).residuals}
    assert set(before) <= set(after), "rows of the guard have no answer any more"
    found = spoilt(before, after)
    assert not found, "\n".join([f"{name} got worse:", *found])


def test_every_set_with_a_table_of_its_own_is_guarded() -> None:
    usable = {n for n, s in data_sets().items() if any(r.measured and not r.needs_data for r in s.rows())}
    assert usable == set(recorded())


def test_a_spoilt_set_is_told_with_its_rows() -> None:
    before = {("a", "step_time_s"): 0.05, ("b", "step_time_s"): -0.06, ("a", "memory"): 0.1}
    assert spoilt(before, before) == []
    assert spoilt(before, {k: 1.15 * e for k, e in before.items()}) == []
    text = "\n".join(spoilt(before, {**before, ("a", "step_time_s"): 0.2, ("b", "step_time_s"): 0.1}))
    assert "step_time_s: median 5.5 % before, 15.0 % after" in text
    assert "-6.0 %    +10.0 %  b" in text
    assert "memory" not in text
