"""Who sends what to whom: tensor, expert and context parallelism, pipelines and the network's edges."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from windtunnel.models import load_network
from windtunnel.models.network import MLP, MoE, Network
from windtunnel.ops.build import wire_bytes
from windtunnel.ops.gradient import gradient
from windtunnel.ops.op import Op
from windtunnel.ops.rewrite import operators
from windtunnel.ops.tree import Flow, Node
from windtunnel.ops.values import Value
from windtunnel.parallel.block import block_tree, head_tree
from windtunnel.parallel.feedforward import active_experts, moe_layer
from windtunnel.parallel.iteration import iteration
from windtunnel.parallel.step import Step
from windtunnel.parallel.style import Style
from windtunnel.scenario.batch import decode, prefill, training
from windtunnel.scenario.engines import ServeEngine
from windtunnel.scenario.layout import Layout
from windtunnel.scenario.plan import ServePlan

Make = Callable[..., Step]
Gpt = Callable[..., Network]
Sent = Callable[[Node], dict[str, Value]]

S, H = 128, 64
SIZE = 2 * S * H
"""Bytes of one activation of a sequence."""


def collectives(tree: Node) -> list[tuple[str, Value]]:
    """(kind, size) of every collective, in order."""

    def walk(node: Node) -> list[Op]:
        return [node] if isinstance(node, Op) else [op for child in node.children for op in walk(child)]

    return [(op.kind, op.message_bytes) for op in walk(tree) if op.group is not None and op.message_bytes > 0]


def test_megatron_sums_twice_forward_and_twice_backward(gpt: Gpt) -> None:
    """The conjugate operators f and g of arXiv 1909.08053, section 3: one is nothing where the other is a sum."""
    layer = block_tree(gpt(hidden=H).blocks[0], training(1, S), Style(Layout(tp=4), training=True))
    assert collectives(layer) == [("all_reduce", SIZE)] * 2
    assert collectives(gradient(layer)[0]) == [("all_reduce", SIZE)] * 2
    assert collectives(gradient(layer)[1]) == []


def test_sequence_parallelism_scatters_and_gathers(gpt: Gpt) -> None:
    """Their g and g-bar (arXiv 2205.05198, section 4.2.2): each is the other's backward pass.

    The input, of which a shard was kept, is gathered once more for the weight gradient.
    """
    style = Style(Layout(tp=4), training=True, sequence_parallel=True)
    layer = block_tree(gpt(hidden=H).blocks[0], training(1, S), style)
    there = ["all_gather", "reduce_scatter"]
    assert collectives(layer) == [(kind, SIZE) for kind in there * 2]
    back = ["all_gather", "all_gather", "reduce_scatter"]
    assert collectives(gradient(layer)[0]) == [(kind, SIZE) for kind in back * 2]


@pytest.mark.parametrize("sharded", [False, True])
def test_overlapped_collectives_send_the_same_bytes_beside_their_gemms(gpt: Gpt, sent: Sent, sharded: bool) -> None:
    def layer(overlap: bool) -> Node:
        style = Style(Layout(tp=4), training=True, sequence_parallel=sharded, overlap_tp=overlap)
        return block_tree(gpt(hidden=H).blocks[0], training(1, S), style)

    assert sent(layer(True)) == sent(layer(False))
    assert sent(gradient(layer(True))[0]) == sent(gradient(layer(False))[0])
    flows = [node for node in _nodes(gradient(layer(True))[0]) if isinstance(node, Flow)]
    assert flows
    assert all(flow.streams[flow.main] == "compute" for flow in flows)


def _nodes(tree: Node) -> list[Node]:
    if isinstance(tree, Op):
        return [tree]
    return [tree, *(n for child in tree.children for n in _nodes(child))]


def test_serving_reduces_twice_a_layer_and_gathers_its_logits(sent: Sent) -> None:
    network = load_network("llama-3.1-8b")
    plan, engine = ServePlan(layout=Layout(tp=4, etp=4)), ServeEngine(name="plain", description="")
    tree = iteration(network, plan, engine, decode(16.0, 100.0)).tree
    size = 2 * 16 * network.hidden_size
    assert sent(tree) == {
        "tp.reduce": (2 * 32 + 1) * size,  # two a layer and the embedding's partial rows
        "logits.gather": 2 * 16 * network.vocab_size,
    }


def test_training_reduces_the_loss_over_the_sharded_vocabulary(gpt: Gpt, sent: Sent) -> None:
    network, batch = gpt(hidden=H, vocab=1024), training(1, S)
    head = head_tree(network, batch, Style(Layout(tp=4), training=True))
    assert sent(head) == {"loss.reduce": 3 * 4 * S}
    assert sent(gradient(head)[0]) == {"tp.grad_reduce": SIZE}
    sharded = head_tree(network, batch, Style(Layout(tp=4), training=True, sequence_parallel=True))
    assert sent(sharded) == {"loss.reduce": 3 * 4 * S, "tp.gather": SIZE}
    assert sent(gradient(sharded)[0]) == {"tp.regather": SIZE, "tp.grad_scatter": SIZE}
    assert sent(head_tree(network, batch, Style(training=True))) == {}


EXPERTS = MoE(8, 2, MLP(H, 4 * H, gated=True), router_parameters=H * 8)
SHARED = MoE(8, 2, MLP(H, 4 * H, gated=True), MLP(H, 4 * H, gated=True), router_parameters=H * 8)


def moe(layout: Layout, *, sharded: bool = False, experts: MoE = EXPERTS, serving: bool = False) -> Node:
    return moe_layer(experts, S, Style(layout, training=not serving, sequence_parallel=sharded))


def test_expert_parallelism_exchanges_every_visit_there_and_back(sent: Sent) -> None:
    visits = 2 * SIZE
    tree = moe(Layout(dp=8, ep=8))
    assert sent(tree) == {"ep.dispatch": visits, "ep.combine": visits}
    assert sent(gradient(tree)[0]) == {"ep.dispatch.grad": visits, "ep.combine.grad": visits}
    assert {op.group.size for op in operators(tree) if op.group} == {8}


def test_tokens_held_alike_by_a_tp_group_are_exchanged_beyond_it_only(sent: Sent) -> None:
    """ep x etp within tp: every rank has all tokens and runs its experts on them, the sum over tp combines."""
    for layout in (Layout(tp=8, ep=8), Layout(tp=8, ep=2, etp=4), Layout(tp=8, ep=2)):
        inside = moe(layout)
        assert sent(inside) == {"tp.reduce": SIZE}
        assert sent(gradient(inside)[0])["tp.grad_reduce"] == SIZE
    # Beyond it the tp ranks divide the visits among them.
    beyond = sent(moe(Layout(tp=8, dp=2, ep=16)))
    assert beyond == {"ep.dispatch": 2 * SIZE / 8, "ep.combine": 2 * SIZE / 8, "tp.reduce": SIZE}


def test_experts_cut_wider_than_tp_receive_each_row_once_a_slice(sent: Sent) -> None:
    tree = moe(Layout(dp=8, ep=4, etp=2), serving=True)
    assert sent(tree) == {"ep.dispatch": 2 * 2 * SIZE, "ep.combine": 2 * 2 * SIZE}
    assert {op.group.size for op in operators(tree) if op.group} == {8}


def test_a_sharded_sequence_is_exchanged_and_gathered_over_the_slices(sent: Sent) -> None:
    spread = moe(Layout(tp=4, dp=2, ep=8), sharded=True)
    assert sent(spread) == {"ep.dispatch": 2 * SIZE / 4, "ep.combine": 2 * SIZE / 4}
    both = moe(Layout(tp=4, dp=2, ep=4, etp=2), sharded=True)
    assert sent(both) == {
        "ep.dispatch": 2 * SIZE / 4, "ep.combine": 2 * SIZE / 4,
        "etp.all_gather": 2 * SIZE * 2 / 4, "etp.reduce_scatter": 2 * SIZE * 2 / 4,
    }  # fmt: skip
    # Without ep the tokens are gathered before they are copied for each visit.
    cut = moe(Layout(tp=4, etp=4), sharded=True)
    assert sent(cut) == {"etp.all_gather": SIZE, "etp.reduce_scatter": SIZE}
    assert sent(gradient(cut)[0]) == {"etp.all_gather": SIZE, "etp.reduce_scatter": SIZE}


def test_routed_and_shared_experts_are_summed_together(sent: Sent) -> None:
    assert sent(moe(Layout(tp=4, etp=4), experts=SHARED, serving=True))["tp.reduce"] == SIZE
    apart = sent(moe(Layout(tp=4, dp=2, ep=8), experts=SHARED, sharded=True))
    assert apart["tp.gather"] == apart["tp.scatter"] == SIZE


def test_visits_reach_the_experts_that_random_routing_reaches() -> None:
    assert active_experts(8, 0) == 0
    assert active_experts(8, 1e6) == pytest.approx(8)
    assert active_experts(256, 1) == pytest.approx(1, rel=0.01)
    visits = 64
    assert active_experts(32, visits) == pytest.approx(32 * (1 - (1 - 1 / 32) ** visits), rel=0.02)


def test_a_ring_passes_keys_round_and_their_gradients_back(gpt: Gpt, sent: Sent) -> None:
    network, batch = gpt(hidden=H, kv_heads=2), training(1, S)
    layer = block_tree(network.blocks[0], batch, Style(Layout(cp=4), training=True))
    keys = 2 * S * 2 * (8 + 8)
    assert sent(layer) == {"cp.kv": 3 * keys}
    assert sent(gradient(layer)[0]) == {"cp.kv_grad": 3 * 2 * keys}


def test_ulysses_exchanges_heads_for_tokens(gpt: Gpt, sent: Sent) -> None:
    layer = block_tree(gpt(hidden=H).blocks[0], training(1, S), Style(Layout(cp=4), training=True, context="ulysses"))
    assert sent(layer) == {"cp.scatter_heads": 3 * SIZE, "cp.gather_heads": SIZE}
    assert sent(gradient(layer)[0]) == {"cp.scatter_heads.grad": 3 * SIZE, "cp.gather_heads.grad": SIZE}


def test_latent_attention_gathers_its_latents() -> None:
    """DeepSeek-V2-Lite projects queries directly; V3 through a latent, which is smaller than the hidden size."""
    lite, v3 = load_network("deepseek-v2-lite").blocks[0], load_network("deepseek-v3").blocks[0]
    for block, sizes in ((lite, [2048, 512 + 64]), (v3, [1536 + 512 + 64])):
        layer = block_tree(block, training(1, S), Style(Layout(tp=4), training=True, sequence_parallel=True))
        gathers = [size / (2 * S) for kind, size in collectives(layer) if kind == "all_gather"]
        assert gathers[:-1] == sizes
        assert gathers[-1] == block.ffn.hidden


def test_stages_hand_on_a_shard_of_the_sequence(step: Make, gpt: Gpt, sent: Sent) -> None:
    for tp in (1, 4):
        made = step(gpt(hidden=H), pp=2, tp=tp, seq=S, micro_batch=2, global_batch=16).tree
        for stage in made.stages:
            assert [wire_bytes(op) for op in operators(stage.send)] == [2 * SIZE / tp]
        # Eight micro-batches cross the only boundary both ways: once for each of the two ranks.
        assert made.times[3] == 8
    assert operators(step(gpt(hidden=H)).tree.stages[0].send) == []


def test_the_rest_of_a_prompt_reads_what_was_cached_of_it() -> None:
    network = load_network("llama-3.1-8b")
    plan, engine = ServePlan(), ServeEngine(name="plain", description="")
    tree = iteration(network, plan, engine, prefill(1.0, 100.0, 900.0)).tree
    (core,) = {op for op in operators(tree) if op.kind == "attention"}
    assert core.shape["context"] == 1000
    assert core.shape["pairs"] == 100 * 900 + 100 * 101 / 2
