"""The account of every request: where it is, how it ended."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from windtunnel.serving.deployment.service import Lifetime, Record
from windtunnel.serving.outcome import Status


class Ledger:
    """One line for each of ``n`` requests, as lists that are quick to write; :meth:`record` makes arrays of them."""

    def __init__(self, n: int) -> None:
        self.status = [int(Status.UNFINISHED)] * n
        self.arrival = [-1] * n
        self.ended = [-1] * n
        self.replica = [-1] * n
        self.retries = [0] * n
        self.transfer = [0] * n
        self.done = 0
        self.last_end = 0

    def end(self, request: int, time: int, status: int) -> None:
        """The request has ended; it does so once."""
        self.status[request] = status
        self.ended[request] = time
        self.done += 1
        self.last_end = max(self.last_end, time)

    def record(
        self,
        end: int,
        lifetimes: Sequence[Lifetime],
        *,
        events: int,
        failures: int = 0,
        cold_starts: int = 0,
        partial: bool = False,
    ) -> Record:
        """Everything as it is when the clock stops at ``end``."""
        arrival, ended = np.array(self.arrival, np.int64), np.array(self.ended, np.int64)
        came = arrival >= 0
        stay = np.where(ended >= 0, ended, end)[came] - arrival[came]
        return Record(
            status=np.array(self.status, np.int8),
            arrival=arrival,
            ended=ended,
            replica=np.array(self.replica, np.int32),
            retries=np.array(self.retries, np.int32),
            transfer=np.array(self.transfer, np.int64),
            lifetimes=tuple(lifetimes),
            end=end,
            in_system=sum(stay.tolist()),
            events=events,
            failures=failures,
            cold_starts=cold_starts,
            partial=partial,
        )
