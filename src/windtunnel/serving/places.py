"""Who has a place in an engine and what it holds of the cache: admission, tokens, preemption, ends."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from windtunnel.serving.flight import Flight
from windtunnel.serving.lane import Lane
from windtunnel.serving.outcome import PS, Status
from windtunnel.serving.pool import Pool
from windtunnel.serving.queues import Queue, make_queue
from windtunnel.serving.record import Record
from windtunnel.serving.replica import NEVER, Done
from windtunnel.serving.request import Request
from windtunnel.serving.spec import EngineSpec
from windtunnel.serving.tally import Tally


class Places:
    """The part of an engine that moves requests between its queue, its places and the outside.

    ``owed``: tokens of prompts and answers still to be computed; ``in_system``: requests that wait or have a place.
    """

    def __init__(
        self, spec: EngineSpec, record: Record, index: int, queue: Callable[[], Queue] | None, log_size: int
    ) -> None:
        self.spec, self.record, self.index = spec, record, index
        self._queue = queue or (lambda: make_queue(spec.rules.order))
        self.tally = Tally(spec.most_sequences, len(spec.units), log_size)
        self.done: list[Done] = []
        self.clock = self.completed = self.produced = 0
        self.queue_integral = 0.0
        self.clear()

    def clear(self) -> None:
        """Empty queues, places and caches."""
        spec = self.spec
        self.lanes = [Lane(spec, s, r, self._queue()) for s in range(spec.slots) for r in range(spec.ranks)]
        self.pools = [Pool(spec) for _ in range(spec.ranks)]
        self.owed = self.in_system = 0

    def held(self) -> list[int]:
        """Requests that are here and have not ended."""
        found: list[int] = []
        for lane in self.lanes:
            here = [*lane.pending, *lane.queue, *lane.partial, *lane.running.values()]
            found += [r.number for r in here if r.number not in lane.ended]
        return found

    def available(self, rank: int) -> int:
        """Units of a rank's cache that can be had."""
        return self.pools[rank].available

    # In.

    def head(self, lane: Lane, now: int) -> Request | None:
        """The next request of a lane's queue; those that have waited too long are turned away."""
        request = lane.queue.head()
        while request is not None and request.start < 0 and now - request.arrival > self.spec.timeout_ps:
            lane.queue.remove(request)
            self.in_system -= 1
            self.owed -= request.left + request.output_tokens - request.generated
            self.turn_away(request, Status.TIMED_OUT, now)
            request = lane.queue.head()
        return request

    def deadline(self, lane: Lane) -> int:
        """When the head of the queue will have waited too long."""
        request = lane.queue.head()
        if request is None or request.start >= 0 or self.spec.timeout_ps >= NEVER:
            return NEVER
        return request.arrival + self.spec.timeout_ps + 1

    def turn_away(self, request: Request, status: Status, now: int) -> None:
        """It leaves without a place."""
        self.record.status[request.number] = status
        self.record.replica[request.number] = self.index
        self.done.append(Done(now, request.number, status))

    def admit(self, lane: Lane, request: Request, free: int, now: int) -> tuple[int, str]:
        """Give a request a place: (units of the ``free`` ones that it takes, or -1, and what it lacks)."""
        spec, pool = self.spec, self.pools[lane.rank]
        if lane.n + len(lane.partial) >= spec.most_sequences:
            return -1, "max_batch"
        tokens = request.cached if request.ready else request.wanted
        # What comes with its cache decodes at once: room for its next token, too.
        soon = tokens + 1 if request.ready else tokens
        reserved = spec.reserve_output or spec.rules.padded
        if reserved:
            tokens = soon = request.input_tokens + request.output_tokens - 1
        need = spec.held(tokens)
        if spec.held(soon) > free - (spec.watermark if lane.n or lane.partial else 0):
            return -1, "kv_cache"
        pool.take(need)
        lane.queue.remove(request)
        request.units, request.reserved = need, reserved
        if request.start < 0:
            request.start = now
            self.record.start[request.number] = now
            self.record.replica[request.number] = self.index
        if request.ready:
            if request.swapped:
                pool.swap_free += request.swapped
                lane.swap_ps += int(request.swapped * spec.swap_s * PS)
                request.swapped = 0
            if request.last_token < 0:
                request.last_token = int(self.record.first[request.number])
            lane.join(request, now)
            lane.groups.append([request.last_token, 1])
            request.joined = request.last_token
        else:
            lane.partial.append(request)
        return spec.held(soon), ""

    # Tokens.

    def decoded(self, lane: Lane, flight: Flight, now: int) -> None:
        """Every decode has got a token for each of the flight's steps."""
        steps, live = flight.steps, lane.live
        lane.draining = True
        self._gaps(lane, flight, now)
        self.owed -= steps * live
        self.produced += steps * live
        for client, count in lane.shares.items():
            if count:
                lane.queue.served(client, 0, steps * count)
        lane.stepped(steps)
        while lane.ends and lane.ends[0][0] <= lane.k:
            _, number = heapq.heappop(lane.ends)
            request = lane.running.get(number)
            if request is not None and number not in lane.ended and self._ended(lane, request):
                self._end(lane, request, now)
        lane.groups = [[now, lane.live]] if lane.live else []
        lane.decoded_at = now

    @staticmethod
    def _ended(lane: Lane, request: Request) -> bool:
        """Whether it has all its tokens (an entry of a place that it has lost since may come up early)."""
        return request.origin + lane.k >= request.input_tokens + request.output_tokens - 1

    def _gaps(self, lane: Lane, flight: Flight, now: int) -> None:
        """Times between tokens: of the first step by when each got its last one, then a step each."""
        first = flight.start + flight.duration(1)
        tokens = self.tally.tokens
        for time, count in lane.groups:
            tokens(first - time, 0, 1, count)
        if flight.steps > 1:
            low = flight.floored(flight.steps)
            if low > 1:
                tokens(flight.added + flight.floor, 0, low - 1, lane.live)
            begin = max(low, 1)
            if flight.steps > begin:
                at = flight.added + flight.device + begin * flight.slope
                tokens(at, flight.slope, flight.steps - begin, lane.live)

    def prefilled(self, lane: Lane, now: int) -> None:
        """The pieces of prompts are done; whole prompts have their next token."""
        finished = 0
        for request, tokens in lane.pieces:
            lane.queue.served(request.client, tokens, 0)
            request.prefilled += tokens
            self.owed -= tokens
            if request.left:
                continue
            request.generated += 1
            self.owed -= 1
            self.produced += 1
            lane.partial.remove(request)
            number = request.number
            if request.generated == 1:
                self.record.first[number] = now
            else:
                self.tally.tokens(now - request.last_token, 0, 1, 1)
            if request.generated >= request.output_tokens:
                self.pools[lane.rank].give(request.units)
                self._finish(request, now)
            else:
                lane.join(request, now)
                finished += 1
        if finished:
            if lane.groups and lane.groups[-1][0] == now:
                lane.groups[-1][1] += finished
            else:
                lane.groups.append([now, finished])
        lane.pieces = []

    # Out.

    def _finish(self, request: Request, now: int) -> None:
        """It has all its tokens."""
        number = request.number
        self.record.finish[number] = now
        self.record.status[number] = Status.COMPLETED
        self.done.append(Done(now, number, Status.COMPLETED))
        self.completed += 1
        self.in_system -= 1

    def _end(self, lane: Lane, request: Request, now: int) -> None:
        """A decode has its last token: its place is free, or that of a padded batch when all of it has ended."""
        self._finish(request, now)
        lane.gone(request)
        if not self.spec.rules.padded:
            self._release(lane, request)
            return
        lane.ended.add(request.number)
        if not lane.live:
            for number in sorted(lane.ended):
                self._release(lane, lane.running[number])
            lane.ended.clear()

    def _release(self, lane: Lane, request: Request) -> None:
        """It gives its place and its cache back."""
        tokens = request.origin + lane.k
        lane.leave(request)
        if not request.reserved:
            request.units = self.spec.held(tokens)
        self.pools[lane.rank].give(request.units)
        request.units = 0

    def make_room(self, lane: Lane, now: int) -> tuple[int, int]:
        """(units that one decode step takes, requests that have lost their places so that it fits)."""
        pool, lost = self.pools[lane.rank], 0
        need = lane.need()
        while need > pool.available and (lane.partial or lane.n):
            self._preempt(lane, now)
            lost += 1
            need = lane.need()
        return need, lost

    def _preempt(self, lane: Lane, now: int) -> None:
        """The last admitted goes back to the queue: one whose prompt is under way, or the last that decodes."""
        pool = self.pools[lane.rank]
        if lane.partial:
            request = lane.partial.pop()
            request.epoch += 1
            pool.give(request.units)
            self.owed += request.prefilled
            request.units = request.prefilled = 0
        else:
            request = next(reversed(lane.running.values()))
            self._forget_gap(lane, request)
            lane.gone(request)
            request.generated = request.origin + lane.k - request.input_tokens + 1
            cached = request.cached
            units = request.units if request.reserved else self.spec.held(cached)
            self._release(lane, request)
            if units <= pool.swap_free:
                pool.swap_free -= units
                request.swapped, request.ready = units, True
                lane.swap_ps += int(units * self.spec.swap_s * PS)
            else:
                request.ready, request.prefilled = False, 0
                self.owed += request.wanted
        self.record.preempted[request.number] += 1
        lane.queue.push_back(request)

    @staticmethod
    def _forget_gap(lane: Lane, request: Request) -> None:
        """It drops out of those that wait for their next token here."""
        since = lane.k - (request.cached - request.origin)
        request.last_token = lane.decoded_at if since else request.joined
        for group in lane.groups:
            if group[0] == request.last_token:
                group[1] -= 1
                return
