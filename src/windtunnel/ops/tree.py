"""The step as a small tree: leaves are operators, nodes say how their times compose.

Each node answers two questions about its children's costs: ``combine`` (how long together) and ``weights`` (by how
much a child's time is on the critical path: a partial derivative of the node's time, waiting in a pipeline spread
over the work waited for). Weight x time summed over leaves is the step's time: every second has exactly one place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from windtunnel.ops.op import Op
from windtunnel.ops.pipeline import Schedule, StageTimes
from windtunnel.ops.together import Busy, Cost, add, critical, lines, overlap, shared, total
from windtunnel.ops.values import Value, first_true, maximum, minimum, where

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Seq:
    """One after the other."""

    parts: tuple[Node, ...]
    name: str = ""

    @property
    def children(self) -> tuple[Node, ...]:
        return self.parts

    @property
    def times(self) -> tuple[Value, ...]:
        return (1,) * len(self.parts)

    def combine(self, costs: Sequence[Cost]) -> Cost:
        return add(costs)

    def weights(self, costs: Sequence[Cost]) -> list[Value]:
        return [1.0] * len(costs)


@dataclass(frozen=True, slots=True, eq=False)
class Repeat:
    """``n`` times the same; ``n`` may be fractional (the mean of unlike layers) or an array."""

    n: Value
    part: Node
    name: str = ""

    @property
    def children(self) -> tuple[Node, ...]:
        return (self.part,)

    @property
    def times(self) -> tuple[Value, ...]:
        return (self.n,)

    def combine(self, costs: Sequence[Cost]) -> Cost:
        return add(costs, [self.n])

    def weights(self, costs: Sequence[Cost]) -> list[Value]:
        return [self.n]


@dataclass(frozen=True, slots=True, eq=False)
class Sync:
    """Device and host meet: as long as the slower of the two took."""

    part: Node
    name: str = ""

    @property
    def children(self) -> tuple[Node, ...]:
        return (self.part,)

    @property
    def times(self) -> tuple[Value, ...]:
        return (1,)

    def combine(self, costs: Sequence[Cost]) -> Cost:
        c = costs[0]
        return Cost(maximum(c.seconds, c.host), 0.0, c.busy)

    def weights(self, costs: Sequence[Cost]) -> list[Value]:
        return [where(costs[0].seconds >= costs[0].host, 1.0, 0.0)]


@dataclass(frozen=True, slots=True, eq=False)
class Par:
    """Independent work at the same time on one device.

    At least the longest child, and at least each shared resource's sum; ``interference`` in [0, 1] moves the result
    from that ideal towards one after the other (SMs held by communication kernels, memory contention).
    The first child is the main one: overlapped time is booked to it, what it leaves exposed to the others.
    ``feeds``: the others bring what the main one needs (the keys that a ring passes on), and run again with it.
    """

    parts: tuple[Node, ...]
    interference: float = 0.0
    name: str = ""
    main: int = 0
    feeds: bool = True

    @property
    def children(self) -> tuple[Node, ...]:
        return self.parts

    @property
    def times(self) -> tuple[Value, ...]:
        return (1,) * len(self.parts)

    def combine(self, costs: Sequence[Cost]) -> Cost:
        all_ = add(costs)
        return Cost(overlap([c.seconds for c in costs], shared(costs), self.interference), all_.host, all_.busy)

    def weights(self, costs: Sequence[Cost]) -> list[Value]:
        return critical([c.seconds for c in costs], shared(costs), self.interference)

    def lines(self, costs: Sequence[Cost], resources: Sequence[str]) -> list[Value]:
        """Sums over the children, the largest of which is how long they take: each child's, then each resource's."""
        return lines([c.seconds for c in costs], [total(costs, r) for r in resources], self.interference)


@dataclass(frozen=True, slots=True, eq=False)
class Flow:
    """``n`` equal pieces pass through ``stages`` in order; stages of one stream do not overlap each other.

    C[i,j] = max(C[i-1,j], C[i,j-1]) + t[j], which for equal pieces is the sum of t plus (n-1) times the slowest
    stream, so the first and last pieces are exposed by themselves (where stages share a stream, a bound that their
    best order may beat by less than one piece). ``streams`` names each stage's stream (a device engine or a link);
    ``interference`` as in :class:`Par`, for the steady part. ``main`` is the stage that overlapped time is booked to.

    ``closed``: one of many like flows that the same pieces go through (a stack of layers), none of which waits for the
    one before it to drain: as long as a stream has work with all pieces, or one piece takes through all stages (the
    bounds of a closed queueing network: Denning and Buzen 1978, section 5). ``shares``: of the device's compute units
    that a stage's kernels hold while they run, which all streams together have no more than all of.
    """

    n: Value
    stages: tuple[Node, ...]
    streams: tuple[str, ...]
    interference: float = 0.0
    main: int = 0
    name: str = ""
    closed: bool = False
    shares: tuple[float, ...] = ()

    @property
    def children(self) -> tuple[Node, ...]:
        return self.stages

    @property
    def times(self) -> tuple[Value, ...]:
        return (self.n,) * len(self.stages)

    def _by_stream(self, costs: Sequence[Cost]) -> dict[str, Value]:
        sums: dict[str, Value] = {}
        for stream, c in zip(self.streams, costs, strict=True):
            sums[stream] = sums.get(stream, 0.0) + c.seconds
        return sums

    def _shared(self, costs: Sequence[Cost]) -> dict[str, Value]:
        return {**shared(costs), "units": self._units(costs)} if self.shares else shared(costs)

    def _units(self, costs: Sequence[Cost]) -> Value:
        held: Value = 0.0
        for share, c in zip(self.shares, costs, strict=True):
            held = held + share * c.seconds
        return held

    def combine(self, costs: Sequence[Cost]) -> Cost:
        one = add(costs)
        steady = overlap(list(self._by_stream(costs).values()), self._shared(costs), self.interference)
        # A flow of a fraction of a piece, or of none, is that much of one pass.
        first = minimum(self.n, 1.0) * one.seconds
        seconds = maximum(first, self.n * steady) if self.closed else first + maximum(self.n - 1, 0) * steady
        return Cost(seconds, self.n * one.host, Busy(((one.busy, self.n),)))

    def lines(self, costs: Sequence[Cost], resources: Sequence[str]) -> list[Value]:
        """As of :class:`Par`: of one piece where the flow is closed, of each stream, each resource, the units."""
        found = [total(costs, r) for r in resources] + ([self._units(costs)] if self.shares else [])
        first = minimum(self.n, 1.0) * add(costs).seconds
        steady = lines(list(self._by_stream(costs).values()), found, self.interference)
        if self.closed:
            return [first, *(self.n * t for t in steady)]
        return [first + maximum(self.n - 1, 0) * t for t in steady]

    def weights(self, costs: Sequence[Cost]) -> list[Value]:
        sums = self._by_stream(costs)
        found = critical(list(sums.values()), self._shared(costs), self.interference)
        steady = dict(zip(sums, found, strict=True))
        once = minimum(self.n, 1.0)
        if self.closed:
            waits = where(once * add(costs).seconds >= self.combine(costs).seconds, 1.0, 0.0)
            return [waits * once + (1.0 - waits) * self.n * steady[stream] for stream in self.streams]
        more = maximum(self.n - 1, 0)
        return [once + more * steady[stream] for stream in self.streams]


@dataclass(frozen=True, slots=True, eq=False)
class Exposed:
    """What a :class:`Flow` or a :class:`Par` costs beyond its main child's own work: what could not be hidden.

    The main child's work is a part of the tree elsewhere; that part with this one is as long as the overlap. Where the
    other children are the longer ones they are on the critical path and the main one is not: its weight here is then
    negative, and cancels its weight there. ``busy`` is all that the other children do, hidden or not, and may exceed
    ``seconds``: an Exposed stands in a sequence, not beside other work.
    """

    beside: Flow | Par
    name: str = ""

    @property
    def main(self) -> tuple[Node, Value]:
        """The child that time is hidden behind, and how often it runs."""
        beside = self.beside
        return beside.children[beside.main], beside.times[beside.main]

    @property
    def others(self) -> list[tuple[Node, Value]]:
        """What is hidden as far as it can be, and how often each runs."""
        both = zip(self.beside.children, self.beside.times, strict=True)
        return [each for i, each in enumerate(both) if i != self.beside.main]

    @property
    def children(self) -> tuple[Node, ...]:
        return (self.beside, self.main[0])

    @property
    def times(self) -> tuple[Value, ...]:
        return (1, -self.main[1])

    def combine(self, costs: Sequence[Cost]) -> Cost:
        both = add(costs, [1, -self.main[1]])
        return Cost(maximum(both.seconds, 0.0), maximum(both.host, 0.0), both.busy)

    def weights(self, costs: Sequence[Cost]) -> list[Value]:
        positive = where(self.combine(costs).seconds > 0, 1.0, 0.0)
        return [positive, -self.main[1] * positive]


@dataclass(frozen=True, slots=True, eq=False)
class Best:
    """The elementwise fastest of several ways to do the same (a collective's algorithms, a kernel's variants)."""

    options: tuple[Node, ...]
    name: str = ""

    @property
    def children(self) -> tuple[Node, ...]:
        return self.options

    @property
    def times(self) -> tuple[Value, ...]:
        return (1,) * len(self.options)

    def combine(self, costs: Sequence[Cost]) -> Cost:
        picked = self.weights(costs)
        return add(costs, picked)

    def weights(self, costs: Sequence[Cost]) -> list[Value]:
        best = costs[0].seconds
        for c in costs[1:]:
            best = minimum(best, c.seconds)
        return first_true(c.seconds <= best for c in costs)


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """``count`` neighbouring pipeline stages with equal work. Trees are for one micro-batch; see StageTimes.

    ``overlapped``: one micro-batch's forward and another's backward pass side by side, for schedules that run them so;
    ``None`` for those that do not.
    """

    count: Value
    forward: Node
    backward: Node
    weight: Node
    send: Node
    epilogue: Node
    overlapped: Node | None = None

    @property
    def children(self) -> tuple[Node, ...]:
        together = EMPTY if self.overlapped is None else self.overlapped
        return (self.forward, self.backward, self.weight, self.send, self.epilogue, together)


@dataclass(frozen=True, slots=True, eq=False)
class Pipeline:
    """Stages laid over time by a schedule. Each pass of a micro-batch through a stage is a synchronisation."""

    stages: tuple[Stage, ...]
    micro_batches: Value
    schedule: Schedule
    virtual_stages: Value = 1
    name: str = ""

    @property
    def children(self) -> tuple[Node, ...]:
        return tuple(child for stage in self.stages for child in stage.children)

    @property
    def times(self) -> tuple[Value, ...]:
        """How often each child runs on one rank of its stage (sends: the mean over ranks).

        Every boundary is crossed forward and back; p ranks of v chunks each have v p - 1 boundaries. Running two
        passes side by side is no work beyond the passes.
        """
        n = self.micro_batches
        ranks: Value = 0.0
        for stage in self.stages:
            ranks = ranks + stage.count
        sends = 2 * n * (self.virtual_stages - 1 / ranks)
        return tuple(t for _ in self.stages for t in (n, n, n, sends, 1, 0))

    def by_stage(self, values: Sequence[T]) -> list[Sequence[T]]:
        """A value for each child, dealt to the stages: (forward, backward, weight, send, epilogue, overlapped)."""
        return [values[6 * i : 6 * i + 6] for i in range(len(self.stages))]

    def stage_times(self, costs: Sequence[Cost]) -> tuple[StageTimes, ...]:
        """The stages' times, from the costs of :attr:`children`."""
        result = []
        for stage, own in zip(self.stages, self.by_stage(costs), strict=True):
            f, b, w, s, e, together = (maximum(c.seconds, c.host) for c in own)
            result.append(StageTimes(stage.count, f, b, w, s, e, None if stage.overlapped is None else together))
        return tuple(result)

    def combine(self, costs: Sequence[Cost]) -> Cost:
        return Cost(self.lengths(costs)[0], 0.0, self.busy(costs))

    def busy(self, costs: Sequence[Cost]) -> Busy:
        """What one rank of the busiest stage keeps busy."""
        stages = zip(self.busiest(costs), self.by_stage(costs), self.by_stage(self.times), strict=True)
        return Busy(tuple((add(own, times).busy, flag) for flag, own, times in stages))

    def lengths(self, costs: Sequence[Cost]) -> tuple[Value, Value]:
        """Seconds of the step, and what they would be if boundaries were free: the rest is exposed communication."""
        times = self.stage_times(costs)
        if all(stage.send is EMPTY for stage in self.stages):
            whole = self.schedule.length(times, self.micro_batches, self.virtual_stages)
            return whole, whole
        # Both in one call: a leading axis of two, the second with free boundaries.
        fields = [x for t in times for x in (t.count, t.forward, t.backward, t.weight, t.send, t.epilogue)]
        depth = max(np.ndim(x) for x in (*fields, self.micro_batches, self.virtual_stages))
        both = []
        for t in times:
            send = np.asarray(t.send, dtype=float)
            send = send.reshape((1,) * (depth - send.ndim) + send.shape)
            both.append(replace(t, send=np.stack([send, 0.0 * send])))
        found = self.schedule.length(tuple(both), self.micro_batches, self.virtual_stages)
        found = np.broadcast_to(found, (2, *np.shape(found)[1:]))
        return (found[0], found[1]) if depth else (float(found[0]), float(found[1]))

    def work(self, costs: Sequence[Cost]) -> list[Value]:
        """Seconds that one rank of each stage works in a step, sends left out."""
        result = []
        for t in self.stage_times(costs):
            passes = t.forward + t.backward + t.weight if t.overlapped is None else t.overlapped
            result.append(self.micro_batches * passes + t.epilogue)
        return result

    def busiest(self, costs: Sequence[Cost]) -> list[Value]:
        """1 for the stage with most work (the first of them; empty groups never), 0 for the others."""
        work = [where(s.count > 0, w, -1.0) for s, w in zip(self.stages, self.work(costs), strict=True)]
        most = work[0]
        for w in work[1:]:
            most = maximum(most, w)
        return first_true(w >= most for w in work)

    def weights(self, costs: Sequence[Cost]) -> list[Value]:
        """The busiest stage's work stretched over the step (waiting is for work of the same kind), and sends."""
        return self.path(costs, *self.lengths(costs))

    def path(self, costs: Sequence[Cost], length: Value, free: Value) -> list[Value]:
        """:meth:`weights`, given the lengths with and without sends."""
        exposed = length - free
        sent: Value = 0.0
        for t in self.stage_times(costs):
            sent = sent + where(t.count > 0, t.send, 0.0)
        result: list[Value] = []
        n, work = self.micro_batches, self.work(costs)
        for i, flag in enumerate(self.busiest(costs)):
            stretch = flag * free / where(work[i] > 0, work[i], 1.0)
            sending = where(self.stages[i].count > 0, exposed / where(sent > 0, sent, 1.0), 0.0)
            apart, together = (n, 0) if self.stages[i].overlapped is None else (0, n)
            result += [apart * stretch] * 3 + [sending, stretch, together * stretch]
        return result


Composite = Seq | Repeat | Sync | Par | Flow | Exposed | Best | Pipeline
Node = Op | Composite


def seq(*parts: Node | None, name: str = "") -> Seq:
    """A :class:`Seq` of the parts that are there."""
    return Seq(tuple(p for p in parts if p is not None), name)


EMPTY = Seq(())
