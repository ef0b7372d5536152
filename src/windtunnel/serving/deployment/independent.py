"""A service whose replicas have nothing to do with each other: each is given all its requests at once."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np

from windtunnel.errors import ScenarioError
from windtunnel.serving.deployment.arrivals import Arrivals
from windtunnel.serving.deployment.ledger import Ledger
from windtunnel.serving.deployment.routers import Request, RoundRobin, needs_state, routed
from windtunnel.serving.deployment.service import Lifetime, Progress, Record, Service
from windtunnel.serving.outcome import PS
from windtunnel.serving.replica import NEVER, Load
from windtunnel.serving.workload.requests import Workload

_SHORT_S, _LONG_S = 0.1, 0.4
"""How long (by the clock on the wall) the replicas should run before somebody looks."""


def independent(service: Service, workload: Workload) -> bool:
    """Whether requests come at times of their own, and what becomes of one replica does not matter to another."""
    pool = service.pools[0]
    alone = len(pool.replicas) == 1 or not needs_state(pool.router)
    bound = service.transfer is not None or service.failures is not None or pool.scaling is not None
    return alone and not bound and not workload.closed


class _Unseen:
    """A replica for a router that has said it does not look."""

    def __init__(self, index: int) -> None:
        self.index = index

    @property
    def load(self) -> Load:
        raise ScenarioError("the router states needs_state = False but asks for a replica's load")

    def prefix_tokens(self, request: Request) -> int:
        raise ScenarioError("the router states needs_state = False but asks for a replica's prefix_tokens")


class Independent:
    """Time passes in slices, in every replica before the next slice, so that progress can be told and an interruption
    leaves all of them at one time. Where the slices are cut changes nothing."""

    def __init__(self, service: Service, workload: Workload) -> None:
        self.until = service.until
        self.pool = service.pools[0]
        self.arrivals = Arrivals(workload)
        self.ledger = Ledger(len(workload))
        self.events = 0

    def run(self, progress: Progress | None = None) -> Record:
        """Run until every request has ended, or the clock stops."""
        now, partial = 0, False
        try:
            self.assign()
            span = PS
            while self.ledger.done < len(self.ledger.status) and now < self.until:
                bound = min(int(replica.bound()) for replica in self.pool.replicas)
                if bound >= NEVER and self.until >= NEVER:
                    break
                now = min(max(now + span, bound), self.until)
                started = perf_counter()
                self.advance(now)
                took = perf_counter() - started
                span = span * 2 if took < _SHORT_S else max(span // 2, 1) if took > _LONG_S else span
                if progress is not None:
                    progress(self.ledger.done, len(self.ledger.status), now)
        except KeyboardInterrupt:
            partial = True
        finished = self.ledger.done == len(self.ledger.status)
        end = max(now, self.ledger.last_end) if partial else now if not finished else self.ledger.last_end
        late = [i for i, time in enumerate(self.ledger.arrival) if time > end]
        for i in late:
            self.ledger.arrival[i] = self.ledger.replica[i] = -1
        lifetime = Lifetime(self.pool.name, ((0, end),), ((0, end),))
        lifetimes = [lifetime] * len(self.pool.replicas)
        return self.ledger.record(end, lifetimes, events=self.events, partial=partial)

    def assign(self) -> None:
        """Give every request that comes in time to its replica."""
        if isinstance(self.pool.router, RoundRobin) and all(hasattr(r, "submit_all") for r in self.pool.replicas):
            self._in_turn(self.pool.replicas)
            return
        unseen = [_Unseen(i) for i in range(len(self.pool.replicas))]
        for time, number in reversed(self.arrivals.open):
            if time > self.until:
                break
            index = routed(self.pool.router, self.arrivals.request(number, time), unseen)
            self.pool.replicas[index].submit(number, time)
            self.ledger.arrival[number] = time
            self.ledger.replica[number] = index

    def _in_turn(self, replicas: Sequence[Any]) -> None:
        """The same, for compiled replicas that are served in turn: each is handed its requests at once."""
        n = int(np.searchsorted(self.arrivals.times, self.until, side="right"))
        times, numbers = self.arrivals.times[:n], self.arrivals.numbers[:n]
        arrival, where = (
            np.full(len(self.ledger.arrival), -1, np.int64),
            np.full(len(self.ledger.arrival), -1, np.int64),
        )
        arrival[numbers], where[numbers] = times, np.arange(n) % len(replicas)
        self.ledger.arrival, self.ledger.replica = arrival.tolist(), where.tolist()
        for i, replica in enumerate(replicas):
            replica.submit_all(numbers[i :: len(replicas)], times[i :: len(replicas)])

    def advance(self, now: int) -> None:
        for replica in self.pool.replicas:
            replica.advance(now)
            for time, request, status in replica.take_done():
                self.ledger.end(int(request), int(time), int(status))
                self.events += 1
