"""FLOPs: against the papers' closed forms, against counted products of reference classes, and as laws."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.models import (
    forward_flops_per_token,
    hardware_flops_per_token,
    load_network,
    model_flops_per_token,
    network_from_config,
)
from windtunnel.models.flops import Recompute, encoder_flops_per_token, mean_visible, training_forward_flops, visible
from windtunnel.models.network import Attention, Network

LINES = (Path(__file__).parent / "data" / "reference_flops.jsonl").read_text(encoding="utf-8").splitlines()
ROWS = [json.loads(line) for line in LINES]


def gpt(layers: int, hidden: int, heads: int, vocab: int) -> Network:
    sizes = {"n_layer": layers, "n_embd": hidden, "n_head": heads, "vocab_size": vocab}
    return network_from_config({"model_type": "gpt2", **sizes}, "gpt")


shapes = st.tuples(st.integers(1, 96), st.integers(1, 96), st.integers(1, 128), st.integers(100, 60000))


@given(shapes, st.integers(1, 65536))
def test_megatron_equation_3(shape: tuple[int, int, int, int], s: int) -> None:
    """96·B·s·l·h²·(1 + s/(6h) + V/(16·l·h)) with full recomputation (arXiv 2104.04473, equation 3)."""
    layers, heads, dim, vocab = shape
    h = heads * dim
    expected = 96 * layers * h**2 * (1 + s / (6 * h) + vocab / (16 * layers * h))
    ours = hardware_flops_per_token(gpt(layers, h, heads, vocab), s, recompute="full")
    assert ours == pytest.approx(expected, rel=1e-9)


@given(shapes, st.integers(1, 65536))
def test_palm_appendix_b(shape: tuple[int, int, int, int], s: int) -> None:
    """6N + 12·L·H·Q·T (arXiv 2204.02311, appendix B) with N the weights in products: 12·L·h² and V·h."""
    layers, heads, dim, vocab = shape
    h = heads * dim
    expected = 6 * (12 * layers * h**2 + vocab * h) + 12 * layers * heads * dim * s
    assert model_flops_per_token(gpt(layers, h, heads, vocab), s) == pytest.approx(expected, rel=1e-9)


def test_palm_540b() -> None:
    """6N + 12·L·H·Q·T with the paper's N of 540.35 billion (norms included) and 2,048 tokens."""
    expected = 6 * 540.35e9 + 12 * 118 * 48 * 256 * 2048
    assert model_flops_per_token(load_network("palm-540b"), 2048) == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize(
    ("name", "gflops", "tolerance"),
    [("deepseek-v2", 155, 0.004), ("deepseek-v3", 250, 0.004), ("llama-3.1-405b", 2448, 0.02)],
)
def test_published_training_cost_per_token(name: str, gflops: float, tolerance: float) -> None:
    """arXiv 2505.09343, table 2: training GFLOPs a token at sequence length 4,096, attention counted causally."""
    ours = model_flops_per_token(load_network(name), 4096, "causal") / 1e9
    assert ours == pytest.approx(gflops, rel=tolerance)


@pytest.mark.parametrize("row", ROWS, ids=[f"{row['config']['model_type']}-{i}" for i, row in enumerate(ROWS)])
def test_products_that_a_reference_class_runs(row: dict[str, Any]) -> None:
    """Dense products of one forward pass, counted by torch's FlopCounterMode around transformers 4.57.1.

    The counter sees the rotary angles (a product with one row) and BERT's pooler too, which are no model FLOPs: it may
    be above by 0.1 %, never below.
    """
    network = network_from_config(row["config"], "x")
    source, tokens = row["source_tokens"], row["tokens"]
    ours = source * encoder_flops_per_token(network, source)
    ours += tokens * forward_flops_per_token(network, tokens, source)
    assert ours <= row["flops"]
    assert ours == pytest.approx(row["flops"], rel=1e-3)


def test_forward_is_two_flops_for_each_active_weight() -> None:
    network = load_network("llama-3.1-8b")
    norms = 65 * 4096
    weights = network.total_parameters - network.embedding_parameters - norms
    assert forward_flops_per_token(network) == 2 * weights
    assert forward_flops_per_token(network, 1000) - 2 * weights == 32 * 4 * 4096 * 1000


def test_windows_stop_growing() -> None:
    network = load_network("mistral-7b-v0.1")
    assert forward_flops_per_token(network, 4096) == forward_flops_per_token(network, 32768)
    gemma = load_network("gemma-2-9b")
    full = 21 * 4 * 16 * 256
    assert forward_flops_per_token(gemma, 8192) - forward_flops_per_token(gemma, 4096) == full * 4096


def mixer(window: int | None, chunked: bool = False, causal: bool = True) -> Attention:
    return Attention(64, 4, 4, 16, 16, window=window, chunked=chunked, causal=causal)


@given(st.integers(1, 400), st.integers(1, 300), st.booleans())
def test_mean_visible_is_the_mean_of_visible(seq: int, window: int, chunked: bool) -> None:
    """The causal mean is the exact mean over positions less half a token, the convention's s/2 for (s + 1)/2."""
    m = mixer(window, chunked)
    exact = sum(visible(m, i) for i in range(1, seq + 1)) / seq
    causal = mean_visible(m, seq, "causal")
    whole = min(window, seq)
    in_ramp = seq if chunked or seq <= window else whole
    assert causal == pytest.approx(exact - in_ramp / seq / 2)
    assert causal <= mean_visible(m, seq, "full") == whole


def test_bidirectional_attention_is_counted_in_full() -> None:
    assert mean_visible(mixer(None, causal=False), 100, "causal") == 100
    bert = load_network("bert-base")
    assert model_flops_per_token(bert, 512, "causal") == model_flops_per_token(bert, 512)


@given(
    st.sampled_from(["gpt2", "mixtral-8x7b", "t5-11b", "deepseek-v3", "gpt-oss-20b", "jamba-v0.1"]),
    st.integers(1, 9999),
)
def test_orderings(name: str, seq: int) -> None:
    network = load_network(name)
    causal, full = model_flops_per_token(network, seq, "causal"), model_flops_per_token(network, seq)
    assert causal <= full
    none, selective, again = (hardware_flops_per_token(network, seq, "full", r) for r in get_args(Recompute))
    assert none == full
    assert none <= selective < again
    assert again - none == pytest.approx(training_forward_flops(network, seq)[0])
    assert model_flops_per_token(network, seq + 1) >= full


def test_recurrences_cost_the_same_at_every_context() -> None:
    for name in ("mamba-2.8b", "mamba2-2.7b"):
        network = load_network(name)
        assert forward_flops_per_token(network, 10**6) == forward_flops_per_token(network)


def test_cross_attention_splits_between_source_and_target() -> None:
    """T5's decoder: queries and output for a target token, keys and values for a source token."""
    t5 = load_network("t5-11b")
    inner, hidden = 128 * 128, 1024
    without = replace(t5, blocks=tuple(replace(b, cross=None) for b in t5.blocks))
    assert forward_flops_per_token(t5) - forward_flops_per_token(without) == 24 * 2 * 2 * hidden * inner
    assert encoder_flops_per_token(t5) - encoder_flops_per_token(without) == 24 * 2 * 2 * hidden * inner
    assert forward_flops_per_token(t5, 0, 100) - forward_flops_per_token(t5) == 24 * 4 * inner * 100
