"""Where a yes turns into a no: galloping and bisection over engines and over rates, each value asked once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

TOLERANCE = 0.02
"""Relative distance between the highest rate that is found to do and the lowest that is found not to."""

FACTOR = 1.5
"""First step of a gallop over rates; each is the square of the last, up to four times."""


def fewest(meets: Callable[[int], bool], allowed: Sequence[int], start: int) -> int | None:
    """The smallest of ``allowed`` (ascending) that meets, if all above it do; None where the largest does not.

    ``start``: a guess; the fewer steps it is off, the fewer are asked.
    """
    if not allowed:
        return None
    known: dict[int, bool] = {}

    def yes(i: int) -> bool:
        if i not in known:
            known[i] = meets(allowed[i])
        return known[i]

    at = min(range(len(allowed)), key=lambda i: (abs(allowed[i] - start), i))
    step = 1
    if yes(at):
        low, high = -1, at  # low fails (or is below all), high meets
        while high > 0 and low < 0:
            trial = max(high - step, 0)
            if yes(trial):
                high, step = trial, 2 * step
            else:
                low = trial
            if high == 0:
                return allowed[0]
    else:
        low, high = at, len(allowed)
        while high == len(allowed):
            if low == len(allowed) - 1:
                return None
            trial = min(low + step, len(allowed) - 1)
            if yes(trial):
                high = trial
            else:
                low, step = trial, 2 * step
    while high - low > 1:
        middle = (low + high) // 2
        if yes(middle):
            high = middle
        else:
            low = middle
    return allowed[high]


def highest(
    meets: Callable[[float], bool],
    start: float,
    *,
    most: float = 1e7,
    least: float = 1e-6,
    tolerance: float = TOLERANCE,
    first: float = FACTOR,
) -> float | None:
    """The highest rate that meets, within ``tolerance``, if all below it do; None where not even ``least`` does.

    Rates that are asked, but for ``start``, have four digits, so that they can be written in a command.
    """
    known: dict[float, bool] = {}
    least, most = digits(least), digits(most)

    def yes(rate: float) -> bool:
        if rate not in known:
            known[rate] = meets(rate)
        return known[rate]

    low = high = 0.0
    rate, factor = start, first
    if yes(rate):
        low = rate
        while not high:
            if rate >= most:
                return rate
            rate = digits(min(rate * factor, most))
            low, high = (rate, high) if yes(rate) else (low, rate)
            factor = min(factor * factor, 4.0)
    else:
        high = rate
        while not low:
            if rate <= least:
                return None
            rate = digits(max(rate / factor, least))
            low, high = (low, rate) if not yes(rate) else (rate, high)
            factor = min(factor * factor, 4.0)
    while high > low * (1 + tolerance):
        middle = digits(math.sqrt(low * high))
        if not low < middle < high:
            break
        low, high = (middle, high) if yes(middle) else (low, middle)
    return low


def digits(rate: float) -> float:
    """To four digits."""
    return float(f"{rate:.4g}")
