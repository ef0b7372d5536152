"""A search with techniques on and off: one for each combination, and their answers as one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, TypeVar

from windtunnel.errors import ScenarioError
from windtunnel.planning.front import unbeaten
from windtunnel.scenario.options import read_options
from windtunnel.scenario.plan_options import PlanServeOptions, PlanTrainOptions
from windtunnel.scenario.plans import Plan, PlanResult
from windtunnel.scenario.registry import read_technique

O = TypeVar("O", PlanTrainOptions, PlanServeOptions)  # noqa: E741
Progress = Callable[[float, str], None]

MOST = 5
"""Techniques to try at once: twice as many searches for each."""

OBJECTIVES: Mapping[str, tuple[tuple[str, float], ...]] = {
    "time": (("step_time_s", 1),),
    "cost": (("cost_usd_per_million_tokens", 1), ("energy_j_per_token", 1)),
    "energy": (("energy_j_per_token", 1),),
    "tokens-per-gpu": (("tokens_per_second_per_gpu", -1),),
    "cluster": (("gpus", 1), ("step_time_s", 1)),
    "latency": (("e2e_s", 1),),
    "throughput": (("rate_requests_per_second", -1),),
}
"""What plans are ordered by, and whether less (1) or more (-1) of it is better; the second where the first ties or is
not known."""

MORE = frozenset({"head_room_bytes"})
"""Axes of a front on which more is better."""


def try_all(options: O, search: Callable[[O, Progress | None], PlanResult], progress: Progress | None) -> PlanResult:
    """The best plans over all combinations of ``options.tries``, on top of the techniques that are always on.

    Raises:
        ScenarioError: the request is wrong, with none of them on, too; or there are too many to try.
    """
    if not options.tries:
        return search(options, progress)
    if len(options.tries) > MOST:
        raise ScenarioError(f"try={','.join(options.tries)}: at most {MOST} techniques can be tried at once")
    for text in options.tries:
        read_technique(text)
    subsets: list[tuple[str, ...]] = list(_subsets(options.tries))
    results: list[PlanResult] = []
    tried: list[dict[str, Any]] = []
    for number, subset in enumerate(subsets):
        own = _with(options, subset)
        try:
            result = search(own, _part(progress, number, len(subsets), subset))
        except ScenarioError as error:
            if not subset:
                raise
            tried.append({"techniques": list(subset), "objective": None, "why": str(error)})
            continue
        results.append(result)
        best = _key(options.objective, result.best[0])[0] if result.best else None
        tried.append({"techniques": list(subset), "objective": best, "why": ""})
    return _joined(options, results, tried)


def _subsets(tries: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for size in range(len(tries) + 1):
        yield from combinations(tries, size)


def _with(options: O, subset: Sequence[str]) -> O:
    """The same question with these techniques always on."""
    asked: dict[str, Any] = options.model_dump(exclude_unset=True, exclude_none=True, exclude={"tries", "techniques"})
    on = [*options.techniques, *subset]
    return read_options(type(options), {**asked, **({"techniques": on} if on else {})})


def _part(progress: Progress | None, number: int, whole: int, subset: Sequence[str]) -> Progress | None:
    """Progress of one search of several."""
    if progress is None:
        return None
    name = " + ".join(subset) or "without"

    def told(share: float, best: str) -> None:
        progress((number + share) / whole, f"{name}: {best}")

    return told


def _value(plan: Plan, name: str) -> float:
    value = plan.get("slo_percentile", {}).get(name, plan.get(name))
    return math.inf if value is None else float(value)


def _key(objective: str, plan: Plan) -> tuple[float, ...]:
    """Less is better."""
    return tuple(sign * _value(plan, name) for name, sign in OBJECTIVES[objective])


def _joined(options: O, results: Sequence[PlanResult], tried: Sequence[Mapping[str, Any]]) -> PlanResult:
    """One answer: the best over all, everything counted."""
    first = results[0]
    ranked = sorted((p for r in results for p in r.best), key=lambda p: _key(options.objective, p))
    best = ranked[: options.top]
    why_not: dict[str, int] = {}
    for result in results:
        for reason, count in result.why_not.items():
            why_not[reason] = why_not.get(reason, 0) + count
    winner = next((r for r in results if best and r.best and r.best[0] == best[0]), first)
    missed = min(results, key=lambda r: (r.binding or {}).get("ratio") or math.inf)
    return replace(
        winner,
        evaluated=sum(r.evaluated for r in results),
        feasible=sum(r.feasible for r in results),
        seconds=sum(r.seconds for r in results),
        best=best,
        pareto=_front([p for r in results for p in r.pareto], first.pareto_axes),
        why_not=dict(sorted(why_not.items(), key=lambda kv: -kv[1])),
        nearest=None if best else missed.nearest,
        binding=None if best else missed.binding,
        obvious=first.obvious,
        resumed=sum(r.resumed for r in results),
        warnings=list(dict.fromkeys(w for r in results for w in r.warnings)),
        tried=list(tried),
    )


def _front(plans: Sequence[Plan], axes: Sequence[str]) -> list[Plan]:
    """Those that no other beats in every respect; of equals the first."""
    rows = [tuple(_value(p, a) * (-1 if a in MORE else 1) for a in axes) for p in plans]
    return [plans[i] for i in unbeaten(rows)]
