"""SARATHI: one chunk of a prompt with as many decodes as there are, in iterations of one size."""

from __future__ import annotations

from typing import ClassVar

from windtunnel.scenario.provenance import paper
from windtunnel.scenario.technique import About, parameter
from windtunnel.techniques.chunked_prefill import ChunkedPrefill


class Sarathi(ChunkedPrefill):
    name: ClassVar[str] = "sarathi"
    about: ClassVar[About] = About(
        seed="P299",
        title="SARATHI: Efficient LLM Inference by Piggybacking Decodes with Chunked Prefills",
        source="arXiv 2308.16369",
        summary="Decode-maximal batching: prompts are cut so that a chunk and the decodes together are one fixed, "
        "tile-aligned number of tokens. Decodes ride on weights that the chunk has loaded, and iterations of one size "
        "leave a pipeline few bubbles.",
        rewrites=("policy",),
        commands=("infer", "simulate"),
        decides=("the scheduler",),
        neutral={"token_budget": 0},
    )

    token_budget: int = parameter(
        paper(256, "section 5: chunks of 256 tokens, the decodes of the batch counted in (section 4.4, tiles)"),
        "tokens of an iteration, the chunk and the decodes together, unless --chunk says so; 0 leaves the engine as it is",
        ge=0,
        le=100_000_000,
    )
