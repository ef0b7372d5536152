"""The answer of ``windtunnel simulate`` as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from windtunnel.scenario.results import PRIVATE, Answer, Bottleneck

Distribution = Mapping[str, float | None]
"""``mean``, ``p50``, ``p90``, ``p95``, ``p99`` and ``max``; every one None where there is nothing to count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateResult(Answer):
    """A workload on a service, over time. Fields as CONTRACT.md gives them; None stands for what is not defined.

    Requests that arrive during the warm-up count nowhere but in ``left_out``, in what is paid for and in what the
    engines did (``batch``, ``kv_cache``, ``itl_s``, ``energy_j``, ``cost_usd``, ``pools``, ``series``). Of the others,
    ``requests`` = ``completed`` + ``rejected`` + ``unfinished``; ``arrived`` leaves out those that the clock stopped
    before. ``rejected_by_reason``: too_long, queue_full, timed_out, failed (its replica, once too often). ``failures``:
    of replicas, after which requests were sent again ``retries`` times; ``cold_starts``: of replicas that autoscaling
    brought up.

    Rates are per second of [warm-up, ``makespan_s``]; tokens are those of completed requests. ``goodput`` and
    ``slo_attainment`` (of the arrived) count completed requests within every limit of ``slo``, all of them if there
    is none. ``kv_cache.capacity_tokens`` is the whole service's, ``peak_fraction`` one replica's.
    ``provisioned_power_w``: what must be there for all engines at their power limits, nodes included.
    ``pools``: one entry for each kind of engine; ``limits``: what keeps requests waiting and engines idle, as
    fractions of the engines' time; ``series``: at most 200 samples over time. ``partial``: it was interrupted.
    """

    model: str
    on: str
    plan: Mapping[str, Any]
    seed: int
    slo: Mapping[str, float]
    requests: int
    arrived: int
    left_out: int
    completed: int
    rejected: int
    rejected_by_reason: Mapping[str, int]
    timed_out: int
    failed: int
    retries: int
    failures: int
    cold_starts: int
    unfinished: int
    partial: bool
    makespan_s: float
    ttft_s: Distribution
    tpot_s: Distribution
    itl_s: Distribution
    e2e_s: Distribution
    queue_s: Distribution
    requests_per_second: float
    output_tokens_per_second: float
    total_tokens_per_second: float
    output_tokens_per_second_per_gpu: float
    goodput_requests_per_second: float
    slo_attainment: float | None
    batch: Mapping[str, float | None]
    kv_cache: Mapping[str, float | None]
    preemptions: int
    utilization: Mapping[str, float]
    energy_j: float
    energy_j_per_token: float | None
    provisioned_power_w: float
    cost_usd: float | None
    cost_usd_per_million_tokens: float | None
    bottleneck: Bottleneck | None
    limits: Sequence[Mapping[str, Any]]
    pools: Sequence[Mapping[str, Any]]
    series: Mapping[str, Sequence[float]]
    fits: bool
    shortfall_bytes: float
    memory_bytes: Mapping[str, float]
    calibrated: bool
    simulator: Mapping[str, Any]
    interval: Mapping[str, Any] | None
    confidence: str | None = None
    warnings: list[str]
    replay: Any = None
    """With ``--replay``: measured against simulated (:class:`windtunnel.serving.replayed.ReplayMetrics`)."""

    @property
    def feasible(self) -> bool:
        """Whether it fits."""
        return self.fits

    outcome: Any = field(default=None, repr=False, compare=False, metadata=PRIVATE)
    workload: Any = field(default=None, repr=False, compare=False, metadata=PRIVATE)
