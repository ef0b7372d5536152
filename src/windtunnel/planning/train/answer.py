"""``plan train``: search, ask ``train`` for what was found, and say what it means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

from windtunnel.cost import load_calibration
from windtunnel.engine.train import host_needs, train
from windtunnel.errors import ScenarioError
from windtunnel.models import load_network
from windtunnel.parallel.step import training_step
from windtunnel.planning.commands import command_line
from windtunnel.planning.digest import digest
from windtunnel.planning.fan_out import read_workers, run
from windtunnel.planning.points import Found
from windtunnel.planning.store import Store
from windtunnel.planning.train.axes import Axes
from windtunnel.planning.train.chunks import Question, evaluate
from windtunnel.planning.train.grid import HOST, LATE, MEMORY, SAME
from windtunnel.planning.train.keep import Goal, Keep, Row, least_memory, order
from windtunnel.planning.train.obvious import first_thought, why_it_lost
from windtunnel.scenario.checks import has_experts
from windtunnel.scenario.options import WORDS, TrainOptions, read_options
from windtunnel.scenario.plan_options import TRAIN_SEARCHED, PlanTrainOptions
from windtunnel.scenario.plans import PlanResult
from windtunnel.scenario.registry import requested, techniques_of
from windtunnel.scenario.results import TrainResult
from windtunnel.scenario.train import train_scenario, usual_sequence
from windtunnel.training.schedules import get_schedule

Progress = Callable[[float, str], None]
Answered = list[tuple[Row, TrainResult]]

DAY = 86400.0
TRIES = 6
"""Searches until a cluster's whole run, failures and checkpoints included, keeps its time."""
LEFT_OUT = ("model", "on", "plan", "memory_by_stage", "critical_s", "confidence")
"""Fields of ``train``'s answer that a list of plans does without."""


@dataclass
class Searched:
    """All chunks of one search together."""

    kept: Keep
    evaluated: int = 0
    feasible: int = 0
    laid_out: int = 0
    chunks: int = 0
    resumed: int = 0
    why_not: dict[str, int] = field(default_factory=dict)
    own: list[Row] = field(default_factory=list)
    """The best plan with a schedule that the framework has."""

    def add(self, found: Found) -> None:
        """Take in a chunk."""
        summary = found.summary
        self.kept.merge(summary["best"], summary["front"])
        self.own = sorted([*self.own, *summary["own"]], key=order)[:1]
        smallest = summary["smallest"]
        known = self.kept.smallest
        if smallest is not None and (known is None or least_memory(smallest) < least_memory(known)):
            self.kept.smallest = smallest
        self.evaluated += summary["evaluated"]
        self.feasible += summary["feasible"]
        self.laid_out += summary["laid_out"]
        self.chunks += 1
        for reason, plans in summary["why_not"].items():
            self.why_not[reason] = self.why_not.get(reason, 0) + plans

    @property
    def combinations(self) -> int:
        """Plans, legal or not, each under one name."""
        illegal = (n for reason, n in self.why_not.items() if reason not in (MEMORY, HOST, LATE, SAME))
        return self.evaluated + sum(illegal)


def plan_train(
    options: PlanTrainOptions,
    *,
    narrowed: Mapping[str, Sequence[Any]] | None = None,
    progress: Progress | None = None,
) -> PlanResult:
    """The best of all legal plans, exactly. ``narrowed``: values that options may take where the user lists none;
    ``progress`` is told the fraction that is done and the best so far.

    Raises:
        ScenarioError: the request is wrong.
    """
    started = perf_counter()
    options = _with_goal(_as_techniques_ask(options))
    limit = None if options.objective != "cluster" else _step_limit(options)
    question = Question(options, dict(narrowed or {}), Goal(options.objective, limit), options.top, bool(options.store))
    searched = _search(question, progress)
    answers = _answers(question.axes, searched.kept.best)
    if options.objective == "cluster":
        searched, answers = _in_time(question, searched, answers, progress)
    result = _result(question.axes, searched, answers)
    if not answers:
        result = _nearest(result, question, searched, progress)
    return replace(result, seconds=perf_counter() - started)


