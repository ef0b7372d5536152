"""What a scheduler sees and decides: the protocol for users' own, and the built-in ones written against it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from windtunnel.serving.outcome import PS
from windtunnel.serving.request import Request
from windtunnel.serving.rules import Rules

if TYPE_CHECKING:
    from windtunnel.serving.engine import PythonEngine
    from windtunnel.serving.lane import Lane


class Scheduler(Protocol):
    """Decides what the next iteration runs. One object serves one engine; it may keep state."""

    def schedule(self, turn: Turn) -> None:
        """Say with :meth:`Turn.decode` and :meth:`Turn.prefill` what runs now. What is not said does not run. The
        decision holds for one iteration unless ``turn.stable_until`` is set."""


class Turn:
    """One decision: the state of a batch before an iteration, and the calls that fill the iteration.

    ``stable_until``: None, "event" (the same again until an arrival, an end or a full cache), "completion" (arrivals
    change nothing either), a number of seconds on the clock, or a whole number of iterations. It counts only where no
    prompt runs. ``wake_at``: seconds on the clock at which to ask again if nothing runs.
    """

    __slots__ = ("_engine", "_free", "_lane", "blocked", "now", "preempted", "stable_until", "wake_at")

    def __init__(self, engine: PythonEngine, lane: Lane, now: int) -> None:
        self._engine, self._lane, self.now = engine, lane, now
        self._free = engine.available(lane.rank)
        self.blocked = ""
        self.preempted = 0
        self.stable_until: str | float | int | None = None
        self.wake_at: float | None = None

    @property
    def now_s(self) -> float:
        """The clock, in seconds."""
        return self.now / PS

    @property
    def decodes(self) -> int:
        """Sequences that could decode."""
        return self._lane.n

    @property
    def running(self) -> Iterator[Request]:
        """Those sequences."""
        return iter(self._lane.running.values())

    @property
    def partial(self) -> tuple[Request, ...]:
        """Requests that have a place and some of whose prompt is still to be computed."""
        return tuple(self._lane.partial)

    @property
    def waiting(self) -> Iterator[Request]:
        """Requests without a place: those that lost theirs, then in order of arrival (or as the order has it)."""
        return iter(self._lane.queue)

    @property
    def head(self) -> Request | None:
        """The first that waits; one that has waited too long is turned away here."""
        return self._engine.head(self._lane, self.now)

    @property
    def max_tokens(self) -> int:
        """The engine's token budget of an iteration."""
        return self._engine.spec.budget

    @property
    def max_batch(self) -> int:
        """The engine's places."""
        return self._engine.spec.most_sequences

    @property
    def free_cache(self) -> float:
        """Part of the KV cache that this decision may still take, 0 to 1."""
        return max(self._free, 0) / max(self._engine.spec.capacity, 1)

    @property
    def draining(self) -> bool:
        """Whether this batch has begun to decode and not ended."""
        return self._lane.draining

    def decode(self) -> bool:
        """Every sequence that can decodes one token. Makes room in the cache, taking places from the last admitted
        if need be (``preempted`` counts them). False if none is left to decode."""
        need, self.preempted = self._engine.make_room(self._lane, self.now)
        self._free = self._engine.available(self._lane.rank) - need
        self._lane.decoding = self._lane.n > 0
        return self._lane.decoding

    def prefill(self, request: Request, tokens: int | None = None) -> bool:
        """Compute ``tokens`` (all by default) of what is left of a request's prompt, giving it a place first if it has
        none. False, and ``blocked`` says why, if there is no place or no room in the cache."""
        lane = self._lane
        if request not in lane.partial:
            taken, self.blocked = self._engine.admit(lane, request, self._free, self.now)
            if taken < 0:
                return False
            self._free -= taken
        amount = request.left if tokens is None else min(tokens, request.left)
        if amount > 0:
            lane.pieces.append((request, amount))
        return True


class RuleScheduler:
    """A built-in scheduler, from its switches."""

    __slots__ = ("rules",)

    def __init__(self, rules: Rules) -> None:
        self.rules = rules

    def schedule(self, turn: Turn) -> None:
        rules, lane_empty = self.rules, not turn.decodes
        if rules.mixed and not lane_empty:
            turn.decode()
            if turn.preempted:
                turn.blocked = "kv_cache"
                return
        if rules.gated and turn.draining:
            turn.blocked = "gate"
        else:
            self._take(turn)
        lane = turn._lane
        if not lane.pieces and not lane.decoding:
            turn.decode()
        if not lane.pieces:
            arrivals_matter = not len(lane.queue) or (rules.order != "fcfs" and turn.blocked == "kv_cache")
            turn.stable_until = "event" if arrivals_matter else "completion"

    def _take(self, turn: Turn) -> None:
        """Prompts into the iteration: those begun, then those that wait, while tokens and room last."""
        rules = self.rules
        decodes = turn.decodes if turn._lane.decoding else 0
        left = max(turn.max_tokens - decodes, 1) if rules.limited else 1 << 60
        begun = False
        for request in turn.partial:
            amount = min(left, request.left) if rules.cut else request.left
            if amount > 0:
                turn.prefill(request, amount)
                left, begun = left - amount, True
        while left > 0:
            request = turn.head
            if request is None:
                return
            whole = request.left
            if rules.limited and not rules.cut and whole > left and begun:
                turn.blocked = "budget"
                return
            # A prompt found in the prefix cache has less left once it has its place.
            if not turn.prefill(request, left if rules.cut else None):
                return
            taken = turn._lane.pieces[-1][1] if turn._lane.pieces and turn._lane.pieces[-1][0] is request else 0
            left, begun = left - taken, True
        if turn.head is not None:
            turn.blocked = "budget"
