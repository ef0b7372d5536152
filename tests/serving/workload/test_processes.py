"""Arrival processes: their means, how uneven they are, and that a longer run begins like a shorter one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from windtunnel.scenario.workload import Bursty, Renewal
from windtunnel.serving.workload.processes import expected_between, inverted, open_times, rhythmic, weibull_shape
from windtunnel.serving.workload.published import Rhythm

PROCESSES = [
    Renewal("poisson", 1.0),
    Renewal("gamma", 0.5),
    Renewal("gamma", 3.0),
    Renewal("weibull", 0.3),
    Renewal("weibull", 2.0),
]


@pytest.mark.parametrize("process", PROCESSES)
def test_gaps_have_their_moments(process: Renewal) -> None:
    gaps = np.diff(open_times(process, 400_000, 5.0, 1))
    assert gaps.mean() == pytest.approx(0.2, rel=0.02)
    assert gaps.std() / gaps.mean() == pytest.approx(process.cv, rel=0.03)


def test_constant_arrivals() -> None:
    assert open_times(Renewal("constant", 0), 4, 2.0, 0) == pytest.approx([0, 0.5, 1, 1.5])


@pytest.mark.parametrize("cv", [0.01, 0.1, 1.0, 2.0, 10.0, 100.0])
def test_weibull_shape(cv: float) -> None:
    k = weibull_shape(cv)
    log = math.lgamma(1 + 2 / k) - 2 * math.lgamma(1 + 1 / k)
    assert math.expm1(log) == pytest.approx(cv**2, rel=1e-6)
    if cv == 1:
        assert k == pytest.approx(1)


def test_bursty_arrivals_keep_the_mean_rate_and_come_in_bursts() -> None:
    times = open_times(Bursty(10, 20, 0.0), 400_000, 5.0, 3)
    assert len(times) / times[-1] == pytest.approx(5, rel=0.03)
    counts = np.histogram(times, bins=np.arange(0, times[-1], 1.0))[0]
    # Two thirds of the time nothing comes, else 15 a second; seconds in which a state ends are neither.
    assert (counts == 0).mean() == pytest.approx(2 / 3, abs=0.04)
    assert np.median(counts[counts > 0]) == pytest.approx(15, abs=1)
    low = open_times(Bursty(10, 20, 0.1), 400_000, 5.0, 3)
    assert len(low) / low[-1] == pytest.approx(5, rel=0.03)
    even = open_times(Bursty(10, 20, 1.0), 100_000, 5.0, 3)
    assert np.diff(even).std() * 5 == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("process", [*PROCESSES, Renewal("constant", 0.0), Bursty(1, 2, 0.1)])
def test_a_longer_run_begins_like_a_shorter_one(process: Renewal | Bursty) -> None:
    many = open_times(process, 5000, 3.0, 7)
    assert np.array_equal(many[:70], open_times(process, 70, 3.0, 7))
    assert (np.diff(many) >= 0).all()
    assert many[0] >= 0
    assert (open_times(process, 10, math.inf, 7) == 0).all()


def test_time_passes_over_windows_in_which_nothing_comes() -> None:
    expected, edges = np.array([0.0, 1.0, 1.0, 3.0]), np.array([0.0, 10.0, 20.0, 30.0])
    assert inverted(np.array([0.0, 0.5, 1.0, 2.0, 3.0]), expected, edges) == pytest.approx([0, 5, 20, 25, 30])


def test_a_rhythm_follows_its_profile_over_and_over() -> None:
    rhythm = Rhythm(rate=10.0, window_s=60.0, profile=np.array([1.0, 0.0, 3.0]), cv=1.5, tick_s=0.0)
    times = rhythmic(rhythm, 180_000, 0.0, 1)
    counts = np.histogram(times % 180, bins=[0, 60, 120, 180])[0]
    assert counts[1] == 0
    assert counts[2] / counts[0] == pytest.approx(3, rel=0.03)
    assert len(times) / times[-1] == pytest.approx(10, rel=0.02)
    later = rhythmic(rhythm, 1000, 430.0, 1)
    assert later[0] >= 480  # second 430 is in an empty minute
    assert expected_between(rhythm, 0, 180) == pytest.approx(1800)
    assert expected_between(rhythm, 30, 150) == pytest.approx(225 + 675)
    ticked = rhythmic(Rhythm(10.0, 60.0, np.ones(3), 1.0, 3.0), 1000, 4.0, 1)
    assert ticked[0] >= 4
    assert set(np.unique(ticked[ticked > 4] % 3)) == {0.0}
