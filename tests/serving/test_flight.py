"""Stretches of iterations: closed forms against sums that are written out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from windtunnel.serving.flight import Flight, single

sizes = st.integers(0, 50) | st.integers(0, 10**12)


@st.composite
def flights(draw: st.DrawFn) -> Flight:
    flight = Flight(draw(sizes), draw(sizes), draw(sizes), draw(st.integers(0, 5) | sizes), draw(sizes))
    flight.cut(draw(st.integers(1, 60)))
    return flight


def each(flight: Flight) -> list[int]:
    """How long its iterations are."""
    f = flight
    return [f.added + max(f.device + j * f.slope, f.floor) for j in range(f.steps)]


@given(flights())
def test_duration_is_the_sum_of_the_iterations(flight: Flight) -> None:
    lengths = each(flight)
    assert [flight.duration(n) for n in range(flight.steps + 1)] == [sum(lengths[:n]) for n in range(flight.steps + 1)]
    assert flight.end == flight.start + sum(lengths)


@given(flights())
def test_floored_counts_those_that_take_the_floor(flight: Flight) -> None:
    # A device that takes just the floor counts either way: the time is the same.
    below = sum(flight.device + j * flight.slope < flight.floor for j in range(flight.steps))
    assert flight.floored(flight.steps) == below


@given(flights(), st.data())
def test_steps_until_is_the_fewest_that_reach_a_time(flight: Flight, data: st.DataObject) -> None:
    ends, end = [], flight.start
    for length in each(flight):
        end += length
        ends.append(end)
    around = st.sampled_from(ends).flatmap(lambda e: st.integers(e - 1, e + 1))
    time = data.draw(around | st.integers(0, ends[-1] + 2))
    expected = next((n for n, e in enumerate(ends, 1) if e >= time), flight.steps + 1)
    assert flight.steps_until(time) == expected


@given(flights(), st.data())
def test_a_stretch_that_is_cut_keeps_its_beginning(flight: Flight, data: st.DataObject) -> None:
    lengths, steps = each(flight), data.draw(st.integers(1, flight.steps))
    flight.cut(steps)
    assert each(flight) == lengths[:steps]
    assert flight.end == flight.start + sum(lengths[:steps])


@given(sizes, sizes)
def test_a_single_iteration_has_its_duration(start: int, duration: int) -> None:
    flight = single(start, duration)
    assert (flight.steps, flight.end, flight.duration(1)) == (1, start + duration, duration)
