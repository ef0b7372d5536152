"""The event loop of one engine in plain Python: what the compiled loop is held against, and what runs users' policies.

Between two decisions the batch's composition does not change, so its iterations are advanced together
(:mod:`windtunnel.serving.flight`). Events at one time: ends of iterations first, then arrivals, then decisions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from windtunnel.serving.flight import Flight, single
from windtunnel.serving.lane import Lane
from windtunnel.serving.outcome import PS, Status
from windtunnel.serving.places import Places
from windtunnel.serving.policy import RuleScheduler, Scheduler, Turn
from windtunnel.serving.queues import Queue
from windtunnel.serving.record import Record
from windtunnel.serving.replica import NEVER, Done, Load
from windtunnel.serving.request import Request
from windtunnel.serving.spec import EngineSpec
from windtunnel.serving.step_time import StepTimes
from windtunnel.serving.tally import BLOCKED

MakeRequest = Callable[[int, int, int], Request]
"""(number in the workload, time of arrival, tokens that come along) to a request."""

END, ARRIVAL, DECISION = 0, 1, 2


class Slot:
    """A batch that takes turns in the pipeline: one lane for each rank. ``ready``: when its last iteration ended;
    ``began``: when that one started; ``asleep``: nothing can be done before something happens, or before ``wake``."""

    __slots__ = ("asleep", "began", "blocked", "flight", "lanes", "ready", "wake")

    def __init__(self, lanes: list[Lane]) -> None:
        self.lanes = lanes
        self.ready, self.began, self.wake = 0, -1, NEVER
        self.flight: Flight | None = None
        self.asleep = False
        self.blocked = ""


class PythonEngine(Places):
    """A :class:`~windtunnel.serving.replica.Replica`. ``one_by_one``: never advance more than one iteration at a time
    (the tests' oracle)."""

    def __init__(
        self, spec: EngineSpec, record: Record, make_request: MakeRequest, *, index: int = 0,
        scheduler: Scheduler | None = None, make_queue: Callable[[], Queue] | None = None, one_by_one: bool = False,
        log_size: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(spec, record, index, make_queue, log_size)
        self.scheduler = scheduler or RuleScheduler(spec.rules)
        self._make, self._one_by_one = make_request, one_by_one
        self.times = StepTimes(spec.cost)
        self.arrivals: deque[tuple[int, int, int]] = deque()
        self.slots = self._slots()
        self.pipe_free = self.flying = self.busy_since = 0

    def _slots(self) -> list[Slot]:
        ranks = self.spec.ranks
        return [Slot(self.lanes[s * ranks : (s + 1) * ranks]) for s in range(self.spec.slots)]

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
            self._pass(time)
            if kind == ARRIVAL:
                self._ingest(time)
            elif kind == END:
                self._land(slot)
            else:
                self._decide(slot, time)
        if until < NEVER:
            self._pass(until)

    def bound(self) -> int:
        time, kind, _ = self._next()
        return time if kind == END or time >= NEVER else time + 1

    def take_done(self) -> Sequence[Done]:
        found, self.done = self.done, []
        return found

    def load(self) -> Load:
        queued = len(self.arrivals) + sum(len(lane.queue) + len(lane.pending) for lane in self.lanes)
        running = sum(lane.live + len(lane.partial) for lane in self.lanes)
        owed, flight = self.owed, self.slots[0].flight
        if flight is not None and flight.steps > 1:
            owed -= self.lanes[0].live * (flight.steps_until(self.clock + 1) - 1)
        capacity = self.spec.capacity * self.spec.ranks
        used = sum(pool.used for pool in self.pools)
        return Load(queued, running, owed + self._coming(), used / capacity if capacity else 0.0)

    def _coming(self) -> int:
        """Tokens of requests between arrival and queue."""
        made = (self._make(number, time, progress) for time, number, progress in self.arrivals)
        return sum(r.left + r.output_tokens - r.generated for r in made)

    def prefix_tokens(self, request: int) -> int:
        found = [
            pool.cache.match(self._make(request, 0, 0).blocks).resident for pool in self.pools if pool.cache is not None
        ]
        return max(found, default=0) * self.spec.prefix_tokens

    def stop(self, time: int) -> list[int]:
        self._pass(time)
        lost = [number for _, number, _ in self.arrivals] + self.held()
        if self.flying:
            self.tally.busy += time - self.busy_since
        self.flying = 0
        self.arrivals.clear()
        self.clear()
        self.slots = self._slots()
        self.pipe_free = time
        for slot in self.slots:
            slot.ready = time
        return sorted(lost, key=lambda number: (int(self.record.arrival[number]), number))

    # What happens next, and that time passes until then.

    def _next(self) -> tuple[int, int, Slot]:
        best, which, idle = (NEVER, DECISION), self.slots[0], False
        for slot in self.slots:
            flight = slot.flight
            if flight is not None:
                event = (flight.end, END)
            elif slot.asleep or not any(lane.busy for lane in slot.lanes):
                idle = True
                event = (max(slot.wake, self.pipe_free), DECISION)
            else:
                event = (max(slot.ready, self.pipe_free, self.clock), DECISION)
            if event < best:
                best, which = event, slot
        if idle and self.arrivals and (self.arrivals[0][0], ARRIVAL) < best:
            return max(self.arrivals[0][0], self.clock), ARRIVAL, which
        return *best, which

    def _pass(self, time: int) -> None:
        gone = time - self.clock
        if gone > 0:
            self.queue_integral += self.in_system * (gone / PS)
            self.tally.kv_integral += sum(pool.used for pool in self.pools) * (gone / PS)
            self.clock = time

    def _ingest(self, now: int) -> None:
        """Everything that has arrived goes to the lane with the fewest requests."""
        spec = self.spec
        while self.arrivals and self.arrivals[0][0] <= now:
            time, number, progress = self.arrivals.popleft()
            request = self._make(number, time, progress)
            came = time - spec.front_ps
            lane = min(self.lanes, key=lambda lane: lane.unfinished) if len(self.lanes) > 1 else self.lanes[0]
            if spec.too_long(request.input_tokens, request.output_tokens):
                self.turn_away(request, Status.TOO_LONG, now)
            elif len(lane.queue) + len(lane.pending) >= spec.max_queue:
                self.turn_away(request, Status.QUEUE_FULL, now)
            else:
                self.in_system += 1
                self.queue_integral += (now - came) / PS
                self.owed += request.left + request.output_tokens - request.generated
                lane.pending.append(request)
                self.slots[lane.slot].asleep = False

    # Decisions.

    def _decide(self, slot: Slot, now: int) -> None:
        self._ingest(now)
        slot.asleep, slot.wake = False, NEVER
        # With asynchronous scheduling an iteration is made up while the one before it runs.
        busy = slot.began >= 0 and slot.ready == now
        turns = self._turns(slot, now, slot.began if self.spec.delayed and busy else now)
        if not any(lane.work for lane in slot.lanes) and self.spec.delayed and busy:
            turns = self._turns(slot, now, now)
        self.tally.events += 1
        if not any(lane.work for lane in slot.lanes):
            slot.asleep = True
            wakes = [t.wake_at for t in turns if t.wake_at is not None]
            if wakes:
                slot.wake = max(round(min(wakes) * PS), now + 1)
            return
        slot.blocked = next((t.blocked for t, lane in zip(turns, slot.lanes, strict=True) if len(lane.queue)), "")
        lane = slot.lanes[0]
        if len(self.lanes) == 1 and lane.work is not None and not lane.work.prompt:
            slot.flight = self._stretch(lane, turns[0], now)
        else:
            slot.flight = self._iteration(slot, now)
        for each in slot.lanes:
            if each.decoding:
                self.pools[each.rank].take(each.need(slot.flight.steps))
        if not self.flying:
            self.busy_since = now
        self.flying += 1
        self._sample(now)

    def _turns(self, slot: Slot, now: int, visible: int) -> list[Turn]:
        found = []
        for lane in slot.lanes:
            while lane.pending and lane.pending[0].arrival <= visible:
                lane.queue.push(lane.pending.popleft())
            lane.pieces, lane.decoding, lane.swap_ps = [], False, 0
            turn = Turn(self, lane, now)
            self.scheduler.schedule(turn)
            lane.work = lane.compose()
            found.append(turn)
        return found

    def _iteration(self, slot: Slot, now: int) -> Flight:
        """One iteration of all ranks of a slot: as long as the slowest."""
        longest = interval = 0
        for lane in slot.lanes:
            if lane.work is not None:
                whole, stage = self.times.seconds(lane.work)
                longest = max(longest, whole + lane.swap_ps)
                interval = max(interval, stage + lane.swap_ps)
        self.pipe_free = now + interval if len(self.slots) > 1 else now
        return single(now, longest)

    def _stretch(self, lane: Lane, turn: Turn, now: int) -> Flight:
        """Iterations that only decode, until something changes."""
        device, added, floor = self.times.flat(lane.n)
        slope, most = 0, NEVER
        for view, climb in enumerate(lane.climbs):
            at, growth, left = self.times.line(lane.n, lane.contexts, view)
            device += at
            slope += growth * climb
            if climb > 0:
                most = min(most, (left - 1) // climb + 1)
        flight = Flight(now, added + lane.swap_ps, device, slope, floor)
        stable = turn.stable_until
        if stable is None or self._one_by_one or lane.swap_ps:
            return flight
        most = min(most, lane.next_end(), lane.bend())
        if isinstance(stable, int):
            most = min(most, stable)
        flight.steps = max(lane.steps_within(self.pools[lane.rank].available, most), 1)
        flight.open = stable != "completion"
        stops = [] if not isinstance(stable, float) else [round(stable * PS)]
        deadline = self.deadline(lane)
        if deadline < NEVER:
            stops.append(deadline)
        steps = min((flight.steps_until(stop) for stop in stops), default=flight.steps)
        if flight.open:
            if lane.pending:
                steps = 1
            elif self.arrivals:
                steps = min(steps, flight.steps_until(self.arrivals[0][0]) + self.spec.delayed)
        flight.cut(min(steps, flight.steps))
        return flight

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
        tally = self.tally
        if not self.flying:
            tally.busy += now - self.busy_since
        if slot.blocked:
            tally.blocked[BLOCKED.index(slot.blocked)] += now - flight.start
        for lane in slot.lanes:
            if lane.work is None:
                continue
            tally.iteration(lane.work, flight.steps, now - flight.start, lane.climbs)
            if len(tally.log) < tally.log_size:
                work = lane.work
                where = lane.slot * self.spec.ranks + lane.rank
                tally.log.append(
                    (where, flight.start, now, flight.steps, work.prompt, work.decodes, sum(work.contexts[:1]))
                )
            tally.kv_peak = max(tally.kv_peak, self.pools[lane.rank].used)
            if lane.decoding:
                self.decoded(lane, flight, now)
            self.prefilled(lane, now)
            lane.work = None
        for other in self.slots:
            other.asleep = False

    def _sample(self, now: int) -> None:
        if now >= self.tally.next_sample:
            waiting = sum(len(lane.queue) + len(lane.pending) for lane in self.lanes)
            running = sum(lane.live + len(lane.partial) for lane in self.lanes)
            used = sum(pool.used for pool in self.pools)
            self.tally.sample(now, waiting, running, used, self.produced, self.completed)