def _as_techniques_ask(options: PlanTrainOptions) -> PlanTrainOptions:
    """With what techniques settle of the options that are searched."""
    used = techniques_of(options, "train")
    if not used:
        return options
    wanted = requested(options, used)
    return read_options(PlanTrainOptions, {name: getattr(wanted, name) for name in wanted.model_fields_set})


def _with_goal(options: PlanTrainOptions) -> PlanTrainOptions:
    """With any number of accelerators where the fewest are asked for."""
    if options.objective != "cluster":
        if options.days is not None:
            raise ScenarioError("days is for objective=cluster, the fewest accelerators that train --tokens in them")
        return options
    if options.tokens is None or options.days is None:
        raise ScenarioError(
            "objective=cluster needs tokens and days: the fewest accelerators that train so many in time"
        )
    if "gpus" in options.model_fields_set:
        return options
    return options.model_copy(update={"gpus": "any"})


def _step_limit(options: PlanTrainOptions) -> float:
    """Seconds of a step, if nothing ever went wrong."""
    assert options.tokens is not None
    assert options.days is not None
    seq = options.seq or usual_sequence(load_network(options.model))
    steps = options.tokens / (float(options.global_batch or 1) * seq)
    return options.days * DAY / max(steps, 1.0)


def _search(question: Question, progress: Progress | None) -> Searched:
    """All chunks, on as many workers as are asked for, those of a store left out."""
    options = question.options
    workers = read_workers(options.workers)
    searched = Searched(Keep(question.goal, question.top))
    chunks = question.chunks()
    with nullcontext() if options.store is None else Store.open(options.store, "train", _identity(question)) as store:
        known = store.keys if store else frozenset()

        def told(found: Found, done: int, total: int) -> None:
            searched.add(found)
            searched.resumed += found.key in known
            if progress:
                progress(done / total, _so_far(searched.kept))

        for _ in run(evaluate, question, chunks, str, workers=workers, store=store, told=told, points=False):
            pass
    return searched


def _identity(question: Question) -> dict[str, Any]:
    """Everything that the points of a search depend on."""
    options, axes = question.options, question.axes
    asked = options.model_dump(exclude_unset=True, exclude_none=True, exclude={"workers", "store"})
    constants = load_calibration(axes.cluster.accelerator, options.calibration)
    figures = (axes.network, axes.cluster, axes.engine.model_dump(), constants.model_dump())
    return {
        "options": asked,
        "narrowed": {k: list(v) for k, v in sorted(question.narrowed.items())},
        "limit_s": question.goal.limit_s,
        "top": question.top,
        "figures": digest(figures),
    }


def _so_far(kept: Keep) -> str:
    if not kept.best:
        return "nothing fits yet"
    row = kept.best[0]
    sizes = " ".join(f"{name}={row[name]:.0f}" for name in ("tp", "pp", "dp", "cp", "ep") if row[name] != 1)
    return f"{row['step_time_s']:.4g} s a step, {row['gpus']:.0f} accelerators: {sizes} {row['schedule']}"


def _in_time(
    question: Question, searched: Searched, answers: Answered, progress: Progress | None
) -> tuple[Searched, Answered]:
    """The plans whose whole run keeps its time. Failures and checkpoints take some of it: where none of the best keeps
    it, the search is made again with the step time that leaves room for what they lost."""
    days = question.options.days or 0.0
    for _ in range(TRIES):
        kept = [(row, a) for row, a in answers if _run_s(a) <= days * DAY]
        if kept or not answers:
            return searched, kept
        limit = question.goal.limit_s or 0.0
        share = max(days * DAY / _run_s(a) * a.step_time_s / limit for _, a in answers)
        question = replace(question, goal=replace(question.goal, limit_s=limit * min(share, 0.999)))
        searched = _search(question, progress)
        answers = _answers(question.axes, searched.kept.best)
    return searched, []


