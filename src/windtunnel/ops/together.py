"""How costs compose: one after the other, and side by side on shared resources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from windtunnel.ops.values import Value, first_true, maximum, where


@dataclass(frozen=True, slots=True, eq=False)
class Cost:
    """A subtree's time: ``seconds`` on the device, ``host`` seconds to issue it, ``busy`` seconds by resource."""

    seconds: Value = 0.0
    host: Value = 0.0
    busy: Mapping[str, Value] = field(default_factory=dict)


class Busy(Mapping[str, Value]):
    """Busy seconds by resource of several pieces of work, ``(busy, how often)`` each, added up only when asked for:
    most nodes are in no overlap, and never are."""

    __slots__ = ("_parts", "_resources", "_sums")

    def __init__(self, parts: tuple[tuple[Mapping[str, Value], Value], ...]) -> None:
        self._parts = parts
        self._resources: frozenset[str] | None = None
        self._sums: dict[str, Value] = {}

    @property
    def resources(self) -> frozenset[str]:
        """What is busy at all."""
        if self._resources is None:
            self._resources = frozenset().union(*(_resources(busy) for busy, _ in self._parts))
        return self._resources

    def __getitem__(self, resource: str) -> Value:
        if resource not in self._sums:
            if resource not in self.resources:
                raise KeyError(resource)
            total: Value = 0.0
            for busy, n in self._parts:
                if resource in _resources(busy):
                    total = total + n * busy[resource]
            self._sums[resource] = total
        return self._sums[resource]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.resources))

    def __len__(self) -> int:
        return len(self.resources)


def _resources(busy: Mapping[str, Value]) -> Collection[str]:
    return busy.resources if isinstance(busy, Busy) else busy.keys()


def add(costs: Sequence[Cost], times: Sequence[Value] | None = None) -> Cost:
    """The costs of independent work done one after the other, child ``i`` repeated ``times[i]`` times."""
    seconds: Value = 0.0
    host: Value = 0.0
    if times is None:
        for c in costs:
            seconds = seconds + c.seconds
            host = host + c.host
        return Cost(seconds, host, Busy(tuple((c.busy, 1.0) for c in costs)))
    for c, n in zip(costs, times, strict=True):
        seconds = seconds + n * c.seconds
        host = host + n * c.host
    return Cost(seconds, host, Busy(tuple((c.busy, n) for c, n in zip(costs, times, strict=True))))


def shared(costs: Sequence[Cost]) -> dict[str, Value]:
    """Busy seconds of the resources that two or more of these use. One child alone never keeps a resource busy for
    longer than it takes."""
    users = Counter(r for c in costs for r in _resources(c.busy))
    total = Busy(tuple((c.busy, 1.0) for c in costs))
    return {r: total[r] for r, n in users.items() if n > 1}


def total(costs: Sequence[Cost], resource: str) -> Value:
    """Busy seconds of one resource."""
    found: Value = 0.0
    for c in costs:
        if resource in _resources(c.busy):
            found = found + c.busy[resource]
    return found


def lines(streams: Sequence[Value], resources: Sequence[Value], interference: float) -> list[Value]:
    """:func:`overlap` as the largest of as many values as there are streams and resources, each of which is a sum over
    the work: twice the work twice the value."""
    all_: Value = 0.0
    for t in streams:
        all_ = all_ + t
    return [(1 - interference) * t + interference * all_ for t in (*streams, *resources)]


def overlap(streams: Sequence[Value], shared: Mapping[str, Value], interference: float) -> Value:
    """Seconds of concurrent streams: between the ideal (longest stream or fullest resource) and their sum."""
    longest: Value = 0.0
    total: Value = 0.0
    for t in streams:
        longest = maximum(longest, t)
        total = total + t
    for t in shared.values():
        longest = maximum(longest, t)
    return (1 - interference) * longest + interference * maximum(total, longest)


def critical(streams: Sequence[Value], shared: Mapping[str, Value], interference: float) -> list[Value]:
    """Each stream's weight in :func:`overlap`; a full shared resource is charged to the streams that fill it."""
    ideal = overlap(streams, shared, 0.0)
    total: Value = 0.0
    for t in streams:
        total = total + t
    longest = first_true(t >= ideal for t in streams)
    # A resource that outlasts every stream stretches them all alike.
    stretch: Value = 1.0
    for w in longest:
        stretch = stretch - w
    stretch = stretch * ideal / where(total > 0, total, 1.0)
    return [(1 - interference) * (w + stretch) + interference * maximum(1.0, stretch) for w in longest]
