"""A service in global order of time: whatever binds its replicas together."""

from __future__ import annotations

import math
from collections.abc import Callable

from windtunnel.serving.deployment.arrivals import Arrivals
from windtunnel.serving.deployment.draws import uniform
from windtunnel.serving.deployment.elastic import Elastic
from windtunnel.serving.deployment.events import Agenda, Kind
from windtunnel.serving.deployment.handoff import Handoff
from windtunnel.serving.deployment.ledger import Ledger
from windtunnel.serving.deployment.members import Member, RunningPool, State
from windtunnel.serving.deployment.routers import routed
from windtunnel.serving.deployment.service import Progress, Record, Service
from windtunnel.serving.outcome import PS, Status
from windtunnel.serving.replica import NEVER
from windtunnel.serving.workload.requests import Workload

_TELL_EVERY = 2000  # events

_OWN_TIME = 1
"""The life of an arrival that the next one at a time of its own follows."""


class Loop:
    """Conservative discrete events: the next event is the earliest of what is known to come and of what the replicas'
    bounds allow, so no replica ever runs beyond a time at which it might be given something."""

    def __init__(self, service: Service, workload: Workload) -> None:
        self.service = service
        self.agenda = Agenda()
        self.arrivals = Arrivals(workload)
        self.ledger = Ledger(len(workload))
        self.input, self.output = workload.input_tokens.tolist(), workload.output_tokens.tolist()
        self.pools: list[RunningPool] = []
        self.members: list[Member] = []
        for number, pool in enumerate(service.pools):
            self.pools.append(RunningPool(pool, number, len(self.members), self.agenda))
            self.members += self.pools[-1].members
        self.pool_of = [pool for pool in self.pools for _ in pool.members]
        self.elastic: dict[int, Elastic] = {}
        prefill = len(self.pools[0].members)
        self.handoff = Handoff(service.transfer, prefill, self.agenda) if service.transfer is not None else None
        self.to_come = len(self.arrivals.open)  # requests in the service or certain to come to it
        self.failures = 0
        self.handlers: dict[int, Callable[[int, int], None]] = {
            Kind.REPLICA: self.replica_due,
            Kind.LINK: self.link_due,
            Kind.LOADED: lambda number, life: self.elastic[number].loaded(),
            Kind.BACK: self.replica_back,
            Kind.FAILURE: self.replica_fails,
            Kind.ARRIVAL: self.request_arrives,
            Kind.SCALE: lambda number, life: self.elastic[number].decide(),
        }

    def run(self, progress: Progress | None = None) -> Record:
        """Run until every request has ended, nothing more can happen, or the clock stops."""
        agenda, until, partial = self.agenda, self.service.until, False
        try:
            self.begin()
            while self.to_come and agenda.next() <= min(until, NEVER - 1):
                kind, number, life = agenda.take()
                self.handlers[kind](number, life)
                if progress is not None and agenda.taken % _TELL_EVERY == 0:
                    progress(self.ledger.done, len(self.output), agenda.now)
        except KeyboardInterrupt:
            partial = True
        stopped = self.to_come and not partial and agenda.next() < NEVER
        return self.close(until if stopped else max(agenda.now, self.ledger.last_end), partial)

    def begin(self) -> None:
        """Who is up at the start, and the first arrival."""
        for pool in self.pools:
            initial = len(pool.members) if pool.scaling is None else pool.scaling.initial
            for member in pool.members[:initial]:
                self.come_up(member)
            if pool.scaling is not None:
                self.elastic[pool.number] = Elastic(pool, pool.scaling, self.agenda)
        self.next_arrival()

    def close(self, end: int, partial: bool) -> Record:
        """The clock stops at ``end``."""
        self.agenda.now = end
        if not partial:
            for member in (m for pool in self.pools for m in pool.of(State.UP, State.DRAINING)):
                member.catch_up()
        return self.ledger.record(
            end,
            [m.lifetime(pool.name, end) for pool in self.pools for m in pool.members],
            events=self.agenda.taken,
            failures=self.failures,
            cold_starts=sum(e.cold_starts for e in self.elastic.values()),
            partial=partial,
        )

    # Requests.

    def next_arrival(self) -> None:
        """Of those that come at a time of their own."""
        if self.arrivals.open:
            time, request = self.arrivals.open.pop()
            self.agenda.add(time, Kind.ARRIVAL, request, _OWN_TIME)

    def request_arrives(self, request: int, life: int) -> None:
        self.ledger.arrival[request] = self.agenda.now
        self.send(request, self.pools[0], 0)
        if life == _OWN_TIME:
            self.next_arrival()

    def send(self, request: int, pool: RunningPool, progress: int) -> None:
        """To a replica of the pool, or to wait until there is one."""
        candidates = pool.candidates()
        if not candidates:
            pool.waiting.append((request, progress))
            return
        member = pool.members[routed(pool.router, self.arrivals.request(request, self.agenda.now), candidates)]
        self.ledger.replica[request] = member.number
        member.submit(request, progress)

    def replica_due(self, number: int, _: int) -> None:
        member = self.members[number]
        if member.is_due():
            self.collect(member)
            member.watch(self.agenda.now + 1)

    def collect(self, member: Member) -> None:
        """Take what has left the replica by now."""
        member.advance()
        pool = self.pool_of[member.number]
        for time, request, status in member.replica.take_done():
            member.held -= 1
            if self.handoff and pool.number == 0 and status == Status.COMPLETED and self.output[request] > 1:
                self.handoff.begin(int(request), member.index)
            else:
                self.end(int(request), int(time), int(status))
        pool.park_if_empty(member)

    def end(self, request: int, time: int, status: int) -> None:
        """The request has ended, and may start others."""
        self.ledger.end(request, time, status)
        self.to_come -= 1
        for start, follower in self.arrivals.after(request, time):
            self.to_come += 1
            self.agenda.add(max(start, self.agenda.now), Kind.ARRIVAL, follower)

    def link_due(self, number: int, _: int) -> None:
        assert self.handoff is not None
        for request, taken in self.handoff.arrived(number):
            self.ledger.transfer[request] += taken
            self.send(request, self.pools[1], self.input[request])

    # Replicas that fail and come back.

    def come_up(self, member: Member) -> None:
        """It takes requests from now on: those that wait first."""
        pool, failures = self.pool_of[member.number], self.service.failures
        pool.become(member, State.UP)
        if failures is not None:
            draw = uniform(self.service.seed, member.number, member.failures)
            lasts = min(-math.log(draw) * failures.mtbf_s * PS, float(NEVER))
            self.agenda.add(self.agenda.now + max(round(lasts), 1), Kind.FAILURE, member.number, member.life)
        for _ in range(len(pool.waiting)):
            request, progress = pool.waiting.popleft()
            self.send(request, pool, progress)

    def replica_back(self, number: int, life: int) -> None:
        if self.members[number].life == life:
            self.come_up(self.members[number])

    def replica_fails(self, number: int, life: int) -> None:
        member, pool, failures = self.members[number], self.pool_of[number], self.service.failures
        if member.life == life:
            self.collect(member)
        if member.life != life or failures is None:  # meant for an earlier life, or gone just now
            return
        self.failures += 1
        member.failures += 1
        unwanted = member.state is State.DRAINING
        pool.become(member, State.PARKED if unwanted else State.DOWN)
        if not unwanted:
            self.agenda.add(self.agenda.now + round(failures.restart_s * PS), Kind.BACK, number, member.life)
        lost = member.stop()
        if self.handoff and pool.number == 0:
            lost += self.handoff.lose(member.index)
        for request in sorted(lost, key=lambda r: (self.ledger.arrival[r], r)):
            self.retry(request)

    def retry(self, request: int) -> None:
        """From the prompt, at once; a request that has been retried as often as allowed is given up."""
        if self.ledger.retries[request] >= self.service.max_retries:
            self.end(request, self.agenda.now, Status.FAILED)
        else:
            self.ledger.retries[request] += 1
            self.send(request, self.pools[0], 0)
