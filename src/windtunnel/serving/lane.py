"""The sequences that step together: what decodes, what is being prefilled, who waits."""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING

from windtunnel.serving.queues import Queue
from windtunnel.serving.request import DECODING, Request
from windtunnel.serving.spec import EngineSpec, pairs_and_keys, seen
from windtunnel.serving.step_time import Piece, Work

if TYPE_CHECKING:
    from windtunnel.serving.fetching import Landed


class Lane:
    """One rank's batch in one slot of the pipeline. All decodes grow by a token a step, so ``k`` counts steps and a
    request's cached tokens are its ``origin`` + k.

    ``contexts`` [view]: what the next step's decodes attend to in all, growing by ``climbs`` a step. ``buckets``
    [view, k mod block]: decodes that need a new block in step k. ``live`` of the ``n`` decodes have not ended (a
    padded batch keeps those that have). ``groups``: when their last tokens came, and of how many. ``fetching``: who
    has a place and waits for blocks from below device memory; ``landed``: whose have come, not yet noticed.
    """

    __slots__ = (
        "bends", "buckets", "climbs", "contexts", "decoded_at", "decoding", "draining", "ended", "ends", "fetching",
        "groups", "growth", "k", "landed", "live", "n", "partial", "pending", "pieces", "queue", "rank", "running",
        "shares", "slot", "spec", "swap_ps", "views", "windows", "work",
    )  # fmt: skip

    def __init__(self, spec: EngineSpec, slot: int, rank: int, queue: Queue) -> None:
        self.spec, self.slot, self.rank, self.queue = spec, slot, rank, queue
        self.windows = spec.cost.windows
        views = len(spec.units)
        self.views = tuple(range(views))
        self.k = self.n = self.live = 0
        self.contexts, self.climbs = [0] * views, [0] * views
        self.buckets = [[0] * spec.block for _ in range(views)]
        self.growth = [(unit, bucket) for unit, bucket in zip(spec.units, self.buckets, strict=True) if unit]
        self.ends: list[tuple[int, int]] = []
        self.bends: list[tuple[int, int, int, int]] = []
        self.running: dict[int, Request] = {}
        self.partial: list[Request] = []
        self.fetching: dict[int, Request] = {}
        self.landed: deque[Landed] = deque()
        self.pending: deque[Request] = deque()
        self.groups: list[list[int]] = []
        self.decoded_at = 0
        self.draining = False
        self.ended: set[int] = set()
        self.shares: dict[int, int] = {}
        # Of the iteration under way.
        self.pieces: list[tuple[Request, int]] = []
        self.work: Work | None = None
        self.decoding = False
        self.swap_ps = 0

    @property
    def busy(self) -> bool:
        """Whether there is anything to do here."""
        return bool(self.n or self.partial or self.pending or self.landed or len(self.queue))

    @property
    def places(self) -> int:
        """Places that are taken."""
        return self.n + len(self.partial) + len(self.fetching)

    @property
    def queued(self) -> int:
        """Requests without a place."""
        return len(self.queue) + len(self.pending)

    @property
    def running_requests(self) -> int:
        """Requests with a place that have not ended."""
        return self.live + len(self.partial) + len(self.fetching)

    def join(self, request: Request, now: int) -> None:
        """It decodes from the next step on."""
        spec, tokens = self.spec, request.cached
        request.origin, request.joined = tokens - self.k, now
        request.stage = DECODING
        self.n += 1
        self.live += 1
        self.running[request.number] = request
        self.shares[request.client] = self.shares.get(request.client, 0) + 1
        heapq.heappush(self.ends, (self.k + request.output_tokens - request.generated, request.number))
        bucket = -request.origin % spec.block
        for view in self.views:
            window = self.windows[view]
            self.contexts[view] += seen(tokens + 1, window)
            stop = spec.stops[view]
            if tokens < stop:
                if not request.reserved:
                    self.buckets[view][bucket] += 1
                if window >= 0:
                    self.climbs[view] += 1
            if window < 0:
                self.climbs[view] += 1
                after = (tokens // -window + 1) * -window
                heapq.heappush(self.bends, (after - request.origin, view, request.number, request.epoch))
            elif tokens < stop and window:
                heapq.heappush(self.bends, (stop - request.origin, view, request.number, request.epoch))

    def stepped(self, steps: int) -> None:
        """All decodes have grown by ``steps``, which took none of them past a bend."""
        self.k += steps
        for view in self.views:
            self.contexts[view] += steps * self.climbs[view]
        while self.bends and self.bends[0][0] <= self.k:
            at, view, number, epoch = heapq.heappop(self.bends)
            request = self.running.get(number)
            if request is None or request.epoch != epoch:
                continue
            window = self.windows[view]
            first = request.origin + at == self.spec.stops[view]
            if first and not request.reserved:
                self.buckets[view][-request.origin % self.spec.block] -= 1
            if window < 0:
                self.contexts[view] += window
                heapq.heappush(self.bends, (at - window, view, number, epoch))
            else:
                self.climbs[view] -= 1

    def leave(self, request: Request) -> None:
        """It decodes no more, because it has ended or loses its place."""
        spec = self.spec
        tokens = request.origin + self.k
        del self.running[request.number]
        request.epoch += 1
        self.n -= 1
        bucket = -request.origin % spec.block
        for view in self.views:
            window = self.windows[view]
            self.contexts[view] -= seen(tokens + 1, window)
            if tokens < spec.stops[view]:
                if not request.reserved:
                    self.buckets[view][bucket] -= 1
                if window >= 0:
                    self.climbs[view] -= 1
            if window < 0:
                self.climbs[view] -= 1

    def gone(self, request: Request) -> None:
        """A decode counts no more among those that want tokens."""
        self.live -= 1
        self.shares[request.client] -= 1
        if not self.live:
            self.draining = False

    def need(self, steps: int = 1) -> int:
        """Units of cache that the next ``steps`` decode steps take."""
        block, total = self.spec.block, 0
        first = self.k % block
        if steps == 1:
            for unit, bucket in self.growth:
                total += unit * bucket[first]
            return total
        whole, rest = divmod(steps, block)
        last = first + rest
        for unit, bucket in self.growth:
            count = sum(bucket[first:last])
            if last > block:
                count += sum(bucket[: last - block])
            if whole:
                count += whole * sum(bucket)
            total += unit * count
        return total

    def steps_within(self, free: int, most: int) -> int:
        """How many of ``most`` decode steps ``free`` units of cache allow."""
        block, cycle = self.spec.block, 0
        for unit, bucket in self.growth:
            cycle += unit * sum(bucket)
        if cycle * (most // block + 1) <= free:
            return most
        steps = min(most // block, free // cycle) * block
        free -= steps // block * cycle
        while steps < most:
            at = (self.k + steps) % block
            for unit, bucket in self.growth:
                free -= unit * bucket[at]
            if free < 0:
                break
            steps += 1
        return steps

    def next_end(self) -> int:
        """Steps before the next decode has all its tokens."""
        while True:
            at, number = self.ends[0]
            request = self.running.get(number)
            if request is not None and at == request.input_tokens + request.output_tokens - 1 - request.origin:
                return at - self.k
            heapq.heappop(self.ends)  # of a place that it has lost since

    def bend(self) -> int:
        """Steps before the next decode meets the edge of a window."""
        while self.bends:
            at, _, number, epoch = self.bends[0]
            request = self.running.get(number)
            if request is not None and request.epoch == epoch:
                return at - self.k
            heapq.heappop(self.bends)
        return 1 << 60

    def compose(self) -> Work | None:
        """The statistics of the iteration that has been decided on (None: there is none)."""
        if not self.pieces:
            return Work(self.n, self.contexts) if self.decoding else None
        windows = self.windows
        work = Work(self.n, self.contexts) if self.decoding else Work(0, [0] * len(windows))
        totals = [[0, 0] for _ in windows]
        for request, tokens in self.pieces:
            work.prompt += tokens
            work.prompts += 1
            work.finished += tokens == request.left
            for view in self.views:
                pairs, keys = pairs_and_keys(tokens, request.prefilled, windows[view])
                total = totals[view]
                total[0] += pairs
                total[1] += keys
        work.pieces = [Piece(*total) for total in totals]
        return work
