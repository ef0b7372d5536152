"""Streams side by side: what pieces conserve, what cutting costs, and how long a region lasts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.models import load_network
from windtunnel.ops.fold import Evaluation, Totals, tree_totals
from windtunnel.ops.gradient import gradient
from windtunnel.ops.op import Op, Price
from windtunnel.ops.rewrite import operators
from windtunnel.ops.tree import Flow, Node, Par, Seq
from windtunnel.parallel.block import block_tree
from windtunnel.parallel.feedforward import active_experts
from windtunnel.parallel.overlap import Pieces, behind_next, piece, stream_of
from windtunnel.parallel.style import Style
from windtunnel.scenario.batch import Batch, decode, joined, prefill, training
from windtunnel.scenario.layout import Layout

MIXED = joined(decode(64.0, 900.0), prefill(2.0, 512.0))
MODELS = ("llama-3-8b", "mixtral-8x7b", "deepseek-v2-lite", "jamba-v0.1")


def layer(model: str, batch: Batch = MIXED, **style: Any) -> Node:
    block = load_network(model).blocks[-1]
    chosen = {"layout": Layout(tp=4, ep=2, dp=2), "fused": frozenset({"norm", "rope", "activation"}), **style}
    return block_tree(block, batch, Style(**chosen))


def seconds(op: Op) -> Price:
    """Each operator on one resource of its own kind: a unit each GFLOP, and so on."""
    if op.group is not None:
        return Price(op.message_bytes * 1e-6, {})
    return Price(op.flops * 1e-9 + op.hbm_bytes * 1e-7 + 1e-3 * op.kernels, {})


def held(totals: Totals) -> dict[str, float]:
    return {k: float(v) for k, v in totals.held.items()}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("n", [2, 3])
def test_pieces_do_the_work_of_the_whole(model: str, n: int) -> None:
    whole, cut = tree_totals(layer(model)), tree_totals(Pieces(n)(layer(model)))
    for key, value in whole.flops.items():
        assert cut.flops[key] == pytest.approx(value)
    for key, value in whole.messages.items():
        assert cut.messages[key] == pytest.approx(value)
    assert held(cut) == pytest.approx(held(whole))
    # Weights are read with each piece, all else once.
    assert whole.bytes["hbm"] <= cut.bytes["hbm"] <= n * whole.bytes["hbm"]


def test_each_piece_reads_the_weights_and_visits_fewer_experts() -> None:
    product = next(op for op in operators(layer("llama-3-8b")) if op.name == "mlp.up")
    assert piece(product, 4).hbm_bytes == product.hbm_bytes
    few = layer("mixtral-8x7b", decode(4.0, 100.0))
    experts = next(op for op in operators(few) if op.name == "moe.up")
    local = experts.parameters / (experts.shape["n"] * experts.shape["k"])
    cut = piece(experts, 2)
    assert cut.shape["groups"] == pytest.approx(active_experts(local, experts.shape["m"] / 2))
    assert experts.hbm_bytes / 2 < cut.hbm_bytes < experts.hbm_bytes
    cached = next(op for op in operators(layer("llama-3-8b")) if op.kind == "attention_decode")
    assert piece(cached, 4).hbm_bytes == cached.hbm_bytes / 4


def test_one_piece_and_what_is_outside_of_layers_stay_as_they_are() -> None:
    tree = layer("llama-3-8b")
    assert Pieces(1)(tree) is tree
    head = Seq((tree,), "head")
    assert Pieces(4)(head) is head


@given(st.integers(2, 6), st.floats(0, 1), st.sampled_from([{}, {"memory": 0.4, "network": 0.2}]))
def test_a_layer_lasts_as_its_slowest_stream_or_as_one_piece(
    n: int, interference: float, shares: dict[str, float]
) -> None:
    tree = layer("llama-3-8b")
    cut = Evaluation(Pieces(n, shares=shares, interference=interference)(tree), seconds)
    streams = dict.fromkeys(("compute", "memory", "network"), 0.0)
    for op in operators(tree):
        streams[stream_of(op)] += n * float(seconds(piece(op, n)).seconds)
    whole, longest = sum(streams.values()), max(streams.values())
    if shares:
        longest = max(longest, sum(t * {"compute": 1.0, **shares}[s] for s, t in streams.items()))
    expected = max(whole / n, (1 - interference) * longest + interference * whole)
    assert cut.seconds() == pytest.approx(expected)


def test_streams_that_are_not_named_stay_with_computing() -> None:
    cut = Pieces(2, ("network",))(layer("llama-3-8b"))
    assert isinstance(cut, Flow)
    assert [[stream_of(op) for op in operators(s)].count("memory") for s in cut.stages] == [1, 0]


@pytest.mark.parametrize(
    ("model", "part"), [("mixtral-8x7b", "moe"), ("llama-3-8b", "mlp"), ("llama-3-8b", "attention")]
)
def test_a_part_alone_shows_its_first_and_last_piece(model: str, part: str) -> None:
    tree = layer(model)
    assert isinstance(tree, Seq)
    whole = next(p for p in tree.parts if p.name == part)
    streams = dict.fromkeys(("compute", "network"), 0.0)
    for op in operators(whole):
        streams["network" if op.group is not None else "compute"] += float(seconds(piece(op, 4)).seconds)
    cut = Evaluation(Pieces(4, ("network",), part=part)(tree), seconds).seconds()
    others = Evaluation(tree, seconds).seconds() - Evaluation(whole, seconds).seconds()
    assert cut == pytest.approx(others + sum(streams.values()) + 3 * max(streams.values()))
    assert tree_totals(Pieces(4, part=part)(tree)).messages == pytest.approx(tree_totals(tree).messages)


def test_arrays_of_batches_are_cut_as_each_of_them() -> None:
    sizes = np.array([16.0, 64.0, 700.0])
    many = Evaluation(Pieces(2)(layer("mixtral-8x7b", decode(sizes, 500.0))), seconds).seconds()
    each = [Evaluation(Pieces(2)(layer("mixtral-8x7b", decode(s, 500.0))), seconds).seconds() for s in sizes]
    assert np.asarray(many) == pytest.approx(each)


# Behind the next sub-layer.


@pytest.mark.parametrize("model", MODELS)
def test_a_laddered_layer_hides_each_sum_behind_the_next_sub_layer(model: str) -> None:
    tree = layer(model)
    laddered = behind_next(0.0)(tree)
    assert isinstance(laddered, Seq)
    pairs = [p for p in laddered.parts if isinstance(p, Par)]
    assert len(pairs) == 2
    work = [sum(float(seconds(o).seconds) for o in operators(p.parts[0])) for p in pairs]
    sums = [sum(float(seconds(o).seconds) for o in operators(p.parts[1])) for p in pairs]
    assert all(o.category == "tp_comm" for p in pairs for o in operators(p.parts[1]))
    assert not any(o.category == "tp_comm" for p in pairs for o in operators(p.parts[0]))
    assert Evaluation(laddered, seconds).seconds() == pytest.approx(sum(map(max, work, sums)))
    assert Evaluation(tree, seconds).seconds() == pytest.approx(sum(work) + sum(sums))
    assert Evaluation(behind_next(1.0)(tree), seconds).seconds() == pytest.approx(sum(work) + sum(sums))
    before, after = tree_totals(tree), tree_totals(laddered)
    assert after.messages == pytest.approx(before.messages)
    assert held(after) == pytest.approx(held(before))


def test_nothing_changes_without_tensor_parallelism_or_without_converted_layers() -> None:
    alone = layer("llama-3-8b", layout=Layout())
    assert behind_next(0.1)(alone) is alone
    tree = layer("llama-3-8b")
    assert behind_next(0.1, 0.0)(tree) is tree


def test_some_converted_layers_are_between_none_and_all() -> None:
    tree = layer("llama-3-8b")
    none, some, all_ = (Evaluation(behind_next(0.0, s)(tree), seconds).seconds() for s in (0.0, 0.25, 1.0))
    assert some == pytest.approx(0.75 * none + 0.25 * all_)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("pipelined", [False, True])
def test_the_backward_pass_sends_what_it_sent_before(sharded: bool, overlap: bool, pipelined: bool) -> None:
    """Gradients' messages leave the gradient kernels that they ran beside for the sub-layer before."""
    tree = layer(
        "llama-3-8b", training(1.0, 4096.0), training=True, layout=Layout(tp=4), sequence_parallel=sharded,
        overlap_backward=overlap, overlap_tp=pipelined,
    )  # fmt: skip
    for n in (0, 1):
        before, after = (tree_totals(gradient(t)[n]) for t in (tree, behind_next(0.0)(tree)))
        moved = (before.messages, after.messages) if not overlap else ({}, {})
        assert moved[1] == pytest.approx(moved[0])
        assert after.flops == pytest.approx(before.flops)
    both = [tree_totals(Seq(gradient(t))).messages for t in (tree, behind_next(0.0)(tree))]
    assert both[1] == pytest.approx(both[0])
    laddered = behind_next(0.0)(tree)
    assert all(op.beside is None for op in operators(laddered))


def test_micro_batches_in_halves_hide_messages_in_training_too() -> None:
    """As DeepSeek-V3's two micro-batches: the forward pass in pieces, and by its gradient the backward pass."""
    block = load_network("mixtral-8x7b").blocks[-1]
    style = Style(layout=Layout(dp=8, ep=8), training=True)
    tree = block_tree(block, training(1.0, 4096.0), style)
    cut = Pieces(2, ("network",))(tree)
    for whole, halves in zip((tree, *gradient(tree)), (cut, *gradient(cut)), strict=True):
        before, after = tree_totals(whole), tree_totals(halves)
        assert after.messages == pytest.approx(before.messages)
        assert after.flops["bf16"] == pytest.approx(before.flops["bf16"])
    assert held(tree_totals(cut)) == pytest.approx(held(tree_totals(tree)))
    for whole, halves in zip((tree, gradient(tree)[0]), (cut, gradient(cut)[0]), strict=True):
        assert Evaluation(halves, seconds).seconds() < Evaluation(whole, seconds).seconds()
