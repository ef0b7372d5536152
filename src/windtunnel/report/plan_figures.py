"""Figures of the plans that a search found: what is looked for, the columns of tables, what plans trade."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from windtunnel.report import units
from windtunnel.scenario.options import Options
from windtunnel.scenario.plans import PlanResult
from windtunnel.scenario.workload import slo

Plan = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of plans: what it is called, where it stands in them, how it is shown, whether more is better."""

    title: str
    path: str
    shown: Callable[[float | None], str]
    more: bool = False

    def of(self, plan: Plan) -> float | None:
        """The figure; None where the plan does not have it."""
        found: Any = plan
        for key in self.path.split("."):
            found = found.get(key) if isinstance(found, Mapping) else None
        return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None

    def text(self, plan: Plan) -> str:
        return self.shown(self.of(plan))

    def worse(self, plan: Plan, best: Plan) -> float | None:
        """By what fraction a plan is worse than the best one: 0.05 is a step 5 % longer, or a rate that a plan with
        5 % more would reach."""
        a, b = self.of(plan), self.of(best)
        if not a or not b:
            return None
        return (b / a if self.more else a / b) - 1


STEP = Figure("step", "step_time_s", units.seconds)
MEMORY = Figure("memory", "memory_bytes.total", units.size)
HEAD_ROOM = Figure("head-room", "head_room_bytes", units.size)
USD = Figure("$/Mtok", "cost_usd_per_million_tokens", units.dollars)
USD_AN_HOUR = Figure("$/h", "cost_usd_per_hour", units.dollars)
ENERGY = Figure("energy", "energy_j_per_token", units.energy)
RATE = Figure("requests/s", "rate_requests_per_second", units.number, more=True)
MOST_RATE = Figure("max req/s", "max_rate_requests_per_second", units.number, more=True)
OUTPUT = Figure("out tok/s", "output_tokens_per_second", units.number, more=True)

GOALS: Mapping[str, Mapping[str, tuple[str, Figure]]] = {
    "train": {
        "time": ("the shortest step", STEP),
        "cost": ("the cheapest token", USD),
        "energy": ("the least energy a token", ENERGY),
        "tokens-per-gpu": ("the most tokens a second and GPU", Figure(
            "tok/s/GPU", "tokens_per_second_per_gpu", units.number, more=True)),
        "cluster": ("the fewest accelerators in time", Figure("GPUs", "gpus", units.count)),
    },
    "serve": {
        "cost": ("the cheapest token", USD),
        "throughput": ("the highest rate", MOST_RATE),
        "latency": ("the lowest latency", Figure("E2E", "slo_percentile.e2e_s", units.seconds)),
        "energy": ("the least energy a token", ENERGY),
    },
}  # fmt: skip
"""By question and objective: what is looked for, and the figure that says how good a plan is."""

SLACK = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Fractions that a step may be longer, to see what memory that leaves."""

LATENCIES = ("ttft_s", "tpot_s", "e2e_s")

_TRAIN = (STEP, Figure("MFU", "mfu", units.percent), MEMORY, USD)
_AXES = {f.path: f for f in (STEP, HEAD_ROOM, Figure("$ a step", "cost_usd_per_step", units.dollars))}


def goal(result: PlanResult) -> tuple[str, Figure]:
    """What was looked for in words, and its figure."""
    return GOALS[result.question][result.objective]


def worse_by(result: PlanResult, plan: Plan) -> float | None:
    """By what fraction a plan is worse than the best in what was looked for; if it is as good, in step time."""
    best = result.best[0]
    found = goal(result)[1].worse(plan, best)
    return found or STEP.worse(plan, best)


def at_percentile(metric: str, options: Options) -> Figure:
    """A latency at the percentile that is held to the limits."""
    name = metric.removesuffix("_s").upper()
    return Figure(f"{name} p{getattr(options, 'percentile', 50.0):g}", f"slo_percentile.{metric}", units.seconds)


def figures(result: PlanResult, options: Options) -> list[Figure]:
    """The columns of a table of plans, that of the goal first."""
    usual: Sequence[Figure] = _TRAIN
    if result.question == "serve":
        usual = (USD, USD_AN_HOUR, *(at_percentile(metric, options) for metric in ("ttft_s", "tpot_s")), OUTPUT)
    every = [goal(result)[1], *usual]
    return [f for f in dict.fromkeys(every) if any(f.of(p) is not None for p in result.best)]


def axes(result: PlanResult, options: Options) -> list[Figure]:
    """The figures that Pareto plans are compared by."""
    known = {**_AXES, **{f.path: f for _, f in GOALS[result.question].values()}}
    known |= {metric: at_percentile(metric, options) for metric in LATENCIES}
    return [known.get(name) or Figure(name.replace("_", " "), name, units.number) for name in result.pareto_axes]


def trade_offs(plans: Sequence[Plan]) -> list[Plan]:
    """Of training plans, those that leave most memory for a step so much longer than the shortest (:data:`SLACK`)."""
    if not plans:
        return []
    fastest = min(_known(STEP, p) for p in plans)
    found = []
    for slack in SLACK:
        near = [p for p in plans if _known(STEP, p) <= fastest * (1 + slack)]
        found.append(max(near, key=lambda p: -math.inf if (room := HEAD_ROOM.of(p)) is None else room))
    return [p for i, p in enumerate(found) if p not in found[:i]]


def _known(figure: Figure, plan: Plan) -> float:
    value = figure.of(plan)
    return math.inf if value is None else value


def limits(options: Options) -> dict[str, float]:
    """The SLO that was asked for: {metric: seconds}."""
    text = getattr(options, "slo", None)
    if text is None:
        return {}
    asked = slo(text)
    given = {metric: getattr(asked, metric) for metric in LATENCIES}
    return {metric: limit for metric, limit in given.items() if limit is not None}
