"""From what a search found to the answer of ``plan serve``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from windtunnel.planning.commands import command_line
from windtunnel.planning.front import unbeaten
from windtunnel.planning.serve.question import Question
from windtunnel.planning.serve.search import Entry, Outcome, Run
from windtunnel.planning.serve.space import Design
from windtunnel.planning.serve.work import Job
from windtunnel.scenario.options import WORDS

PARETO_AXES = ("cost_usd_per_million_tokens", "ttft_s", "tpot_s")
"""Smaller is better; of TTFT and TPOT the percentile that is held to the SLO."""

FRONTIER_RATES = (0.25, 0.5, 0.75)
"""Of the rate that was asked for, where the throughput-latency curve is taken beside that rate itself and those at
which the highest one is looked for."""

FRONTIER_PLANS = 3

USUAL_FORMAT = "bf16"

LARGER = (1.25, 1.5, 2.0)
"""Numbers of engines over the fewest that do, for the Pareto front."""


def described(question: Question, design: Design, finding: Mapping[str, Any]) -> dict[str, Any]:
    """A measured plan as the answer holds it."""
    machine = question.machines[design.machine]
    counts = finding["counts"]
    used = design.accelerators(counts)
    own = design.plan(machine, counts)
    plan = {"model": question.asked.model, **_defaults(design, finding["plan"]), **own, **question.fixed}
    plan = {WORDS.get(k, k): v for k, v in plan.items()}
    if finding["rate"] != question.rate or question.objective == "throughput":
        plan["rate"] = finding["rate"]
    percentiles = {m: finding[m] for m in ("ttft_s", "tpot_s", "e2e_s")}
    return {
        "plan": plan,
        "on": plan["on"],
        "command": command_line("simulate", plan),
        "accelerators": used,
        "cost_usd_per_hour": machine.cost_usd_per_hour(used),
        "rate_requests_per_second": finding["rate"],
        "slo_percentile": {"percentile": question.percentile, **percentiles},
        "slo_ratio": finding["ratio"],
        "slo_binding": finding["binding"],
        **finding["metrics"],
    }


def _defaults(design: Design, told: Mapping[str, Any]) -> dict[str, Any]:
    """The engine, and the model's or the engine's own number formats where they are not the usual ones and nothing was
    asked."""
    own = {"precision": [e.precision for e in design.engines], "kv_precision": [e.kv_precision for e in design.engines]}
    formats = {
        name: told[name] for name, asked in own.items() if not any(asked) and told.get(name) not in (None, USUAL_FORMAT)
    }
    return {"engine": told["engine"], **formats}


def measured(run: Run, entries: Sequence[Entry], question: Question) -> list[dict[str, Any]]:
    """The findings of entries' plans, as ``simulate`` answers them."""
    jobs = [Job("measure", e.design, None, e.guess, other_rate(question, e)) for e in entries]
    return [findings[0] for findings in run([(job,) for job in jobs])]


def other_rate(question: Question, entry: Entry) -> float | None:
    """The rate of an entry where it is not the one that was asked for."""
    rate = entry.finding.get("rate")
    return None if rate == question.rate else rate


