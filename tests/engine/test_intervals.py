"""The interval of a prediction is that of the closest class of measured runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from windtunnel.engine import intervals
from windtunnel.engine.intervals import Band, Kind, choose, keys, sure, uncalibrated_key

KIND = Kind("train", "megatron@2021", "ampere", experts=False, calibrated=True)


def band(low: float, high: float) -> Band:
    return Band(low, high, rows=40, groups=6, median_ape=0.05, about="some runs")


def test_the_closest_class_counts() -> None:
    order = keys(KIND, "step_time_s")
    assert order[0] == "step_time_s|dense|train|megatron@2021|ampere"
    assert order[-1] == "step_time_s|*|*|*|*"
    assert order.index("step_time_s|dense|train|megatron@*|*") < order.index("step_time_s|dense|train|*|ampere")
    assert {k.split("|")[1] for k in set(order) & set(keys(replace(KIND, experts=True), "step_time_s"))} == {"*"}
    known = {order[-1]: band(0.5, 2.0), order[2]: band(0.9, 1.1)}
    assert choose(known.get, KIND, "step_time_s") == band(0.9, 1.1)
    assert choose(known.get, KIND, "ttft_s") is None


def test_a_device_without_measurements_is_never_surer() -> None:
    far = replace(KIND, engine="fsdp", family="blackwell", calibrated=False)
    known = {
        "step_time_s|dense|train|fsdp|*": band(0.9, 1.1),
        uncalibrated_key(far, "step_time_s"): band(0.95, 1.6),
    }
    found = choose(known.get, far, "step_time_s")
    assert found is not None
    assert (found.low, found.high) == (0.9, 1.6)


def test_rates_fall_as_the_time_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    classes: Mapping[str, Band] = {"step_time_s|dense|*|*|*": band(0.8, 1.25)}
    monkeypatch.setattr(intervals, "known_classes", lambda: classes)
    known = sure(KIND, {"step_time_s": 2.0}, {"tokens_per_second": 100.0, "mfu": None})
    assert known.interval == {
        "step_time_s": {"low": 1.6, "high": 2.5},
        "tokens_per_second": {"low": 80.0, "high": 125.0},
    }
    assert known.confidence is not None
    assert known.confidence.startswith("fairly sure: 80 % of 40 measured figures of some runs")
    assert known.warnings == []


def test_where_nothing_was_measured_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "known_classes", dict)
    known = sure(KIND, {"step_time_s": 2.0})
    assert known.interval is None
    assert "no error interval" in known.warnings[0]
