"""Bins of durations: where a duration falls, how wide a bin is, and runs that are counted at once."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.serving.histogram import BINS, add_run, bin_of, lower_edges

durations = st.integers(0, 1 << 40) | st.integers(0, (1 << 63) - 1)


def edge(where: int) -> int:
    return int(lower_edges(np.array([where]))[0])


@given(durations)
def test_a_duration_lies_in_its_bin(value: int) -> None:
    where = bin_of(value)
    assert 0 <= where < BINS
    assert edge(where) <= value
    assert where == BINS - 1 or value < edge(where + 1)


@given(durations)
def test_a_bin_is_at_most_a_thousandth_wide(value: int) -> None:
    where = bin_of(value)
    if where < BINS - 1:
        assert edge(where + 1) - edge(where) <= max(edge(where) / 1000, 1)


@given(durations, durations)
def test_bins_are_in_order(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert bin_of(low) <= bin_of(high)


def test_edges_rise_and_start_their_own_bins() -> None:
    edges = lower_edges(np.arange(BINS))
    assert np.all(np.diff(edges) > 0)
    assert [bin_of(int(e)) for e in edges[::101]] == list(range(0, BINS, 101))
    assert bin_of((1 << 63) - 1) == BINS - 1


def test_what_is_not_positive_is_in_the_first_bin() -> None:
    assert bin_of(0) == bin_of(-5) == 0


@given(
    st.integers(0, 5000) | st.integers(0, 1 << 40),
    st.integers(0, 50) | st.integers(0, 1 << 32),
    st.integers(0, 300),
    st.integers(0, 5),
)
def test_a_run_counts_as_its_members_one_by_one(value: int, growth: int, steps: int, weight: int) -> None:
    at_once, one_by_one = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
    add_run(at_once, value, growth, steps, weight)
    for i in range(steps):
        one_by_one[bin_of(value + i * growth)] += weight
    assert np.array_equal(at_once, one_by_one)


def test_a_list_of_counts_will_do() -> None:
    counts = [0] * BINS
    add_run(counts, 1000, 1, 50, 2)
    assert sum(counts) == 100
    assert counts[bin_of(1000)] == 2
