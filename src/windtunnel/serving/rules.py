"""The built-in schedulers as data: what decides who runs in the next iteration, in a few switches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Order = Literal["fcfs", "priority", "shortest", "fair"]


@dataclass(frozen=True, slots=True)
class Rules:
    """``mixed``: prompts and decodes share an iteration (else prompts run alone, before any decoding). ``cut``: a
    prompt may be cut to the tokens left. ``limited``: an iteration has a token budget (else prompts are limited by
    places only). ``gated``: prompts join only when nothing decodes. ``padded``: an ended sequence keeps its place and
    its cache until all of its batch have ended. ``order``: who is next in the queue."""

    mixed: bool = True
    cut: bool = True
    limited: bool = True
    gated: bool = False
    padded: bool = False
    order: Order = "fcfs"


CHUNKED = Rules()

RULES: Mapping[str, Rules] = {
    # A batch of requests from its first prompt to its last token (FasterTransformer, transformers' generate).
    "static": Rules(mixed=False, cut=False, limited=False, gated=True, padded=True),
    # Iteration-level scheduling with selective batching (Orca, OSDI 2022, section 3).
    "orca": Rules(cut=False, limited=False),
    # vLLM V0 (SOSP 2023): waiting prompts first, whole, as many as the budget takes.
    "vllm": Rules(mixed=False, cut=False),
    # SGLang, and vLLM V0 with long prompts cut: as above, but prompts longer than the budget take several iterations.
    "prefill-first": Rules(mixed=False),
    # Decodes, then pieces of prompts up to the budget (Sarathi-Serve, arXiv 2403.02310, section 4; vLLM V1).
    "chunked": CHUNKED,
    # The same composition, its budget the constant forward size (DeepSpeed-FastGen, arXiv 2401.08671, section 3).
    "splitfuse": CHUNKED,
    # Decodes to their end before the next prompts (the decode-prioritising extreme of arXiv 2403.02310, section 3).
    "decode-first": Rules(mixed=False, gated=True),
    "priority": Rules(order="priority"),
    # Virtual token counter (arXiv 2401.00588, algorithm 2): the client that has been served least is next.
    "fair": Rules(order="fair"),
    "sjf": Rules(order="shortest"),
}
"""Scheduler names and their rules."""

PROMPT_CHARGE, OUTPUT_CHARGE = 1, 2
"""What a prompt token and an output token cost a client (arXiv 2401.00588, section 3.1: their weights)."""
