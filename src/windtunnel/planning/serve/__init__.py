"""``plan serve``: the best service for a workload and an SLO.

:mod:`.space` lists what the rules allow, :mod:`.bounds` discards what cannot meet the SLO, :mod:`.search` simulates the
rest on longer and longer parts of the workload (:mod:`.bench`, :mod:`.work`), and :mod:`.answer` says what came of it.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from time import perf_counter
from typing import Any

from windtunnel.cost import load_calibration
from windtunnel.errors import ScenarioError
from windtunnel.planning.commands import command_line
from windtunnel.planning.digest import digest
from windtunnel.planning.fan_out import Crew, read_workers
from windtunnel.planning.serve import answer
from windtunnel.planning.serve.pools import pairs
from windtunnel.planning.serve.question import Question, read_question
from windtunnel.planning.serve.search import Entry, Outcome, leaders, search
from windtunnel.planning.serve.space import Space, build_space
from windtunnel.planning.serve.work import Chunk, Job, Shared, evaluate, key
from windtunnel.planning.store import Store
from windtunnel.scenario.engines import load_engine
from windtunnel.scenario.plan_options import PlanServeOptions
from windtunnel.scenario.plans import PlanResult
from windtunnel.serving.compiled.build import available

Progress = Callable[[float, str], None]

NOT_PAIRED = "pair of pools left out: another engine of the machine needs fewer accelerators for the prompts"
NOT_OWN = "pair of pools left out: its settings are not the engine's own"

NEAREST = 6
"""Plans that are simulated on the whole workload to find the one that misses by least."""


def plan_serve(
    options: PlanServeOptions,
    *,
    narrowed: Mapping[str, tuple[Any, ...]] | None = None,
    progress: Progress | None = None,
) -> PlanResult:
    """The best plans, with what reproduces them. ``narrowed``: values that some options may take alone, since a tool
    that is exported to can run no others. ``progress`` is told the fraction that is done and the best so far.

    Raises:
        ScenarioError: the request is wrong. That no plan meets the SLO is an answer with ``feasible`` 0.
    """
    started = perf_counter()
    workers = read_workers(options.workers)
    question = read_question(options, narrowed)
    space = build_space(question)
    available(compile=True)
    with ExitStack() as stack:
        store = None
        if options.store is not None:
            store = stack.enter_context(Store.open(options.store, "serve", _identity(question)))
        shared = Shared(question, space.replicas)
        crew: Crew[Shared, Chunk] = stack.enter_context(Crew(evaluate, shared, key, workers=workers, store=store))
        runner = _Runner(crew, store, progress)
        outcome = search(question, space, runner, pairs)
        return _answer(question, space, outcome, runner, started)


class _Runner:
    """Runs chunks on the crew, in order, counts them and tells how far it is."""

    def __init__(self, crew: Crew[Shared, Chunk], store: Store | None, progress: Progress | None) -> None:
        self._crew, self._store, self._progress = crew, store, progress
        self.simulated = self.resumed = 0
        self._stage = 0.0
        self._lead: tuple[float, str] | None = None

    def __call__(self, chunks: Sequence[Chunk]) -> list[list[dict[str, Any]]]:
        stored = self._store.keys if self._store is not None else frozenset[str]()
        by_key = {key(chunk): chunk for chunk in chunks}
        found: dict[str, list[dict[str, Any]]] = {}
        self._lead = None  # scores of another length cannot be compared
        for result in self._crew.run(chunks):
            rows = len(next(iter(result.table.values()), ()))
            self.simulated += rows
            self.resumed += rows if result.key in stored else 0
            found[result.key] = result.summary["findings"]
            if self._progress is not None:
                self._note(by_key[result.key], found[result.key])
                best = "" if self._lead is None else f", best so far {self._lead[1]}"
                self._progress(self._done(len(found) / len(chunks)), f"{self.simulated:,} simulations{best}")
        self._stage = self._done(1.0)
        return [found[text] for text in by_key]

    def _done(self, of_round: float) -> float:
        """How many rounds there will be is not known: each takes a third of what is left."""
        return self._stage + (1 - self._stage) / 3 * of_round

    def _note(self, chunk: Chunk, findings: Sequence[dict[str, Any]]) -> None:
        for job, finding in zip(chunk, findings, strict=True):
            score = finding.get("score")
            if job.kind != "prompts" and finding.get("meets") and score is not None:
                parts = job.design.text.partition(": ")[2].split(" | ")
                name = " + ".join(f"{n}x({part})" for n, part in zip(finding["counts"], parts, strict=True))
                self._lead = min(self._lead or (math.inf, ""), (score, name))


def _identity(question: Question) -> dict[str, Any]:
    """All that the simulations depend on, as JSON."""
    asked = question.asked.model_dump(exclude_unset=True, exclude_none=True, exclude={"workers", "store", "export"})
    w = question.workload
    parts = (w.arrival_s, w.input_tokens, w.output_tokens, w.after, w.think_s, w.blocks, w.client, w.priority)
    arrays = hashlib.sha256(b"".join(b"-" if part is None else part.tobytes() for part in parts)).hexdigest()
    engines = [load_engine(name, "serve").model_dump() for name in question.asked.engine.split(",")]
    clusters = [m.cluster for m in question.machines]
    constants = [load_calibration(c.accelerator, question.asked.calibration).model_dump() for c in clusters]
    return {
        "options": {k: str(v) if v == float("inf") else v for k, v in asked.items()},
        "top": question.asked.top,
        "workload": arrays,
        "figures": digest((question.network, clusters, engines, constants)),
    }


def _answer(question: Question, space: Space, outcome: Outcome, run: _Runner, started: float) -> PlanResult:
    good = leaders(outcome.good)
    shown, others = good[: question.asked.top], good[question.asked.top :]
    nearest = binding = obvious = None
    plans: list[dict[str, Any]] = []
    warnings: list[str] = []
    front: list[dict[str, Any]] = []
    frontier: list[dict[str, Any]] = []
    if good:
        plans, front, frontier, obvious, warnings = _shown(question, space, run, shown, others)
    else:
        nearest, binding = _nearest(question, space, outcome, run)
    why_not = Counter(space.why_not) + outcome.why_not
    possible = sum(len(own) * len(space.decode[machine]) for machine, own in space.prefill.items())
    if possible > outcome.pairs:
        whole = question.objective not in ("cost", "energy")
        why_not[NOT_OWN if whole else NOT_PAIRED] = possible - outcome.pairs
    tried = len(space.colocated) + outcome.pairs
    return PlanResult(
        question="serve",
        model=question.network.name,
        on=[m.on for m in question.machines],
        objective=question.objective,
        evaluated=tried,
        feasible=len(outcome.good),
        seconds=perf_counter() - started,
        best=plans,
        pareto=front,
        pareto_axes=list(answer.PARETO_AXES),
        why_not=dict(sorted(why_not.items(), key=lambda item: (-item[1], item[0]))),
        nearest=nearest,
        binding=binding,
        obvious=obvious,
        frontier=frontier,
        resumed=run.resumed,
        warnings=list(dict.fromkeys([*question.workload.warnings, *warnings])),
        search={
            "designs": len(outcome.good) + sum(why_not.values()),
            "in_memory": len(space.colocated) + possible,
            "tried": tried,
            "rungs": outcome.rungs,
            "simulations": run.simulated,
        },
    )


def _shown(
    question: Question, space: Space, run: _Runner, shown: Sequence[Entry], others: Sequence[Entry]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]], dict[str, Any] | None, list[str]]:
    """(Best plans, Pareto front, frontier, the obvious plan, warnings of the best), in one round of chunks."""
    chunks: list[tuple[Job, ...]] = []
    rates = [_curve(question, e) if i < answer.FRONTIER_PLANS else [] for i, e in enumerate(shown)]
    capacity = question.objective != "throughput" and answer.has_rate(question.rate) and bool(question.limits)
    for entry, curve in zip(shown, rates, strict=True):
        jobs = [Job("measure", entry.design, None, entry.guess, answer.other_rate(question, entry))]
        jobs += [Job("rate", entry.design, None, entry.guess)] if capacity else []
        jobs += [Job("look", entry.design, None, entry.guess, rate) for rate in curve]
        chunks.append(tuple(jobs))
    more = [*shown[: answer.FRONTIER_PLANS], *others]
    spread = [
        Job("measure", e.design, None, counts, answer.other_rate(question, e))
        for i, e in enumerate(more)
        for counts in (answer.larger(question, e) if i < len(more) - len(others) else [e.guess])
    ]
    chunks += [(job,) for job in spread]
    usual = answer.usual(question, space.colocated, shown[0].design.machine)
    if usual is not None:
        chunks.append((Job("settle", usual, None, (), answer.other_rate(question, shown[0])),))
    found = run(chunks)
    plans = [answer.described(question, e.design, f[0]) for e, f in zip(shown, found, strict=False)]
    wider = [
        answer.described(question, job.design, f[0])
        for job, f in zip(spread, found[len(shown) :], strict=False)
        if f[0]["meets"]
    ]
    frontier = []
    for number, (plan, findings) in enumerate(zip(plans, found, strict=False)):
        looked = [*findings[1 + capacity :], *(findings[1]["points"] if capacity else [])]
        own_rate = plan["rate_requests_per_second"] if question.objective == "throughput" else None
        plan["max_rate_requests_per_second"] = findings[1]["rate"] if capacity else own_rate
        if number < answer.FRONTIER_PLANS and looked:
            points = sorted([findings[0], *looked], key=lambda f: f["rate"])
            frontier += [answer.frontier_point(number, plan, point) for point in points]
    obvious = None
    if usual is not None and "metrics" in found[-1][0]:
        obvious = answer.described(question, usual, found[-1][0])
        obvious["why"] = answer.why_lost(question, obvious, plans[0])
    return plans, answer.pareto(plans + wider), frontier, obvious, found[0][0]["warnings"]


def _curve(question: Question, entry: Entry) -> list[float]:
    """Rates beside its own at which a plan is looked at."""
    middle = entry.finding["rate"]
    if not answer.has_rate(middle):
        return []
    return [float(f"{middle * f:.4g}") for f in answer.FRONTIER_RATES]


def _nearest(
    question: Question, space: Space, outcome: Outcome, run: _Runner
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """(The plan that misses by least, the limit that it misses).

    Raises:
        ScenarioError: no plan could be simulated at all.
    """
    close = [Entry(e.design, {**e.finding, "rate": question.rate}) for e in answer.close_misses(outcome, NEAREST)]
    plans = [
        answer.described(question, e.design, f)
        for e, f in zip(close, answer.measured(run, close, question), strict=True)
    ]
    if plans:
        plan = min(plans, key=lambda p: float("inf") if p["slo_ratio"] is None else p["slo_ratio"])
        return plan, answer.binding(question, plan) if plan["slo_binding"] else None
    if space.least is None:
        reason = max(outcome.why_not, key=lambda k: outcome.why_not[k])
        raise ScenarioError(outcome.said or f"no plan can be tried: {reason}")
    design, needed, there = space.least
    machine = question.machines[design.machine]
    options = {"model": question.asked.model, **design.plan(machine, [1]), **question.fixed}
    line = command_line("simulate", options)
    plan = {"plan": options, "on": options["on"], "command": line, "accelerators": design.accelerators([1])}
    return plan, {"constraint": "memory_bytes", "value": needed, "limit": there, "ratio": needed / there}
