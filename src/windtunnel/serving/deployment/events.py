"""The service's clock and what is known to come."""

from __future__ import annotations

from enum import IntEnum
from heapq import heappop, heappush

from windtunnel.serving.replica import NEVER


class Kind(IntEnum):
    """Events, in the order in which those of one time happen: what ends comes before what begins."""

    REPLICA = 0
    LINK = 1
    LOADED = 2
    BACK = 3
    FAILURE = 4
    ARRIVAL = 5
    SCALE = 6


class Agenda:
    """Events by time, then kind, then number. ``now``: of the last one taken (ps)."""

    def __init__(self) -> None:
        self.now = 0
        self.taken = 0
        self._events: list[tuple[int, int, int, int]] = []

    def add(self, time: int, kind: Kind, number: int, life: int = 0) -> None:
        """``number``: of a replica, link, pool or request; ``life``: of the replica it is meant for."""
        if time < NEVER:
            heappush(self._events, (time, kind, number, life))

    def next(self) -> int:
        """When the next event is."""
        return self._events[0][0] if self._events else NEVER

    def take(self) -> tuple[int, int, int]:
        """The next event's kind, number and life; it is now."""
        self.now, kind, number, life = heappop(self._events)
        self.taken += 1
        return kind, number, life
