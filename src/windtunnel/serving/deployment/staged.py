"""A disaggregated service whose requests flow one way: prompts, then KV caches on their links, then decoding.

Where both pools are served in turn, nothing that happens in a later stage matters to an earlier one. So each stage runs
through a slice of time on its own, and hands on what came out of it.
"""

from __future__ import annotations

import numpy as np

from windtunnel.serving.deployment.handoff import Link
from windtunnel.serving.deployment.routers import RoundRobin
from windtunnel.serving.deployment.service import KVTransfer, Service
from windtunnel.serving.deployment.slices import Sliced
from windtunnel.serving.outcome import Status
from windtunnel.serving.replica import NEVER
from windtunnel.serving.workload.requests import Workload


def staged(service: Service, workload: Workload) -> bool:
    """Whether requests come at times of their own and flow one way."""
    transfer = service.transfer
    bound = service.failures is not None or workload.closed or any(p.scaling is not None for p in service.pools)
    in_turn = all(isinstance(p.router, RoundRobin) for p in service.pools)
    return transfer is not None and not transfer.shared and in_turn and not bound


class Staged(Sliced):
    """Two pools with a link for each replica of the first; what has been sent counts as events."""

    def __init__(self, service: Service, workload: Workload) -> None:
        super().__init__(service, workload)
        assert service.transfer is not None
        self.input, self.output = workload.input_tokens.tolist(), workload.output_tokens.tolist()
        self.links = [_Sender(service.transfer) for _ in service.pools[0].replicas]

    def bound(self) -> int:
        found = [int(replica.bound()) for pool in self.pools for replica in pool.replicas]
        return min(*found, *(link.next() for link in self.links))

    def assign(self) -> None:
        replicas = self.pools[0].replicas
        n = int(np.searchsorted(self.arrivals.times, self.until, side="right"))
        pairs = zip(self.arrivals.times[:n].tolist(), self.arrivals.numbers[:n].tolist(), strict=True)
        for turn, (time, request) in enumerate(pairs):
            where = turn % len(replicas)
            self.ledger.arrival[request], self.ledger.replica[request] = time, where
            replicas[where].submit(request, time)

    def advance(self, now: int) -> None:
        ready: list[tuple[int, int, int, int]] = []  # time, link, request, how long it was on its way
        for number, (replica, link) in enumerate(zip(self.pools[0].replicas, self.links, strict=True)):
            replica.advance(now)
            for time, request, status in replica.take_done():
                if status == Status.COMPLETED and self.output[request] > 1:
                    link.begin(int(request), int(time))
                else:
                    self.ledger.end(int(request), int(time), int(status))
            ready += [(time, number, request, took) for time, request, took in link.arrived(now)]
        replicas, first = self.pools[1].replicas, len(self.links)
        ready.sort(key=lambda r: r[:2])  # those of one link stay in order
        for time, _, request, took in ready:
            where = self.events % len(replicas)
            self.events += 1
            self.ledger.replica[request] = first + where
            self.ledger.transfer[request] += took
            replicas[where].submit(request, time, self.input[request])
        for replica in replicas:
            replica.advance(now)
            for time, request, status in replica.take_done():
                self.ledger.end(int(request), int(time), int(status))


class _Sender:
    """A prefill replica's link, driven in order of time."""

    def __init__(self, transfer: KVTransfer) -> None:
        self._transfer, self._link = transfer, Link(transfer)

    def begin(self, request: int, now: int) -> None:
        """Its prompt is done."""
        self._link.begin(self._transfer, request, 0, now)

    def next(self) -> int:
        """When the next transfer arrives."""
        due = self._link.channel.next()
        return NEVER if due is None else due

    def arrived(self, now: int) -> list[tuple[int, int, int]]:
        """(time, request, how long it was on its way) of what has arrived by now."""
        link = self._link
        done = [(a.time, link.sending.pop(a.transfer)) for a in link.channel.advance(now)]
        return [(time, request, time - began) for time, (request, _, began) in done]
