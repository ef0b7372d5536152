"""One chunk of the search: designs that share a layout, each brought to the best counts of engines, or measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from windtunnel.errors import ScenarioError
from windtunnel.planning.serve.bench import Bench, Trial, room
from windtunnel.planning.serve.bracket import TOLERANCE, digits, fewest, highest
from windtunnel.planning.serve.question import Question
from windtunnel.planning.serve.space import NO_MEMORY, Design
from windtunnel.planning.serve.trial import METRICS, Verdict, judge, shown

BOUND = {
    "ttft_s": "TTFT: one prompt alone takes longer than the limit",
    "tpot_s": "TPOT: a decode alone takes longer than the limit",
    "e2e_s": "E2E: a request alone takes longer than the limit",
}
"""Reasons by the metric that no number of engines brings below its limit."""

TOO_FEW = "needs more engines than the cluster or the budget has room for, by the bound on their work"
MISSES = {
    "ttft_s": "TTFT misses its limit with all engines that there is room for",
    "tpot_s": "TPOT misses its limit with all engines that there is room for",
    "e2e_s": "E2E misses its limit with all engines that there is room for",
}
SLOWEST = 4096
"""The first rate that is tried over the last: a plan that misses the SLO even then misses it at any rate."""

LONGEST_S = 1e6
"""Seconds that a workload is stretched to at most: the clock of the event loop ends at four times that."""

SPLITS = (0.5, 0.25, 0.75)
"""Shares of the accelerators that run prompts, where all are used."""

NEAR = 1.2
"""First step from the rate that was asked for to the highest one."""

NO_FORMAT = "the machine has no price for this number format or kernel"
NO_COUNT = "not even the fewest engines that are allowed fit the cluster or the budget"


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be found of a design.

    ``best``: the counts of engines, or the highest rate, that are best on the first ``requests`` (None: all of them).
    ``counts`` and ``rate``: guesses to begin with; ``most``: more accelerators are of no use. ``settle``: the same on
    the whole workload, with all metrics of what is found. ``prompts``: as ``best``, for prompts alone. ``rate``: the
    highest rate of ``counts``. ``measure``: all metrics of ``counts`` at ``rate`` (None: as asked), as ``simulate``
    answers. ``look``: nearly the same, for a curve: arrival times are scaled instead of drawn anew.
    """

    kind: Literal["best", "settle", "prompts", "rate", "measure", "look"]
    design: Design
    requests: int | None = None
    counts: tuple[int, ...] = ()
    rate: float | None = None
    most: int | None = None

    @property
    def text(self) -> str:
        """The same in every run of a question, and unlike that of any other job."""
        return f"{self.kind} {self.design.text} n={self.requests} {self.counts} rate={self.rate} most={self.most}"


