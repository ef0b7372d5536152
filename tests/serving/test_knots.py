"""The axes of price lists: points, the cell of a number, and its two ends."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.serving.knots import CONTEXT, KEYS, PROMPT, SEQUENCES, STATES, TOKENS, Axis
from windtunnel.serving.step_time import _ends

USED = (TOKENS, PROMPT, SEQUENCES, CONTEXT, KEYS, STATES)


@st.composite
def axes(draw: st.DrawFn) -> Axis:
    dense = draw(st.integers(0, 8))
    return Axis(dense, draw(st.integers(0, dense)))


any_axis = axes() | st.sampled_from(USED)


@given(any_axis, st.integers(0, 1 << 20))
def test_the_points_rise_from_zero_past_the_largest_number(axis: Axis, largest: int) -> None:
    points = axis.points(largest)
    assert points[0] == 0
    assert np.all(np.diff(points) > 0)
    assert points[-2] <= max(largest, 1) < points[-1]


@given(any_axis, st.integers(0, 1 << 20))
def test_index_is_the_last_point_that_is_not_above(axis: Axis, value: int) -> None:
    points = axis.points(value)
    assert axis.index(value) == np.searchsorted(points, value, side="right") - 1


@given(any_axis, st.integers(0, 1 << 16))
def test_every_point_is_in_its_own_cell(axis: Axis, largest: int) -> None:
    points = axis.points(largest)
    chosen = range(0, len(points), max(len(points) // 200, 1))
    assert [axis.index(int(points[i])) for i in chosen] == list(chosen)


@given(any_axis, st.integers(0, 1 << 60), st.integers(0, 1 << 60))
def test_index_never_falls(axis: Axis, one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert axis.index(low) <= axis.index(high)


@given(any_axis, st.integers(0, 1 << 60))
def test_a_number_lies_between_the_ends_of_its_cell(axis: Axis, value: int) -> None:
    low, high = _ends(axis, axis.index(value))
    assert low <= value < high
    if value >= 1 << axis.dense:
        assert (high - low) << axis.mantissa <= low
    else:
        assert (low, high) == (value, value + 1)


@given(any_axis, st.integers(0, 1 << 16))
def test_ends_are_neighbouring_points(axis: Axis, largest: int) -> None:
    points = axis.points(largest).tolist()
    for i in range(max(len(points) - 50, 0), len(points) - 1):
        assert _ends(axis, i) == (points[i], points[i + 1])


def test_a_list_without_numbers_still_has_two_neighbours() -> None:
    assert Axis(3, 2).points(0).tolist() == [0, 1, 2]
