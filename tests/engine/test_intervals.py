"""The interval of a prediction is that of the closest class of measured runs."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from windtunnel.engine import intervals
from windtunnel.engine.intervals import Band, choose, keys, sure, uncalibrated_key
from windtunnel.hardware import load_accelerator

H100 = load_accelerator("h100-sxm")


def band(low: float, high: float) -> Band:
    return Band(low, high, rows=40, groups=6, median_ape=0.05, about="some runs")


def test_the_closest_class_counts() -> None:
    order = keys("train", "step_time_s", "megatron@2021", "ampere")
    assert order[0] == "step_time_s|train|megatron@2021|ampere"
    assert order[-1] == "step_time_s|*|*|*"
    assert order.index("step_time_s|train|megatron|*") < order.index("step_time_s|train|*|ampere")
    known = {order[-1]: band(0.5, 2.0), order[2]: band(0.9, 1.1)}
    assert choose(known.get, "train", "step_time_s", "megatron@2021", "ampere", True) == band(0.9, 1.1)
    assert choose(known.get, "infer", "ttft_s", "vllm", "hopper", True) is None


def test_a_device_without_measurements_is_never_surer() -> None:
    known = {"step_time_s|train|fsdp|*": band(0.9, 1.1), uncalibrated_key("train", "step_time_s"): band(0.95, 1.6)}
    found = choose(known.get, "train", "step_time_s", "fsdp", "blackwell", False)
    assert found is not None
    assert (found.low, found.high) == (0.9, 1.6)


def test_rates_fall_as_the_time_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    classes: Mapping[str, Band] = {"step_time_s|*|*|*": band(0.8, 1.25)}
    monkeypatch.setattr(intervals, "known_classes", lambda: classes)
    known = sure("train", "megatron", H100, True, {"step_time_s": 2.0}, {"tokens_per_second": 100.0, "mfu": None})
    assert known.interval == {
        "step_time_s": {"low": 1.6, "high": 2.5},
        "tokens_per_second": {"low": 80.0, "high": 125.0},
    }
    assert known.confidence is not None
    assert known.confidence.startswith("fairly sure: 80 % of 40 measured figures of some runs")
    assert known.warnings == []


def test_where_nothing_was_measured_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "known_classes", dict)
    known = sure("train", "megatron", H100, True, {"step_time_s": 2.0})
    assert known.interval is None
    assert "no error interval" in known.warnings[0]
