"""When requests come: at their own time, or after the end of others."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from windtunnel.errors import ScenarioError
from windtunnel.scenario.text import shown
from windtunnel.serving.deployment.routers import Request
from windtunnel.serving.outcome import PS
from windtunnel.serving.replica import NEVER
from windtunnel.serving.workload.requests import NEXT, OPEN, Workload

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def picoseconds(seconds: Floats, what: str) -> Ints:
    """Seconds as whole picoseconds.

    Raises:
        ScenarioError: one that is negative or beyond the clock (53 days).
    """
    wrong = np.flatnonzero(~((seconds >= 0) & (seconds < NEVER / PS)))
    if wrong.size:
        said = f"{what} of request {wrong[0]} is {shown(float(seconds[wrong[0]]))} s"
        raise ScenarioError(f"{said}; 0 to {NEVER // PS} s ({NEVER / PS / 86400:.0f} days) are accepted")
    whole: Ints = np.rint(seconds * PS).astype(np.int64)
    return whole


class Arrivals:
    """The requests of a workload in the order in which they come."""

    def __init__(self, workload: Workload) -> None:
        n = len(workload)
        after = np.full(n, OPEN) if workload.after is None else workload.after
        think = np.zeros(n) if workload.think_s is None else workload.think_s
        self._input = workload.input_tokens.tolist()
        self._session = [-1] * n if workload.session is None else workload.session.tolist()
        self._client = [-1] * n if workload.client is None else workload.client.tolist()
        self._think = picoseconds(think, "think time")
        own = np.flatnonzero(after == OPEN)
        own_times = picoseconds(workload.arrival_s, "arrival")[own]
        order = np.argsort(own_times, kind="stable")
        self.times, self.numbers = own_times[order], own[order]
        """Of the requests that come at their own time, in that order."""
        self._next = np.flatnonzero(after == NEXT)[::-1].tolist()
        followers = np.flatnonzero(after >= 0)
        self._followers = followers[np.argsort(after[followers], kind="stable")]
        self._offsets = np.searchsorted(after[self._followers], np.arange(n + 1))

    @cached_property
    def open(self) -> list[tuple[int, int]]:
        """(time, request) of those that come at their own time, last first."""
        return list(zip(self.times[::-1].tolist(), self.numbers[::-1].tolist(), strict=True))

    def after(self, request: int, time: int) -> list[tuple[int, int]]:
        """(time, request) of those that the end of ``request`` at ``time`` starts."""
        started = self._followers[self._offsets[request] : self._offsets[request + 1]].tolist()
        if self._next:
            started.append(self._next.pop())
        return [(time + int(self._think[r]), r) for r in started]

    def request(self, number: int, time: int) -> Request:
        """As a router sees it."""
        return Request(number, time / PS, self._input[number], self._session[number], self._client[number])
