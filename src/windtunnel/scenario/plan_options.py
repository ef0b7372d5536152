"""What a user can ask of ``windtunnel plan``: the options of ``train`` and ``simulate``, of which some are searched.

A searched option takes one value (it is fixed then), several (``tp=2,4,8``), or none (every legal one, or what its
description says). The others are the request's own and hold for every plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from windtunnel.scenario.options import SCHEDULES, TrainOptions
from windtunnel.scenario.simulate_options import SimulateOptions
from windtunnel.scenario.text import shown

EXPORTS: Mapping[str, str] = {
    "megatron": "train", "torchtitan": "train", "deepspeed": "train",
    "vllm": "serve", "sglang": "serve", "tensorrt-llm": "serve",
}  # fmt: skip
"""Tools that the winner can be written for, and the question that they belong to."""

TRAIN_SEARCHED = (
    "tp", "pp", "dp", "cp", "ep", "etp", "virtual_stages", "schedule", "zero", "hsdp", "sequence_parallel",
    "micro_batch", "recompute", "precision", "offload",
)  # fmt: skip
SERVE_SEARCHED = (
    "tp", "pp", "dp", "ep", "replicas", "precision", "kv_precision", "chunk", "max_batch", "deployment",
)  # fmt: skip
SEARCHED = tuple(dict.fromkeys((*TRAIN_SEARCHED, *SERVE_SEARCHED)))
"""Options of which a search takes several values; none means every legal one, or what the option says."""


def _listed(value: Any) -> Any:
    """Several values as a list (Python, YAML) are the same as text with commas."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return ",".join(str(_listed(v)) if isinstance(v, bool) else shown(v).strip("'\"") for v in value)
    return value


