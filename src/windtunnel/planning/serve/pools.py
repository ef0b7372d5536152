"""Disaggregated services: which engines to pair for prompts and for decoding.

A pair of pools has four degrees of freedom and more (two engines, two counts), yet its parts hardly touch: TTFT is the
prompts' pool's alone, and what it costs adds up. So the pool for prompts is chosen first, by simulating prompts alone
(answers of one token), and only the best of these are paired with every engine for decoding. The pairs are then
simulated whole, like any other design.
"""

from __future__ import annotations

from collections.abc import Sequence

from windtunnel.planning.serve.question import Question
from windtunnel.planning.serve.search import Entry, Run, leaders
from windtunnel.planning.serve.space import Design, Space
from windtunnel.planning.serve.work import Job

LAYOUTS = 2
"""Layouts for prompts, on each machine, that are paired."""


def pairs(question: Question, space: Space, run: Run, requests: int | None) -> list[Entry]:
    """The pairs to search: on each machine the best engine for prompts with each for decoding, and the next best with
    each that has its own settings. ``requests``: as many are simulated to choose."""
    found: list[Entry] = []
    if question.objective not in ("cost", "energy"):
        # All accelerators are used, so that what a pool needs does not matter: layouts are paired, with own settings.
        return [
            Entry(Design(machine, (first, second)))
            for machine, engines in sorted(space.prefill.items())
            for first in engines
            for second in space.decode[machine]
            if first.chunk == _own([e.chunk for e in engines])
            and second.max_batch == _own([e.max_batch for e in space.decode[machine]])
        ]
    alone = [
        Entry(Design(machine, (engine,))) for machine, engines in sorted(space.prefill.items()) for engine in engines
    ]
    groups: dict[object, list[Entry]] = {}
    for entry in alone:
        groups.setdefault(entry.layout, []).append(entry)
    chunks = [tuple(Job("prompts", e.design, requests) for e in group) for group in groups.values()]
    for group, findings in zip(groups.values(), run(chunks), strict=True):
        for entry, finding in zip(group, findings, strict=True):
            entry.finding = finding
    for machine, engines in sorted(space.decode.items()):
        able = [e for e in alone if e.design.machine == machine and "score" in e.finding]
        best = leaders(sorted(able, key=lambda e: e.order))[:LAYOUTS]
        for place, entry in enumerate(best):
            for engine in engines:
                if place == 0 or engine.max_batch is None:
                    design = Design(machine, (entry.design.engines[0], engine))
                    found.append(Entry(design, {"counts": [entry.guess[0], 1]}))
    return found


def _own(values: Sequence[int | None]) -> int | None:
    """The engine's own, else the first that is allowed."""
    return None if None in values else values[0]
