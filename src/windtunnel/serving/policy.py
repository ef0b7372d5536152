"""What a scheduler sees and decides: the protocol for users' own, and the built-in ones written against it."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Protocol

from windtunnel.errors import ScenarioError
from windtunnel.serving.outcome import PS
from windtunnel.serving.request import PREFILLING, WAITING, Request
from windtunnel.serving.rules import Rules

if TYPE_CHECKING:
    from windtunnel.serving.engine import PythonEngine
    from windtunnel.serving.lane import Lane

UNLIMITED = 1 << 60


class Scheduler(Protocol):
    """Decides what the next iteration runs. One object serves one engine; it may keep state."""

    def schedule(self, turn: Turn) -> None:
        """Say with :meth:`Turn.decode` and :meth:`Turn.prefill` what runs now. What is not said does not run. The
        decision holds for one iteration unless ``turn.stable_until`` is set."""


class Turn:
    """One decision: the state of a batch before an iteration, and the calls that fill the iteration. It is good only
    until ``schedule`` returns.

    ``now``: the clock in picoseconds. ``max_tokens``, ``max_batch``: the engine's token budget of an iteration, and its
    places. ``decodes``: sequences that could decode, ``decoding``: whether they do in this iteration; ``given``: prompt
    tokens given so far. ``preempted``: requests that lost their places in this decision. ``blocked``: why the head of
    the queue waits ("kv_cache", "max_batch", "budget", "gate", "policy"), for the report.

    ``stable_until``: None, "event" (the same again until an arrival, an end or a full cache), "completion" (arrivals
    change nothing either), a number of seconds on the clock, or a whole number of iterations. It counts only where no
    prompt runs, and blocks that arrive from below device memory end it. ``wake_at``: seconds on the clock at which to
    ask again if nothing runs.
    """

    __slots__ = (
        "_engine", "_free", "_lane", "_number", "_open", "_pool", "blocked", "decodes", "decoding", "given",
        "max_batch", "max_tokens", "now", "preempted", "stable_until", "wake_at",
    )  # fmt: skip

    def __init__(self, engine: PythonEngine, lane: Lane) -> None:
        self._engine, self._lane, self._pool = engine, lane, engine.pools[lane.rank]
        self.max_tokens, self.max_batch = engine.spec.budget, engine.spec.most_sequences
        self._number = 0
        self._open = False
        self.begin(0)

    def begin(self, now: int) -> None:
        """A new decision at ``now``: nothing runs yet."""
        lane = self._lane
        if lane.pieces:
            lane.pieces = []
        self.decoding = lane.decoding = False
        lane.swap_ps = 0
        self.now, self.decodes = now, lane.n
        self._free = self._pool.available
        self._number += 1
        self.blocked = ""
        self.preempted = self.given = 0
        self.stable_until: str | float | int | None = None
        self.wake_at: float | None = None

    def ask(self, scheduler: Scheduler, now: int) -> None:
        """Let a scheduler decide."""
        self.begin(now)
        self._open = True
        scheduler.schedule(self)
        self._open = False

    @property
    def now_s(self) -> float:
        """The clock, in seconds."""
        return self.now / PS

    @property
    def pieces(self) -> tuple[tuple[Request, int], ...]:
        """Prompt tokens of this iteration, by request."""
        return tuple(self._lane.pieces)

    @property
    def running(self) -> tuple[Request, ...]:
        """Sequences that could decode, in the order in which they began."""
        return tuple(self._lane.running.values())

    @property
    def partial(self) -> tuple[Request, ...]:
        """Requests that have a place and some of whose prompt is still to be computed."""
        return tuple(self._lane.partial)

    @property
    def waiting(self) -> tuple[Request, ...]:
        """Requests without a place: those that lost theirs, then in order of arrival (or as the order has it)."""
        return tuple(self._lane.queue)

    @property
    def waits(self) -> int:
        """How many these are."""
        return len(self._lane.queue)

    @property
    def head(self) -> Request | None:
        """The first that waits; one that has waited too long is turned away here."""
        return self._engine.head(self._lane, self.now)

    @property
    def tokens_left(self) -> int:
        """What is left of ``max_tokens``: less what decodes, and the prompts' tokens given so far."""
        return self.max_tokens - self.given - (self.decodes if self.decoding else 0)

    @property
    def free_cache(self) -> float:
        """Part of the KV cache that this decision may still take, 0 to 1."""
        return max(self._free, 0) / max(self._engine.spec.capacity, 1)

    @property
    def draining(self) -> bool:
        """Whether this batch has begun to decode and not ended."""
        return self._lane.draining

    def found(self, request: Request) -> int:
        """Tokens of a waiting request's prompt that lie in the prefix cache."""
        return self._engine.found(self._lane, request)

    def decode(self) -> bool:
        """Every sequence that can decodes one token. Makes room in the cache, taking places from the last admitted
        if need be (``preempted`` counts them), so it comes before any :meth:`prefill`. False if none is left to decode.

        Raises:
            ScenarioError: called twice, after :meth:`prefill` has given tokens, or outside ``schedule``.
        """
        lane = self._lane
        if lane.decoding or lane.pieces or not self._open:
            raise ScenarioError(f"scheduler: decode() {self._misplaced()}")
        need = lane.need()
        if need > self._pool.available:
            need, self.preempted = self._engine.make_room(lane, self.now)
        self._free = self._pool.available - need
        self.decodes = lane.n
        self.decoding = lane.decoding = lane.n > 0
        return self.decoding

    def prefill(self, request: Request, tokens: int | None = None) -> bool:
        """Compute ``tokens`` (all by default, and at most what is left) of a request's prompt, giving it a place first
        if it has none. False, and ``blocked`` says why, if there is no place or no room in the cache. What the prefix
        cache holds is not computed; a request that must fetch some of it steps aside and turns up in ``partial``
        when it is there.

        Raises:
            ScenarioError: the request neither waits here nor has some of its prompt left; it has been given tokens in
                this decision before; ``tokens`` is no whole number of at least 1; or more than can be priced.
        """
        lane = self._lane
        if tokens is not None and (type(tokens) is not int or tokens < 1):
            tokens = _count(tokens, "prefill() of", "tokens")
        if getattr(request, "lane", None) is not lane or not self._open or request.turn == self._number:
            raise ScenarioError(self._refusal(request))
        stage = request.stage
        if stage is WAITING:
            taken, self.blocked = self._engine.admit(lane, request, self._free, self.now)
            if taken < 0:
                return False
            self._free -= taken
            self.decodes = lane.n
            if not (lane.partial and lane.partial[-1] is request):  # it decodes, or its blocks are on their way
                return True
        elif stage is not PREFILLING:
            raise ScenarioError(self._refusal(request))
        left = request.left
        amount = left if tokens is None or tokens > left else tokens
        self.given += amount
        times = self._engine.times
        if self.given > times.most_prompt_tokens or self.given + lane.n > times.most_tokens:
            most = min(times.most_prompt_tokens, times.most_tokens - lane.n)
            raise ScenarioError(
                f"scheduler: {self.given:,} prompt tokens in one iteration; at most {most:,} have a price"
            )
        request.turn = self._number
        lane.pieces.append((request, amount))
        return True

    def _refusal(self, request: object) -> str:
        """Why tokens cannot be given to what is no request that waits here or has some of its prompt left."""
        if not isinstance(request, Request):
            return f"scheduler: prefill() of {type(request).__name__}; requests of turn.partial and turn.waiting can be"
        what = f"scheduler: prefill() of request {request.number}"
        if not self._open:
            return f"{what} outside schedule(); a turn ends with it"
        if request.lane is not self._lane:
            return f"{what}, which is not in this batch; those of turn.partial and turn.waiting are"
        if request.turn == self._number:
            return f"{what} twice in one iteration"
        return f"{what}, which is {request.stage.name.lower()}; requests of turn.partial and turn.waiting can be"

    def _misplaced(self) -> str:
        if not self._open:
            return "outside schedule(); a turn ends with it"
        return "twice in one iteration" if self.decoding else "after prefill(); it must come first"