def _machines(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


TRIES: Any = Field(
    default_factory=list,
    description="techniques to try, each on and off in every combination, such as zero,galore (with parameters: "
    "separated by semicolons)",
)


def _techniques(value: Any) -> Any:
    """Names with commas between them, or techniques with semicolons, as a list."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(t, str) for t in texts):
        return value
    apart = [t.split(";" if ";" in t or ":" in t else ",") for t in texts]
    return list(dict.fromkeys(t.strip() for each in apart for t in each if t.strip()))


class PlanTrainOptions(TrainOptions):
    """``windtunnel plan train``."""

    tp: str | None = Field(default=None, description="tensor-parallel ranks to try, such as 4,8")  # type: ignore[assignment]
    pp: str | None = Field(default=None, description="pipeline stages to try")  # type: ignore[assignment]
    dp: str | None = Field(default=None, description="data-parallel ranks to try")  # type: ignore[assignment]
    cp: str | None = Field(default=None, description="context-parallel ranks to try")  # type: ignore[assignment]
    ep: str | None = Field(default=None, description="expert-parallel ranks to try")  # type: ignore[assignment]
    etp: str | None = Field(  # type: ignore[assignment]
        default=None, description="tensor-parallel ranks inside an expert to try (default: the framework's own)"
    )
    virtual_stages: str | None = Field(  # type: ignore[assignment]
        default=None, description="model chunks of a stage to try (interleaved schedule)"
    )
    schedule: str | None = Field(default=None, description=f"pipeline schedules to try: {', '.join(SCHEDULES)}")
    zero: str | None = Field(default=None, description="ZeRO stages to try: 0,1,2,3")  # type: ignore[assignment]
    hsdp: str | None = Field(  # type: ignore[assignment]
        default=None, description="with zero=3, sizes of sharding groups to try; off: over all data-parallel ranks"
    )
    sequence_parallel: str | None = Field(default=None, description="on, off or on,off")  # type: ignore[assignment]
    micro_batch: str | None = Field(default=None, description="sequences of a micro-batch to try")  # type: ignore[assignment]
    recompute: str | None = Field(  # type: ignore[assignment]
        default=None, description="recomputation to try: none,selective,full"
    )
    precision: str | None = Field(
        default=None, description="number formats to try, such as bf16,fp8 (default: the model's own alone)"
    )
    offload: str | None = Field(
        default=None,
        description="offloading to try: none (default), all, or choices with / between: none/optimizer:cpu,params:cpu",
    )
    gpus: str = Field(
        default="all",
        description="accelerators of the cluster to use: all, any (fewer, too), or counts such as 256,512",
    )
    objective: Literal["time", "cost", "energy", "tokens-per-gpu", "cluster"] = Field(
        default="time",
        description="what is best: step time, cost or energy of a token, tokens a second and GPU, or the fewest "
        "accelerators that train --tokens in --days",
    )
    days: float | None = Field(
        default=None, gt=0, le=1e6, allow_inf_nan=False, description="with objective=cluster, the time for --tokens"
    )
    top: int = Field(5, ge=1, le=1000, description="best plans to show")
    workers: str = Field(default="1", description="processes to work on, or ray for a Ray cluster")
    store: str | None = Field(
        default=None, max_length=4096, description="DuckDB file that keeps every plan evaluated; run again to resume"
    )
    tries: list[str] = TRIES
    export: Literal["megatron", "torchtitan", "deepspeed"] | None = Field(
        default=None, description="search what this framework can run, and write the best plan for it"
    )

    _tries = field_validator("tries", mode="before")(_techniques)
    _lists = field_validator(
        "tp", "pp", "dp", "cp", "ep", "etp", "virtual_stages", "schedule", "zero", "hsdp", "sequence_parallel",
        "micro_batch", "recompute", "precision", "gpus", "workers", mode="before",
    )(_listed)  # fmt: skip


class PlanServeOptions(SimulateOptions):
    """``windtunnel plan serve``."""

    on: list[str] = Field(  # type: ignore[assignment]
        min_length=1, max_length=64, description="a cluster, COUNTxDEVICE or a YAML file; several are compared"
    )
    tp: str | None = Field(default=None, description="tensor-parallel ranks to try, such as 4,8")  # type: ignore[assignment]
    pp: str | None = Field(default=None, description="pipeline stages to try (default: 1)")  # type: ignore[assignment]
    dp: str | None = Field(  # type: ignore[assignment]
        default=None, description="attention-data-parallel ranks of an engine to try (default: 1, more with experts)"
    )
    ep: str | None = Field(default=None, description="expert-parallel ranks to try")  # type: ignore[assignment]
    replicas: str | None = Field(default=None, description="engines side by side to try")  # type: ignore[assignment]
    engine: str = Field(default="vllm", description="serving engines to try: vllm, sglang, tensorrt-llm ...")
    precision: str | None = Field(
        default=None, description="number formats to try, such as bf16,fp8 (default: the model's own alone)"
    )
    kv_precision: str | None = Field(
        default=None, description="number formats of the KV cache to try (default: the engine's own alone)"
    )
    chunk: str | None = Field(  # type: ignore[assignment]
        default=None, description="tokens of an iteration to try (default: some around the engine's own)"
    )
    max_batch: str | None = Field(  # type: ignore[assignment]
        default=None, description="sequences of an iteration to try (default: some around the engine's own)"
    )
    deployment: str | None = Field(
        default=None, description="colocated, disaggregated (prompts and decoding on engines of their own), or both"
    )
    slo: str | None = Field(
        default=None, description="limits in seconds that --percentile of requests must meet: ttft=1.0,tpot=0.05"
    )
    percentile: float = Field(
        default=90.0, gt=0, lt=100, description="percentile of TTFT, TPOT and E2E that is held to the SLO"
    )
    objective: Literal["cost", "throughput", "latency", "energy"] = Field(
        default="cost",
        description="what is best among plans that meet the SLO: cost of a million tokens, the highest rate, "
        "latency (at --budget), energy of a token",
    )
    budget: float | None = Field(
        default=None, gt=0, le=1e9, allow_inf_nan=False, description="most US dollars an hour that a plan may cost"
    )
    top: int = Field(5, ge=1, le=1000, description="best plans to show")
    workers: str = Field(default="1", description="processes to work on, or ray for a Ray cluster")
    store: str | None = Field(
        default=None, max_length=4096, description="DuckDB file that keeps every plan evaluated; run again to resume"
    )
    tries: list[str] = TRIES
    export: Literal["vllm", "sglang", "tensorrt-llm"] | None = Field(
        default=None, description="search what this engine can run, and write the best plan for it"
    )

    _tries = field_validator("tries", mode="before")(_techniques)
    _clusters = field_validator("on", mode="before")(_machines)
    _lists = field_validator(
        "tp", "pp", "dp", "ep", "replicas", "engine", "precision", "kv_precision", "chunk", "max_batch", "deployment",
        "workers", mode="before",
    )(_listed)  # fmt: skip
