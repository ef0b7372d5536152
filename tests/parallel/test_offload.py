"""State off the device: what moves, when, and what the host and its drives hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.cost import make_pricer
from windtunnel.hardware import parse_cluster
from windtunnel.models.network import Network
from windtunnel.ops.fold import Evaluation, tree_totals
from windtunnel.ops.op import Op
from windtunnel.ops.rewrite import operators
from windtunnel.ops.tree import Exposed, Flow
from windtunnel.parallel.step import Step
from windtunnel.scenario.engines import TrainEngine
from windtunnel.scenario.layout import Layout
from windtunnel.scenario.plan import TrainPlan
from windtunnel.training.memory import host_bytes, stage_memory
from windtunnel.training.schedules import get_schedule

Make = Callable[..., Step]
Gpt = Callable[..., Network]
Engine = Callable[..., TrainEngine]

ALL = {"offload_optimizer": "nvme", "offload_params": "nvme", "offload_activations": "nvme"}
MICRO_BATCHES = 4


def op(step: Step, name: str) -> Op:
    (found,) = {o.name: o for o in operators(step.tree) if o.name == name}.values()
    return found


@pytest.fixture
def made(gpt: Gpt, step: Make, engine: Engine) -> Callable[..., Step]:
    def build(profile: dict[str, Any] | None = None, **options: Any) -> Step:
        network = gpt(layers=4, hidden=1024, heads=16, vocab=2048)
        return step(network, engine(**(profile or {})), **{"global_batch": MICRO_BATCHES, "zero": 3, **options})

    return build


Made = Callable[..., Step]


def test_streamed_copies_fill_both_directions(made: Made) -> None:
    step = made(**ALL, streamed=True, recompute="full")
    held, n = step.held[0], step.held[0].dense
    (stage,) = step.tree.stages
    assert isinstance(stage.forward, Flow)
    assert isinstance(stage.backward, Flow)
    weights, activations, gradients = 2 * n, float(held.saved), 4 * n
    forward, backward = tree_totals(stage.forward).bytes, tree_totals(stage.backward).bytes
    assert forward["pcie"] == pytest.approx(max(weights, activations))
    assert backward["pcie"] == pytest.approx(max(weights + activations, gradients))
    # Drives give and take with one bandwidth.
    assert forward["nvme"] == backward["nvme"] == pytest.approx(weights + activations)


def test_the_host_updates_behind_the_backward_pass(made: Made) -> None:
    step = made(**ALL, streamed=True)
    n = step.held[0].dense
    (stage,) = step.tree.stages
    (behind,) = [node for node in stage.epilogue.children if isinstance(node, Exposed)]
    assert isinstance(behind.beside, Flow)
    assert behind.beside.streams == ("compute", "nvme", "host")
    assert op(step, "offload.optimizer").nvme_bytes * 4 == pytest.approx((2 * (8 + 4) + 2) * n)
    assert op(step, "optimizer.host").shape["bytes"] * 4 == pytest.approx(40 * n)
    # Weights that live on the device come back as they are updated.
    back = made(offload_optimizer="cpu", streamed=True)
    assert op(back, "offload.weights").pcie_bytes * 4 == pytest.approx(2 * n)
    assert "offload.optimizer" not in {o.name for o in operators(back.tree)}


def test_gradients_leave_behind_every_backward_pass(made: Made) -> None:
    step = made({"offload_gradients": True}, offload_optimizer="cpu", dp=4, global_batch=16)
    n = step.held[0].dense
    assert op(step, "offload.gradients").pcie_bytes * 4 == pytest.approx(4 * n / 4)
    assert op(step, "offload.optimizer").pcie_bytes == pytest.approx(2 * n / 4)
    on_drives = made({"offload_gradients": True}, **ALL)
    # State in and out, gradients out and in, weights out.
    assert op(on_drives, "offload.optimizer").nvme_bytes == pytest.approx((24 + 8 + 2) * n)
    assert op(on_drives, "offload.optimizer").pcie_bytes == 0


def test_what_stays_on_the_device(made: Made, engine: Engine) -> None:
    held, schedule = made(**ALL, recompute="full").held[0], get_schedule("1f1b")

    def gradients(**plan: Any) -> float:
        given_ = TrainPlan(zero=0, recompute="full", **ALL, **plan)
        return float(stage_memory(held, given_, engine(), schedule).gradients)

    assert gradients() == 4 * held.dense
    assert gradients(streamed=True) == 4 * held.largest
    plan = TrainPlan(zero=0, recompute="full", **ALL)
    drained = stage_memory(held, plan, engine(offload_gradients=True, bucket_parameters=1e6), schedule)
    assert drained.gradients == 4 * (held.largest + 1e6)
    streamed = stage_memory(held, replace(plan, streamed=True), engine(), schedule)
    assert streamed.activations == held.transient + 2 * held.layer_input


def test_gradients_that_wait_for_the_update_fill_the_host(made: Made, engine: Engine) -> None:
    held, plan = made().held[0], TrainPlan(zero=3, layout=Layout(dp=4), **ALL)
    waiting = engine(offload_gradients=True, gradient_bytes=2)
    assert host_bytes(held, plan, engine()) == 0
    assert host_bytes(held, plan, waiting) == 2 * held.dense / 4
    assert host_bytes(held, replace(plan, streamed=True), waiting) == 2 * held.largest
    several = replace(plan, streamed=True, global_batch=8)
    assert host_bytes(held, several, waiting) == 2 * held.dense / 4
    assert host_bytes(held, plan, waiting, "nvme") == host_bytes(held, plan, engine(), "nvme")


def test_a_share_of_the_layers_recomputes(made: Made) -> None:
    full, none = made(recompute="full"), made()
    half = made(recompute="full", recompute_share=0.5)
    for of in (lambda s: float(s.held[0].saved), lambda s: tree_totals(s.tree).flops["bf16"]):
        assert of(half) == pytest.approx((of(full) + of(none)) / 2)
    assert float(made(recompute="full", recompute_share=0.0).held[0].saved) == pytest.approx(float(none.held[0].saved))


RATES = st.floats(0.5, 500)


@settings(max_examples=15)
@given(RATES, RATES, RATES, st.sampled_from([1, 8]))
def test_streaming_is_no_slower_and_within_physics(
    gpt: Gpt, step: Make, engine: Engine, pcie: float, nvme: float, dram: float, rows: int
) -> None:
    rates = {"pcie_gbyte_per_s": pcie, "nvme_gbyte_per_s": nvme, "dram_gbyte_per_s": dram, "nvme_gbyte": 1e4}
    cluster = parse_cluster("1xrtx-4090", {**rates, "gpus_per_node": 1})
    price = make_pricer(cluster)
    network = gpt(layers=6, hidden=1024, heads=16, vocab=2048)
    asked = {**ALL, "zero": 3, "recompute": "full", "micro_batch": rows, "global_batch": rows, "seq": 512}
    streamed = Evaluation(step(network, engine(), streamed=True, **asked).tree, price)
    queued = Evaluation(step(network, engine(offload_gradients=True), **asked).tree, price)
    seconds = streamed.seconds()
    # One more piece of each stream than the queue has may stand at the ends.
    assert seconds <= queued.seconds() * (1 + 1 / 6) + 1e-3
    moved = streamed.totals().bytes
    assert seconds >= moved["pcie"] / (pcie * 1e9)
    assert seconds >= moved["nvme"] / (nvme * 1e9)
    host = sum(float(o.shape["bytes"]) for o in operators(streamed.tree) if o.kind == "host_memory") * 6
    assert seconds >= host / (dram * 1e9)
