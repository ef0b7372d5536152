"""What is kept of the plans seen so far: the best few, and those that no other beats in every respect.

Both are exact. A plan is laid out in time only if its bound from below could put it among them; one that ties with
what is kept is laid out, too, and ties are decided by the plans themselves: the order in which chunks come makes no
difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from windtunnel.ops.values import Array
from windtunnel.planning.train.group import Group

Row = dict[str, Any]
"""A plan's options, ``gpus``, ``memory_bytes``, ``step_time_s``, ``energy_j`` and ``objective`` (less is better)."""
Positions = NDArray[np.intp]

FIRST, BLOCK = 64, 2048
"""Plans laid out at once: few at first, since each may rule out many."""
HAIR = 1.0 - 1e-12
"""Bounds are taken this much lower, for rounding."""


@dataclass(frozen=True)
class Goal:
    """What is best. ``objective``: as in the options; ``limit_s``: the step time that a plan must keep, if any."""

    objective: str
    limit_s: float | None = None

    def value(self, seconds: Array, gpus: Array, energy: Callable[[], Array]) -> Array:
        """Less is better. Grows with ``seconds``."""
        if self.objective == "energy":
            return energy()
        if self.objective in ("cost", "tokens-per-gpu"):
            return seconds * gpus
        return gpus if self.objective == "cluster" else seconds


@dataclass
class Keep:
    """The ``top`` best rows and the front so far."""

    goal: Goal
    top: int
    best: list[Row] = field(default_factory=list)
    front: list[Row] = field(default_factory=list)
    laid_out: int = 0
    late: int = 0
    """Plans that fit but miss the goal's limit."""
    smallest: Row | None = None
    """The plan that needs least memory, whether it fits or not."""
    _staircase: dict[float, tuple[Array, Array]] = field(default_factory=dict)

    def consider(self, group: Group, *, front: bool = True) -> tuple[Array, NDArray[np.bool_]]:
        """Take in a group; (seconds of its fitting plans, whether they are exact and not a bound). Without ``front``
        only the best count."""
        self._look_at_memory(group)
        seconds = group.least.copy()
        exact = np.zeros(len(seconds), bool)
        at = group.fitting
        if not len(at):
            return seconds, exact
        gpus, memory = _column(group.option("gpus", at), len(at)), group.memory[at]
        lower = seconds * HAIR
        every = np.arange(len(at))
        value = self.goal.value(lower, gpus, lambda: group.energy(every, lower))
        left = every
        if self.goal.limit_s is not None:
            left = np.flatnonzero(lower <= self.goal.limit_s)
            self.late += len(every) - len(left)

        def mattering(left: Positions) -> Positions:
            good = value[left] <= self._bar()
            return left[good | ~self._beaten(lower[left], memory[left], gpus[left])] if front else left[good]

        left = mattering(left)
        left = left[np.lexsort((memory[left], lower[left], value[left]))]
        size = FIRST
        while len(left):
            now, left = left[:size], left[size:]
            size = BLOCK
            seconds[now] = group.length(now)
            exact[now] = True
            self.laid_out += len(now)
            self._take(group, now, at, seconds[now], memory[now], gpus[now], front)
            left = mattering(left)
        return seconds, exact

    def _look_at_memory(self, group: Group) -> None:
        if len(group.memory):
            i = int(np.argmin(group.memory))
            if self.smallest is not None and group.memory[i] > self.smallest["memory_bytes"]:
                return
            (options,) = _options(group, np.array([i]))
            row = with_key({**options, "memory_bytes": float(group.memory[i])})
            if self.smallest is None or least_memory(row) < least_memory(self.smallest):
                self.smallest = row

    def _bar(self) -> float:
        """What a plan must reach to be among the best."""
        return float(self.best[-1]["objective"]) if len(self.best) == self.top else np.inf

    def _beaten(self, seconds: Array, memory: Array, gpus: Array) -> NDArray[np.bool_]:
        """Whether a plan of the front is as good in time, memory and cost, and better in one."""
        beaten = np.zeros(len(seconds), bool)
        for others, (times, memories) in self._staircase.items():
            # Cost is time times accelerators: one with more of them must be faster by as much.
            limit = seconds * np.minimum(gpus / others, 1.0)
            place = np.searchsorted(times, limit, side="right") - 1
            found = place >= 0
            place = np.maximum(place, 0)
            least = memories[place]
            equal = (least == memory) & (times[place] == seconds) & (gpus == others)
            beaten |= found & (least <= memory) & ~equal
        return beaten

    def _take(
        self, group: Group, now: Positions, at: Positions, seconds: Array, memory: Array, gpus: Array, front: bool
    ) -> None:
        within = np.ones(len(now), bool)
        if self.goal.limit_s is not None:
            within = seconds <= self.goal.limit_s
            self.late += int(np.count_nonzero(~within))
        energy = group.energy(now, seconds)
        value = self.goal.value(seconds, gpus, lambda: energy)
        good = np.flatnonzero(within & (value <= self._bar()))
        good = good[np.lexsort((memory[good], seconds[good], value[good]))]
        if len(good) > self.top:  # and those that tie with the last
            last = good[self.top - 1]
            tied = (value == value[last]) & (seconds == seconds[last]) & (memory == memory[last])
            good = np.union1d(good[: self.top], good[tied[good]])
        free = np.flatnonzero(within & ~self._beaten(seconds, memory, gpus)) if front else good[:0]
        free = free[_unbeaten(seconds[free], memory[free], gpus[free])]

        def rows(chosen: Positions) -> list[Row]:
            figures = {"memory_bytes": memory, "step_time_s": seconds, "energy_j": energy, "objective": value}
            return [
                with_key({**options, **{name: float(figure[i]) for name, figure in figures.items()}})
                for options, i in zip(_options(group, at[now[chosen]]), chosen, strict=True)
            ]

        self.merge(rows(good), rows(free))

    def merge(self, best: Sequence[Row], front: Sequence[Row]) -> None:
        """Take in rows that were kept elsewhere."""
        if best:
            self.best = sorted([*self.best, *best], key=order)[: self.top]
        if front:
            self.front = pareto([*self.front, *front])
            self._staircase = {}
            for gpus in sorted({row["gpus"] for row in self.front}):
                own = [(r["step_time_s"], r["memory_bytes"]) for r in self.front if r["gpus"] == gpus]
                times, memories = (np.array(x) for x in zip(*sorted(own), strict=True))
                self._staircase[gpus] = times, np.minimum.accumulate(memories)


