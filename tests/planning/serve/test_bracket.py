"""Brackets: the answer of a full scan, with few questions."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from windtunnel.planning.serve.bracket import digits, fewest, highest


@given(st.lists(st.integers(1, 500), min_size=1, max_size=60, unique=True), st.integers(0, 600), st.integers(0, 600))
def test_the_fewest_that_do(values: list[int], threshold: int, start: int) -> None:
    allowed, asked = sorted(values), list[int]()

    def meets(n: int) -> bool:
        asked.append(n)
        return n >= threshold

    found = fewest(meets, allowed, start)
    assert found == next((n for n in allowed if n >= threshold), None)
    assert len(asked) == len(set(asked)) <= 2 * math.log2(len(allowed) + 1) + 3


def test_a_good_guess_takes_two_questions() -> None:
    asked: list[int] = []

    def meets(n: int) -> bool:
        asked.append(n)
        return n >= 17

    assert fewest(meets, range(1, 65), 17) == 17
    assert asked == [17, 16]
    assert fewest(meets, [], 3) is None


@given(st.floats(1e-4, 1e5), st.floats(1e-3, 1e4))
def test_the_highest_rate_that_does(threshold: float, start: float) -> None:
    asked: list[float] = []

    def meets(rate: float) -> bool:
        asked.append(rate)
        return rate <= threshold

    found = highest(meets, start)
    assert found is not None
    assert threshold / 1.021 <= found <= threshold
    assert len(asked) < 40
    assert all(rate == digits(rate) for rate in asked[1:])


def test_ends_of_the_range() -> None:
    assert highest(lambda rate: False, 1.0) is None
    assert highest(lambda rate: False, 20.0, least=20 / 4096) is None
    assert highest(lambda rate: True, 1.0, most=1e4 / 3) == 3333.0
    assert highest(lambda rate: True, 1.0, most=50.0) == 50.0