def _count(value: object, what: str, unit: str) -> int:
    """A whole number of at least 1."""
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = 0
    if number < 1:
        raise ScenarioError(f"scheduler: {what} {value!r} {unit}; whole numbers from 1 are accepted")
    return number


class RuleScheduler:
    """A built-in scheduler, from its switches."""

    __slots__ = ("rules",)

    def __init__(self, rules: Rules) -> None:
        self.rules = rules

    def schedule(self, turn: Turn) -> None:
        rules = self.rules
        if rules.mixed and turn.decodes:
            turn.decode()
            if turn.preempted:
                turn.blocked = "kv_cache"
                return
        # A padded batch is closed as soon as it has begun.
        if rules.gated and (turn.draining or (rules.padded and turn.decodes)):
            turn.blocked = "gate"
        elif turn.waits or turn.partial:
            self._take(turn)
        if turn.given:
            return
        if not turn.decoding:
            turn.decode()
            if turn.preempted:
                turn.blocked = "kv_cache"
        arrivals_matter = not turn.waits or (rules.order != "fcfs" and turn.blocked == "kv_cache")
        turn.stable_until = "event" if arrivals_matter else "completion"

    def _take(self, turn: Turn) -> None:
        """Prompts into the iteration: those begun, then those that wait, while tokens and room last."""
        rules = self.rules
        most = max(turn.max_tokens - (turn.decodes if turn.decoding else 0), 1) if rules.limited else UNLIMITED
        for partial in turn.partial:
            left = most - turn.given
            if left > 0 or not rules.cut:
                turn.prefill(partial, left if rules.cut else None)
        while turn.given < most:
            request = turn.head
            if request is None:
                return
            left = most - turn.given
            whole = turn.given and rules.limited and not rules.cut
            # What the prefix cache holds need not fit.
            if whole and request.left > left and request.left - turn.found(request) > left:
                turn.blocked = "budget"
                return
            if not turn.prefill(request, left if rules.cut else None):
                return
        if turn.head is not None:
            turn.blocked = "budget"
