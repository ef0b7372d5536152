"""The event loop of one engine in plain Python: what the compiled loop is held against, and what runs users' policies.

Between two decisions the batch's composition does not change, so its iterations are advanced together
(:mod:`windtunnel.serving.flight`). Events at one time: ends of iterations first, then arrivals, then decisions.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence

from windtunnel.errors import ScenarioError
from windtunnel.serving.flight import Flight, single
from windtunnel.serving.lane import Lane
from windtunnel.serving.outcome import PS, Status
from windtunnel.serving.places import Places
from windtunnel.serving.policy import RuleScheduler, Scheduler, Turn
from windtunnel.serving.prefix_cache import PrefixCache
from windtunnel.serving.queues import Queue
from windtunnel.serving.record import Record
from windtunnel.serving.replica import NEVER, Done, Load
from windtunnel.serving.request import WAITING, Request
from windtunnel.serving.sharing import exact, whole
from windtunnel.serving.spec import EngineSpec
from windtunnel.serving.tally import BLOCKED

MakeRequest = Callable[[int, int, int], Request]
"""(number in the workload, time of arrival, tokens that come along) to a request."""

END, ARRIVAL, DECISION = 0, 1, 2

MOST_WAKES = 100_000
"""Decisions in a row that a policy asked for with ``wake_at`` and that ran nothing: then its engine stops."""


class Slot:
    """A batch that takes turns in the pipeline: one lane for each rank. ``ready``: when its last iteration ended;
    ``began``: when that one started; ``asleep``: nothing can be done before something happens, or before ``wake``;
    ``wakes``: how often in a row it woke for nothing."""

    __slots__ = ("asleep", "began", "blocked", "flight", "lanes", "pairs", "ready", "turns", "wake", "wakes")

    def __init__(self, turns: list[Turn], lanes: list[Lane]) -> None:
        self.turns, self.lanes = turns, lanes
        self.pairs = list(zip(turns, lanes, strict=True))
        self.ready, self.began, self.wake, self.wakes = 0, -1, NEVER, 0
        self.flight: Flight | None = None
        self.asleep = False
        self.blocked = ""

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return self.lanes[0].busy or (len(self.lanes) > 1 and any(lane.busy for lane in self.lanes))


class PythonEngine(Places):
    """A :class:`~windtunnel.serving.replica.Replica`. ``make_cache``: makes the prefix cache of one rank where the spec
    has blocks for one (built-in eviction without tiers if left out). ``one_by_one``: never advance more than one
    iteration at a time (the tests' oracle)."""

    def __init__(
        self, spec: EngineSpec, record: Record, make_request: MakeRequest, *, index: int = 0,
        scheduler: Scheduler | None = None, make_queue: Callable[[], Queue] | None = None,
        make_cache: Callable[[], PrefixCache] | None = None, one_by_one: bool = False, log_size: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(spec, record, index, make_queue, log_size, make_cache)
        self.scheduler = scheduler or RuleScheduler(spec.rules)
        self._make, self._one_by_one = make_request, one_by_one
        self._loose = bool(self.caches) and not exact(spec)
        self.arrivals: deque[tuple[int, int, int]] = deque()
        self.slots = self._slots()
        self.pipe_free = self.pipe_end = self.flying = self.busy_since = 0

    def _slots(self) -> list[Slot]:
        ranks, turns = self.spec.ranks, [Turn(self, lane) for lane in self.lanes]
        starts = range(0, self.spec.slots * ranks, ranks)
        return [Slot(turns[s : s + ranks], self.lanes[s : s + ranks]) for s in starts]

    # What a service asks of it.

    def submit(self, request: int, time: int, progress: int = 0) -> None:
        seen = time + self.spec.front_ps
        self.arrivals.append((seen, request, progress))
        flight = self.slots[0].flight
        if flight is not None and flight.open and len(self.arrivals) == 1:
            steps = flight.steps_until(seen) + self.spec.delayed
            if steps < flight.steps:
                self._shorten(self.slots[0].lanes[0], flight, steps)

    def advance(self, until: int) -> None:
        while True:
            time, kind, slot = self._next()
            if time > until or (time == until and kind != END) or time >= NEVER:
                break
            if time > self.clock:
                self._pass(time)
            if kind == END:
                self._land(slot)
            elif kind == DECISION:
                self._decide(slot, time)
            else:
                self._ingest(time)
        if until < NEVER:
            self._pass(until)

    def bound(self) -> int:
        time, kind, _ = self._next()
        return min(time if kind == END else time + 1, NEVER)

    def take_done(self) -> Sequence[Done]:
        found, self.done = self.done, []
        return found

    def load(self) -> Load:
        queued = len(self.arrivals) + sum(lane.queued for lane in self.lanes)
        running = sum(lane.running_requests for lane in self.lanes)
        owed, flight = self.owed, self.slots[0].flight
        if flight is not None and flight.steps > 1:
            owed -= self.lanes[0].live * (flight.steps_until(self.clock + 1) - 1)
        capacity = self.spec.capacity * self.spec.ranks
        return Load(queued, running, owed + self._coming(), self._used() / capacity if capacity else 0.0)

    def _coming(self) -> int:
        """Tokens of requests between arrival and queue."""
        made = (self._make(number, time, progress) for time, number, progress in self.arrivals)
        return sum(r.left + r.output_tokens - r.generated for r in made)

    def prefix_tokens(self, request: int) -> int:
        if not self.caches:
            return 0
        flight, lane = self.slots[0].flight, self.lanes[0]
        if flight is not None and flight.steps > 1:
            # The iterations that have begun have evicted what they needed, the others not yet.
            begun = flight.steps_until(self.clock)
            self.pools[0].settle(later=lane.need(flight.steps) - lane.need(min(begun, flight.steps)))
        made = self._make(request, 0, 0)
        blocks = made.blocks[: whole(self.spec, made, made.input_tokens - 1)]
        return max(cache.match(blocks).resident for cache in self.caches) * self.spec.prefix_tokens

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the end: requests that nothing will ever run again."""
        if not self.in_system or self._next()[0] < NEVER:
            return ()
        return (
            f"engine {self.index}: its scheduler ran nothing from {self.clock / PS:.6g} s on; {self.in_system} "
            f"requests were left unfinished",
        )

    def settle(self) -> None:
        """Count what has ended by now of a stretch under way, as if its iterations had been advanced one by one."""
        flight, now = self.slots[0].flight, self.clock
        if flight is None or flight.steps < 2:
            return
        steps = flight.steps_until(now + 1) - 1
        if steps:
            self._shorten(self.lanes[0], flight, steps)
            waited, kept = self.waited, self.tally.kv_integral
            self.clock = flight.end
            self.advance(now)
            self.waited, self.tally.kv_integral = waited, kept

    def stop(self, time: int) -> list[int]:
        self._pass(time)
        self.settle()
        lost = [number for _, number, _ in self.arrivals] + self.held()
        if self.flying:
            self.tally.busy += time - self.busy_since
        self.flying = 0
        self.arrivals.clear()
        self.fetches.cancel(time)
        self.clear()
        self.slots = self._slots()
        self.pipe_free = self.pipe_end = time
        for slot in self.slots:
            slot.ready = time
        return sorted(lost, key=lambda number: (int(self.record.arrival[number]), number))

    # What happens next, and that time passes until then.

    def _next(self) -> tuple[int, int, Slot]:
        if len(self.slots) == 1:
            slot = self.slots[0]
            if slot.flight is not None:
                return slot.flight.end, END, slot
            if not slot.asleep and slot.busy:
                return self.clock if self.clock >= self.pipe_free else self.pipe_free, DECISION, slot
        best, kind, which, idle = NEVER, DECISION, self.slots[0], False
        for slot in self.slots:
            flight = slot.flight
            if flight is not None:
                time, event = flight.end, END
            elif slot.busy and not slot.asleep:
                time, event = max(slot.ready, self.pipe_free, self.clock), DECISION
            else:
                idle = True
                time, event = max(slot.wake, self.pipe_free), DECISION
            if time < best or (time == best and event < kind):
                best, kind, which = time, event, slot
        if idle:
            time = self.arrivals[0][0] if self.arrivals else NEVER
            if self.caches:
                time = min(time, self.fetches.next())
            if time < best or (time == best < NEVER and kind == DECISION):
                return max(time, self.clock), ARRIVAL, which
        return best, kind, which

    def _pass(self, time: int) -> None:
        gone = time - self.clock
        if gone > 0:
            self.waited += self.in_system * gone
            self.tally.kv_integral += self._used() * gone
            self.clock = time

    def _used(self) -> int:
        """Units that requests hold, in all ranks."""
        used = 0
        for pool in self.pools:
            used += pool.used
        return used

    def _ingest(self, now: int) -> None:
        """Everything that has arrived goes to the lane with the fewest requests, and blocks to their requests."""
        spec = self.spec
        while self.arrivals and self.arrivals[0][0] <= now:
            time, number, progress = self.arrivals.popleft()
            request = self._make(number, time, progress)
            came = time - spec.front_ps
            lane = self.lanes[0]
            if len(self.lanes) > 1:
                lane = min(self.lanes, key=lambda lane: lane.queued + lane.running_requests)
            if spec.too_long(request.input_tokens, request.output_tokens):
                self.turn_away(request, Status.TOO_LONG, now)
            elif lane.queued >= spec.max_queue:
                self.turn_away(request, Status.QUEUE_FULL, now)
            else:
                self.in_system += 1
                self.waited += now - came
                self.owed += request.left + request.output_tokens - request.generated
                request.lane = lane
                lane.pending.append(request)
                self._rouse(lane)
        if self.caches:
            for landed in self.fetches.landed(now):
                landed.fetch.lane.landed.append(landed)
                self._rouse(landed.fetch.lane)

    def _rouse(self, lane: Lane) -> None:
        slot = self.slots[lane.slot]
        slot.asleep, slot.wakes = False, 0

    # Decisions.

    def _decide(self, slot: Slot, now: int) -> None:
        if self.caches or (self.arrivals and self.arrivals[0][0] <= now):
            self._ingest(now)
        slot.asleep, slot.wake = False, NEVER
        # With asynchronous scheduling an iteration is made up while the one before it runs.
        late = self.spec.delayed and slot.began >= 0 and slot.ready == now
        runs = self._ask(slot, now, slot.began if late else now)
        if late and not runs:
            runs = self._ask(slot, now, now)
        self.tally.events += 1
        if not runs:
            self._sleep(slot, now)
            return
        slot.wakes = 0
        slot.blocked = ""
        for turn in slot.turns:
            if turn.waits:
                slot.blocked = turn.blocked
                break
        lane = slot.lanes[0]
        if len(self.lanes) == 1 and not lane.pieces:
            slot.flight = flight = self._stretch(lane, slot.turns[0], now)
        else:
            slot.flight = flight = self._iteration(slot, now)
        for lane in slot.lanes:
            if lane.decoding:
                pool, need = self.pools[lane.rank], lane.need(flight.steps)
                if flight.steps > 1:
                    pool.free -= need  # evicted when it is known how far the stretch goes
                else:
                    pool.take(need)
        if not self.flying:
            self.busy_since = now
        self.flying += 1
        if now >= self.tally.next_sample:
            self._sample(now)

    def _ask(self, slot: Slot, now: int, visible: int) -> bool:
        """Let the scheduler decide what runs, knowing what has come by ``visible``. Whether anything does."""
        runs = False
        for turn, lane in slot.pairs:
            while lane.pending and lane.pending[0].arrival <= visible:
                request = lane.pending.popleft()
                request.stage = WAITING
                lane.queue.push(request)
            while lane.landed and lane.landed[0].time <= visible:
                self.fetched(lane.landed.popleft().fetch)
            turn.ask(self.scheduler, now)
            lane.work = lane.compose()
            runs = runs or lane.work is not None
        return runs

    def _sleep(self, slot: Slot, now: int) -> None:
        """Nothing runs before something happens, or before the scheduler wants to be asked again."""
        slot.asleep = True
        wakes = [turn.wake_at for turn in slot.turns if turn.wake_at is not None]
        if wakes:
            slot.wakes += 1
            if slot.wakes <= MOST_WAKES and slot.busy:
                slot.wake = max(min(_clock(wake, "wake_at") for wake in wakes), now + 1)

    def _iteration(self, slot: Slot, now: int) -> Flight:
        """One iteration of all ranks of a slot: as long as the slowest."""
        longest = interval = 0
        for lane in slot.lanes:
            if lane.work is not None:
                device, stage = self.times.seconds(lane.work)
                longest = max(longest, device + lane.swap_ps)
                interval = max(interval, stage + lane.swap_ps)
        if len(self.slots) == 1:
            self.pipe_free = now
            return single(now, longest)
        # No batch overtakes another: behind a longer one, it leaves the last stage a stage's time after it.
        longest = max(longest, self.pipe_end + interval - now)
        self.pipe_free, self.pipe_end = now + interval, now + longest
        return single(now, longest)

    def _stretch(self, lane: Lane, turn: Turn, now: int) -> Flight:
        """Iterations that only decode, until something changes."""
        n, times = lane.n, self.times
        device, slope, added, floor, most = times.stretch(n, lane.contexts, lane.climbs)
        flight = Flight(now, added + lane.swap_ps, device, slope, floor)
        stable = turn.stable_until
        if stable is None or self._one_by_one or lane.swap_ps or lane.landed or self._restless(lane, turn):
            return flight
        pool = self.pools[lane.rank]
        free = pool.available
        if self.caches and len(lane.queue):
            # Next time, one that fetches may have left the whole budget to the head, or one that has lost its place
            # may find more of its own.
            if turn.blocked == "budget" or turn.preempted:
                return flight
            # What is evicted may let somebody in who needs less when less of its prompt is found.
            if self._loose:
                free = pool.free
        most = min(most, lane.next_end(), lane.bend())
        if stable != "event" and stable != "completion":
            most = min(most, _iterations(stable))
        most = max(lane.steps_within(free, most), 1)
        if most > 1:
            flight.cut(most)
        flight.open = stable != "completion"
        stop = self.deadline(lane)
        if isinstance(stable, float):
            stop = min(stop, _clock(stable, "stable_until"))
        steps = flight.steps_until(stop) if stop <= flight.end else most
        late = self.spec.delayed
        if lane.fetching and (time := self.fetches.next()) <= flight.end:
            steps = min(steps, flight.steps_until(time) + late)
        if flight.open:
            if lane.pending:
                steps = 1
            elif self.arrivals and self.arrivals[0][0] <= flight.end:
                steps = min(steps, flight.steps_until(self.arrivals[0][0]) + late)
        if steps < most:
            flight.cut(steps)
        return flight

    def _restless(self, lane: Lane, turn: Turn) -> bool:
        """Whether decoding itself may change who waits first, and that matters: fair shares move with every token."""
        if self.spec.rules.order != "fair" or not len(lane.queue):
            return False
        return turn.blocked == "kv_cache" or self.spec.timeout_ps < NEVER

    def _shorten(self, lane: Lane, flight: Flight, steps: int) -> None:
        """An arrival ends a stretch early: the cache that its later steps would have taken is free."""
        whole = lane.need(flight.steps)
        flight.cut(steps)
        self.pools[lane.rank].give(whole - lane.need(steps))

    # Ends of iterations.

    def _land(self, slot: Slot) -> None:
        flight, now = slot.flight, self.clock
        assert flight is not None
        slot.flight = None
        slot.ready = now
        slot.began = flight.start + (flight.duration(flight.steps - 1) if flight.steps > 1 else 0)
        self.flying -= 1
        tally, lasted = self.tally, now - flight.start
        if not self.flying:
            tally.busy += now - self.busy_since
        if slot.blocked:
            tally.blocked[BLOCKED.index(slot.blocked if slot.blocked in BLOCKED else "policy")] += lasted
        for lane in slot.lanes:
            work = lane.work
            if work is None:
                continue
            tally.iteration(work, flight.steps, lasted, lane.climbs)
            if len(tally.log) < tally.log_size:
                where = lane.slot * self.spec.ranks + lane.rank
                tally.log.append(
                    (where, flight.start, now, flight.steps, work.prompt, work.decodes, sum(work.contexts[:1]))
                )
            pool = self.pools[lane.rank]
            if pool.free < 0:
                pool.settle()
            used = pool.used
            if used > tally.kv_peak:
                tally.kv_peak = used
            if lane.decoding:
                self.decoded(lane, flight, now)
            if lane.pieces:
                self.prefilled(lane, now)
            lane.work = None
        for other in self.slots:
            other.asleep = False
        if not self.in_system:
            self._sample(now)

    def _sample(self, now: int) -> None:
        waiting = sum(lane.queued for lane in self.lanes)
        running = sum(lane.running_requests for lane in self.lanes)
        self.tally.sample(now, waiting, running, self._used(), self.produced, self.completed)


def _clock(value: object, what: str) -> int:
    """A policy's time in seconds, in picoseconds."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ScenarioError(f"scheduler: turn.{what} is {value!r}; a time on the clock in seconds is accepted")
    return min(round(value * PS), NEVER)


def _iterations(stable: object) -> int:
    """How many iterations a policy's ``stable_until`` lasts, where it says so."""
    if isinstance(stable, float):
        return NEVER
    if not isinstance(stable, int) or isinstance(stable, bool) or stable < 1:
        raise ScenarioError(
            f"scheduler: turn.stable_until is {stable!r}; None, 'event', 'completion', seconds on the clock, or "
            f"a number of iterations from 1 are accepted"
        )
    return stable
