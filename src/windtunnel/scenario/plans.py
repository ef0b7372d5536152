"""The answer of ``windtunnel plan`` as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from windtunnel.scenario.results import PRIVATE, Answer

Plan = Mapping[str, Any]
"""``plan``: {option: value} that reproduces it; ``command``: a line that can be pasted; and its metrics, named as the
command that it reproduces names them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanResult(Answer):
    """What a search found. Fields as CONTRACT.md gives them.

    ``question``: "train" or "serve". ``evaluated`` legal plans were priced (see ``planning``), of which ``feasible``
    met every limit; ``why_not`` counts the others by reason, illegal combinations included. ``best``: the best of the
    feasible, in order; ``pareto``: those that no other beats in every respect of ``pareto_axes``. ``nearest``: where
    nothing is feasible, the plan that misses by least, with ``binding`` {``constraint``, ``value``, ``limit``,
    ``ratio``}. ``runnable``: where the best plan takes a pipeline schedule that the engine's profile lacks, the best
    that does not. ``obvious``: the plan that a user would have tried first, with why it lost. ``frontier``: points of a
    throughput-latency curve (serving). ``seconds``: of the search;
    ``tried``: for each combination of techniques that was tried, {``techniques``, ``objective`` of its best plan (less
    is better; None where there is none), ``why`` it could not be used, if so}. ``resumed``: chunks of training plans,
    or simulations of services, that came from a store.
    """

    question: str
    model: str
    on: Sequence[str]
    objective: str
    evaluated: int
    feasible: int
    seconds: float
    best: Sequence[Plan]
    pareto: Sequence[Plan]
    pareto_axes: Sequence[str]
    why_not: Mapping[str, int]
    nearest: Plan | None = None
    binding: Mapping[str, Any] | None = None
    runnable: Plan | None = None
    obvious: Mapping[str, Any] | None = None
    frontier: Sequence[Mapping[str, Any]] = ()
    resumed: int = 0
    tried: Sequence[Mapping[str, Any]] = ()
    warnings: Sequence[str] = ()
    search: Mapping[str, Any] = field(default_factory=dict)
    exported: Mapping[str, str] = field(default_factory=dict, metadata=PRIVATE)
