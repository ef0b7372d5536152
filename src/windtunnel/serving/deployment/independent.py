"""A service whose replicas have nothing to do with each other: each is given all its requests at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from windtunnel.errors import ScenarioError
from windtunnel.serving.deployment.routers import Request, RoundRobin, needs_state, routed
from windtunnel.serving.deployment.service import Service
from windtunnel.serving.deployment.slices import Sliced
from windtunnel.serving.replica import Load
from windtunnel.serving.workload.requests import Workload


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


class Independent(Sliced):
    """The replicas of one pool, one after the other."""

    def __init__(self, service: Service, workload: Workload) -> None:
        super().__init__(service, workload)
        self.pool = service.pools[0]

    def bound(self) -> int:
        return min(int(replica.bound()) for replica in self.pool.replicas)

    def assign(self) -> None:
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
