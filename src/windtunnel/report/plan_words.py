"""What a search found, in words: plans and what differs between them, why plans were not feasible, what to change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from windtunnel.report import units
from windtunnel.report.plan_figures import LATENCIES, RATE, Plan
from windtunnel.report.words import METRICS, plan_line
from windtunnel.scenario.plan_options import SEARCHED
from windtunnel.scenario.plans import PlanResult

DECIDED = ("on", "prefill", "decode", "engine", *SEARCHED, "with")
"""Options that make one plan unlike another."""

ABSENT: Mapping[str, object] = {
    **dict.fromkeys(("tp", "pp", "dp", "cp", "ep", "replicas", "virtual_stages"), 1),
    **dict.fromkeys(("offload", "hsdp", "prefill", "decode"), "none"), "engine": "vllm",
}  # fmt: skip
"""What an option is that a plan leaves out; of the others, the model's or the engine's own."""


BEST = "the best"


def decided(plan: Plan) -> dict[str, Any]:
    """The options of a plan that a search decides, the cluster among them."""
    return {k: v for k, v in {"on": plan.get("on"), **plan["plan"]}.items() if k in DECIDED and v is not None}


def named(plan: Plan, result: PlanResult) -> str:
    """A plan as the options that were decided, what the question says already left out."""
    known = {"on"} if [plan.get("on") or plan["plan"].get("on")] == list(result.on) else set()
    known |= {"engine"} if result.question == "train" else set()
    return plan_line({k: v for k, v in decided(plan).items() if k not in known})


def differences(plan: Plan, best: Plan) -> list[str]:
    """The options in which a plan is not the best one, as ``pp=4``; the cluster, too."""
    mine, its = decided(plan), decided(best)
    if ("prefill" in mine) != ("prefill" in its):
        # One kind of engine against two: all of it is different.
        mine = mine if "prefill" in mine else {"tp": 1, "replicas": 1, **mine}
        return [f"{k}={_value(v)}" for k, v in mine.items() if v != its.get(k)]
    return [
        f"{k}={_value(v)}"
        for k in dict.fromkeys([*mine, *its])
        if (v := mine.get(k, ABSENT.get(k))) != its.get(k, ABSENT.get(k))
    ]


def _value(value: object) -> str:
    return "default" if value is None else units.option(value)


def reasons(why_not: Mapping[str, int]) -> list[tuple[str, int]]:
    """Why plans were not feasible, the most frequent first."""
    ranked = sorted(why_not.items(), key=lambda item: (-item[1], item[0]))
    return [(reason, count) for reason, count in ranked if count]


def effort(result: PlanResult) -> str:
    """``12,345 plans priced in 2.31 s (5,340 a second), 1,000 of them kept from before; 9,876 feasible``."""
    a_second = result.evaluated / result.seconds if result.seconds > 0 else 0.0
    speed = f" ({units.count(round(a_second))} a second)" if a_second else ""
    kept = f", {result.resumed:,} of them kept from before" if result.resumed else ""
    return f"{result.evaluated:,} plans in {units.seconds(result.seconds)}{speed}{kept}; {result.feasible:,} feasible"


CONSTRAINTS: Mapping[str, str] = {
    **METRICS, "memory_bytes": "memory of an accelerator", "time_to_train_s": "time for the whole run",
    "host_memory_bytes": "host memory of a node", "storage_bytes": "drives of a node",
}  # fmt: skip
"""What a limit is of."""


STAGES: Mapping[str, str] = {
    "same": "other names of the same plans", "laid_out": "laid out in time", "in_memory": "fit in memory",
}  # fmt: skip
"""Counts of a search, where their names do not say it."""


def stages(search: Mapping[str, Any]) -> list[str]:
    """The counts of a search's stages in words; how many were evaluated stands elsewhere."""
    counts = {k: v for k, v in search.items() if isinstance(v, int) and not isinstance(v, bool) and k != "evaluated"}
    return [f"{STAGES.get(k, k.replace('_', ' '))} {v:,}" for k, v in counts.items() if v]


def _measured(constraint: str) -> Callable[[float | None], str]:
    """How values of a constraint are shown."""
    if constraint.endswith("_bytes"):
        return units.size
    return (
        units.duration
        if constraint == "time_to_train_s"
        else units.seconds
        if constraint.endswith("_s")
        else units.number
    )


def constraint_text(binding: Mapping[str, Any]) -> str:
    """``memory: 96.2 GiB against a limit of 79.1 GiB, 1.22 times it``."""
    value, limit, ratio = (binding.get(k) for k in ("value", "limit", "ratio"))
    name, _, percentile = str(binding["constraint"]).partition(" ")
    shown = _measured(name)
    text = f"{CONSTRAINTS.get(name, name.replace('_', ' '))} {percentile}".rstrip()
    if limit is None:
        return text
    times = "" if ratio is None else f", {units.number(ratio)} times it"
    return f"{text}: {'never' if value is None else shown(value)} against a limit of {shown(limit)}{times}"


def shortfall(result: PlanResult) -> str:
    """By how much the nearest plan misses, or that there is none; nothing where that is not known."""
    if result.binding:
        return f"the nearest plan misses the {constraint_text(result.binding)}"
    top = next((f": {reason}" for reason, _ in reasons(result.why_not)), "")
    return f"no combination that was searched is legal{top}" if result.evaluated == 0 else ""


def advice(result: PlanResult, asked: Mapping[str, Any]) -> list[str]:
    """What could be changed where nothing is feasible; none of it was tried. ``asked``: the options given."""
    constraint = str((result.binding or {}).get("constraint", ""))
    late = constraint.startswith(LATENCIES)
    found = []
    held = [f"--{k.replace('_', '-')} {asked[k]}" for k in SEARCHED if asked.get(k) is not None]
    if held:
        found.append(f"search more widely: this search was held to {' '.join(held)}")
    if not result.binding:
        return found  # no combination is legal: nothing else can help
    if late:
        found.append("looser limits (--slo), or a lower --percentile")
    if constraint == "time_to_train_s":
        found.append("a later end (--days), or fewer --tokens")
    if asked.get("budget") is not None:
        found.append("a higher --budget")
    found.append("more accelerators, faster ones or ones with more memory (--on)")
    if asked.get("precision") is None:
        found.append("narrower number formats: --precision bf16,fp8")
    if result.question == "train" and constraint == "memory_bytes":
        found += _less_memory(asked)
    if result.question == "serve" and late and asked.get("deployment") not in (None, "both"):
        found.append("prompts and decoding on engines of their own, too: --deployment both")
    return found


def _less_memory(asked: Mapping[str, Any]) -> Iterable[str]:
    if asked.get("offload") is None:
        yield "states in host memory or on drives: --offload all"
    if asked.get("optimizer", "adamw") in ("adam", "adamw"):
        yield "an optimizer with smaller states: --optimizer adam8bit"
    yield "shorter sequences (--seq)"


def curves(result: PlanResult) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """The throughput-latency frontier: for each of the best plans that has one, what differs from the best and the
    points in order of the rate."""
    found: dict[int, list[Mapping[str, Any]]] = {}
    for point in result.frontier:
        found.setdefault(point["plan"], []).append(point)
    return [
        (" ".join(differences(result.best[i], result.best[0])) or BEST, sorted(points, key=lambda p: RATE.of(p) or 0.0))
        for i, points in sorted(found.items())
    ]