Chunk = tuple[Job, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """What all chunks have in common. ``replicas``: the only counts of engines that are allowed, or all.
    ``settings``: (chunk, max_batch) that are tried with each engine."""

    question: Question
    replicas: tuple[int, ...] | None
    settings: Mapping[str, Sequence[tuple[int | None, int | None]]]


_bench: tuple[Shared, Bench] | None = None
"""That of the question that this process works on."""


def key(chunk: Chunk) -> str:
    return "; ".join(job.text for job in chunk)


def evaluate(shared: Shared, chunk: Chunk) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """(Every simulation, as columns; a finding for each job, in their order)."""
    global _bench
    if _bench is None or _bench[0] is not shared:
        _bench = (shared, Bench(shared.question, shared.settings))
    bench = _bench[1]
    bench.trials.clear()
    find: dict[str, Callable[[Bench, Job], dict[str, Any]]] = {
        "best": partial(_best, shared.replicas),
        "settle": partial(_settled, shared.replicas),
        "prompts": _prompts_alone,
        "rate": _highest_rate,
        "measure": _measured,
        "look": _looked_at,
    }
    findings: list[dict[str, Any]] = []
    guess: tuple[int, ...] = ()
    for job in chunk:
        # Designs of a chunk share a layout: what one of them needs is near what the next one does.
        given = job.counts or (guess if job.kind == "best" and len(guess) == len(job.design.engines) else ())
        findings.append(find[job.kind](bench, replace(job, counts=given)))
        if "score" in findings[-1]:
            guess = tuple(findings[-1]["counts"])
    table = _columns(bench.trials, shared.question)
    bench.trials.clear()
    return table, {"findings": findings}


def _best(replicas: Sequence[int] | None, bench: Bench, job: Job) -> dict[str, Any]:
    """The counts of engines that are best; ``reason`` where there are none."""
    q, design = bench.question, job.design
    most = room(q, design.machine)
    one = design.accelerators([1] * len(design.engines))
    allowed = [n for n in replicas if n * one <= most] if replicas is not None else list(range(1, most // one + 1))
    if not allowed:
        return {"reason": NO_COUNT}
    try:
        if not bench.fits(design):
            return {"reason": NO_MEMORY}
    except ScenarioError as error:
        return {"reason": NO_FORMAT, "said": str(error)}
    if design.apart:
        return (_both_pools if q.objective in ("cost", "energy") else _split)(bench, job, most)
    bound = bench.bounds(design)
    worst = max(bound.least, key=lambda m: bound.least[m] / q.limits[m], default=None)
    if worst is not None and bound.least[worst] > q.limits[worst]:
        ratio = bound.least[worst] / q.limits[worst]
        return {"reason": BOUND[worst], "ratio": ratio, "counts": [allowed[-1]], "bound": True}
    if q.objective == "throughput":
        return _fastest(bench, job, (allowed[-1],))
    least = bound.replicas
    enough = [n for n in allowed if n >= least]
    if not enough:
        return {"reason": TOO_FEW, "ratio": least / allowed[-1], "counts": [allowed[-1]], "bound": True}
    if q.objective == "latency":
        return _found(q, bench.run(design, [enough[-1]], job.requests), least)
    return _fewest(bench, job, enough, least)


def _fewest(bench: Bench, job: Job, allowed: Sequence[int], least: int) -> dict[str, Any]:
    """The smallest number of engines that meets the SLO."""
    q, trials = bench.question, dict[int, Trial]()

    def meets(n: int) -> bool:
        trials[n] = bench.run(job.design, [n], job.requests)
        return trials[n].verdict.meets

    worth = [n for n in allowed if job.most is None or job.design.accelerators([n]) <= job.most]
    if not worth:
        return {"reason": "", "least": least}
    n = fewest(meets, worth, job.counts[0] if job.counts else allowed[0])
    last = trials[max(trials) if n is None else n]
    if n is None and worth[-1] < allowed[-1]:
        return {"reason": "", "least": least}
    return _found(q, last, least)


def _both_pools(bench: Bench, job: Job, most: int) -> dict[str, Any]:
    """The fewest engines that run prompts, then the fewest that decode. TTFT does not depend on those that decode."""
    q, design = bench.question, job.design
    prefill, decode = (e.accelerators for e in design.engines)
    worth = most if job.most is None else min(most, job.most)
    guess = job.counts or (1, 1)
    trials: dict[tuple[int, int], Trial] = {}

    def trial(a: int, b: int) -> Verdict:
        if (a, b) not in trials:
            trials[a, b] = bench.run(design, [a, b], job.requests)
        return trials[a, b].verdict

    def in_time(a: int) -> bool:
        left = max((most - a * prefill) // decode, 1)
        value, limit = trial(a, min(guess[1], left)).values["ttft_s"], q.limits.get("ttft_s")
        return limit is None or value is None or value <= limit

    if prefill + decode > worth:
        return {"reason": ""}
    prompts = list(range(1, (worth - decode) // prefill + 1))
    a = fewest(in_time, prompts, guess[0])
    if a is None:
        if worth < most:
            return {"reason": ""}
        return _found(q, trials[max(trials)], 1)
    answers = list(range(1, (worth - a * prefill) // decode + 1))
    b = fewest(lambda n: trial(a, n).meets, answers, guess[1])
    if b is None:
        if worth < most:
            return {"reason": ""}
        return _found(q, trials[a, answers[-1]], 1)
    return _found(q, trials[a, b], 1)


def _split(bench: Bench, job: Job, most: int) -> dict[str, Any]:
    """All accelerators, split between the pools as is best of :data:`SPLITS` (or as ``counts`` say, with ``rate``)."""
    q, design = bench.question, job.design
    prefill, decode = (e.accelerators for e in design.engines)
    splits = [job.counts]
    if job.rate is None:
        first = [min(max(round(f * most / prefill), 1), (most - decode) // prefill) for f in SPLITS]
        splits = list(dict.fromkeys((a, (most - a * prefill) // decode) for a in first))
    best: dict[str, Any] | None = None
    for counts in splits:
        if q.objective == "latency":
            found = _found(q, bench.run(design, counts, job.requests), 1)
        elif best is None or not best["meets"]:
            found = _fastest(bench, job, counts)
        elif bench.run(design, counts, job.requests, digits(best["rate"] * (1 + TOLERANCE))).verdict.meets:
            found = _fastest(bench, replace(job, rate=best["rate"]), counts)
        else:
            continue
        if best is None or _rank(found) < _rank(best):
            best = found
    assert best is not None
    return best


def _rank(finding: Mapping[str, Any]) -> tuple[bool, float, float]:
    score, ratio = finding["score"], finding["ratio"]
    return not finding["meets"], math.inf if score is None else score, math.inf if ratio is None else ratio


def _prompts_alone(bench: Bench, job: Job) -> dict[str, Any]:
    """How many engines bring the prompts alone to their TTFT: what the pool for them will need, nearly."""
    q, design = bench.question, job.design
    most = room(q, design.machine)
    limit = q.limits.get("ttft_s")
    try:
        if not bench.fits(design):
            return {"reason": NO_MEMORY}
    except ScenarioError as error:
        return {"reason": NO_FORMAT, "said": str(error)}
    trials: dict[int, Trial] = {}

    def in_time(n: int) -> bool:
        trials[n] = bench.run(design, [n], job.requests, prompts_only=True)
        value = trials[n].verdict.values["ttft_s"]
        return limit is None or value is None or value <= limit

    allowed = list(range(1, most // design.accelerators([1]) + 1))
    n = fewest(in_time, allowed, 1)
    if n is None:
        return {"reason": MISSES["ttft_s"]}
    return {"counts": [n], "score": float(design.accelerators([n])), "ratio": trials[n].verdict.ratio, "meets": True}


def _fastest(bench: Bench, job: Job, counts: tuple[int, ...]) -> dict[str, Any]:
    """The highest rate that meets the SLO."""
    q, trials = bench.question, dict[float, Trial]()

    def meets(rate: float) -> bool:
        trials[rate] = bench.run(job.design, counts, job.requests, rate)
        return trials[rate].verdict.meets

    start = job.rate if job.rate is not None else q.rate
    assert start is not None
    rate = highest(meets, start, least=max(start / SLOWEST, len(q.workload) / LONGEST_S))
    return _found(q, trials[min(trials) if rate is None else rate], 1)


def _found(question: Question, trial: Trial, least: int) -> dict[str, Any]:
    """What is said of a trial. ``score``: what the objective makes small."""
    result, verdict = trial.result, trial.verdict
    match question.objective:
        case "cost":
            score = result.cost_usd_per_million_tokens
        case "energy":
            score = result.energy_j_per_token
        case "latency":
            score = verdict.values["e2e_s"]
        case _:
            score = None if not trial.rate else 1 / trial.rate
    metric = verdict.binding
    return {
        "counts": list(trial.counts),
        "rate": trial.rate,
        "meets": verdict.meets,
        "ratio": _plain(verdict.ratio),
        "binding": metric,
        "score": _plain(score),
        "cost_usd_per_million_tokens": result.cost_usd_per_million_tokens,
        "least": least,
        "reason": None if verdict.meets or metric is None else MISSES[metric],
        **{name: _plain(verdict.values[name]) for name in METRICS},
    }


def _highest_rate(bench: Bench, job: Job) -> dict[str, Any]:
    """Of a plan that meets the SLO at the rate that was asked for; ``points``: the rates that were tried."""
    q, trials = bench.question, dict[float, Trial]()

    def meets(rate: float) -> bool:
        if rate == q.rate:
            return True
        trials[rate] = bench.run(job.design, job.counts, None, rate)
        return trials[rate].verdict.meets

    assert q.rate is not None
    rate = highest(meets, q.rate, first=NEAR)
    return {"rate": rate, "points": [_told(bench, trials[r]) for r in sorted(trials)]}


def _measured(bench: Bench, job: Job) -> dict[str, Any]:
    return _told(bench, bench.exactly(job.design, job.counts, job.rate))


def _looked_at(bench: Bench, job: Job) -> dict[str, Any]:
    return _told(bench, bench.run(job.design, job.counts, None, job.rate))


def _settled(replicas: Sequence[int] | None, bench: Bench, job: Job) -> dict[str, Any]:
    found = _best(replicas, bench, job)
    if "counts" not in found:
        return found
    rate = found["rate"] if bench.question.objective == "throughput" and "rate" in found else None
    return _told(bench, bench.exactly(job.design, found["counts"], rate))


def _told(bench: Bench, trial: Trial) -> dict[str, Any]:
    """With all metrics."""
    result = trial.result
    found = {**_found(bench.question, trial, 1), "metrics": shown(result), "plan": dict(result.plan)}
    return {**found, "warnings": [*result.warnings, *_growing(bench.question, trial)]}


def _growing(question: Question, trial: Trial) -> list[str]:
    """A warning where the SLO is met on the whole, but not by the second half of the requests alone."""
    end = judge(question, trial.result, halves=True)
    if not trial.verdict.meets or end.meets:
        return []
    return [
        f"the second half of the requests alone misses the SLO ({end.binding} {end.ratio:.2f} times its limit): "
        "the load rises or a queue grows; a longer workload would tell"
    ]


def _plain(value: float | None) -> float | None:
    """JSON has no infinity."""
    return None if value is None or not math.isfinite(value) else float(value)


def _columns(trials: Sequence[Trial], question: Question) -> Mapping[str, Any]:
    def floats(values: Sequence[float | None]) -> Any:
        return np.array([math.nan if v is None else v for v in values], np.float64)

    n = len(trials)
    return {
        "design": np.array([t.design.text for t in trials], dtype=object),
        "on": np.array([question.machines[t.design.machine].on for t in trials], dtype=object),
        "engines": np.fromiter((sum(t.counts) for t in trials), np.int64, n),
        "accelerators": np.fromiter((t.design.accelerators(t.counts) for t in trials), np.int64, n),
        "requests": np.fromiter((t.requests for t in trials), np.int64, n),
        "rate": floats([t.rate for t in trials]),
        "meets": np.fromiter((t.verdict.meets for t in trials), np.bool_, n),
        **{m: floats([t.verdict.values[m] for t in trials]) for m in METRICS},
        "cost_usd_per_million_tokens": floats([t.result.cost_usd_per_million_tokens for t in trials]),
        "energy_j_per_token": floats([t.result.energy_j_per_token for t in trials]),
        "output_tokens_per_second": floats([t.result.output_tokens_per_second for t in trials]),
    }
