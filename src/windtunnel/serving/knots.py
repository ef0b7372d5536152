"""Axes of a table over whole numbers: each value up to 2^dense, then 2^mantissa points to an octave.

Index and neighbours follow from a number's leading bits, so that a lookup costs the same wherever it falls.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Axis:
    """Points 0, 1, …, 2^dense - 1, 2^dense, then ``2^mantissa`` to an octave. ``mantissa`` <= ``dense``."""

    dense: int
    mantissa: int

    def index(self, value: int) -> int:
        """The last point that is not above ``value``."""
        if value < 1 << self.dense:
            return value
        shift = value.bit_length() - 1 - self.mantissa
        return (1 << self.dense) + ((shift - self.dense + self.mantissa - 1) << self.mantissa) + (value >> shift)

    def points(self, largest: int) -> Ints:
        """The points up to the first one above ``largest``: with two neighbours everywhere."""
        i = np.arange(self.index(max(largest, 1)) + 2)
        beyond = np.maximum(i - (1 << self.dense), 0)
        shift = (beyond >> self.mantissa) + self.dense - self.mantissa
        far = ((beyond & ((1 << self.mantissa) - 1)) + (1 << self.mantissa)) << shift
        found: Ints = np.where(i <= 1 << self.dense, i, far)
        return found


TOKENS = Axis(15, 6)
"""Tokens of an iteration: tiles and waves make steps that only a dense table follows; beyond, they are below 1 %."""
PROMPT = Axis(6, 5)
"""Prompt tokens of an iteration, for attention, the jumps of whose waves are kept apart."""
SEQUENCES = Axis(10, 6)
"""Sequences that decode."""
CONTEXT = Axis(3, 3)
"""Context tokens of all decodes: the time is nearly a straight line, bent where one limit takes over from another."""
KEYS = Axis(1, 1)
"""Keys that a prompt token meets on average."""
STATES = Axis(3, 2)
"""Recurrent states that are read and written."""
