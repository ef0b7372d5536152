"""A pool that grows and shrinks: decisions, cold starts, draining."""

from __future__ import annotations

from windtunnel.cost.channel import Channel
from windtunnel.serving.deployment.events import Agenda, Kind
from windtunnel.serving.deployment.members import Member, RunningPool, State
from windtunnel.serving.deployment.scaling import PoolState, Scaling
from windtunnel.serving.outcome import PS


class Elastic:
    """The scaling of one pool. ``cold_starts``: replicas started so far."""

    def __init__(self, pool: RunningPool, scaling: Scaling, agenda: Agenda) -> None:
        self.cold_starts = 0
        self._pool, self._scaling, self._agenda = pool, scaling, agenda
        self._channel = None if scaling.bytes_per_s is None else Channel(scaling.bytes_per_s)
        self._loading: dict[int, Member] = {}  # whom each transfer of weights is for
        self._due: int | None = None
        agenda.add(scaling.interval, Kind.SCALE, pool.number)

    def decide(self) -> None:
        """An interval has passed."""
        pool, scaling, now = self._pool, self._scaling, self._agenda.now
        there = len(pool.of(State.UP, State.STARTING, State.DOWN))
        wanted = scaling.wanted(
            PoolState(
                time_s=now / PS,
                loads=[m.load for m in pool.candidates()],
                provisioned=there,
                waiting=len(pool.waiting),
                max_batch=scaling.max_batch,
            )
        )
        if wanted > there:
            self._grow(wanted - there)
        elif wanted < there:
            self._shrink(there - wanted)
        self._agenda.add(now + scaling.interval, Kind.SCALE, pool.number)

    def loaded(self) -> None:
        """Some replica may have its weights."""
        if self._channel is not None and self._due == self._agenda.now:
            self._due = None
            for arrived in self._channel.advance(self._agenda.now):
                self._boot(self._loading.pop(arrived.transfer))
            self._watch()

    def _boot(self, member: Member) -> None:
        self._agenda.add(self._agenda.now + self._scaling.boot, Kind.BACK, member.number, member.life)

    def _grow(self, more: int) -> None:
        """Keep replicas that were about to go, then start others."""
        for member in self._pool.of(State.DRAINING, State.PARKED)[:more]:
            if member.state is State.DRAINING:
                self._pool.become(member, State.UP)
                continue
            self.cold_starts += 1
            self._pool.become(member, State.STARTING)
            if self._channel is None:
                self._boot(member)
            else:
                transfer = self._channel.start(self._agenda.now, self._scaling.weights_bytes)
                self._loading[transfer] = member
        self._watch()

    def _shrink(self, fewer: int) -> None:
        """Give up those that are not up yet, the latest first, then those with least to do."""
        pool = self._pool
        absent = [*reversed(pool.of(State.STARTING)), *reversed(pool.of(State.DOWN))][:fewer]
        for member in absent:
            for transfer in [t for t, m in self._loading.items() if m is member]:
                assert self._channel is not None
                self._channel.cancel(self._agenda.now, transfer)
                del self._loading[transfer]
            pool.become(member, State.PARKED)
        self._watch()
        idlest = sorted(pool.of(State.UP), key=lambda m: (m.load.outstanding_tokens, -m.index))
        for member in idlest[: fewer - len(absent)]:
            pool.become(member, State.DRAINING)
            pool.park_if_empty(member)

    def _watch(self) -> None:
        due = None if self._channel is None else self._channel.next()
        if due is not None and due != self._due:
            self._agenda.add(due, Kind.LOADED, self._pool.number)
        self._due = due
