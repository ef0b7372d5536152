"""A replica that is quick to understand: ``servers`` requests at a time, first come first served, exact times."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from heapq import heappop, heappush

import numpy as np
import pytest

from windtunnel.serving.deployment.routers import Router
from windtunnel.serving.deployment.service import EnginePool, Record
from windtunnel.serving.outcome import Status
from windtunnel.serving.replica import NEVER, Done, Load
from windtunnel.serving.workload.requests import Workload


class Times:
    """What replicas write: start, first token and finish of N requests, each attempt as it happened, and where."""

    def __init__(self, n: int) -> None:
        self.start, self.first, self.finish = (np.full(n, -1, np.int64) for _ in range(3))
        self.log: list[tuple[int, str, int]] = []  # (time, what, request)
        self.visits: list[list[str]] = [[] for _ in range(n)]


class FakeReplica:
    """A queue with ``servers``; ``lasts`` (request, progress) → ps of service. A request that comes when ``room``
    others wait is rejected. ``loose``: its bound is as low as it may be."""

    def __init__(
        self,
        times: Times,
        lasts: Callable[[int, int], int],
        servers: int = 1,
        room: int | None = None,
        loose: bool = False,
        name: str = "",
    ) -> None:
        self.times, self.lasts, self.servers, self.room, self.loose = times, lasts, servers, room, loose
        self.name = name
        self.clock = 0
        self.coming: deque[tuple[int, int, int]] = deque()
        self.queue: deque[tuple[int, int, int]] = deque()
        self.running: list[tuple[int, int, int]] = []  # heap of (end, arrival, request)
        self.done: list[Done] = []
        self.last_submit = 0
        self.cached: set[int] = set()

    def submit(self, request: int, time: int, progress: int = 0) -> None:
        assert time >= self.clock
        assert time >= self.last_submit
        self.last_submit = time
        self.coming.append((time, request, progress))
        self.times.log.append((time, "submit", request))
        self.times.visits[request].append(self.name)

    def _receive(self) -> None:
        while self.coming and self.coming[0][0] <= self.clock:
            arrival, request, progress = self.coming.popleft()
            if self.room is not None and len(self.queue) >= self.room:
                self.done.append(Done(arrival, request, Status.QUEUE_FULL))
            else:
                self.queue.append((arrival, request, progress))

    def advance(self, until: int) -> None:
        assert until >= self.clock
        while True:
            self._receive()
            while self.clock < until and self.queue and len(self.running) < self.servers:
                arrival, request, progress = self.queue.popleft()
                heappush(self.running, (self.clock + self.lasts(request, progress), arrival, request))
                if progress == 0:
                    self.times.start[request] = self.clock
                self.cached.add(request)
            time = min(self._next(), default=NEVER)
            if time > until:
                break
            self.clock = time
            while self.running and self.running[0][0] == time:
                _, _, request = heappop(self.running)
                self.times.finish[request] = time
                self.times.log.append((time, "finish", request))
                self.done.append(Done(time, request, Status.COMPLETED))
        self.clock = until

    def bound(self) -> int:
        if self.loose and (self.coming or self.queue or self.running):
            return self.clock
        times = self._next()
        if self.queue and len(self.running) < self.servers:
            times.append(self.clock + 1)
        return min(times, default=NEVER)

    def _next(self) -> list[int]:
        return [q[0][0] for q in (self.running, self.coming) if q]

    def take_done(self) -> Sequence[Done]:
        done, self.done = self.done, []
        return done

    def load(self) -> Load:
        queued = len(self.queue) + sum(t <= self.clock for t, *_ in self.coming)
        total = queued + len(self.running)
        return Load(queued, len(self.running), 100 * total, len(self.running) / self.servers)

    def prefix_tokens(self, request: int) -> int:
        return 50 if any(r % 10 == request % 10 for r in self.cached) else 0

    def stop(self, time: int) -> list[int]:
        assert time >= self.clock
        assert not self.done
        self.clock = time
        held = sorted([*self.queue, *self.coming, *((a, r, 0) for _, a, r in self.running)])
        self.queue.clear()
        self.coming.clear()
        self.running.clear()
        self.cached.clear()
        self.times.log += [(time, "lost", r) for _, r, _ in held]
        return [r for _, r, _ in held]


class Fakes:
    """Makes services out of fake replicas."""

    Times = Times

    def pool(
        self,
        times: Times,
        router: Router,
        count: int,
        lasts: Callable[[int, int], int],
        name: str = "engine",
        servers: int = 1,
        room: int | None = None,
        loose: bool = False,
    ) -> EnginePool:
        replicas = tuple(FakeReplica(times, lasts, servers, room, loose, f"{name} {i}") for i in range(count))
        return EnginePool(name, replicas, router)

    def workload(self, arrival_s: Sequence[float], output: Sequence[int] | None = None, **more: object) -> Workload:
        n = len(arrival_s)
        return Workload(
            "fake",
            np.asarray(arrival_s, float),
            np.full(n, 100),
            np.full(n, 5) if output is None else np.asarray(output),
            **more,  # type: ignore[arg-type]
        )

    def same(self, one: Record, other: Record) -> None:
        """Two records agree in all that happened (not in how many decisions found it out)."""
        for name in ("status", "arrival", "ended", "replica", "retries", "transfer"):
            assert getattr(one, name).tolist() == getattr(other, name).tolist(), name
        for name in ("lifetimes", "end", "in_system", "failures", "cold_starts", "partial"):
            assert getattr(one, name) == getattr(other, name), name


@pytest.fixture(scope="session")
def fakes() -> Fakes:
    return Fakes()
