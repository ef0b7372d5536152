"""Arrays of plans and of batches give what each of them gives alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from windtunnel.models import load_network
from windtunnel.models.network import MLP, MoE, Network
from windtunnel.ops.build import wire_bytes
from windtunnel.ops.fold import Evaluation
from windtunnel.ops.op import Op, Price
from windtunnel.ops.values import Value, maximum
from windtunnel.parallel.iteration import iteration
from windtunnel.parallel.step import Step
from windtunnel.scenario.batch import Batch, decode, joined, prefill
from windtunnel.scenario.engines import ServeEngine, TrainEngine
from windtunnel.scenario.layout import Layout
from windtunnel.scenario.plan import Finetune, ServePlan

Make = Callable[..., Step]
Gpt = Callable[..., Network]

PLANS = {
    "tp": [1, 2, 4, 1, 2],
    "cp": [1, 1, 2, 4, 1],
    "dp": [1, 4, 1, 2, 8],
    "ep": [1, 2, 4, 8, 4],
    "etp": [1, 2, 1, 1, 1],
    "micro_batch": [1, 2, 1, 2, 1],
    "global_batch": [16, 16, 32, 16, 64],
}


def price(op: Op) -> Price:
    """Latency and the slowest of a few rates: enough to see every demand and every launch."""
    busy = {
        "tensor": op.flops * 1e-12 * op.shape.get("imbalance", 1.0),
        "vector": op.vector_flops * 1e-11,
        "hbm": (op.hbm_bytes + op.cached_bytes) * 1e-10,
        "net": wire_bytes(op) * 1e-9,
        "pcie": op.pcie_bytes * 1e-8,
    }
    slowest: Value = 0.0
    for seconds in busy.values():
        slowest = maximum(slowest, seconds)
    return Price(5e-6 * op.kernels + slowest, busy, 5e-6 * op.kernels, op.host_s)


def same(together: Mapping[str, Any], alone: Mapping[str, Any], i: int, count: int) -> None:
    """What a plan of degree one leaves out is there in the array, and zero."""
    for key, many in together.items():
        value = np.broadcast_to(np.asarray(many, float), count)[i]
        assert value == pytest.approx(float(alone.get(key, 0.0)), rel=1e-9, abs=1e-12), key


def answers(step: Step) -> list[Mapping[str, Any]]:
    evaluation = Evaluation(step.tree, price)
    totals = evaluation.totals()
    return [
        {"seconds": evaluation.seconds()}, evaluation.exposed(), evaluation.critical(), evaluation.by_kind(),
        totals.flops, totals.bytes, totals.messages,
        *({k: getattr(h, k) for k in ("dense", "expert", "frozen", "saved", "transient", "logits")} for h in step.held),
    ]  # fmt: skip


CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("gpt", {}, {}),
    ("gpt", {"zero": 3, "pp": 2, "recompute": "full"}, {"sharded_master_only": True}),
    ("gpt", {"zero": 2, "sequence_parallel": True}, {"tp_overlap": True}),
    ("gpt", {"zero": 0, "eager_attention": True, "recompute": "selective", "context": "ulysses"}, {"dropout": True}),
    ("gpt", {"zero": 1, "finetune": Finetune("qlora", r=4, bits=4)}, {"overlap_gradients": False}),
    ("moe", {"zero": 1, "sequence_parallel": True}, {"expert_imbalance": 1.3}),
    ("moe", {"zero": 3, "pp": 2, "offload_activations": "cpu"}, {}),
    ("deepseek-v2-lite", {"zero": 1, "pp": 3, "sequence_parallel": True}, {}),
    ("gemma-2-2b", {"offload_params": "cpu", "zero": 3}, {}),
    ("mamba2-2.7b", {"document_tokens": 20.0}, {}),
    ("t5-11b", {"pp": 3}, {}),
]


@pytest.mark.parametrize(("name", "options", "engine_options"), CASES)
def test_an_array_of_plans_equals_plans_one_by_one(
    step: Make, gpt: Gpt, engine: Callable[..., TrainEngine], name: str, options: dict[str, Any],
    engine_options: dict[str, Any],
) -> None:  # fmt: skip
    experts = MoE(8, 2, MLP(64, 128, gated=True), MLP(64, 64, gated=True), router_parameters=64 * 8)
    made = {"gpt": lambda: gpt(tied=True), "moe": lambda: gpt(moe=experts)}
    network = made[name]() if name in made else load_network(name)
    e = engine(bucket_parameters=1e4, host_s_per_layer=1e-5, **engine_options)
    count = len(PLANS["tp"])
    plans = dict(PLANS) if name in ("moe", "deepseek-v2-lite") else {**PLANS, "ep": [1] * count, "etp": PLANS["tp"]}
    together = answers(step(network, e, **{k: np.array(v) for k, v in plans.items()}, **options))
    for i in range(count):
        alone = answers(step(network, e, **{k: v[i] for k, v in plans.items()}, **options))
        assert len(alone) == len(together)
        for many, one in zip(together, alone, strict=True):
            same(many, one, i, count)


ROWS = [(0, 0, 0, 8, 900.0), (2, 700, 0, 0, 0.0), (1, 512, 1024, 5, 333.0), (0, 0, 0, 1, 5000.0), (1, 1, 0, 0, 0.0)]
"""Prompts, their new and their cached tokens, decodes and their context."""


def stats(rows: Any, windows: tuple[int, ...]) -> Batch:
    """One row of plain numbers, or columns."""
    n, length, before, decodes, context = rows
    return joined(prefill(n, length, before, windows), decode(decodes, context, windows))


@pytest.mark.parametrize(
    "name", ["llama-3.1-8b", "gemma-2-2b", "gpt-oss-20b", "deepseek-v3", "jamba-v0.1", "qwen3-next-80b"]
)
@pytest.mark.parametrize("attention", ["flash3", "eager"])
def test_an_array_of_batches_equals_batches_one_by_one(name: str, attention: str) -> None:
    network = load_network(name)
    windows = network.views
    plan = ServePlan(layout=Layout(tp=2, pp=2, dp=2, ep=2, etp=2))
    engine = ServeEngine(
        name="e", description="", attention=attention, mixed_attention=1.4, host_s_per_step=1e-4, host_s_per_layer=1e-5,
        host_s_per_sequence=1e-6, expert_imbalance=1.2,
    )  # fmt: skip

    def answer(batch: Batch) -> list[Mapping[str, Any]]:
        evaluation = Evaluation(iteration(network, plan, engine, batch).tree, price)
        totals = evaluation.totals()
        return [{"seconds": evaluation.seconds()}, evaluation.by_kind(), totals.flops, totals.bytes, totals.held]

    together = answer(stats(np.array(ROWS, float).T, windows))
    for i, row in enumerate(ROWS):
        for many, one in zip(together, answer(stats(row, windows)), strict=True):
            same(many, one, i, len(ROWS))
