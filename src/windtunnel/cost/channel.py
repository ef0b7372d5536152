"""A link that transfers share over time: KV caches on their way, swapped requests, weights being loaded."""

from __future__ import annotations

import math
from collections import deque
from heapq import heappop, heappush
from typing import NamedTuple

from windtunnel.errors import ScenarioError

_PS = 10**12
_FINE = 32  # the clock inside counts 2^-32 ps: what rounding adds up to over 65,536 events stays below _SLACK
_SLACK = 1 << 16


class Arrived(NamedTuple):
    """The last byte of ``transfer`` has arrived at ``time`` (ps)."""

    time: int
    transfer: int


class Channel:
    """``bytes_per_s`` shared equally by the transfers under way (processor sharing), and a latency for each.

    Times are whole picoseconds and never run back. A transfer takes its part of the bandwidth from its start until its
    last byte is sent and arrives ``latency_s`` later. Every transfer under way has got the same since it started, so
    one running total says how far all of them are (the virtual time of fair queueing: Demers, Keshav & Shenker,
    SIGCOMM 1989), and an event costs O(log n). Arrivals are rounded up: at most a picosecond after the exact time,
    never before it.

    Raises:
        ScenarioError: a bandwidth below a byte a second, or a latency that is no finite time.
    """

    __slots__ = ("_active", "_arriving", "_clock", "_idle_since", "_latency", "_live", "_served", "_started",
                 "_time", "_width")  # fmt: skip

    def __init__(self, bytes_per_s: float, latency_s: float = 0.0) -> None:
        if not (math.isfinite(bytes_per_s) and bytes_per_s >= 1):
            raise ScenarioError(f"a link of {bytes_per_s:g} bytes/s; 1 and more are accepted")
        if not (math.isfinite(latency_s) and latency_s >= 0):
            raise ScenarioError(f"a link's latency of {latency_s:g} s; 0 and more are accepted")
        self._width = round(bytes_per_s)
        self._latency = round(latency_s * _PS)
        self._time = 0  # up to which all is known
        self._clock = 0  # of the last start or end
        self._served = 0  # what each transfer under way would have got since the link was last idle, bytes x fine s
        self._active: list[tuple[int, int]] = []  # heap of (total at which the last byte is sent, transfer)
        self._live: set[int] = set()
        self._arriving: deque[Arrived] = deque()  # sent, on their way
        self._idle_since = 0
        self._started = 0

    @property
    def bytes_per_s(self) -> int:
        return self._width

    @property
    def under_way(self) -> int:
        """Transfers that share it now."""
        return len(self._live)

    def idle_since(self, time: int) -> int | None:
        """Since when nothing is being sent at ``time`` (ps); None while something is."""
        self._pass(time)
        return None if self._live else self._idle_since

    def start(self, time: int, size: int) -> int:
        """Begin to send ``size`` bytes at ``time``; returns the transfer's number."""
        self._pass(time)
        self._serve(time << _FINE)
        transfer = self._started
        self._started += 1
        heappush(self._active, (self._served + (size * _PS << _FINE), transfer))
        self._live.add(transfer)
        return transfer

    def cancel(self, time: int, transfer: int) -> None:
        """Forget a transfer at ``time``; what has already arrived by then is not taken back."""
        self._pass(time)
        if transfer in self._live:
            self._serve(time << _FINE)
            self._live.remove(transfer)
            self._drop_cancelled(time)
        else:
            self._arriving = deque(a for a in self._arriving if a.transfer != transfer or a.time <= time)

    def next(self) -> int | None:
        """When the next transfer arrives if no other starts (ps); None: nothing is under way."""
        if self._arriving:
            return self._arriving[0].time
        return _up(self._first_sent()) + self._latency if self._live else None

    def advance(self, time: int) -> list[Arrived]:
        """Let time pass until ``time``: what has arrived since the last call, in order of time, then of starting."""
        self._pass(time)
        arrived = []
        while self._arriving and self._arriving[0].time <= time:
            arrived.append(self._arriving.popleft())
        return arrived

    def _first_sent(self) -> int:
        """When the first of the transfers under way has sent its last byte (fine)."""
        need = max(self._active[0][0] - self._served, 0)
        return self._clock - (-need * len(self._live) // self._width)

    def _pass(self, time: int) -> None:
        """Send what is sent by ``time``. The total moves only when something starts or ends: looking rounds nothing."""
        if time < self._time:
            raise ValueError(f"a link's clock cannot run back from {self._time} to {time} ps")
        self._time = time
        while self._live and (sent := _up(end := self._first_sent())) <= time:
            self._serve(end)
            _, transfer = heappop(self._active)
            self._live.remove(transfer)
            self._arriving.append(Arrived(sent + self._latency, transfer))
            self._drop_cancelled(sent)

    def _serve(self, until: int) -> None:
        until = max(until, self._clock)  # a little before, after an end that was rounded
        if self._live:
            self._served += (until - self._clock) * self._width // len(self._live)
        self._clock = until

    def _drop_cancelled(self, time: int) -> None:
        while self._active and self._active[0][1] not in self._live:
            heappop(self._active)
        if not self._live:
            self._served, self._idle_since = 0, time


def _up(fine: int) -> int:
    """Whole picoseconds, rounded up but for the 2^-16 of one that rounding may have added."""
    return -((_SLACK - fine) >> _FINE)
