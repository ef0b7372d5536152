"""A replica's life in a service: parked, starting, up, draining, down; and its pool."""

from __future__ import annotations

from collections import deque
from enum import Enum

from windtunnel.serving.deployment.events import Agenda, Kind
from windtunnel.serving.deployment.routers import Request
from windtunnel.serving.deployment.service import EnginePool, Lifetime
from windtunnel.serving.replica import NEVER, Load, Replica


class State(Enum):
    """What a replica is doing. Only one that is UP takes new requests; a DRAINING one still works on those it has."""

    PARKED = "parked"
    STARTING = "starting"
    UP = "up"
    DRAINING = "draining"
    DOWN = "down"


class Member:
    """A replica in its pool. ``number``: through all pools; ``index``: in its own. ``held``: requests in it. ``life``
    grows whenever it starts, comes up, fails or goes, so that events meant for an earlier life are told apart.

    Time passes in a replica only when something of it is needed: its state, or what has left it.
    """

    def __init__(self, number: int, index: int, replica: Replica, agenda: Agenda) -> None:
        self.number, self.index, self.replica = number, index, replica
        self.state = State.PARKED
        self.held = 0
        self.life = 0
        self.failures = 0
        self._agenda = agenda
        self._advanced = 0
        self._due = NEVER  # when something may leave it
        self._paid: list[tuple[int, int]] = []
        self._up: list[tuple[int, int]] = []
        self._paid_since = self._up_since = -1

    @property
    def load(self) -> Load:
        self.catch_up()
        return self.replica.load()

    def prefix_tokens(self, request: Request) -> int:
        self.catch_up()
        return self.replica.prefix_tokens(request.number)

    def advance(self) -> None:
        """Let time pass up to now."""
        self.replica.advance(self._agenda.now)
        self._advanced = self._agenda.now

    def catch_up(self) -> None:
        """As :meth:`advance`, where time has passed at all."""
        if self._advanced < self._agenda.now:
            self.advance()

    def submit(self, request: int, progress: int) -> None:
        """Give it a request now."""
        self.replica.submit(request, self._agenda.now, progress)
        self.held += 1
        self.watch(self._agenda.now)

    def watch(self, earliest: int) -> None:
        """Note when something may leave it, not before ``earliest``."""
        due = max(int(self.replica.bound()), earliest)
        if due != self._due:
            self._due = due
            self._agenda.add(due, Kind.REPLICA, self.number)

    def is_due(self) -> bool:
        """Whether that time is now; asked once."""
        due = self._due == self._agenda.now
        if due:
            self._due = NEVER
        return due

    def stop(self) -> list[int]:
        """It fails or goes: the requests that it held."""
        held = self.replica.stop(self._agenda.now)
        self.held, self._due = 0, NEVER
        return [int(request) for request in held]

    def become(self, state: State) -> None:
        """Change state and keep the account of what is paid for and what is up."""
        now = self._agenda.now
        was_up, is_up = (s in (State.UP, State.DRAINING) for s in (self.state, state))
        was_paid, is_paid = self.state is not State.PARKED, state is not State.PARKED
        self.life += not (was_up and is_up)
        if is_up and not was_up:
            self._up_since = now
        elif was_up and not is_up:
            self._up.append((self._up_since, now))
        if is_paid and not was_paid:
            self._paid_since = now
        elif was_paid and not is_paid:
            self._paid.append((self._paid_since, now))
        self.state = state

    def lifetime(self, pool: str, end: int) -> Lifetime:
        """The account, with what is still open closed at ``end``."""
        paid = [] if self.state is State.PARKED else [(self._paid_since, end)]
        up = [(self._up_since, end)] if self.state in (State.UP, State.DRAINING) else []
        return Lifetime(pool, tuple(self._paid + paid), tuple(self._up + up))


class RunningPool:
    """A pool over time. ``number``: in the service; ``waiting``: (request, progress) that came while none was up."""

    def __init__(self, pool: EnginePool, number: int, first: int, agenda: Agenda) -> None:
        self.name, self.router, self.scaling, self.number = pool.name, pool.router, pool.scaling, number
        self.members = [Member(first + i, i, replica, agenda) for i, replica in enumerate(pool.replicas)]
        self.waiting: deque[tuple[int, int]] = deque()
        self._candidates: list[Member] | None = None

    def of(self, *states: State) -> list[Member]:
        """Members in one of these states, in order of states, then of index."""
        return [m for state in states for m in self.members if m.state is state]

    def candidates(self) -> list[Member]:
        """Who takes new requests."""
        if self._candidates is None:
            self._candidates = self.of(State.UP)
        return self._candidates

    def become(self, member: Member, state: State) -> None:
        """A member changes its state."""
        member.become(state)
        self._candidates = None

    def park_if_empty(self, member: Member) -> None:
        """A member that is no longer wanted goes when it is empty, and its cache with it."""
        if member.state is State.DRAINING and member.held == 0:
            member.stop()
            self.become(member, State.PARKED)
