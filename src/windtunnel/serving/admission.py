"""Who gets a place in an engine: its queues, and what a request finds and takes of the cache when it comes in."""

from __future__ import annotations

from collections.abc import Callable

from windtunnel.serving import sharing
from windtunnel.serving.fetching import Fetch, Fetches
from windtunnel.serving.lane import Lane
from windtunnel.serving.outcome import PS, Status
from windtunnel.serving.pool import Pool
from windtunnel.serving.prefix_cache import HBM, LFU, LRU, PrefixCache
from windtunnel.serving.queues import Queue, make_queue
from windtunnel.serving.record import Record
from windtunnel.serving.replica import NEVER, Done
from windtunnel.serving.request import FETCHING, GONE, PREFILLING, Request
from windtunnel.serving.spec import EngineSpec, pairs_and_keys
from windtunnel.serving.step_time import Piece, StepTimes, Work
from windtunnel.serving.tally import Tally


class Admission:
    """The part of an engine that holds its state and moves requests from its queues to places.

    ``owed``: tokens of prompts and answers still to be computed; ``in_system``: requests that wait or have a place.
    """

    def __init__(
        self, spec: EngineSpec, record: Record, index: int, queue: Callable[[], Queue] | None, log_size: int,
        make_cache: Callable[[], PrefixCache] | None,
    ) -> None:  # fmt: skip
        self.spec, self.record, self.index = spec, record, index
        self._queue = queue or (lambda: make_queue(spec.rules.order))
        self._metered = queue is not None or spec.rules.order == "fair"  # whether the queue counts what is served
        make_cache = make_cache or (lambda: PrefixCache(LFU if spec.least_used else LRU))
        self.caches = [make_cache() for _ in range(spec.ranks)] if spec.prefix_tokens else []
        self.fetches = Fetches(self.caches)
        self.times = StepTimes(spec.cost)
        self.tally = Tally(spec.most_sequences, len(spec.units), log_size)
        self.done: list[Done] = []
        self.clock = self.completed = self.produced = 0
        self.waited = 0
        self.clear()

    @property
    def queue_integral(self) -> float:
        """Request seconds in the engine."""
        return self.waited / PS

    def clear(self) -> None:
        """Empty queues, places and caches."""
        spec = self.spec
        self.lanes = [Lane(spec, s, r, self._queue()) for s in range(spec.slots) for r in range(spec.ranks)]
        for cache in self.caches:
            cache.clear()
        self.pools = [Pool(spec, self.caches[rank] if self.caches else None) for rank in range(spec.ranks)]
        self.owed = self.in_system = 0

    def held(self) -> list[int]:
        """Requests that are here and have not ended."""
        found: list[int] = []
        for lane in self.lanes:
            here = [*lane.pending, *lane.queue, *lane.fetching.values(), *lane.partial, *lane.running.values()]
            found += [r.number for r in here if r.number not in lane.ended]
        return found

    def found(self, lane: Lane, request: Request) -> int:
        """Tokens of a request's prompt that lie in its rank's prefix cache, in any tier."""
        cache, spec = self.pools[lane.rank].cache, self.spec
        if cache is None:
            return 0
        match = cache.match(request.blocks[: sharing.whole(spec, request, request.wanted - 1)])
        return (match.resident + len(match.below)) * spec.prefix_tokens

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
        request.stage = GONE
        self.record.status[request.number] = status
        self.record.replica[request.number] = self.index
        self.done.append(Done(now, request.number, status))

    def admit(self, lane: Lane, request: Request, free: int, now: int) -> tuple[int, str]:
        """Give a request a place: (units of the ``free`` ones that it takes, or -1, and what it lacks)."""
        spec, pool = self.spec, self.pools[lane.rank]
        places = lane.places
        if places >= spec.most_sequences:
            return -1, "max_batch"
        tokens = request.cached if request.ready else request.wanted
        # What comes with its cache decodes at once: room for its next token, too.
        soon = tokens + 1 if request.ready else tokens
        reserved = spec.reserve_output or spec.rules.padded
        if reserved:
            tokens = soon = request.input_tokens + request.output_tokens - 1
        room = free - (spec.watermark if places else 0)
        cost = spec.held(soon)
        if pool.cache is not None and not request.ready and len(request.blocks):
            found = sharing.find(spec, pool.cache, request, tokens, room)
            if found is not None and found.fetched and self._computes(pool.cache, found):
                found = sharing.find(spec, pool.cache, request, tokens, room, fetch=False)
            if found is None:
                return -1, "kv_cache"
            before = pool.available
            below = self._attach(pool, pool.cache, request, found)
            cost = before - pool.available
        elif cost > room:
            return -1, "kv_cache"
        else:
            found, below, request.units = sharing.NOTHING, [], spec.held(tokens)
            pool.take(request.units)
        lane.queue.remove(request)
        request.reserved = reserved
        if request.start < 0:
            self._begin(request, found, now)
        if self._metered and not request.ready:
            lane.queue.served(request.client, request.left, 0)
        if request.ready:
            self._resume(lane, request, pool, now)
        elif below:
            self._fetch(Fetch(lane, request, below), now)
        else:
            request.stage = PREFILLING
            lane.partial.append(request)
        return cost, ""

    def _computes(self, cache: PrefixCache, found: sharing.Found) -> bool:
        """Whether the blocks below are computed sooner than they are fetched, in iterations of their own."""
        fetching = self.fetches.estimate(cache, found.below)
        if fetching is None:
            return False
        spec = self.spec
        before, tokens = found.resident * spec.prefix_tokens, len(found.below) * spec.prefix_tokens
        piece = min(tokens, spec.budget, self.times.most_prompt_tokens)
        many, pieces = tokens / piece, []
        for window in spec.cost.windows:
            pairs, keys = pairs_and_keys(tokens, before, window)
            pieces.append(Piece(int(pairs / many), min(keys, before + tokens)))
        work = Work(0, [0] * len(pieces), piece, 1, 0, pieces)
        return many * self.times.seconds(work)[0] / PS < fetching

    def _begin(self, request: Request, found: sharing.Found, now: int) -> None:
        """It has a place for the first time."""
        request.start = now
        self.record.start[request.number] = now
        self.record.replica[request.number] = self.index
        if self.caches and not request.ready:
            cached = min(found.blocks * self.spec.prefix_tokens, request.input_tokens)
            self.record.cached_tokens[request.number] = cached
            self.tally.looked_up += request.input_tokens
            self.tally.found += cached

    def _attach(
        self, pool: Pool, cache: PrefixCache, request: Request, found: sharing.Found
    ) -> list[tuple[int, int]]:  # fmt: skip
        """Use what was found, which need not be computed: the blocks that lie below, and their tiers."""
        request.pinned = list(request.blocks[: found.resident])
        below = list(zip(request.blocks[found.resident :], found.below, strict=False))
        cache.pin(request.pinned)
        cache.pin([block for block, tier in below if tier == HBM])
        request.units = found.units
        pool.take(found.units + found.fetched * pool.unit)
        cached = found.blocks * self.spec.prefix_tokens
        if cached > request.prefilled:
            self.owed -= cached - request.prefilled
            request.prefilled = cached
        return below

    def _fetch(self, fetch: Fetch, now: int) -> None:
        """Its blocks begin to come up."""
        request, lane = fetch.request, fetch.lane
        request.stage = FETCHING
        lane.fetching[request.number] = request
        if not self.fetches.start(now, self.caches[lane.rank], fetch):
            self.fetched(fetch)

    def fetched(self, fetch: Fetch) -> None:
        """Its blocks are in device memory: it computes the rest of its prompt."""
        request, lane = fetch.request, fetch.lane
        pool, cache = self.pools[lane.rank], self.caches[lane.rank]
        for block, tier in fetch.below:
            if tier != HBM and not cache.add(block):
                pool.give(pool.unit)  # somebody else has brought it there meanwhile
            request.pinned.append(block)
        del lane.fetching[request.number]
        request.stage = PREFILLING
        lane.partial.append(request)

    def _resume(self, lane: Lane, request: Request, pool: Pool, now: int) -> None:
        """It has all of its cache and decodes."""
        if request.swapped:
            pool.swap_free += request.swapped
            lane.swap_ps += int(request.swapped * self.spec.swap_s * PS)
            request.swapped = 0
        if request.last_token < 0:
            request.last_token = int(self.record.first[request.number])
        lane.join(request, now)
        lane.groups.append([request.last_token, 1])
        request.joined = request.last_token
