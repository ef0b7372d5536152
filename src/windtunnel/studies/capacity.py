"""The capacity of a service: the highest rate of requests at which its latencies stay within limits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from windtunnel.engine.fleet import prepare
from windtunnel.engine.simulate import simulate_workload
from windtunnel.planning.serve.bracket import highest
from windtunnel.scenario.options import read_options
from windtunnel.scenario.simulate import simulate_scenario
from windtunnel.scenario.simulate_options import SimulateOptions
from windtunnel.scenario.simulation import SimulateResult
from windtunnel.serving.compiled.build import available
from windtunnel.serving.workload.build import build_workload

TOLERANCE = 0.03
"""Relative distance between the highest rate that is found to do and the lowest that is found not to."""

LEAST = 2.0**-12
"""The lowest rate that is tried, over the first one."""

Z90 = 1.2815515655446004
"""Of a standard normal variable, one in ten is above it."""


@dataclass(frozen=True, slots=True)
class Limit:
    """``metric`` of an answer (``itl_s``, ``ttft_s`` ...), its ``quantile`` (``p50``, ``p99`` ...), at most so many
    ``seconds``."""

    metric: str
    quantile: str
    seconds: float

    def met(self, result: SimulateResult) -> bool:
        value = getattr(result, self.metric)[self.quantile]
        return value is None or value <= self.seconds


def within(*limits: Limit) -> Callable[[SimulateResult], bool]:
    """Whether an answer meets all of ``limits``."""
    return lambda result: all(limit.met(result) for limit in limits)


def attained(share: float) -> Callable[[SimulateResult], bool]:
    """Whether at least ``share`` of the requests that arrived met every limit of the simulation's own ``slo``."""
    return lambda result: (result.slo_attainment or 0.0) >= share


def capacity(meets: Callable[[SimulateResult], bool], start: float, **options: Any) -> float:
    """The highest rate a second at which ``meets`` says yes, within :data:`TOLERANCE`; 0 where the model does not fit
    or not even the lowest rate will do.

    Every rate is tried with the same requests, drawn once: their times alone are closer together. ``start``: a guess.
    ``options``: of ``windtunnel simulate``, without a rate.
    """
    asked = read_options(SimulateOptions, {**options, "rate": start})
    scenario = simulate_scenario(asked)
    prepared = prepare(scenario, build_workload(scenario.workload))
    if any(size.shortfall_bytes > 0 for pool in prepared.values() for _, size in pool):
        return 0.0
    available(compile=True, quick=True)  # many small runs together are worth the compiled loop

    def yes(rate: float) -> bool:
        at = replace(
            scenario,
            options=scenario.options.model_copy(update={"rate": rate}),
            workload=replace(scenario.workload, rate=rate),
        )
        return meets(simulate_workload(at, build_workload(at.workload), prepared=prepared, logged=0))

    return highest(yes, start, least=start * LEAST, tolerance=TOLERANCE) or 0.0


def lognormal(median: float, p90: float) -> str:
    """The lengths that have this median and this 90th percentile, as an option."""
    sigma = math.log(p90 / median) / Z90
    mean, cv = median * math.exp(sigma**2 / 2), math.sqrt(math.expm1(sigma**2))
    return f"lognormal:mean={mean:.6g},cv={max(cv, 1e-3):.6g}"