def _run_s(answer: TrainResult) -> float:
    return float(answer.run["time_to_train_s"]) if answer.run and answer.run["feasible"] else float("inf")


def options_of(axes: Axes, row: Row) -> dict[str, Any]:
    """What ``train`` is asked for a row."""
    asked = dict(axes.fixed())
    for name in TRAIN_SEARCHED:
        value = row[name]
        if value is None or (name == "hsdp" and not value) or (name == "etp" and not has_experts(axes.network)):
            continue
        asked[name] = int(value) if isinstance(value, float) else value
    return asked


def _answers(axes: Axes, rows: Sequence[Row]) -> Answered:
    return [(row, train(read_options(TrainOptions, options_of(axes, row)))) for row in rows]


def _plan(axes: Axes, row: Row) -> dict[str, Any]:
    """The options that reproduce a row, and the line that does."""
    options = options_of(axes, row)
    shown = {k: v for k, v in options.items() if k not in ("cp", "ep", "virtual_stages") or v != 1}
    if row["pp"] == 1:
        shown.pop("schedule")
    if row["tp"] == 1:
        shown.pop("sequence_parallel")
    own = {WORDS.get(k, k): v for k, v in options.items() if k not in ("model", "on", "set")}
    return {"plan": own, "command": command_line("train", shown)}


def _entry(axes: Axes, row: Row, answer: TrainResult) -> dict[str, Any]:
    """A plan with all that ``train`` says of it."""
    fields = {k: v for k, v in answer.to_dict().items() if k not in LEFT_OUT}
    return {**_plan(axes, row), **_figures(axes, row, answer.step_time_s, answer.energy_j), **fields}


def _brief(axes: Axes, row: Row) -> dict[str, Any]:
    """A plan of the front."""
    seconds, energy = row["step_time_s"], row["energy_j"]
    price, memory = axes.cluster.price_usd_per_hour, row["memory_bytes"]
    figures = {
        "step_time_s": seconds,
        "memory_bytes": {"total": memory, "capacity": _capacity(axes)},
        "energy_j": energy,
        "cost_usd_per_step": float(price) * row["gpus"] * seconds / 3600 if price else None,
    }
    return {**_plan(axes, row), **_figures(axes, row, seconds, energy), **figures}


def _figures(axes: Axes, row: Row, seconds: float, energy: float) -> dict[str, Any]:
    """What follows from a plan's time, energy and memory."""
    tokens, price = float(axes.options.global_batch or 1) * axes.seq, axes.cluster.price_usd_per_hour
    gpus = row["gpus"]
    cost = None if not price else float(price) * gpus * seconds / 3600 / tokens * 1e6
    return {
        "gpus": int(gpus),
        "tokens_per_second": tokens / seconds,
        "tokens_per_second_per_gpu": tokens / seconds / gpus,
        "energy_j_per_token": energy / tokens,
        "cost_usd_per_million_tokens": cost,
        "head_room_bytes": _capacity(axes) - row["memory_bytes"],
    }


def _capacity(axes: Axes) -> float:
    return float(axes.cluster.accelerator.hbm.capacity_bytes)


