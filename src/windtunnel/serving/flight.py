"""A stretch of like iterations under way, whose length follows from its first and from how each adds to the next."""

from __future__ import annotations



class Flight:
    """``steps`` iterations from ``start`` (ps): iteration j takes ``added`` + max(``device`` + j ``slope``, ``floor``).

    ``end``: of the last of them. ``open``: an arrival cuts it short at the next boundary.
    """

    __slots__ = ("added", "device", "end", "floor", "open", "slope", "start", "steps")

    def __init__(self, start: int, added: int, device: int, slope: int, floor: int) -> None:
        self.start, self.added, self.device, self.slope, self.floor = start, added, device, slope, floor
        self.steps, self.end, self.open = 1, start + added + max(device, floor), False

    def duration(self, steps: int) -> int:
        """Picoseconds of the first ``steps`` iterations."""
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
        """The fewest iterations, one at least, that end at or after ``time``, or more than there are."""
        low, high = 1, self.steps + 1
        need = time - self.start
        while low < high:
            middle = (low + high) // 2
            if self.duration(middle) >= need:
                high = middle
            else:
                low = middle + 1
        return low

    def cut(self, steps: int) -> None:
        """It ends after ``steps`` iterations."""
        self.steps = steps
        self.end = self.start + self.duration(steps)


def single(start: int, duration: int) -> Flight:
    """One iteration."""
    return Flight(start, duration, 0, 0, 0)
