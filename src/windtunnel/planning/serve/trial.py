"""One simulation of a plan, and whether it meets the SLO."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.planning.serve.question import Question
from windtunnel.scenario.simulation import SimulateResult
from windtunnel.serving.latency import latency_s
from windtunnel.serving.outcome import PS, Status
from windtunnel.serving.workload.requests import Floats

METRICS = ("ttft_s", "tpot_s", "e2e_s")

SHOWN = (
    "ttft_s", "tpot_s", "itl_s", "e2e_s", "queue_s", "requests", "completed", "rejected", "makespan_s",
    "requests_per_second", "output_tokens_per_second", "total_tokens_per_second", "output_tokens_per_second_per_gpu",
    "goodput_requests_per_second", "slo_attainment", "batch", "kv_cache", "preemptions", "utilization",
    "energy_j_per_token", "cost_usd_per_million_tokens", "bottleneck", "memory_bytes", "interval", "confidence",
    "calibrated",
)  # fmt: skip
"""What an answer says of a plan, named as ``simulate`` names it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """``values``: the percentile of each of :data:`METRICS` in seconds, over all requests that count: one that was not
    completed is infinitely late (None where no request has the metric). ``ratio``: the largest of value over limit,
    ``binding`` its metric; 0 and None without limits."""

    values: Mapping[str, float | None]
    ratio: float
    binding: str | None

    @property
    def meets(self) -> bool:
        return self.ratio <= 1.0


def judge(question: Question, result: SimulateResult, *, halves: bool = False) -> Verdict:
    """The SLO held against a simulation. ``halves``: the second half of the requests on its own must meet it, too: in
    a part of a workload, a queue that grows may not have become too long yet."""
    late = _percentiles(question, result, 0)
    if halves:
        end = _percentiles(question, result, len(result.workload) // 2)
        late = {m: _worse(late[m], end[m]) for m in METRICS}
    ratios = {m: _ratio(late[m], limit) for m, limit in question.limits.items()}
    binding = max(ratios, key=lambda m: ratios[m]) if ratios else None
    return Verdict(late, ratios[binding] if binding else 0.0, binding)


def _worse(a: float | None, b: float | None) -> float | None:
    return a if b is None else b if a is None else max(a, b)


def _ratio(value: float | None, limit: float) -> float:
    return 0.0 if value is None else value / limit


def _percentiles(question: Question, result: SimulateResult, first: int) -> dict[str, float | None]:
    """Of requests from number ``first`` on."""
    outcome, workload = result.outcome, result.workload
    counted = np.ones(len(workload), np.bool_)
    counted[:first] = False
    warmup = question.asked.warmup
    if warmup > 0:
        counted &= ~((outcome.arrival >= 0) & (outcome.arrival < warmup * PS))
    done = counted & (outcome.status == Status.COMPLETED)
    missing = int(np.count_nonzero(counted)) - int(np.count_nonzero(done))
    found = {}
    for metric in METRICS:
        values = latency_s(outcome, workload, metric, done)
        found[metric] = percentile(values[~np.isnan(values)], missing, question.percentile)
    return found


def percentile(values: Floats, missing: int, at: float) -> float | None:
    """By linear interpolation, over ``values`` and ``missing`` more that are infinite; None where there is none."""
    n = len(values) + missing
    if not n:
        return None
    if not missing:
        return float(np.percentile(values, at))
    place = (n - 1) * at / 100
    if math.ceil(place) >= len(values):
        return math.inf
    return float(np.interp(place, np.arange(len(values)), np.sort(values)))


def shown(result: SimulateResult) -> dict[str, Any]:
    """The metrics of an answer, in plain types."""
    every = result.to_dict()
    return {name: every[name] for name in SHOWN}
