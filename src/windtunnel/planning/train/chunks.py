"""The work of one chunk of a search, on whatever process it runs, and what it reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from windtunnel.planning.export import EXPORTS
from windtunnel.planning.points import Column, Text
from windtunnel.planning.train.axes import Axes, make_axes
from windtunnel.planning.train.grid import LATE, Key, Refused
from windtunnel.planning.train.group import Group
from windtunnel.planning.train.keep import Goal, Keep, Row
from windtunnel.planning.train.price import Pricer
from windtunnel.scenario.plan_options import PlanTrainOptions

WHOLE = ("tp", "pp", "dp", "cp", "ep", "etp", "micro_batch", "virtual_stages", "zero", "hsdp", "gpus")
TEXT = ("schedule", "recompute", "precision", "offload")


@dataclass(frozen=True)
class Question:
    """What a search is about. ``narrowed`` as in :func:`~windtunnel.planning.train.axes.make_axes`; ``points``: every
    plan is reported, not the kept ones alone. What it takes to price plans is made once a process."""

    options: PlanTrainOptions
    narrowed: Mapping[str, Sequence[Any]]
    goal: Goal
    top: int
    points: bool

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k in self.__dataclass_fields__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @cached_property
    def axes(self) -> Axes:
        return make_axes(self.options, self.narrowed)

    @cached_property
    def pricer(self) -> Pricer:
        tool = self.options.export
        return Pricer(self.axes, EXPORTS[tool].rules if tool else ())

    @cached_property
    def own(self) -> Keep | None:
        """The same of plans that the framework has a schedule for, if others are tried besides."""
        axes = self.axes
        some = set(axes.schedule) & axes.engine.schedules
        return Keep(self.goal, 1) if some and some != set(axes.schedule) else None

    @cached_property
    def kept(self) -> Keep:
        """What this process has kept of all chunks so far: it rules out plans of the next."""
        return Keep(self.goal, self.top)

    def chunks(self) -> list[Key]:
        axes = self.axes
        ways = product(axes.pp, axes.precision, axes.offload, axes.recompute, axes.sequence_parallel)
        return [Key(pp, sp, recompute, precision, offload) for pp, precision, offload, recompute, sp in ways]


def evaluate(question: Question, key: Key) -> tuple[dict[str, Column], dict[str, Any]]:
    """(every plan of the chunk if asked for, what is kept of it and counts)."""
    kept, own, refused = question.kept, question.own, Refused()
    before = kept.laid_out, kept.late
    kept.smallest = None
    evaluated = fitting = 0
    tables = []
    for group in question.pricer.groups(key, refused):
        evaluated += len(group.memory)
        fitting += len(group.fitting)
        seconds, exact = kept.consider(group)
        if own is not None and (key.pp == 1 or group.options["schedule"] in question.axes.engine.schedules):
            own.consider(group, front=False)
        if question.points:
            tables.append(_table(group, seconds, exact))
    late = kept.late - before[1]
    if late:
        refused.add(LATE, late)
    return _joined(tables), {
        "best": _of(kept.best, key),
        "front": _of(kept.front, key),
        "own": [] if own is None else _of(own.best, key),
        "smallest": kept.smallest,
        "evaluated": evaluated,
        "feasible": fitting - late,
        "laid_out": kept.laid_out - before[0],
        "why_not": refused.counts,
    }


def _of(rows: Sequence[Row], key: Key) -> list[Row]:
    """Those of a chunk."""
    mine = {
        "pp": key.pp, "sequence_parallel": key.sequence_parallel, "recompute": key.recompute,
        "precision": key.precision, "offload": key.offload,
    }  # fmt: skip
    return [row for row in rows if all(row[k] == v for k, v in mine.items())]


def _table(group: Group, seconds: Any, exact: Any) -> dict[str, Column]:
    """A column for each option and figure; ``step_time_s`` is a bound from below where it is not ``exact``, and
    nothing where the plan does not fit."""
    n = len(group.memory)
    table: dict[str, Column] = {
        name: np.broadcast_to(np.asarray(group.option(name), float), n).astype(np.int32) for name in WHOLE
    }
    table["sequence_parallel"] = np.full(n, bool(group.options["sequence_parallel"]))
    for name in TEXT:
        value = group.options[name]
        codes = np.full(n, -1 if value is None else 0, np.int8)
        table[name] = Text(codes, () if value is None else (value,))
    table["memory_bytes"] = np.asarray(group.memory, float)
    table["fits"] = np.asarray(group.fits, bool)
    step, known = np.full(n, np.nan), np.zeros(n, bool)
    step[group.fitting], known[group.fitting] = seconds, exact
    table["step_time_s"], table["exact"] = step, known
    return table


def _joined(tables: Sequence[dict[str, Column]]) -> dict[str, Column]:
    if not tables:
        return {}
    result: dict[str, Column] = {}
    for name, first in tables[0].items():
        columns = [t[name] for t in tables]
        if isinstance(first, Text):
            texts = [c for c in columns if isinstance(c, Text)]
            names = tuple(dict.fromkeys(name for c in texts for name in c.names))
            codes = [np.array([*(names.index(x) for x in c.names), -1], np.int8)[c.codes] for c in texts]
            result[name] = Text(np.concatenate(codes), names)
        else:
            result[name] = np.concatenate([np.asarray(c) for c in columns])
    return result
