"""Sarathi-Serve: stall-free batching within a token budget."""

from __future__ import annotations

from typing import ClassVar

from windtunnel.scenario.provenance import paper
from windtunnel.scenario.technique import About, parameter
from windtunnel.techniques.chunked_prefill import ChunkedPrefill


class SarathiServe(ChunkedPrefill):
    name: ClassVar[str] = "sarathi-serve"
    about: ClassVar[About] = About(
        seed="P068",
        title="Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve",
        source="OSDI 2024, arXiv 2403.02310",
        summary="Stall-free schedules: an iteration holds all running decodes, then the rest of prompts begun, then "
        "new prompts, up to a token budget that keeps it within the limit on the time between tokens.",
        rewrites=("policy",),
        commands=("infer", "simulate"),
        decides=("the scheduler",),
        neutral={"token_budget": 0},
    )

    token_budget: int = parameter(
        paper(512, "section 5.1: 512 tokens under strict and 2,048 under relaxed limits"),
        "tokens of an iteration, decodes included, unless --chunk says so; 0 leaves the engine as it is",
        ge=0,
        le=100_000_000,
    )
