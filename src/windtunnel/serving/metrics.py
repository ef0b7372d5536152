"""What a simulation amounts to: the numbers of the answer, from the event loop's record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.scenario.results import Bottleneck
from windtunnel.scenario.simulation import SimulateResult
from windtunnel.scenario.workload import Slo
from windtunnel.serving.histogram import BINS, Floats
from windtunnel.serving.latency import METRICS, Rows, distribution, gap_distribution, latency_s
from windtunnel.serving.outcome import PS, Outcome, Pool, Series, Status
from windtunnel.serving.workload.requests import Workload

SAMPLES = 200
"""Points of the answer's series at most."""

_REASONS = {
    "too_long": Status.TOO_LONG,
    "queue_full": Status.QUEUE_FULL,
    "timed_out": Status.TIMED_OUT,
    "failed": Status.FAILED,
}

_BLOCKED = {
    "kv_cache": "first in the queue waits for KV cache",
    "max_batch": "first in the queue waits for a place in the batch",
    "budget": "first in the queue waits for room in an iteration",
    "gate": "first in the queue waits for the scheduler's turn",
}


@dataclass(frozen=True, slots=True)
class Paid:
    """What a pool of like engines used: joules, dollars (None: no price is known), the watt that must be there for one
    of its accelerators with its share of the node, and the seconds that one pipeline stage of each engine worked, over
    all engines."""

    energy_j: float
    cost_usd: float | None
    provisioned_w: float
    stage_s: float


