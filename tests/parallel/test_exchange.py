"""Compressed exchange of gradients, and workers that exchange only now and then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.cost import make_pricer
from windtunnel.hardware import parse_cluster
from windtunnel.models.network import Network
from windtunnel.ops.fold import Evaluation
from windtunnel.ops.op import Group, Op
from windtunnel.ops.rewrite import operators
from windtunnel.ops.tree import Node
from windtunnel.ops.values import Value
from windtunnel.parallel.exchange import split, summed
from windtunnel.parallel.step import Step, training_step
from windtunnel.scenario.engines import TrainEngine
from windtunnel.scenario.layout import Layout
from windtunnel.scenario.plan import Compression, LocalSteps, TrainPlan
from windtunnel.training.memory import stage_memory
from windtunnel.training.schedules import get_schedule

Make = Callable[..., Step]
Gpt = Callable[..., Network]
Engine = Callable[..., TrainEngine]
Sent = Callable[[Node], dict[str, Value]]

CLUSTER = parse_cluster("64xa100-80gb-sxm", {})
PRICE = make_pricer(CLUSTER)
SPARSE = Compression(value_bits=32, index_bits=16, density=0.01, exchange="gather")


def seconds(tree: Node) -> float:
    return float(Evaluation(tree, PRICE).seconds())


def wire(node: Node) -> dict[str, float]:
    return {op.kind: float(op.message_bytes) for op in operators(node) if op.group is not None}


def test_how_much_travels() -> None:
    group, n = Group(8, 1), 1e6
    assert wire(summed(n, group, 4.0, False, None)) == {"all_reduce": 4e6}
    assert wire(summed(n, group, 4.0, True, None)) == {"reduce_scatter": 4e6}
    payload = n * 0.01 * 48 / 8
    # Every rank gets what every other has chosen: the gathered whole grows with the ranks.
    assert wire(summed(n, group, 4.0, False, SPARSE)) == {"all_gather": pytest.approx(8 * payload)}
    assert wire(summed(n, group, 4.0, True, SPARSE)) == {"all_to_all": pytest.approx(payload)}
    one_bit = Compression(value_bits=1, exchange="shards")
    assert wire(summed(n, group, 4.0, False, one_bit)) == {"all_to_all": n / 8, "all_gather": n / 8}
    assert wire(summed(n, group, 4.0, True, one_bit)) == {"all_to_all": n / 8}
    assert wire(summed(n, group, 4.0, False, Compression(value_bits=8))) == {"all_reduce": 1e6}


def test_a_node_adds_up_in_full_before_it_compresses() -> None:
    tree = summed(1e6, Group(32, 1), 4.0, False, replace(SPARSE, node=8))
    found = [(op.kind, op.group.size, op.group.stride) for op in operators(tree) if op.group is not None]
    assert found == [("reduce_scatter", 8, 1), ("all_gather", 4, 8), ("all_gather", 8, 1)]
    sparse = operators(tree)[1]
    assert sparse.message_bytes == pytest.approx(4 * 1e6 / 8 * SPARSE.wire_bytes)


@given(st.sampled_from([1, 2, 3, 8, 64]), st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 4, 8, 16]))
def test_a_group_is_split_without_loss(size: int, stride: int, near: int) -> None:
    inner, outer = split(Group(size, stride), near)
    assert inner.size * outer.size == pytest.approx(size)
    assert 1 <= inner.size <= max(near / stride, 1)
    assert outer.stride == stride * inner.size
    many, rest = split(Group(np.array([1.0, size]), stride), near)
    assert (many.size[1], rest.size[1]) == (inner.size, outer.size)
    assert (many.size[0], rest.size[0]) == (1, 1)


@pytest.fixture
def made(gpt: Gpt, step: Make, engine: Engine) -> Callable[..., Step]:
    """A step of a GPT large enough for its messages to take their time, on sixteen data-parallel ranks."""

    def build(profile: dict[str, Any] | None = None, **options: Any) -> Step:
        network = gpt(layers=4, hidden=2048, heads=16, vocab=32000)
        return step(
            network, engine(**{"interference": 0.0, **(profile or {})}),
            **{"dp": 16, "global_batch": 64, "zero": 0, "seq": 512, **options},
        )  # fmt: skip

    return build


Made = Callable[..., Step]


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_fewer_bytes_take_less_time(made: Made, zero: int) -> None:
    plain = seconds(made(zero=zero).tree)
    before = 0.0
    for bits in (1, 8, 16, 32):
        now = seconds(made(zero=zero, compression=Compression(value_bits=bits)).tree)
        assert before <= now * (1 + 1e-12)
        before = now
    # 32 bits an element that are added up on the way are fp32 gradients.
    assert before == plain


@pytest.mark.parametrize("zero", [0, 2, 3])
def test_a_warm_up_is_a_mean_of_steps(made: Made, zero: int) -> None:
    whole, small = (seconds(made(zero=zero, compression=c).tree) for c in (None, SPARSE))
    mixed = seconds(made(zero=zero, compression=replace(SPARSE, warmup=0.25)).tree)
    assert mixed == pytest.approx(0.25 * whole + 0.75 * small, rel=1e-9)


def test_choosing_takes_the_device(made: Made) -> None:
    free = seconds(made({"overlap_gradients": False}, compression=SPARSE).tree)
    chosen = made({"overlap_gradients": False}, compression=replace(SPARSE, select_bytes=32.0))
    moved = 32.0 * float(chosen.held[0].dense)
    assert seconds(chosen.tree) - free >= moved / CLUSTER.accelerator.hbm.bandwidth_bytes_per_s


def test_what_is_not_sent_is_kept(made: Made, engine: Engine) -> None:
    held = made().held[0]
    schedule = get_schedule("1f1b")
    plan = TrainPlan(layout=Layout(dp=16), global_batch=64, zero=0)
    plain = stage_memory(held, plan, engine(), schedule)
    for node, ranks in ((1, 1), (8, 8)):
        kept = stage_memory(
            held, replace(plan, compression=replace(SPARSE, buffer_bytes=8.0, node=node)), engine(), schedule
        )
        assert kept.gradients - plain.gradients == pytest.approx(8.0 * held.dense / ranks)
        assert kept.optimizer == plain.optimizer


def local(made: Made, *, interference: float = 0.0, **how: Any) -> float:
    options = {k: how.pop(k) for k in ("zero", "cp", "dp", "tp") if k in how}
    return seconds(made({"interference": interference}, local=LocalSteps(**how), **options).tree)


def test_workers_that_wait_pay_a_share_of_the_exchange(made: Made) -> None:
    never = local(made, period=10**12)
    each = local(made, period=1) - never
    assert each > 0
    for period in (4, 16):
        assert local(made, period=period) - never == pytest.approx(each / period, rel=1e-6)
    # Parts of the parameters at times of their own are as many bytes, and more messages.
    parts = local(made, period=16, fragments=4) - never
    assert each / 16 <= parts <= 1.1 * each / 16


def test_an_exchange_behind_enough_steps_is_free(made: Made) -> None:
    never = local(made, period=10**12)
    each = local(made, period=1) - never
    work = Evaluation(made(local=LocalSteps()).tree, PRICE)
    (stage,) = work.tree.stages
    passes = 4 * float(work.seconds(stage.forward) + work.seconds(stage.backward) + work.seconds(stage.weight))
    for steps in (1, 2, 50):
        left = max(each - steps * passes, 0.0) / steps
        assert local(made, period=steps, behind=steps) - never == pytest.approx(left, rel=1e-3, abs=1e-9)
    hindered = local(made, period=50, behind=50, interference=0.2)
    assert hindered - local(made, period=10**12, interference=0.2) == pytest.approx(0.2 * each / 50, rel=1e-2)


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_a_worker_keeps_in_step_and_shares_its_state(made: Made, engine: Engine, zero: int) -> None:
    step = made(zero=zero, local=LocalSteps(period=4, worker=8, wire_bytes=2.0, buffer_bytes=12.0))
    found = {(op.name, op.kind, op.group.size) for op in operators(step.tree) if op.group and op.group.size > 1}
    assert {size for name, _, size in found if name in ("dp.reduce", "dp.gather")} == {8}
    assert ("dp.local", "all_reduce", 2) in found
    assert (("dp.local", "all_gather", 8) in found) == (zero == 0)
    plan = TrainPlan(layout=Layout(dp=16), global_batch=64, zero=zero)
    far = replace(plan, local=LocalSteps(worker=8))
    buffers = replace(plan, local=LocalSteps(worker=8, buffer_bytes=12.0))
    alone, held = replace(plan, layout=Layout(dp=8)), step.held[0]
    states = [stage_memory(held, p, engine(), get_schedule("1f1b")) for p in (far, alone, buffers)]
    assert (states[0].optimizer, states[0].weights) == (states[1].optimizer, states[1].weights)
    share = 8 if zero else 1
    assert states[2].optimizer - states[0].optimizer == pytest.approx(12.0 * held.dense / share)


def test_parts_of_a_sequence_stay_in_step(made: Made, sent: Sent) -> None:
    step = made(cp=2, dp=8, local=LocalSteps())
    reduced = {op.group.size for op in operators(step.tree) if op.name == "dp.reduce" and op.group}
    assert reduced == {2}
    assert "dp.reduce" not in sent(made(local=LocalSteps()).tree)


def test_gossip_does_not_grow_with_the_workers(made: Made) -> None:
    def exchanged(dp: int, partners: str) -> list[Op]:
        tree = made(dp=dp, global_batch=64, local=LocalSteps(partners=partners)).tree
        return [op for op in operators(tree) if op.name == "dp.local" and op.message_bytes > 0]

    for dp in (2, 16):
        (pair,) = exchanged(dp, "pair")
        assert (pair.kind, pair.group and pair.group.size) == ("send_recv", 2)
        (every,) = exchanged(dp, "all")
        assert (every.kind, every.group and every.group.size) == ("all_reduce", dp)
        assert pair.message_bytes == every.message_bytes


WAYS: tuple[dict[str, Any], ...] = (
    {"compression": replace(SPARSE, select_bytes=32.0, node=8)},
    {"compression": Compression(value_bits=1, exchange="shards", warmup=0.2)},
    {"local": LocalSteps(period=8, behind=8, worker=8)},
    {"local": LocalSteps(period=8, partners="pair")},
)


@pytest.mark.parametrize("way", WAYS, ids=lambda w: next(iter(w)))
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_arrays_of_plans_equal_plans_one_by_one(gpt: Gpt, engine: Engine, way: dict[str, Any], zero: int) -> None:
    network, profile, schedule = gpt(layers=3, hidden=512), engine(), get_schedule("1f1b")

    def priced(dp: Any) -> tuple[Any, Any]:
        plan = TrainPlan(layout=Layout(dp=dp), micro_batch=1, global_batch=64, seq=256, zero=zero, **way)
        step = training_step(network, plan, profile, schedule)
        return Evaluation(step.tree, PRICE).seconds(), stage_memory(step.held[0], plan, profile, schedule).total

    sizes = (1, 4, 16, 64)
    together = priced(np.array(sizes, float))
    for i, dp in enumerate(sizes):
        for many, one in zip(together, priced(dp), strict=True):
            assert np.broadcast_to(many, len(sizes))[i] == pytest.approx(float(one), rel=1e-9)
