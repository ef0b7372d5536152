"""Counts of durations in bins of at most a thousandth: the gaps between tokens of a million requests in 0.3 MB.

A bin is a binary exponent and the next ten bits of a whole number of picoseconds, so its relative width is between
1/2048 and 1/1024; whole numbers below 1024 have a bin each.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BITS = 10
BINS = (63 - BITS + 1) << BITS


def bin_of(value: int) -> int:
    """The bin of a duration in picoseconds (0 for what is not positive)."""
    if value < 1 << BITS:
        return max(value, 0)
    shift = value.bit_length() - 1 - BITS
    return ((shift + 1) << BITS) + (value >> shift) - (1 << BITS)


def lower_edges(bins: Ints) -> Ints:
    """The smallest duration of each bin."""
    exponent, mantissa = bins >> BITS, bins & ((1 << BITS) - 1)
    shift = np.maximum(exponent - 1, 0)
    edges: Ints = np.where(exponent == 0, mantissa, (mantissa + (1 << BITS)) << shift)
    return edges


def add_run(counts: Ints | list[int], value: int, growth: int, steps: int, weight: int) -> None:
    """Count ``steps`` durations ``value``, ``value + growth``, … with ``weight`` each."""
    done = 0
    while done < steps:
        now = value + done * growth
        where = bin_of(now)
        n = steps - done
        if growth > 0 and n > 1:
            exponent = where >> BITS
            upper = where + 1 if exponent == 0 else ((where & ((1 << BITS) - 1)) + (1 << BITS) + 1) << (exponent - 1)
            n = min(n, (upper - now + growth - 1) // growth)
        counts[where] += n * weight
        done += n
