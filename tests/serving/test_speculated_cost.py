"""Price lists of engines that speculate, against the trees that they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from windtunnel.parallel.iteration import iteration
from windtunnel.scenario.batch import Batch, decode, joined, prefill
from windtunnel.serving.infer import pass_seconds
from windtunnel.serving.outcome import PS
from windtunnel.serving.spec import pairs_and_keys
from windtunnel.serving.step_time import Piece, StepTimes, Work

TOLERANCE = 0.005
CHOICE = 0.01
"""Between two points of a table the best guess may change."""
TOGETHER = 0.11
"""Prompts beside decodes at worst."""

SERVICES: dict[str, dict[str, Any]] = {
    "draft": {"model": "vicuna-7b", "on": "1xa100-80gb-sxm", "techniques": ("speculative-decoding",)},
    "load": {"model": "vicuna-7b", "on": "1xa100-80gb-sxm", "engine": "vllm@2024", "techniques": ("smartspec",)},
    "heads": {"model": "llama-3.1-8b", "on": "1xh100-sxm", "techniques": ("medusa",)},
    "launched": {"model": "vicuna-7b", "on": "1xa100-80gb-sxm", "engine": "vllm@2023", "techniques": ("medusa",)},
    "asynchronous": {"model": "llama-3.1-8b", "on": "1xh100-sxm", "engine": "sglang", "techniques": ("smartspec",)},
    "ranks": {
        "model": "llama-3.1-70b", "on": "4xh100-sxm", "tp": 4,
        "techniques": ("smartspec:draft=llama-3.1-8b,draft_tp=2,most=4",),
    },
}  # fmt: skip


def error(priced: Any, decodes: int, context: int, prompts: tuple[tuple[int, int], ...]) -> float:
    """Of a listed iteration: ``decodes`` with so long contexts, and prompts of (new tokens, tokens before)."""
    parts: list[Batch] = [decode(float(decodes), float(context))] if decodes else []
    parts += [prefill(1.0, float(new), float(before)) for new, before in prompts]
    batch = parts[0]
    for part in parts[1:]:
        batch = joined(batch, part)
    scenario = priced.scenario
    made = iteration(scenario.network, scenario.plan, scenario.engine, batch)
    _, tree, _ = pass_seconds(made, priced.price, 1)
    both = [pairs_and_keys(new, before, 0) for new, before in prompts]
    pieces = [Piece(sum(p for p, _ in both), sum(k for _, k in both))] if prompts else None
    tokens = sum(new for new, _ in prompts)
    work = Work(decodes, [decodes * context], tokens, len(prompts), len(prompts), pieces)
    return abs(StepTimes(priced.cost).seconds(work)[0] / PS / float(np.max(tree)) - 1)


@pytest.mark.parametrize("name", SERVICES)
def test_decodes_alone_and_prompts_alone_cost_what_their_trees_do(lab: Any, name: str) -> None:
    priced = lab.priced(8192, 256, 1_000_000, **SERVICES[name])
    rng = np.random.default_rng(3)
    for n in (1, 2, 7, 11, 13, 29, 63, 64, 65, 100, 128, 200, 256):
        for context in (1, 17, 300, *rng.integers(1, 3900, 3).tolist()):
            assert error(priced, n, context, ()) < CHOICE, (n, context)
    for new, before in ((1, 0), (17, 0), (128, 500), (777, 0), (2048, 2048), (8000, 0)):
        assert error(priced, 0, 0, ((new, before),)) < TOLERANCE, (new, before)
    assert error(priced, 0, 0, ((300, 0), (900, 0), (41, 16))) < TOLERANCE


@pytest.mark.parametrize("name", ["draft", "heads", "ranks"])
def test_prompts_beside_decodes_are_near(lab: Any, name: str) -> None:
    priced = lab.priced(8192, 256, 1_000_000, **SERVICES[name])
    rng = np.random.default_rng(4)
    found = []
    for _ in range(120):
        n = int(np.exp(rng.uniform(0, np.log(200))))
        new = int(np.exp(rng.uniform(np.log(16), np.log(6000))))
        found.append(error(priced, n, int(rng.integers(1, 2000)), ((new, 0),)))
    assert np.median(found) < TOLERANCE * 4
    assert np.quantile(found, 0.9) < TOGETHER * 0.6
    assert np.max(found) < TOGETHER