def _result(axes: Axes, searched: Searched, answers: Answered) -> PlanResult:
    options = axes.options
    obvious = None
    if answers and (first := first_thought(axes)) is not None:
        winner = answers[0][1]
        asked = {**axes.fixed(), **{k: v for k, v in first.plan.items() if k in TRAIN_SEARCHED}}
        obvious = {
            "plan": {k: v for k, v in asked.items() if k not in ("model", "on", "set")},
            "command": command_line("train", asked),
            "step_time_s": first.step_time_s,
            "ratio": first.step_time_s / winner.step_time_s,
            "why": why_it_lost(first, winner),
        }
    warnings = [*axes.warnings, *(answers[0][1].warnings if answers else ())]
    runnable = None
    if answers and not _has(axes, answers[0][0]):
        name, schedule = axes.engine.name, answers[0][0]["schedule"]
        own = ",".join(s for s in axes.schedule if s in axes.engine.schedules)
        warnings.append(
            f"{name} has no schedule {schedule}: the best plan is for a framework that has it"
            + (f"; --schedule {own} keeps to {name}'s own" if own else "")
        )
        runnable = next((_entry(axes, *each) for each in _answers(axes, searched.own)), None)
    return PlanResult(
        question="train",
        model=axes.network.name,
        on=[options.on],
        objective=options.objective,
        evaluated=searched.evaluated,
        feasible=searched.feasible if answers else 0,
        seconds=0.0,
        best=[_entry(axes, row, answer) for row, answer in answers],
        pareto=[_brief(axes, row) for row in searched.kept.front] if answers else [],
        pareto_axes=["step_time_s", "head_room_bytes", "cost_usd_per_step"],
        why_not={k: v for k, v in sorted(searched.why_not.items(), key=lambda kv: -kv[1]) if k != SAME},
        obvious=obvious,
        runnable=runnable,
        resumed=searched.resumed,
        warnings=list(dict.fromkeys(warnings)),
        search={
            "combinations": searched.combinations, "same": searched.why_not.get(SAME, 0),
            "evaluated": searched.evaluated, "laid_out": searched.laid_out, "chunks": searched.chunks,
            "workers": options.workers,
        },
    )  # fmt: skip


def _has(axes: Axes, row: Row) -> bool:
    """Whether the framework has the plan's schedule (with one stage all are the same)."""
    return row["pp"] == 1 or row["schedule"] in axes.engine.schedules


def _nearest(result: PlanResult, question: Question, searched: Searched, progress: Progress | None) -> PlanResult:
    """The plan that misses by least: the smallest where none fits, the fastest where none is fast enough."""
    axes, options = question.axes, question.options
    late = searched.why_not.get(LATE, 0)
    if late or (options.objective == "cluster" and searched.evaluated and not searched.why_not.get(MEMORY, 0)):
        faster = replace(question, goal=Goal("time"), options=options.model_copy(update={"objective": "time"}))
        answers = _answers(axes, _search(faster, progress).kept.best[:1])
        if answers:
            row, answer = answers[0]
            limit = (options.days or 0.0) * DAY
            return replace(
                result, nearest=_entry(axes, row, answer), binding=_missed("time_to_train_s", _run_s(answer), limit)
            )
    row_or_none = searched.kept.smallest
    if row_or_none is None:
        return result
    (row, answer), *_ = _answers(axes, [row_or_none])
    row = {**row, "step_time_s": answer.step_time_s, "energy_j": answer.energy_j}
    if answer.fits:
        return replace(result, nearest=_entry(axes, row, answer), binding=_host_missed(axes, row))
    total = answer.memory_bytes["total"]
    return replace(result, nearest=_entry(axes, row, answer), binding=_missed("memory_bytes", total, _capacity(axes)))


def _host_missed(axes: Axes, row: Row) -> dict[str, Any]:
    """What a plan lacks of its nodes' memory or drives."""
    scenario = train_scenario(read_options(TrainOptions, options_of(axes, row)))
    schedule = get_schedule(scenario.plan.schedule)
    step = training_step(axes.network, scenario.plan, scenario.engine, schedule, axes.cluster.levels[0].domain)
    name, needed, have = max(host_needs(scenario, step, schedule), key=lambda need: need[1] / need[2])
    return _missed(f"{name.replace(' ', '_')}_bytes", needed, have)


def _missed(constraint: str, value: float, limit: float) -> dict[str, Any]:
    return {"constraint": constraint, "value": value, "limit": limit, "ratio": value / limit if limit else None}
