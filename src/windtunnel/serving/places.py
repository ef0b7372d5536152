"""What becomes of those who have a place in an engine: tokens, preemption, ends."""

from __future__ import annotations

import heapq

from windtunnel.serving import sharing
from windtunnel.serving.admission import Admission
from windtunnel.serving.flight import Flight
from windtunnel.serving.histogram import bin_of
from windtunnel.serving.lane import Lane
from windtunnel.serving.outcome import PS, Status
from windtunnel.serving.pool import Pool
from windtunnel.serving.replica import Done
from windtunnel.serving.request import GONE, WAITING, Request


class Places(Admission):
    """The part of an engine that moves requests from their places to the outside, or back to the queue."""

    # Tokens.

    def decoded(self, lane: Lane, flight: Flight, now: int) -> None:
        """Every decode has got a token for each of the flight's steps."""
        steps, live = flight.steps, lane.live
        lane.draining = True
        self._gaps(lane, flight, now)
        self.owed -= steps * live
        self.produced += steps * live
        if self._metered:
            for client, count in lane.shares.items():
                if count:
                    lane.queue.served(client, 0, steps * count)
        lane.stepped(steps)
        ends = lane.ends
        while ends and ends[0][0] <= lane.k:
            _, number = heapq.heappop(ends)
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
        added, device, floor = flight.added, flight.device, flight.floor
        first = flight.start + added + (device if device > floor else floor)
        tokens, gaps = self.tally.tokens, self.tally.gaps
        for time, count in lane.groups:
            gaps[bin_of(first - time)] += count
        if flight.steps > 1:
            low = flight.floored(flight.steps)
            if low > 1:
                tokens(added + floor, 0, low - 1, lane.live)
            begin = max(low, 1)
            if flight.steps > begin:
                tokens(added + device + begin * flight.slope, flight.slope, flight.steps - begin, lane.live)

    def prefilled(self, lane: Lane, now: int) -> None:
        """The pieces of prompts are done; whole prompts have their next token."""
        finished, pool = 0, self.pools[lane.rank]
        for request, tokens in lane.pieces:
            request.prefilled += tokens
            self.owed -= tokens
            if request.left:
                continue
            request.generated += 1
            self.owed -= 1
            self.produced += 1
            lane.partial.remove(request)
            sharing.share(self.spec, pool, request, request.cached)
            number = request.number
            if request.generated == 1:
                self.record.first[number] = now
            else:
                self.tally.tokens(now - request.last_token, 0, 1, 1)
            if request.generated >= request.output_tokens:
                self._return(pool, request)
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
        request.stage = GONE
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
        """A decode gives its place and its cache back; what is known of its answer can be found from now on."""
        spec, pool = self.spec, self.pools[lane.rank]
        tokens = request.origin + lane.k
        lane.leave(request)
        if not request.reserved:
            request.units = spec.held(tokens)
        if pool.cache is not None:
            if not request.reserved:
                request.units -= sharing.covered(spec, len(request.pinned))
            # A padded batch has gone on after its end.
            content = min(tokens, request.input_tokens + request.output_tokens - 1)
            sharing.share(spec, pool, request, content)
        self._return(pool, request)

    def _return(self, pool: Pool, request: Request) -> None:
        """All of its cache goes back."""
        pool.give(request.units)
        request.units = 0
        sharing.let_go(pool, request)

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
        spec, pool = self.spec, self.pools[lane.rank]
        if lane.partial:
            request = lane.partial.pop()
            request.epoch += 1
            self._return(pool, request)
            self.owed += request.prefilled
            request.prefilled = 0
        else:
            request = next(reversed(lane.running.values()))
            self._forget_gap(lane, request)
            lane.gone(request)
            request.generated = request.origin + lane.k - request.input_tokens + 1
            units = spec.held(request.cached)
            if request.reserved:
                units = request.units + sharing.covered(spec, len(request.pinned))
            self._release(lane, request)
            if units <= pool.swap_free:
                pool.swap_free -= units
                request.swapped, request.ready = units, True
                lane.swap_ps += int(units * spec.swap_s * PS)
            else:
                request.ready, request.prefilled = False, 0
                self.owed += request.wanted
        self.record.preempted[request.number] += 1
        request.stage = WAITING
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
