"""Intervals cover what was left out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.engine.intervals import Band
from windtunnel.validation import intervals
from windtunnel.validation.intervals import cross_validated, fit_classes, held_out_band, quantiles
from windtunnel.validation.residual import Residual

KIND = {"command": "train", "engine": "fsdp", "family": "hopper", "experts": False, "calibrated": True}


def residuals(groups: int, rows: int, seed: int, between: float = 0.1, within: float = 0.05) -> list[Residual]:
    rng = np.random.default_rng(seed)
    found = []
    for g in range(groups):
        shift = rng.normal(0, between)
        for i in range(rows):
            measured = float(np.exp(shift + rng.normal(0, within)))
            found.append(Residual(f"{g}.{i}", f"s/{g}", "step_time_s", measured, 1.0, KIND))
    return found


@settings(max_examples=10)
@given(st.integers(0, 10_000))
def test_a_new_group_is_covered_in_four_of_five_rows(seed: int) -> None:
    known = residuals(30, 10, seed)
    classes, held = fit_classes(known)
    key = "step_time_s|dense|train|fsdp|hopper"
    inside = sum(held[key][r.group][0] <= r.measured <= held[key][r.group][1] for r in known)  # type: ignore[index]
    assert 0.78 <= inside / len(known) <= 0.86
    assert classes[key].low < 1 < classes[key].high
    assert (classes[key].rows, classes[key].groups) == (300, 30)


def test_a_class_needs_several_models() -> None:
    assert fit_classes(residuals(3, 50, 0)) == ({}, {})
    classes, held = fit_classes(residuals(4, 50, 0))
    assert classes
    # Without one of four groups too few are left.
    assert all(ends is None for of in held.values() for ends in of.values())


def test_a_group_is_judged_by_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    known = residuals(12, 5, 1)
    classes, held = fit_classes(known)
    monkeypatch.setattr(intervals, "known_classes", lambda: classes)
    monkeypatch.setattr(intervals, "_held_out", lambda: held)
    key = "step_time_s|dense|train|fsdp|hopper"
    own, other = held_out_band(KIND, "step_time_s", "s/3"), held_out_band(KIND, "step_time_s", "elsewhere")
    assert own is not None
    assert (own.low, own.high) == held[key]["s/3"]
    assert other == classes[key]
    assert isinstance(other, Band)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=50), st.data())
def test_quantiles_are_ordered_and_inside(values: list[float], data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.floats(0.1, 10), min_size=len(values), max_size=len(values)))
    found = quantiles(np.array(values), np.array(weights), (0.1, 0.5, 0.9))
    assert sorted(found) == found
    assert min(values) <= found[0]
    assert found[2] <= max(values)


@settings(max_examples=10)
@given(st.integers(0, 10_000), st.sampled_from([8, 60]))
def test_an_interval_from_the_other_groups_covers_four_of_five_rows(seed: int, groups: int) -> None:
    known = residuals(groups, 20, seed, between=0.05)
    values, names = np.array([r.log_ratio for r in known]), [r.group for r in known]
    found = cross_validated(values, names)
    assert set(found) == set(names)
    ends = [found[r.group] for r in known]
    inside = sum(e is not None and e[0] <= r.measured <= e[1] for e, r in zip(ends, known, strict=True))
    assert 0.68 <= inside / len(known) <= 0.92


def test_a_group_does_not_speak_for_itself() -> None:
    """However far off a group's rows are, its own interval stays where it was."""
    known = residuals(5, 20, seed=1)
    names = [r.group for r in known]
    values = np.array([r.log_ratio for r in known])
    moved = values + 3.0 * np.array([name == "s/2" for name in names])
    before, after = (cross_validated(v, names) for v in (values, moved))
    assert before["s/2"] == after["s/2"]
    assert before["s/1"] != after["s/1"]


def test_too_few_groups_have_no_interval() -> None:
    known = residuals(2, 20, seed=1)
    found = cross_validated(np.array([r.log_ratio for r in known]), [r.group for r in known])
    assert found == {"s/0": None, "s/1": None}
