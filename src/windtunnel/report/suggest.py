"""What would make a plan fit: a few changes, each tried."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from windtunnel.errors import ScenarioError
from windtunnel.scenario.results import InferResult, TrainResult
from windtunnel.scenario.simulation import SimulateResult

Result = TrainResult | InferResult | SimulateResult
Changes = Mapping[str, Any]

MOST = 4
"""Suggestions given at most."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Options to change (None: to leave out) and the answer that they give."""

    changes: Changes
    result: Result

    @property
    def text(self) -> str:
        """``recompute=full zero=3``."""
        return " ".join(f"{k}={v}" for k, v in self.changes.items() if v is not None)

    def to_dict(self) -> dict[str, Any]:
        """JSON: the options (null: to be left out) and the headline of the answer."""
        figures = {name: getattr(self.result, name) for name in _FIGURES[type(self.result)]}
        return {"options": dict(self.changes), **figures}


_FIGURES: Mapping[type[Result], tuple[str, ...]] = {
    TrainResult: ("step_time_s", "tokens_per_second_per_gpu"),
    InferResult: ("ttft_s", "tpot_s"),
    SimulateResult: ("memory_bytes",),
}


def suggest(result: Result, retry: Callable[[Changes], Result]) -> list[Suggestion]:
    """Changes after which the plan fits, the fastest first; single ones if any is enough, else the same cluster first.

    ``retry`` answers the same request with some options changed; it may raise ScenarioError for a change that the
    model or the cluster does not allow. At most some forty answers are computed.
    """
    for changes in _train(result) if isinstance(result, TrainResult) else _serve(result):
        found = []
        for every in changes:
            change = {k: v for k, v in every.items() if v is None or result.plan.get(k) != v}
            try:
                answer = retry(change)
            except ScenarioError:
                continue
            if answer.fits:
                found.append(Suggestion(change, answer))
        if found:
            return sorted(found, key=_slowness)[:MOST]
    return []


def _slowness(suggestion: Suggestion) -> float:
    """Time per unit of work: a step's tokens may differ between plans. A simulation is retried in short, which tells
    whether it fits but not how fast it is: the order in which changes were tried stays."""
    answer = suggestion.result
    if isinstance(answer, SimulateResult):
        return 0.0
    rate = (
        answer.tokens_per_second_per_gpu if isinstance(answer, TrainResult) else answer.output_tokens_per_second_per_gpu
    )
    return 1 / rate if rate > 0 else float("inf")


def _train(result: TrainResult) -> Iterator[list[dict[str, Any]]]:
    """Single changes, then what saves most of each kind together, then more accelerators."""
    plan = result.plan
    tp, pp, cp = (int(plan.get(k, 1)) for k in ("tp", "pp", "cp"))
    recompute, zero, micro_batch = (
        plan.get("recompute", "none"),
        int(plan.get("zero", 0)),
        int(plan.get("micro_batch", 1)),
    )
    single: list[dict[str, Any]] = []
    if recompute == "none":
        single.append({"recompute": "selective"})
    if recompute != "full":
        single.append({"recompute": "full"})
    single += [{"zero": z} for z in range(max(zero + 1, 1), 4)]
    if micro_batch > 1:
        single += [{"micro_batch": micro_batch // 2}, {"micro_batch": 1}]
    # The other degrees take their ranks from data parallelism.
    single += [{"tp": tp * k, "dp": None} for k in (2, 4, 8) if tp * k <= 8]
    single += [{"pp": pp * k, "dp": None} for k in (2, 4)]
    single.append({"cp": 2 * cp, "dp": None})
    if "optimizer" not in str(plan.get("offload", "")):
        single.append({"offload": ",".join(filter(None, [plan.get("offload"), "optimizer:cpu"]))})
    yield single
    least = {"recompute": "full", "zero": max(zero, 1), "micro_batch": 1}
    wide = {"tp": max(tp, 8), "dp": None}
    yield [
        {**least, "zero": 3},
        {**least, **wide},
        {**least, **wide, "pp": 2 * pp},
        {**least, **wide, "pp": 4 * pp},
        {**least, **wide, "pp": 8 * pp},
        {**least, "zero": 3, "offload": "optimizer:cpu"},
    ]
    for larger in _larger(result.on):
        yield [
            {**least, "zero": 3, "dp": None, **larger},
            *({**least, **wide, "pp": k * pp, **larger} for k in (1, 2, 4, 8, 16)),
        ]


def _serve(result: InferResult | SimulateResult) -> Iterator[list[dict[str, Any]]]:
    plan = result.plan
    tp, pp, batch = (int(plan.get(k) or 1) for k in ("tp", "pp", "batch"))
    precision = str(plan.get("precision", "bf16"))
    single: list[dict[str, Any]] = []
    if isinstance(result, InferResult) and 1 <= result.max_batch < batch:
        single.append({"batch": result.max_batch})
    single += [{"tp": tp * k} for k in (2, 4, 8) if tp * k <= 16]
    single += [{"pp": pp * 2}]
    if precision in ("bf16", "fp16", "fp32"):
        single += [{"precision": "fp8"}, {"precision": "w4a16"}]
    if str(plan.get("kv_precision", "")) not in ("fp8", "int8"):
        single.append({"kv_precision": "fp8"})
    if float(plan.get("memory_utilization") or 0.9) < 0.95:
        single.append({"memory_utilization": 0.95})
    yield single
    yield [
        {"tp": 8, "precision": "fp8"},
        {"tp": 8, "precision": "w4a16"},
        {"tp": 8, "pp": 2 * pp},
        *({"tp": 8, "batch": b} for b in (batch // 4, batch // 16, 1) if b >= 1 and isinstance(result, InferResult)),
    ]
    for k, larger in zip((2, 4, 8, 16), _larger(result.on), strict=False):
        yield [{"tp": tp * k, **larger}, {"tp": 8, "pp": k * pp, **larger}]


def _larger(on: str) -> list[dict[str, Any]]:
    """The cluster with two to sixteen times the accelerators, where it is named by a count."""
    match = re.fullmatch(r"(\d{1,7})x(.+)", on.strip())
    if match is None:
        return []
    return [{"on": f"{int(match[1]) * k}x{match[2]}"} for k in (2, 4, 8, 16)]
