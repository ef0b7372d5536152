"""Every parameter of a network is on some rank, once unless it is named here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.models import catalogue_names, load_network
from windtunnel.ops.tree import Node
from windtunnel.ops.values import Value
from windtunnel.parallel.block import block_tree
from windtunnel.parallel.iteration import iteration, stage_weights
from windtunnel.parallel.stages import StageLayers, deal
from windtunnel.parallel.step import Step
from windtunnel.parallel.style import Style
from windtunnel.scenario.batch import decode, training
from windtunnel.scenario.engines import ServeEngine
from windtunnel.scenario.layout import Layout
from windtunnel.scenario.plan import ServePlan

StepMaker = Callable[..., Step]


def held(step: Step) -> float:
    return sum(h.layers.count * (h.dense + h.expert + h.frozen) for h in step.held)


@pytest.mark.parametrize("name", catalogue_names())
def test_a_single_rank_holds_every_parameter_exactly(name: str, step: StepMaker) -> None:
    network = load_network(name)
    assert held(step(network)) == network.total_parameters


@pytest.mark.parametrize("name", catalogue_names())
def test_pipeline_stages_hold_every_parameter_and_a_copy_of_a_tied_table(name: str, step: StepMaker) -> None:
    network = load_network(name)
    copy = network.vocab_size * network.hidden_size if network.tied and network.has_head else 0
    for pp in (2, 5):
        assert held(step(network, pp=pp)) == network.total_parameters + copy


@pytest.mark.parametrize("name", [n for n in catalogue_names() if not load_network(n).encoder])
def test_a_serving_rank_holds_every_parameter_exactly(name: str) -> None:
    network = load_network(name)
    made = iteration(network, ServePlan(), ServeEngine(name="plain", description=""), decode(1.0, 1.0))
    ((_, totals),) = stage_weights(made)
    parameters = sum(totals.held.get(k, 0.0) for k in ("dense", "expert"))
    assert parameters == network.total_parameters
    assert totals.held["weight_bytes"] == pytest.approx(2 * network.total_parameters)


REPLICATED = {
    "norm", "attn.keep", "moe.router", "mla.q_down", "mla.kv_down", "mla.q_norm", "mla.kv_norm",
}  # fmt: skip
"""Norms, routers, and the projections down to latents: every rank of a tp group holds them whole."""

MODELS = ("llama-3.1-8b", "qwen3-8b", "gpt-oss-20b", "mixtral-8x7b", "deepseek-v3", "mamba2-2.7b", "jamba-v0.1")


@pytest.mark.parametrize("name", MODELS)
def test_tensor_parallel_ranks_divide_everything_but_what_is_named(
    name: str, held_by_name: Callable[[Node], dict[str, Value]]
) -> None:
    network, batch = load_network(name), training(1, 128)
    biases = {"attn.out", "mlp.down", "moe.down"}  # of row-parallel layers: added once, held whole
    for block in set(network.blocks):
        whole = held_by_name(block_tree(block, batch, Style(training=True)))
        shard = held_by_name(block_tree(block, batch, Style(Layout(tp=4, etp=4), training=True)))
        assert shard.keys() == whole.keys()
        for key, value in shard.items():
            if key in REPLICATED:
                # Attention sinks, one a head, are divided; they are kept with what is not.
                assert whole[key] / 4 <= value <= whole[key]
            elif key in biases:
                experts = block.ffn.experts if key == "moe.down" else 1
                assert 4 * value - whole[key] in (0, 3 * experts * network.hidden_size)
            else:
                assert 4 * value == pytest.approx(whole[key], rel=1e-12), key


def test_experts_are_divided_over_ep_and_etp(held_by_name: Callable[[Node], dict[str, Value]]) -> None:
    network, batch = load_network("mixtral-8x7b"), training(1, 128)
    block = network.blocks[0]
    whole = held_by_name(block_tree(block, batch, Style(training=True)))
    for layout in (Layout(ep=4), Layout(tp=2, etp=2, ep=4, dp=4), Layout(tp=8, ep=8), Layout(tp=4, dp=2, ep=2, etp=1)):
        shard = held_by_name(block_tree(block, batch, Style(layout, training=True)))
        for key in ("moe.up", "moe.down"):
            assert shard[key] * layout.ep * layout.etp == whole[key]


def test_more_ranks_than_key_value_heads_hold_copies_of_them(held_by_name: Callable[[Node], dict[str, Value]]) -> None:
    network = load_network("llama-3.1-8b")  # 32 heads, 8 of keys and values
    a = network.blocks[0].mixer
    shard = held_by_name(block_tree(network.blocks[0], training(1, 128), Style(Layout(tp=16, etp=16), training=True)))
    assert shard["attn.qkv"] == a.hidden * (2 * a.head_dim + 2 * a.head_dim)


def dealt(layers: int, encoder: int, pp: int) -> tuple[StageLayers, ...]:
    network = load_network("t5-11b")
    blocks, before = network.blocks[:1] * layers, network.encoder[:1] * encoder
    return deal(replace(network, blocks=blocks, encoder=before), pp)


@given(st.integers(1, 130), st.integers(0, 20), st.integers(1, 40))
def test_layers_are_dealt_evenly_and_none_is_lost(layers: int, encoder: int, pp: int) -> None:
    groups = dealt(layers, encoder, pp)
    assert sum(g.count for g in groups) == pp
    assert [g.index for g in groups] == [sum(g.count for g in groups[:i]) for i in range(len(groups))]
    assert sum(g.count * len(g.blocks) for g in groups) == layers
    assert sum(g.count * len(g.encoder) for g in groups) == encoder
    sizes = {g.layers for g in groups}
    assert max(sizes) - min(sizes) <= 1
    # The last stage has the head, the first the embedding: they take an odd layer after all others.
    assert groups[-1].layers == min(sizes)
    assert groups[0].layers == min(sizes) or all(g.layers == max(sizes) for g in groups[:-1])
    assert [g.first for g in groups] == [i == 0 for i in range(len(groups))]
    assert [g.last for g in groups] == [i == len(groups) - 1 for i in range(len(groups))]


@pytest.mark.parametrize("pp", [1, 3, 4, 7])
def test_unlike_layers_keep_their_order_across_stages(pp: int) -> None:
    network = load_network("jamba-v0.1")
    remaining = list(network.blocks)
    for group in deal(network, pp):
        for _ in range(group.count):
            here, remaining = remaining[: group.layers], remaining[group.layers :]
            assert Counter(here) == Counter(group.blocks)
    assert not remaining
