"""Optimizers in a subspace: what they keep, and what projecting costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from windtunnel.models.network import MLP, MoE, Network
from windtunnel.ops.fold import tree_totals
from windtunnel.ops.rewrite import operators
from windtunnel.parallel.low_rank import kept_bytes
from windtunnel.parallel.step import Step
from windtunnel.scenario.engines import TrainEngine
from windtunnel.scenario.layout import Layout
from windtunnel.scenario.plan import OPTIMIZERS, LowRank, Optimizer, TrainPlan
from windtunnel.training.memory import stage_memory
from windtunnel.training.schedules import get_schedule

Make = Callable[..., Step]
Gpt = Callable[..., Network]
Engine = Callable[..., TrainEngine]

ADAM = OPTIMIZERS["adamw-bf16"]


def projected(rank: Any, **how: Any) -> Optimizer:
    return replace(ADAM, low_rank=LowRank(rank, **how))


def matrices(hidden: int, layers: int) -> list[tuple[int, int]]:
    """(short, long) sides of a GPT's matrices: queries, keys, values, output, and two of four times the width."""
    return layers * (4 * [(hidden, hidden)] + 2 * [(hidden, 4 * hidden)])


def optimizer_bytes(step: Step, engine: TrainEngine, **plan: Any) -> float:
    p = TrainPlan(**plan)
    return float(stage_memory(step.held[0], p, engine, get_schedule("1f1b")).optimizer)


@pytest.mark.parametrize("rank", [1, 16, 63])
def test_moments_and_projectors_of_every_matrix(step: Make, gpt: Gpt, engine: Engine, rank: int) -> None:
    network = gpt(layers=3, hidden=64, bias=False)
    optimizer = projected(rank, projector_bytes=2.0)
    made = step(network, optimizer=optimizer)
    sides = matrices(64, 3)
    whole = network.total_parameters - sum(m * n for m, n in sides)
    expected = 4 * (whole + sum(rank * n for _, n in sides)) + 2 * sum(rank * m for m, _ in sides)
    profile = engine(master_weights=False)
    assert optimizer_bytes(made, profile, optimizer=optimizer, zero=0) == pytest.approx(expected)
    # A master copy is of all parameters, and ZeRO shards what there is.
    master = optimizer_bytes(made, engine(), optimizer=optimizer, zero=0)
    assert master - expected == pytest.approx(4 * network.total_parameters)
    sharded = optimizer_bytes(made, profile, optimizer=optimizer, zero=1, layout=Layout(dp=4))
    assert sharded == pytest.approx(expected / 4)


def test_a_matrix_no_larger_than_the_rank_is_left_as_it_is(step: Make, gpt: Gpt, engine: Engine) -> None:
    network = gpt(hidden=64)
    for rank in (64, 10**6):
        optimizer = projected(rank)
        made = step(network, optimizer=optimizer)
        found = optimizer_bytes(made, engine(master_weights=False), optimizer=optimizer, zero=0)
        assert found == pytest.approx(4.0 * network.total_parameters)
        assert tree_totals(made.tree).flops == pytest.approx(tree_totals(step(network).tree).flops)


def test_tensor_parallel_shards_are_matrices_of_their_own(step: Make, gpt: Gpt) -> None:
    network = gpt(hidden=64, heads=8)
    dense, _ = step(network, tp=4, optimizer=projected(8)).held[0].subspaces
    shapes = 4 * (3 * [(16, 64)] + [(16, 64)] + 2 * [(64, 64)])
    assert dense.projected == pytest.approx(sum(m * n for m, n in shapes))
    assert dense.moments == pytest.approx(sum(8 * n for _, n in shapes))
    assert dense.projectors == pytest.approx(sum(8 * m for m, _ in shapes))


def test_every_expert_has_a_subspace(step: Make, gpt: Gpt) -> None:
    moe = MoE(8, 2, MLP(64, 128, gated=True), router_parameters=64 * 8)
    dense, expert = step(gpt(layers=2, moe=moe), ep=4, dp=4, optimizer=projected(16)).held[0].subspaces
    local = 2 * 8 / 4
    assert expert.projected == pytest.approx(local * 3 * 64 * 128)
    assert expert.moments == pytest.approx(local * 3 * 16 * 128)
    assert expert.projectors == pytest.approx(local * 3 * 16 * 64)
    # The router, 64 to 8, is smaller than the rank.
    assert dense.projected == pytest.approx(2 * 4 * 64 * 64)


def test_projecting_is_two_products_a_matrix(step: Make, gpt: Gpt) -> None:
    network = gpt(layers=3, hidden=64)
    made = step(network, optimizer=projected(16), dp=4, global_batch=4)
    extra = {
        dtype: flops - tree_totals(step(network, dp=4, global_batch=4).tree).flops[dtype]
        for dtype, flops in tree_totals(made.tree).flops.items()
    }
    assert extra["bf16"] * 4 == pytest.approx(sum(4 * 16 * m * n for m, n in matrices(64, 3)))
    assert extra["vector"] == 0
    refreshed = step(network, optimizer=projected(16, refresh_steps=200), dp=4, global_batch=4)
    svd = tree_totals(refreshed.tree).flops["vector"] - tree_totals(made.tree).flops["vector"]
    assert svd * 4 * 200 == pytest.approx(sum(6 * n * m**2 + 20 * m**3 for m, n in matrices(64, 3)))


def test_the_update_moves_the_moments_of_the_subspace(step: Make, gpt: Gpt, engine: Engine) -> None:
    def moved(optimizer: Optimizer) -> float:
        (op,) = {o.name: o for o in operators(step(gpt(), optimizer=optimizer).tree) if o.name == "optimizer"}.values()
        return float(op.hbm_bytes)

    made = step(gpt(), optimizer=projected(16)).held[0]
    moments, _ = kept_bytes(projected(16), made.dense, made.subspaces[0])
    assert moved(ADAM) - moved(projected(16)) == pytest.approx(2 * (4.0 * made.dense - moments))


def test_many_ranks_at_once(step: Make, gpt: Gpt) -> None:
    ranks = np.array([4.0, 16.0, 64.0])
    together, _ = step(gpt(), optimizer=projected(ranks)).held[0].subspaces
    for i, rank in enumerate(ranks):
        one, _ = step(gpt(), optimizer=projected(float(rank))).held[0].subspaces
        for name in ("projected", "moments", "projectors"):
            assert getattr(together, name)[i] == pytest.approx(getattr(one, name))


def test_layer_by_layer_only_the_largest_has_gradients(step: Make, gpt: Gpt, engine: Engine) -> None:
    network = gpt(layers=4, hidden=64, vocab=512)
    held = step(network).held[0]
    layer = 12 * 64 * 64
    assert layer < held.largest < 1.1 * layer
    assert step(gpt(vocab=10**5)).held[0].largest == pytest.approx(64e5, rel=1e-2)

    def gradients(**plan: Any) -> float:
        p = TrainPlan(zero=0, layerwise_update=True, **plan)
        return float(stage_memory(held, p, engine(), get_schedule("1f1b")).gradients)

    assert gradients() == 4 * held.largest
    # Where micro-batches add up, all gradients are there until the last.
    assert gradients(global_batch=2) == 4 * held.dense
