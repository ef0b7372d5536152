"""The search: bounds and a short part of the workload for every design, longer parts for those that are left.

What is exact: the bounds (:mod:`~windtunnel.planning.serve.bounds`), and the last rung, which simulates the whole
workload as ``simulate`` does. What is heuristic: that more engines never do worse (bisection), and that a design which
is far behind on the first requests of the workload is not the best on all of them (:data:`MARGINS`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from windtunnel.planning.serve.question import Question
from windtunnel.planning.serve.space import Design, Space
from windtunnel.planning.serve.work import Chunk, Job

SHORTEST = 1000
"""Requests of the shortest rung at least."""

GROWTH = 4
"""Requests of a rung over those of the one before."""

RUNGS = 3

MARGINS = (0.5, 0.2)
"""After a rung, designs worse than the best by more than this fraction are left out (of the first and later rungs)."""

SETTINGS = (3, 2)
"""Engine settings of a layout that go on from a rung at most."""

CLOSE = 0.1
"""Settings that are worse than a layout's best by more than this fraction do not go on."""

EQUAL = 1e-3
"""Scores that differ by less than this fraction count as equal: the plan that is further from its limits is better."""

WAVE = 8
"""Designs on the last rung between two looks at the best cost so far: the same for any number of workers."""

BEHIND = "worse than others on the first {:,} requests"
DEARER = "cannot cost less than the plans shown, by the bound on their cost"

Run = Callable[[Sequence[Chunk]], list[list[dict[str, Any]]]]
"""Evaluates chunks: the findings of each, in order."""


@dataclass(slots=True)
class Entry:
    """A design and what the last rung found of it."""

    design: Design
    finding: dict[str, Any] = field(default_factory=dict)

    @property
    def layout(self) -> tuple[Any, ...]:
        """The same for designs that differ in chunk and max_batch alone."""
        return self.design.machine, *(e.layout for e in self.design.engines)

    @property
    def guess(self) -> tuple[int, ...]:
        return tuple(self.finding.get("counts", ()))

    @property
    def order(self) -> tuple[float, float, str]:
        """Best first; of equals, the one that is further from its limits."""
        score, ratio = self.finding.get("score"), self.finding.get("ratio")
        return (math.inf if score is None else score, math.inf if ratio is None else ratio, self.design.text)


Pair = Callable[[Question, Space, Run, int | None], "list[Entry]"]


@dataclass(slots=True)
class Outcome:
    """``good``: plans that meet the SLO on the whole workload, best first. ``missed``: those that do not, though there
    is no room for more engines. ``rungs``: how many designs were simulated with how many requests; ``pairs``: how many
    disaggregated designs were made. ``said``: the first error of a design that the machine cannot run."""

    good: list[Entry] = field(default_factory=list)
    missed: list[Entry] = field(default_factory=list)
    why_not: Counter[str] = field(default_factory=Counter)
    rungs: list[dict[str, int]] = field(default_factory=list)
    pairs: int = 0
    said: str = ""


