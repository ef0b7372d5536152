"""Groups of equal pipeline stages read stage by stage: look-ups, sums and maxima at chosen stages, for arrays too.

The schedules' formulas compare paths through a few stages: with equal neighbours only a group's ends, and the places
where a schedule's order changes, can matter. Those stages lie along axis 0; the shape of the inputs follows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from windtunnel.errors import ScenarioError
from windtunnel.ops.pipeline import StageTimes
from windtunnel.ops.values import Array, Value


class Stages:
    """A pipeline of ``p`` stages in groups, each field an array of one common ``shape``.

    Raises:
        ScenarioError: where there is no stage, or less than one micro-batch or virtual stage.
    """

    __slots__ = (
        "backward",
        "counts",
        "ends",
        "epilogue",
        "forward",
        "m",
        "overlapped",
        "p",
        "send",
        "shape",
        "starts",
        "v",
        "weight",
    )

    def __init__(self, stages: Sequence[StageTimes], micro_batches: Value, virtual_stages: Value) -> None:
        pairs = [s.forward + s.backward + s.weight if s.overlapped is None else s.overlapped for s in stages]
        fields = [
            (s.count, s.forward, s.backward, s.weight, s.send, s.epilogue, pair)
            for s, pair in zip(stages, pairs, strict=True)
        ]
        flat = [np.asarray(x, dtype=float) for field in fields for x in field]
        first, *rest = np.broadcast_arrays(
            np.asarray(micro_batches, dtype=float), np.asarray(virtual_stages, dtype=float), *flat
        )
        self.shape = first.shape
        self.m, self.v = first, rest[0]
        columns = [rest[1 + i :: 7] for i in range(7)]
        self.counts, self.forward, self.backward, self.weight, self.send, self.epilogue, self.overlapped = columns
        self.starts: list[Array] = []
        self.ends: list[Array] = []
        at: Array = np.zeros(self.shape)
        for count in self.counts:
            self.starts.append(at)
            at = at + count
            self.ends.append(at)
        self.p = at
        for value, what in ((self.p, "pipeline stages"), (self.m, "micro-batches"), (self.v, "virtual stages")):
            if not np.all(value >= 1):
                raise ScenarioError(f"{np.min(value):g} {what}; at least 1 is needed")

    def points(self, *more: Value) -> Array:
        """The stages that a formula looks at, in order: the ends of each group and of the pipeline, and ``more``."""
        p = self.p
        listed = [*self.starts, *(e - 1 for e in self.ends), 0 * p, 1 + 0 * p, p - 2, p - 1]
        chosen = np.stack([np.broadcast_to(x, self.shape) for x in (*listed, *more)])
        chosen = np.sort(np.clip(chosen, 0, p - 1), axis=0)
        return chosen if self.shape else np.unique(chosen)

    def at(self, field: Sequence[Array], x: Array) -> Array:
        """The field's value at stage ``x``."""
        result: Any = 0.0
        for value, start, end in zip(field, self.starts, self.ends, strict=True):
            result = result + np.where((start <= x) & (x < end), value, 0.0)
        return result  # type: ignore[no-any-return]

    def below(self, field: Sequence[Array], x: Array) -> Array:
        """The field's sum over the stages before ``x``."""
        result: Any = 0.0
        for value, start, count in zip(field, self.starts, self.counts, strict=True):
            result = result + value * np.clip(x - start, 0, count)
        return result  # type: ignore[no-any-return]

    def largest(self, field: Sequence[Array], first: Value, last: Value) -> Array:
        """The field's maximum over the stages ``first`` to ``last``, both included; 0 where there are none."""
        result: Any = 0.0
        for value, start, end in zip(field, self.starts, self.ends, strict=True):
            inside = np.maximum(start, first) <= np.minimum(end - 1, last)
            result = np.maximum(result, np.where(inside, value, 0.0))
        return result  # type: ignore[no-any-return]

    def alone(self) -> Array | None:
        """Seconds of a step where all pipelines are one stage deep (no bubble, no sends); None otherwise."""
        if np.any(self.p != 1):
            return None
        first = np.zeros(self.shape)
        turn = self.at(self.forward, first) + self.at(self.backward, first) + self.at(self.weight, first)
        result: Array = self.m * turn + self.at(self.epilogue, first)
        return result

    def answer(self, seconds: Array) -> Value:
        """A float where every input was one."""
        return seconds if self.shape else float(seconds)


def running_max(values: Array) -> Array:
    """Along the stages, the largest so far."""
    return np.maximum.accumulate(values, axis=0)


def running_max_from(values: Array) -> Array:
    """Along the stages, the largest from here on."""
    return np.maximum.accumulate(values[::-1], axis=0)[::-1]