def pareto(plans: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that no other beats in every respect, cheapest first; of equals the first."""
    return [plans[i] for i in unbeaten([tuple(_axis(p, axis) for axis in PARETO_AXES) for p in plans])]


def _axis(plan: Mapping[str, Any], axis: str) -> float:
    value = plan["slo_percentile"].get(axis, plan.get(axis))
    return float("inf") if value is None else float(value)


def close_misses(outcome: Outcome, most: int) -> list[Entry]:
    """Plans that miss the SLO, those that seem to miss by least first."""
    return sorted(outcome.missed, key=lambda e: (e.order[1], e.design.text))[:most]


def binding(question: Question, plan: Mapping[str, Any]) -> dict[str, Any]:
    """The limit that a measured plan misses by most. ``value``, ``ratio``: None where it is infinite."""
    metric = plan["slo_binding"]
    return {
        "constraint": f"{metric} p{question.percentile:g}",
        "value": plan["slo_percentile"][metric],
        "limit": question.limits[metric],
        "ratio": plan["slo_ratio"],
    }


def usual(question: Question, designs: Sequence[Design], machine: int) -> Design | None:
    """What one would try first on a machine: an engine on each node, tensor-parallel over it, with its own settings;
    of the designs there are, the nearest to that."""
    own = [d for d in designs if d.machine == machine and not d.apart]
    node = question.machines[machine].cluster.node_size

    def distance(design: Design) -> tuple[Any, ...]:
        e = design.engines[0]
        changed = (e.chunk is not None) + (e.max_batch is not None) + (e.kv_precision is not None)
        return (e.precision is not None, changed, e.dp, e.pp, -min(e.tp, node), e.ep, design.text)

    return min(own, key=distance, default=None)


def why_lost(question: Question, usual: Mapping[str, Any], best: Mapping[str, Any]) -> str:
    """In one sentence."""
    if usual["slo_ratio"] is None or usual["slo_ratio"] > 1:
        missed = binding(question, usual)
        value = "infinite" if missed["value"] is None else f"{missed['value']:.4g} s"
        by = "" if missed["ratio"] is None else f", {missed['ratio']:.2f} times it"
        return f"misses the SLO: {missed['constraint']} is {value}, the limit {missed['limit']:g} s{by}"
    if usual["plan"] == best["plan"]:
        return "it did not lose: it is the best plan"
    name, more, better = _GOALS[question.objective]
    a, b = _goal(question, usual), _goal(question, best)
    if not a or not b:
        return f"meets the SLO, with {usual['accelerators']} accelerators to {best['accelerators']}"
    ratio = a / b if more else b / a
    return (
        f"meets the SLO with {usual['accelerators']} accelerators; {name} is {ratio:.2f} times as {better}"
        if ratio > 1
        else f"meets the SLO and is as good: {name} differs by {abs(1 - ratio):.1%}"
    )


_GOALS: Mapping[str, tuple[str, bool, str]] = {
    "cost": ("a million tokens", True, "dear as with the best plan"),
    "energy": ("the energy of a token", True, "high as with the best plan"),
    "latency": ("the latency", True, "long as with the best plan"),
    "throughput": ("the best plan's rate", False, "high"),
}


def _goal(question: Question, plan: Mapping[str, Any]) -> float | None:
    found: float | None = {
        "cost": plan["cost_usd_per_million_tokens"],
        "energy": plan["energy_j_per_token"],
        "latency": plan["slo_percentile"]["e2e_s"],
        "throughput": plan["rate_requests_per_second"],
    }[question.objective]
    return found


def has_rate(rate: float | None) -> bool:
    """Whether requests come at a rate that can be changed."""
    return rate is not None and 0 < rate < math.inf


def larger(question: Question, entry: Entry) -> list[tuple[int, ...]]:
    """The plan with more engines, as far as there is room: quicker and dearer."""
    design = entry.design
    machine = question.machines[design.machine]
    found = dict.fromkeys(tuple(math.ceil(n * f) for n in entry.guess) for f in LARGER)
    budget = question.asked.budget

    def allowed(counts: tuple[int, ...]) -> bool:
        used = design.accelerators(counts)
        hourly = machine.cost_usd_per_hour(used)
        return used <= machine.cluster.count and (budget is None or hourly is None or hourly <= budget)

    return [counts for counts in found if counts != entry.guess and allowed(counts)]


def frontier_point(number: int, plan: Mapping[str, Any], finding: Mapping[str, Any]) -> dict[str, Any]:
    """One point of a plan's throughput-latency curve."""
    metrics = finding["metrics"]
    return {
        "plan": number,
        "name": plan_name(plan),
        "rate_requests_per_second": finding["rate"],
        **{m: finding[m] for m in ("ttft_s", "tpot_s", "e2e_s")},
        "output_tokens_per_second": metrics["output_tokens_per_second"],
        "output_tokens_per_second_per_gpu": metrics["output_tokens_per_second_per_gpu"],
        "cost_usd_per_million_tokens": metrics["cost_usd_per_million_tokens"],
        "meets": finding["meets"],
    }


def plan_name(plan: Mapping[str, Any]) -> str:
    """Short, for a legend."""
    own = plan["plan"]
    if "prefill" in own:
        return f"{own['on']} prefill {own['prefill']} decode {own['decode']}"
    degrees = "".join(f" {k}={own[k]}" for k in ("tp", "pp", "dp", "ep", "chunk", "max_batch") if k in own)
    return f"{own['on']}{degrees} x{own['replicas']}"
