"""What a service asks of one engine, whichever loop runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

NEVER = (1 << 62) - 1
"""A time (ps) that does not come."""


@dataclass(frozen=True, slots=True)
class Load:
    """A replica's state as a router sees it. Tokens: prompt and output still to be done of queued and running
    requests. ``kv_used``: fraction of the cache that requests hold (what may be evicted not counted)."""

    queued: int
    running: int
    outstanding_tokens: int
    kv_used: float


class Done(NamedTuple):
    """A request has left an engine at ``time`` (ps) with a :class:`~windtunnel.serving.outcome.Status`."""

    time: int
    request: int
    status: int


class Replica(Protocol):
    """One engine over time. Times are whole picoseconds; requests are numbers of the workload's rows.

    The record of a request (start, first token, finish, …) goes to arrays that all replicas of a service share.
    """

    def submit(self, request: int, time: int, progress: int = 0) -> None:
        """``request`` arrives at ``time``, which is neither before an earlier arrival here nor before the time to
        which the engine has been advanced. ``progress`` tokens of its prompt need no computing: its KV comes along
        (all of the prompt: it starts by decoding, its first token made elsewhere)."""

    def advance(self, until: int) -> None:
        """Let time pass: everything that ends at or before ``until`` has ended afterwards, and every iteration that
        starts before ``until`` has started (one that would start at ``until`` has not: an arrival at that very
        time would take part in it)."""

    def bound(self) -> int:
        """No request leaves before this time unless others arrive first (a lower bound; NEVER: nothing to do)."""

    def take_done(self) -> Sequence[Done]:
        """What left since the last call, in order of time."""

    def load(self) -> Load:
        """Its state at the time to which it has been advanced."""

    def prefix_tokens(self, request: int) -> int:
        """Tokens of the request's prompt that lie in this replica's prefix cache now (0 without one)."""

    def settle(self) -> None:
        """Count what has ended by now of iterations that are advanced together: before it is stopped, or looked at
        for the last time."""

    def stop(self, time: int) -> list[int]:
        """It fails: everything it holds is lost and its cache is empty. Returns the requests it held, in order of
        arrival. It takes part again as soon as something is submitted."""