@dataclass(frozen=True, slots=True)
class Physics:
    """What the priced iterations add. ``utilization``: fraction of each resource's rate that was used, over the
    engines' time; ``energy_j`` and ``cost_usd`` (None: no price is known) of the whole run; ``bottleneck``: None where
    nothing ran; ``pools``: the parts of each."""

    utilization: Mapping[str, float]
    energy_j: float
    bottleneck: Bottleneck | None
    cost_usd: float | None
    pools: tuple[Paid, ...] = ()


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known without running anything, as the fields of the answer by these names. ``accelerators``: how many
    the service has (its mean over time, where replicas come and go)."""

    model: str
    on: str
    plan: Mapping[str, Any]
    seed: int
    accelerators: float
    memory_bytes: Mapping[str, float]
    shortfall_bytes: float
    calibrated: bool
    warnings: Sequence[str]


def nothing_run(workload: Workload) -> Outcome:
    """The record of a service that never started: no request arrived."""
    n = len(workload)
    never, none = np.full(n, -1, np.int64), np.zeros(n, np.int32)
    empty = np.zeros(0)
    return Outcome(
        arrival=never, start=never, first=never, finish=never, status=np.zeros(n, np.int8), preempted=none,
        cached_tokens=np.zeros(n, np.int64), replica=np.full(n, -1, np.int32), retries=none,
        itl=np.zeros(BINS, np.int64), pools=(), series=Series(empty, empty, empty, empty, empty, empty),
        end=0, events=0, wall_s=0.0, compiled=False,
    )  # fmt: skip


def makespan_s(outcome: Outcome) -> float:
    """Seconds from 0 to the last event that concerns a request: its last token, or its arrival where it is turned away
    at once; when the clock stopped, where a request was then still there or left without a token."""
    left = (outcome.status == Status.UNFINISHED) | (outcome.status >= Status.TIMED_OUT)
    if bool(np.any(left & (outcome.arrival >= 0))):
        return outcome.end / PS
    last = max((int(times.max(initial=0)) for times in (outcome.finish, outcome.arrival)), default=0)
    return min(last, outcome.end) / PS


def summarise(
    outcome: Outcome, workload: Workload, setting: Setting, physics: Physics, *, slo: Slo | None, warmup_s: float = 0.0
) -> SimulateResult:
    """The answer. Definitions: :class:`~windtunnel.scenario.simulation.SimulateResult`."""
    status, makespan = outcome.status, makespan_s(outcome)
    early = _before(outcome, warmup_s)
    left_out = int(np.count_nonzero(early))
    kept = np.where(early, -1, status) if left_out else status
    counts = np.bincount(kept + 1, minlength=len(Status) + 1)[1:]
    completed, unfinished = int(counts[Status.COMPLETED]), int(counts[Status.UNFINISHED])
    reasons = {name: int(counts[code]) for name, code in _REASONS.items()}
    waiting = (kept == Status.UNFINISHED) & ((outcome.arrival < 0) | (outcome.arrival > outcome.end))
    arrived = len(workload) - left_out - int(np.count_nonzero(waiting))
    rows: Rows = ... if completed == len(workload) else np.flatnonzero(kept == Status.COMPLETED)
    limits = _limits(slo)
    shown, good = _latencies(outcome, workload, rows, completed, limits)
    outputs, prompts = (int(tokens[rows].sum()) for tokens in (workload.output_tokens, workload.input_tokens))
    # What is paid for is the whole run's, the warm-up included.
    made = outputs if not left_out else int(workload.output_tokens[status == Status.COMPLETED].sum())
    span = makespan - warmup_s
    rate = 1 / span if span > 0 else 0.0
    usd = physics.cost_usd
    return SimulateResult(
        model=setting.model,
        on=setting.on,
        plan=setting.plan,
        seed=setting.seed,
        slo=limits,
        requests=len(workload) - left_out,
        arrived=arrived,
        left_out=left_out,
        completed=completed,
        rejected=sum(reasons.values()),
        rejected_by_reason=reasons,
        timed_out=reasons["timed_out"],
        failed=reasons["failed"],
        retries=int(outcome.retries.sum()),
        failures=outcome.failures,
        cold_starts=outcome.cold_starts,
        unfinished=unfinished,
        partial=outcome.partial,
        makespan_s=makespan,
        **shown,
        itl_s=gap_distribution(outcome.itl),
        requests_per_second=completed * rate,
        output_tokens_per_second=outputs * rate,
        total_tokens_per_second=(prompts + outputs) * rate,
        output_tokens_per_second_per_gpu=outputs * rate / setting.accelerators if setting.accelerators > 0 else 0.0,
        goodput_requests_per_second=good * rate,
        slo_attainment=good / arrived if arrived else None,
        batch=_batch(outcome.pools),
        kv_cache=_kv_cache(outcome),
        preemptions=int(outcome.preempted.sum()),
        utilization=dict(physics.utilization),
        energy_j=physics.energy_j,
        energy_j_per_token=physics.energy_j / made if made else None,
        cost_usd=usd,
        cost_usd_per_million_tokens=usd / made * 1e6 if usd is not None and made else None,
        bottleneck=physics.bottleneck,
        limits=_holding_back(outcome.pools),
        pools=[_pool(p, paid) for p, paid in zip(outcome.pools, physics.pools, strict=True)],
        provisioned_power_w=sum(
            p.replicas * p.accelerators * paid.provisioned_w
            for p, paid in zip(outcome.pools, physics.pools, strict=True)
        ),
        series=_series(outcome.series),
        fits=setting.shortfall_bytes <= 0,
        shortfall_bytes=setting.shortfall_bytes,
        memory_bytes=dict(setting.memory_bytes),
        calibrated=setting.calibrated,
        simulator={
            "wall_s": outcome.wall_s,
            "events": outcome.events,
            "requests_per_second": len(workload) / outcome.wall_s if outcome.wall_s > 0 else None,
            "compiled": outcome.compiled,
        },
        interval=None,
        warnings=list(dict.fromkeys([*workload.warnings, *setting.warnings, *outcome.notes])),
        outcome=outcome,
        workload=workload,
    )


def _before(outcome: Outcome, warmup_s: float) -> Any:
    """Requests that arrive during the warm-up, as a mask."""
    if warmup_s <= 0:
        return np.zeros(0, np.bool_)
    return (outcome.arrival >= 0) & (outcome.arrival < warmup_s * PS)


def _limits(slo: Slo | None) -> dict[str, float]:
    if slo is None:
        return {}
    given = {"ttft_s": slo.ttft_s, "tpot_s": slo.tpot_s, "e2e_s": slo.e2e_s}
    return {metric: limit for metric, limit in given.items() if limit is not None}


def _latencies(
    outcome: Outcome, workload: Workload, rows: Rows, completed: int, limits: Mapping[str, float]
) -> tuple[dict[str, Any], int]:
    """Distributions by metric, and how many requests meet every limit (one-token outputs meet any TPOT)."""
    late = np.zeros(completed, np.bool_)
    found: dict[str, Any] = {}
    for metric in METRICS:
        values = latency_s(outcome, workload, metric, rows)
        if metric in limits:
            late |= values > limits[metric]
        if metric == "tpot_s":
            values = values[~np.isnan(values)]
        found[metric] = distribution(values)
    return found, completed - int(np.count_nonzero(late))


def _batch(pools: Iterable[Pool]) -> dict[str, float | None]:
    """Sequences of an iteration, over all engines' iterations."""
    pools = list(pools)
    iterations = sum(p.iterations for p in pools)
    return {
        "mean": sum(p.batch_sum for p in pools) / iterations if iterations else None,
        "max": max((p.batch_max for p in pools), default=None),
    }


