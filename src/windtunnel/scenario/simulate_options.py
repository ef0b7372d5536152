"""What a user can ask of ``windtunnel simulate``: a serving engine's options, a workload and a deployment."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from windtunnel.scenario.options import ServeOptions

SCHEDULERS = (
    "static", "orca", "vllm", "prefill-first", "chunked", "splitfuse", "decode-first", "priority", "fair", "sjf",
)  # fmt: skip
"""Built-in schedulers by name; ``serving`` knows what they do."""

ROUTERS = (
    "round-robin", "least-requests", "least-loaded", "least-kv", "power-of-two", "prefix-aware", "session",
)  # fmt: skip
"""Built-in routers by name."""

EVICTIONS = ("lru", "lfu")
"""Built-in eviction policies of prefix caches by name."""


class SimulateOptions(ServeOptions):
    """``windtunnel simulate``."""

    max_tokens: int | None = Field(
        default=None, ge=1, le=100_000_000, description="most tokens of one iteration (max-num-batched-tokens)"
    )
    # The workload.
    trace: str | None = Field(
        default=None,
        max_length=4096,
        description="requests with arrival times: a CSV, JSONL or Parquet file, or a name",
    )
    arrivals: str | None = Field(
        default=None,
        description="poisson, gamma:cv=2, weibull:cv=2, constant, bursty:on=10,off=20, closed:concurrency=64,think=0, "
        "sessions:turns=5,think=30",
    )
    rate: float | None = Field(default=None, gt=0, description="requests a second; inf: all at time 0")
    requests: int | None = Field(
        default=None, ge=1, le=100_000_000, description="how many; a shorter trace is repeated, a longer one cut"
    )
    input_length: str | None = Field(
        default=None, description="prompt tokens: 512, uniform:100,900, lognormal:mean=600,cv=1.2 or trace:NAME"
    )
    output_length: str | None = Field(default=None, description="output tokens, as input-length")
    trace_from: float | None = Field(
        default=None, ge=0, le=1e12, allow_inf_nan=False, description="leave out the trace before this second of it"
    )
    trace_to: float | None = Field(
        default=None, gt=0, le=1e12, allow_inf_nan=False, description="leave out the trace from this second of it on"
    )
    strict: bool = Field(default=False, description="stop at the first malformed row of a trace")
    seed: int = Field(0, ge=0, le=2**63 - 1, description="of all random draws; the same seed gives the same results")
    replay: str | None = Field(
        default=None,
        max_length=4096,
        description="a benchmark's per-request results: simulate them, set them side by side",
    )
    # The engine's policies.
    scheduler: str | None = Field(
        default=None,
        max_length=4096,
        description=f"{', '.join(SCHEDULERS)} (default: the engine's), or module:Class",
    )
    preemption: Literal["recompute", "swap"] = Field(
        default="recompute", description="what happens to a request that must leave a full KV cache"
    )
    watermark: float | None = Field(
        default=None, ge=0, lt=1, description="share of the KV cache left free at admission (default: 0.01)"
    )
    reserve: Literal["prompt", "output"] | None = Field(
        default=None, description="KV cache taken at admission: the prompt's, or the whole output's, too"
    )
    prefix_cache: bool | None = Field(default=None, description="prompts that begin alike share their KV cache")
    eviction: str = Field(default="lru", max_length=4096, description="lru, lfu, or module:Class")
    cache_tiers: str | None = Field(
        default=None, description="where evicted prefixes go: host:64GB,nvme:1TB,remote:10TB (per replica)"
    )
    swap_gbyte: float | None = Field(
        default=None,
        ge=0,
        le=1e6,
        allow_inf_nan=False,
        description="host memory for swapped requests, GB a replica (default: 4 GiB a GPU)",
    )
    prediction_error: float = Field(
        default=0.0, ge=0, le=10, allow_inf_nan=False, description="coefficient of variation of predicted lengths (sjf)"
    )
    async_scheduling: bool | None = Field(
        default=None, description="the host prepares the next iteration while the device runs this one"
    )
    expert_imbalance: float | None = Field(
        default=None, ge=1, le=1000, allow_inf_nan=False, description="rows of the busiest expert rank over the mean"
    )
    # The deployment.
    router: str = Field(default="round-robin", max_length=4096, description=f"{', '.join(ROUTERS)}, or module:Class")
    fleet: str | None = Field(
        default=None, max_length=4096, description="unlike engines side by side: 2x(tp=4)+1x(tp=8,max-batch=64)"
    )
    prefill: str | None = Field(
        default=None, max_length=4096, description="engines that only run prompts: 2x(tp=4); with --decode"
    )
    decode: str | None = Field(
        default=None, max_length=4096, description="engines that only decode: 4x(tp=2); with --prefill"
    )
    kv_transfer: Literal["layerwise", "whole"] = Field(
        default="layerwise", description="KV cache sent to the decoding engine while the prompt runs, or after it"
    )
    kv_placement: Literal["behind", "beside"] = Field(
        default="behind",
        description="where engines that decode are: behind all that run prompts, or next to each, in its nodes",
    )
    autoscale: str | None = Field(
        default=None,
        description="replicas that come and go: min=1,max=8,target=0.7,interval=10,from=nvme (see the documentation)",
    )
    replica_mtbf_hours: float | None = Field(
        default=None, gt=0, le=1e12, allow_inf_nan=False, description="hours between failures of one replica"
    )
    replica_restart_s: float | None = Field(
        default=None, ge=0, le=1e9, allow_inf_nan=False, description="seconds until it is back (default: 60)"
    )
    max_retries: int = Field(3, ge=0, le=1000, description="how often a request is sent again after a failure")
    max_queue: int | None = Field(
        default=None, ge=0, le=100_000_000, description="requests that may wait at one engine; more are rejected"
    )
    timeout: float | None = Field(
        default=None, gt=0, le=1e9, allow_inf_nan=False, description="seconds that a request may wait before it starts"
    )
    # What is looked at.
    slo: str | None = Field(default=None, description="what a good request meets: ttft=1.0,tpot=0.05,e2e=30 (seconds)")
    duration: float | None = Field(
        default=None, gt=0, le=1e9, allow_inf_nan=False, description="stop the clock after so many seconds"
    )
    warmup: float = Field(
        default=0.0, ge=0, le=1e9, allow_inf_nan=False, description="leave requests that come before this second out"
    )
    loop: Literal["auto", "compiled", "python", "naive"] = Field(
        default="auto", description="which of the equal event loops runs it"
    )