def order(row: Row) -> tuple[Any, ...]:
    """Better first; among equals the faster, the smaller, then by options."""
    return (row["objective"], row["step_time_s"], row["memory_bytes"], row["key"])


def least_memory(row: Row) -> tuple[Any, ...]:
    """Smaller first; among equals by options."""
    return row["memory_bytes"], row["key"]


def _options(group: Group, positions: Positions) -> list[Row]:
    """The options of the plans at some positions."""
    values = {name: group.option(name, positions) for name in group.options}
    columns = {k: v.tolist() if isinstance(v, np.ndarray) else [v] * len(positions) for k, v in values.items()}
    return [dict(zip(columns, each, strict=True)) for each in zip(*columns.values(), strict=True)]


def with_key(row: Row) -> Row:
    """The row with ``key``, which orders plans that do equally well."""
    options = (v for k, v in sorted(row.items()) if k not in ("memory_bytes", "step_time_s", "energy_j", "objective"))
    row["key"] = " ".join(v if isinstance(v, str) else f"{v or 0:010.0f}" for v in options)
    return row


def pareto(rows: Sequence[Row]) -> list[Row]:
    """The rows that no other beats in step time, memory and accelerator-seconds, by time; of equal ones the first."""
    kept: list[Row] = []
    figures = np.zeros((2, len(rows)))
    for row in sorted(rows, key=lambda r: (r["step_time_s"], r["memory_bytes"], r["gpus"], r["key"])):
        memory, cost = row["memory_bytes"], row["step_time_s"] * row["gpus"]
        before = figures[:, : len(kept)]
        if not np.any((before[0] <= memory) & (before[1] <= cost)):
            figures[:, len(kept)] = memory, cost
            kept.append(row)
    return kept


def _unbeaten(seconds: Array, memory: Array, gpus: Array) -> Positions:
    """Positions that no other of as many accelerators beats; of equal ones all."""
    by_time = np.lexsort((memory, seconds, gpus))
    kept = []
    for number in np.unique(gpus):
        own = by_time[gpus[by_time] == number]
        least = np.minimum.accumulate(memory[own])
        first = np.concatenate([[True], memory[own][1:] < least[:-1]])
        # One that ties with the last kept follows it at once.
        ties = np.concatenate([[False], (np.diff(seconds[own]) == 0) & (np.diff(memory[own]) == 0)])
        for i in np.flatnonzero(ties):
            first[i] = first[i - 1]
        kept.append(own[first])
    return np.concatenate(kept) if kept else by_time


def _column(value: Any, length: int) -> Array:
    return np.asarray(value) if np.ndim(value) else np.full(length, float(value))
