"""A service in which nothing that comes later matters to what came before: time passes in slices, part by part."""

from __future__ import annotations

from abc import ABC, abstractmethod
from time import perf_counter

from windtunnel.serving.deployment.arrivals import Arrivals
from windtunnel.serving.deployment.ledger import Ledger
from windtunnel.serving.deployment.service import Lifetime, Progress, Record, Service
from windtunnel.serving.outcome import PS
from windtunnel.serving.replica import NEVER
from windtunnel.serving.workload.requests import Workload

_SHORT_S, _LONG_S = 0.1, 0.4
"""How long (by the clock on the wall) a slice should take, until somebody looks."""


class Sliced(ABC):
    """Every part runs through a slice of time before any begins the next, so that progress can be told and an
    interruption leaves all of them at one time. Where the slices are cut changes nothing."""

    def __init__(self, service: Service, workload: Workload) -> None:
        self.until = service.until
        self.pools = service.pools
        self.arrivals = Arrivals(workload)
        self.ledger = Ledger(len(workload))
        self.events = 0

    @abstractmethod
    def assign(self) -> None:
        """Give every request that comes in time to its replica."""

    @abstractmethod
    def bound(self) -> int:
        """When something may happen next, at the earliest."""

    @abstractmethod
    def advance(self, now: int) -> None:
        """All parts, up to ``now``."""

    def run(self, progress: Progress | None = None) -> Record:
        """Run until every request has ended, or the clock stops."""
        now, span, partial, ledger = 0, PS, False, self.ledger
        requests = len(ledger.status)
        try:
            self.assign()
            while ledger.done < requests and now < self.until:
                bound = self.bound()
                if bound >= NEVER and self.until >= NEVER:
                    break
                now = min(max(now + span, bound), self.until)
                started = perf_counter()
                self.advance(now)
                took = perf_counter() - started
                span = span * 2 if took < _SHORT_S else max(span // 2, 1) if took > _LONG_S else span
                if progress is not None:
                    progress(ledger.done, requests, now)
        except KeyboardInterrupt:
            partial = True
        end = max(now, ledger.last_end) if partial else now if ledger.done < requests else ledger.last_end
        for i in [i for i, time in enumerate(ledger.arrival) if time > end]:
            ledger.arrival[i] = ledger.replica[i] = -1
        lives = [Lifetime(pool.name, ((0, end),), ((0, end),)) for pool in self.pools for _ in pool.replicas]
        return ledger.record(end, lives, events=self.events, partial=partial)