def rungs(requests: int) -> list[int]:
    """Lengths of the simulations, the whole workload last."""
    found = [requests]
    while len(found) < RUNGS and found[0] // GROWTH >= SHORTEST:
        found.insert(0, found[0] // GROWTH)
    return found


def search(question: Question, space: Space, run: Run, pair: Pair) -> Outcome:
    """Every design of the space, down to the plans that meet the SLO. ``pair``: makes the disaggregated ones."""
    outcome = Outcome()
    entries = [Entry(design) for design in space.colocated]
    lengths = rungs(len(question.workload))
    first = lengths[0] if len(lengths) > 1 else None
    pairs = pair(question, space, run, first) if space.prefill else []
    outcome.pairs = len(pairs)
    for number, length in enumerate(lengths[:-1]):
        entries = _rung(outcome, run, entries, length)
        if number == 0:
            entries += _rung(outcome, run, pairs, length, _caps(question, entries, pairs))
        entries = _best_of(question, outcome, entries, length, number)
    if first is None:
        entries += pairs
    _last(question, outcome, run, entries)
    outcome.good = ranked(outcome.good)
    return outcome


def _caps(question: Question, entries: Iterable[Entry], others: Sequence[Entry]) -> dict[int, int] | None:
    """Accelerators with which each of ``others`` would be too dear to go on, given what ``entries`` cost."""
    if question.objective != "cost":
        return None
    hourly = [_hourly(question, e, e.design.accelerators(e.guess)) for e in entries if e.finding["meets"]]
    if not hourly:
        return None
    least = min(hourly) * (1 + MARGINS[0])
    return {i: int(least / _hourly(question, e, 1)) for i, e in enumerate(others)}


def _hourly(question: Question, entry: Entry, accelerators: int) -> float:
    """US dollars; infinite where no price is known."""
    found = question.machines[entry.design.machine].cost_usd_per_hour(accelerators)
    return math.inf if found is None else found


def ranked(entries: Iterable[Entry]) -> list[Entry]:
    """Best first; among equals (:data:`EQUAL`), what is further from its limits by a tenth, then the fewest settings
    that are not the engine's own."""
    left = sorted(entries, key=lambda e: e.order)
    found: list[Entry] = []
    while left:
        limit = left[0].order[0] * (1 + EQUAL)
        equal = [e for e in left if e.order[0] <= limit]
        found += sorted(equal, key=_preference)
        left = left[len(equal) :]
    return found


def _preference(entry: Entry) -> tuple[Any, ...]:
    changed = sum((e.chunk is not None) + (e.max_batch is not None) for e in entry.design.engines)
    _, ratio, text = entry.order
    return (round(ratio, 1) if math.isfinite(ratio) else ratio, len(entry.design.engines), changed, ratio, text)


def leaders(entries: Iterable[Entry]) -> list[Entry]:
    """The first entry of each layout."""
    found: dict[tuple[Any, ...], Entry] = {}
    for entry in entries:
        found.setdefault(entry.layout, entry)
    return list(found.values())


def _jobs(entries: Iterable[Entry], requests: int | None, most: Mapping[int, int] | None = None) -> list[Chunk]:
    """Chunks of designs that share a layout."""
    groups: dict[Any, list[Job]] = {}
    for i, entry in enumerate(entries):
        job = Job(
            "best", entry.design, requests, entry.guess, entry.finding.get("rate"), None if most is None else most[i]
        )
        groups.setdefault(entry.layout, []).append(job)
    return [tuple(jobs) for jobs in groups.values()]


def _run(run: Run, entries: Sequence[Entry], chunks: Sequence[Chunk]) -> None:
    """Have the chunks evaluated; each finding goes to its entry."""
    by_design = {entry.design: entry for entry in entries}
    for chunk, findings in zip(chunks, run(chunks), strict=True):
        for job, finding in zip(chunk, findings, strict=True):
            by_design[job.design].finding = finding


def _rung(
    outcome: Outcome, run: Run, entries: list[Entry], requests: int, most: Mapping[int, int] | None = None
) -> list[Entry]:
    """Those that may meet the SLO."""
    _run(run, entries, _jobs(entries, requests, most))
    left = []
    for entry in entries:
        if "score" in entry.finding:
            left.append(entry)
        else:
            outcome.why_not[entry.finding["reason"] or BEHIND.format(requests)] += 1
            outcome.said = outcome.said or entry.finding.get("said", "")
            if "ratio" in entry.finding:
                outcome.missed.append(entry)
    _count(outcome, requests, len(left))
    return left


def _count(outcome: Outcome, requests: int, designs: int) -> None:
    if not outcome.rungs or outcome.rungs[-1]["requests"] != requests:
        outcome.rungs.append({"requests": requests, "designs": 0})
    outcome.rungs[-1]["designs"] += designs


def _best_of(question: Question, outcome: Outcome, entries: list[Entry], requests: int, number: int) -> list[Entry]:
    """Those that go on from a rung: of each layout that is near the best, its best settings."""
    margin = MARGINS[min(number, len(MARGINS) - 1)]
    settings = SETTINGS[min(number, len(SETTINGS) - 1)]
    meeting = ranked(e for e in entries if e.finding["meets"])
    # What just misses on the first requests may do on all of them; and if nothing does, the nearest are wanted.
    missing = sorted((e for e in entries if not e.finding["meets"]), key=lambda e: (e.order[1], e.design.text))
    kept: list[Entry] = []
    for place, leader in enumerate(leaders(meeting)):
        near = leader.order[0] <= meeting[0].order[0] * (1 + margin)
        if near or place < question.asked.top:
            own = [e for e in meeting if e.layout == leader.layout and e.order[0] <= leader.order[0] * (1 + CLOSE)]
            kept += own[: settings if near else 1]
    known = {e.layout for e in kept}
    for leader in leaders(missing):
        if leader.layout not in known and (not meeting or leader.order[1] <= 1 + margin):
            kept.append(leader)
    going = {e.design for e in kept}
    for entry in entries:
        if entry.design not in going:
            missed = not entry.finding["meets"]
            outcome.why_not[entry.finding["reason"] if missed else BEHIND.format(requests)] += 1
            if missed:
                outcome.missed.append(entry)
    return kept


def _last(question: Question, outcome: Outcome, run: Run, entries: list[Entry]) -> None:
    """The whole workload. With objective=cost, designs that cannot be shown any more are left out on the way."""
    seen: Counter[tuple[Any, ...]] = Counter()
    order: list[tuple[int, int, Entry]] = []
    for entry in ranked(entries):
        order.append((seen[entry.layout], len(order), entry))
        seen[entry.layout] += 1
    # The best settings of every layout first.
    entries = [entry for *_, entry in sorted(order, key=lambda x: x[:2])]
    size = WAVE if question.objective == "cost" else max(len(entries), 1)
    tried = 0
    for start in range(0, len(entries), size):
        wave = entries[start : start + size]
        caps = {i: _most(question, outcome, e) for i, e in enumerate(wave)} if question.objective == "cost" else None
        _run(run, wave, _jobs(wave, None, caps))
        for entry in wave:
            if "score" not in entry.finding:
                outcome.why_not[entry.finding["reason"] or DEARER] += 1
                outcome.said = outcome.said or entry.finding.get("said", "")
                if "ratio" in entry.finding:
                    outcome.missed.append(entry)
                continue
            tried += 1
            if entry.finding["meets"]:
                outcome.good.append(entry)
            else:
                outcome.why_not[entry.finding["reason"]] += 1
                outcome.missed.append(entry)
    _count(outcome, len(question.workload), tried)


def _most(question: Question, outcome: Outcome, entry: Entry) -> int:
    """Accelerators with which a plan can still be shown: it must cost no more than the best of its layout so far and
    than the last of the layouts to be shown. It is paid for at least until the last request comes, for at most all
    tokens."""
    workload = question.workload
    most = question.machines[entry.design.machine].cluster.count
    good = leaders(ranked(outcome.good))
    limits = [e.order[0] for e in good if e.layout == entry.layout]
    if len(good) >= question.asked.top:
        limits.append(good[question.asked.top - 1].order[0])
    hourly = _hourly(question, entry, 1)
    if not limits or workload.closed or question.asked.duration is not None:
        return most
    tokens = float(workload.output_tokens.sum())
    least = hourly * float(workload.arrival_s[-1]) / 3600 / tokens * 1e6
    return most if least <= 0 else min(int(min(limits) * (1 + EQUAL) / least), most)