def _kv_cache(outcome: Outcome) -> dict[str, float | None]:
    looked_up = outcome.prompt_tokens_looked_up
    return {
        "capacity_tokens": sum(p.replicas * p.kv_capacity_tokens for p in outcome.pools) if outcome.pools else None,
        "peak_fraction": max((p.kv_peak for p in outcome.pools), default=None),
        "hit_rate": outcome.prompt_tokens_found / looked_up if looked_up else None,
    }


def _share(part: float, whole: float) -> float:
    return min(part / whole, 1.0) if whole > 0 else 0.0


def _pool(p: Pool, paid: Paid) -> dict[str, Any]:
    return {
        "name": p.name,
        "replicas": p.replicas,
        "accelerators": p.accelerators,
        "accelerator_hours": p.accelerator_seconds / 3600,
        "energy_j": paid.energy_j,
        "cost_usd": paid.cost_usd,
        "provisioned_power_w": p.replicas * p.accelerators * paid.provisioned_w,
        "busy_fraction": _share(p.busy_s, p.up_s),
        "stage_busy_fraction": _share(paid.stage_s, p.up_s),
        "blocked_fraction": {reason: _share(s, p.up_s) for reason, s in p.blocked_s.items()},
        "kv_capacity_tokens": p.kv_capacity_tokens,
        "kv_peak_fraction": p.kv_peak,
        "kv_mean_fraction": p.kv_mean,
        "iterations": p.iterations,
        "batch_mean": p.batch_sum / p.iterations if p.iterations else None,
        "batch_max": p.batch_max,
    }


def _holding_back(pools: Iterable[Pool]) -> list[dict[str, Any]]:
    """What engines wait for and what the queue waits for, the greatest share of time first."""
    found = []
    for p in pools:
        shares = {"idle": 1 - _share(p.busy_s, p.up_s)} if p.up_s > 0 else {}
        shares |= {reason: _share(s, p.up_s) for reason, s in p.blocked_s.items()}
        for reason, fraction in shares.items():
            said = (
                "nothing to do" if reason == "idle" else _BLOCKED.get(reason, f"first in the queue waits for {reason}")
            )
            if fraction > 0:
                found.append({"pool": p.name, "reason": reason, "fraction": fraction, "text": said})
    return sorted(found, key=lambda f: -f["fraction"])


def _series(s: Series) -> dict[str, list[float]]:
    """At most ``SAMPLES`` of the samples; throughput is that since the sample before."""
    if not s.t_s.size:
        return {k: [] for k in ("t_s", "waiting", "running", "kv_fraction", "output_tokens_per_second")}
    at = np.unique(np.linspace(0, s.t_s.size - 1, min(SAMPLES, s.t_s.size)).round().astype(np.int64))
    time, made = s.t_s[at], s.output_tokens[at]
    passed = np.diff(time, prepend=0.0)
    rate: Floats = np.divide(np.diff(made, prepend=0.0), passed, out=np.zeros(len(at)), where=passed > 0)
    columns = {
        "t_s": time, "waiting": s.waiting[at], "running": s.running[at], "kv_fraction": s.kv_fraction[at],
        "output_tokens_per_second": rate,
    }  # fmt: skip
    return {name: column.tolist() for name, column in columns.items()}
