"""A stretch of like iterations under way, whose length follows from its first and from how each adds to the next."""

from __future__ import annotations

import math


class Flight:
    """``steps`` iterations from ``start`` (ps): iteration j takes ``added`` + max(``device`` + j ``slope``, ``floor``).

    ``end``: of the last of them. ``open``: an arrival cuts it short at the next boundary.
    """

    __slots__ = ("added", "device", "end", "floor", "open", "slope", "start", "steps")

    def __init__(self, start: int, added: int, device: int, slope: int, floor: int) -> None:
        self.start, self.added, self.device, self.slope, self.floor = start, added, device, slope, floor
        self.steps, self.open = 1, False
        self.end = start + added + (device if device > floor else floor)

    def duration(self, steps: int) -> int:
        """Picoseconds of the first ``steps`` iterations."""
        if self.device >= self.floor:
            return steps * (self.added + self.device) + self.slope * (steps * (steps - 1) // 2)
        low = self.floored(steps)
        high = steps - low
        total = steps * self.added + low * self.floor + high * self.device
        return total + self.slope * ((steps * (steps - 1) - low * (low - 1)) // 2)

    def floored(self, steps: int) -> int:
        """How many of the first ``steps`` take the floor, not the device's time."""
        if self.device >= self.floor:
            return 0
        if self.slope <= 0:
            return steps
        return min(steps, -(-(self.floor - self.device) // self.slope))

    def steps_until(self, time: int) -> int:
        """The fewest iterations, one at least, that end at or after ``time``, or one more than there are."""
        need, most = time - self.start, self.steps + 1
        low = self.floored(self.steps)
        pace = self.added + self.floor
        if need <= low * pace:
            return max(-(-need // pace), 1) if pace else 1
        steps = min(max(low + self._guess(need - low * pace, low), 1), most)
        while steps > 1 and self.duration(steps - 1) >= need:
            steps -= 1
        while steps < most and self.duration(steps) < need:
            steps += 1
        return steps

    def _guess(self, need: int, low: int) -> int:
        """About how many iterations beyond the ``low`` that take the floor last ``need``: the root of their sum."""
        half = self.slope / 2
        first = self.added + self.device + low * self.slope - half
        root = first + math.sqrt(max(first * first + 4 * half * need, 0.0))
        return int(2 * need / root) if root > 0 else 1

    def cut(self, steps: int) -> None:
        """It ends after ``steps`` iterations."""
        self.steps = steps
        self.end = self.start + self.duration(steps)


def single(start: int, duration: int) -> Flight:
    """One iteration."""
    return Flight(start, duration, 0, 0, 0)
