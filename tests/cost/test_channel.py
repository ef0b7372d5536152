"""Links shared over time, against an exact simulation in fractions."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.cost.channel import Arrived, Channel
from windtunnel.errors import ScenarioError

PS = 10**12
ROUNDING = Fraction(1, 2**15)

starts = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 4000)), min_size=1, max_size=9).map(sorted)
bandwidths = st.integers(10**9, 10**13)


def exact(given_starts: list[tuple[int, int]], bandwidth: int) -> list[Fraction]:
    """When the last byte of each transfer is sent, one event at a time."""
    left: dict[int, Fraction] = {}
    ends = [Fraction(0)] * len(given_starts)
    now, coming = Fraction(0), 0
    rate = Fraction(bandwidth, PS)
    while left or coming < len(given_starts):
        arrival = Fraction(given_starts[coming][0]) if coming < len(given_starts) else None
        end = now + min(left.values()) * len(left) / rate if left else None
        until = min(t for t in (arrival, end) if t is not None)
        for i in left:
            left[i] -= rate * (until - now) / len(left)
        now = until
        for i in [i for i, n in left.items() if n == 0]:
            ends[i] = now
            del left[i]
        if now == arrival:
            left[coming] = Fraction(given_starts[coming][1])
            coming += 1
    return ends


def run(given_starts: list[tuple[int, int]], channel: Channel) -> dict[int, int]:
    """Arrival times by transfer, and the promises of next() and advance() on the way."""
    arrived: list[Arrived] = []
    for time, size in given_starts:
        arrived += channel.advance(time)
        channel.start(time, size)
    while (time := channel.next()) is not None:
        if time > given_starts[-1][0]:
            assert not channel.advance(time - 1)
        now = channel.advance(time)
        assert now
        assert all(a.time == time for a in now)
        arrived += now
    assert [a.time for a in arrived] == sorted(a.time for a in arrived)
    return {a.transfer: a.time for a in arrived}


@given(starts, bandwidths, st.integers(0, 10**6))
def test_transfers_share_exactly(given_starts: list[tuple[int, int]], bandwidth: int, latency: int) -> None:
    got = run(given_starts, Channel(bandwidth, latency / PS))
    for i, end in enumerate(exact(given_starts, bandwidth)):
        assert -ROUNDING < got[i] - latency - end < 1


@given(starts, bandwidths)
def test_bytes_are_kept_and_never_faster_than_the_link(given_starts: list[tuple[int, int]], bandwidth: int) -> None:
    got = run(given_starts, Channel(bandwidth))
    assert sorted(got) == list(range(len(given_starts)))
    for first, (opened, _) in enumerate(given_starts):
        for end in got.values():
            inside = sum(size for i, (t, size) in enumerate(given_starts) if t >= opened and got[i] <= end)
            assert inside * PS <= bandwidth * (max(end - opened, 0) + ROUNDING), first
    # Work is conserved: the link is not idle before the last byte of a burst that started together.
    together = run([(7, size) for _, size in given_starts], Channel(bandwidth))
    total = sum(size for _, size in given_starts)
    assert -ROUNDING < max(together.values()) - 7 - Fraction(total * PS, bandwidth) < 1


@given(starts, st.data())
def test_cancelled_transfers_leave_their_share(given_starts: list[tuple[int, int]], data: st.DataObject) -> None:
    """Cancelling at the very start is never having started."""
    gone = data.draw(st.sets(st.integers(0, len(given_starts) - 1)))
    one, other = Channel(10**12), Channel(10**12)
    for i, (time, size) in enumerate(given_starts):
        transfer = one.start(time, size + 1)
        if i in gone:
            one.cancel(time, transfer)
        else:
            other.start(time, size + 1)
    assert [a.time for a in one.advance(10**9)] == [a.time for a in other.advance(10**9)]
    assert one.next() is None


def test_a_sent_transfer_can_be_cancelled_until_it_arrives() -> None:
    channel = Channel(1e12, latency_s=100 / PS)
    first, second = channel.start(0, 10), channel.start(0, 10)
    channel.cancel(50, first)
    assert channel.advance(1000) == [(120, second)]
    channel.cancel(2000, second)
    assert channel.advance(3000) == []


def test_two_equal_transfers_take_twice_as_long() -> None:
    channel = Channel(50e9)
    assert channel.idle_since(0) == 0
    channel.start(0, 50 * 10**9)
    assert channel.next() == PS
    channel.start(0, 50 * 10**9)
    assert channel.next() == 2 * PS
    assert channel.idle_since(PS) is None
    assert channel.advance(3 * PS) == [(2 * PS, 0), (2 * PS, 1)]
    assert channel.idle_since(3 * PS) == 2 * PS
    assert channel.bytes_per_s == 50 * 10**9


def test_a_long_busy_period_does_not_drift() -> None:
    """Thousands of overlapping transfers end when their sum is sent, to the picosecond."""
    channel = Channel(10**9)
    sizes = [1000 + 7 * i for i in range(3000)]
    for i, size in enumerate(sizes):
        channel.start(900_000 * i, size)
    ends = channel.advance(PS)
    assert len(ends) == len(sizes)
    assert ends[-1].time == sum(sizes) * 1000


@pytest.mark.parametrize(("bandwidth", "latency"), [(0, 0), (float("nan"), 0), (1e9, -1), (1e9, float("inf"))])
def test_impossible_links_are_refused(bandwidth: float, latency: float) -> None:
    with pytest.raises(ScenarioError, match="accepted"):
        Channel(bandwidth, latency)


def test_time_does_not_run_back() -> None:
    channel = Channel(1e9)
    channel.start(10, 1)
    with pytest.raises(ValueError, match="run back"):
        channel.start(9, 1)
