"""Activation memory against the closed forms of Korthikanti et al. (arXiv 2205.05198), table 2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from windtunnel.models import load_network
from windtunnel.models.network import Block, Network
from windtunnel.ops.fold import tree_totals
from windtunnel.ops.rewrite import operators
from windtunnel.ops.values import Value
from windtunnel.parallel.block import block_tree
from windtunnel.parallel.step import Step
from windtunnel.parallel.style import Style
from windtunnel.scenario.batch import training
from windtunnel.scenario.engines import TrainEngine
from windtunnel.scenario.layout import Layout

Make = Callable[..., Step]
Gpt = Callable[..., Network]

SHAPES = [(1, 64, 64, 8), (2, 256, 128, 4), (3, 2048, 1024, 16)]  # b, s, h, a


def per_layer(make: Make, gpt: Gpt, b: int, s: int, h: int, a: int, engine: TrainEngine, **options: object) -> float:
    """Bytes kept of one layer: what the edges of the network keep cancels out."""

    def saved(layers: int) -> float:
        network = gpt(layers=layers, hidden=h, heads=a)
        return make(network, engine, micro_batch=b, seq=s, eager_attention=True, **options).held[0].saved

    return saved(3) - saved(2)


@pytest.mark.parametrize(("b", "s", "h", "a"), SHAPES)
@pytest.mark.parametrize("t", [1, 2, 4])
def test_every_row_of_table_2(
    step: Make, gpt: Gpt, engine: Callable[..., TrainEngine], b: int, s: int, h: int, a: int, t: int
) -> None:
    e, sbh, scores = engine(dropout=True), s * b * h, 5 * a * s / h

    def kept(**options: object) -> float:
        return per_layer(step, gpt, b, s, h, a, e, tp=t, **options)

    assert kept() == sbh * (10 + 24 / t + scores / t)
    assert kept(sequence_parallel=True) == sbh * (34 + scores) / t
    assert kept(recompute="selective") == sbh * (10 + 24 / t)
    assert kept(sequence_parallel=True, recompute="selective") == sbh * 34 / t
    assert kept(recompute="full") == 2 * sbh


def test_flash_attention_keeps_a_row_statistic_instead_of_the_scores() -> None:
    network = load_network("llama-2-7b")
    block, batch = network.blocks[0], training(1, 4096)
    eager = tree_totals(block_tree(block, batch, Style(training=True, eager_attention=True))).held
    fused = tree_totals(block_tree(block, batch, Style(training=True))).held
    assert eager["saved_core"] == 2 * 4096**2 * 32
    assert fused["saved_core"] == 4 * 4096 * 32
    assert eager["saved"] - eager["saved_core"] == fused["saved"] - fused["saved_core"]


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-8b", "mixtral-8x7b", "mamba2-2.7b"])
@pytest.mark.parametrize("context", ["ring", "ulysses"])
def test_sharding_divides_what_is_kept(name: str, context: str) -> None:
    """With the sequence sharded nothing is kept twice; the scores' statistic follows the tokens or the heads.

    Experts are spread whole: of experts cut over etp, every rank keeps all rows that its group gathered.
    """
    network, seq = load_network(name), 4096

    def kept(layout: Layout, cp: int) -> Value:
        batch = training(1, seq)
        share = replace(
            batch, tokens=seq / cp, sequences=seq / cp, prefill_tokens=seq / cp, prefill_pairs=batch.prefill_pairs / cp
        )
        sharded = layout.tp > 1
        style = Style(layout, training=True, sequence_parallel=sharded, context=context)
        return tree_totals(block_tree(network.blocks[0], share, style)).held["saved"]

    whole = kept(Layout(), 1)
    assert kept(Layout(tp=4, ep=4), 1) * 4 == pytest.approx(whole, rel=1e-12)
    assert kept(Layout(cp=4), 4) * 4 == pytest.approx(whole, rel=1e-12)
    assert kept(Layout(tp=2, cp=2, ep=2), 2) * 4 == pytest.approx(whole, rel=1e-12)


def test_recomputation_brings_back_one_layer_or_one_core(step: Make, gpt: Gpt) -> None:
    def held(recompute: str) -> tuple[float, float]:
        h = step(gpt(layers=5), eager_attention=True, recompute=recompute).held[0]
        return h.saved, h.transient

    edges = step(gpt(layers=0)).held[0].saved
    everything, nothing = held("none")
    assert nothing == 0
    full, layer = held("full")
    assert full - edges == 5 * 2 * 64 * 64
    assert 5 * layer == everything - edges
    selective, core = held("selective")
    assert selective + 5 * core == everything


def test_logits_are_on_the_last_stage_only(step: Make, gpt: Gpt) -> None:
    made = step(gpt(layers=4, vocab=1000), pp=4, tp=2, micro_batch=3, seq=64)
    assert [h.logits for h in made.held] == [0, 0, 3 * 64 * 1000 / 2]


def test_normalised_queries_and_keys_are_kept_before_and_after() -> None:
    network = load_network("qwen3-8b")
    block, batch = network.blocks[0], training(1, 128)
    bare = replace(block, mixer=replace(block.mixer, norms=()))

    def kept(b: Block) -> Value:
        return tree_totals(block_tree(b, batch, Style(training=True, fused=frozenset({"norm"})))).held["saved"]

    assert kept(block) - kept(bare) == 2 * 128 * (block.mixer.heads + block.mixer.kv_heads) * block.mixer.head_dim


def test_a_gate_keeps_both_its_factors() -> None:
    network = load_network("qwen3-next-80b")
    (gated,) = {b for b in network.blocks if getattr(b.mixer, "gated", False)}
    style, batch = Style(training=True), training(1, 128)
    (gate,) = [op for op in operators(block_tree(gated, batch, style)) if op.name == "attn.gate"]
    assert gate.saved_bytes == 2 * 2 * 128 * gated.mixer.heads * gated.mixer.v_head_dim
