"""Serving memory: what a sequence keeps, what weights take, and what is left for the cache."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.models import load_network
from windtunnel.models.network import Attention, Block, LatentAttention, StateSpace
from windtunnel.scenario.layout import Layout
from windtunnel.scenario.options import InferOptions, read_options
from windtunnel.scenario.plan import ServePlan
from windtunnel.scenario.serve import InferScenario, infer_scenario
from windtunnel.serving.memory import (
    ServeMemory,
    activation_bytes,
    kv_bytes,
    kv_capacity_tokens,
    rounded,
    sequence_bytes,
    serve_memory,
)


def attention(kv_heads: int, window: int | None = None) -> Block:
    return Block(Attention(4096, 32, kv_heads, 128, 128, window=window), None, ())


def plan(tp: int = 1, **changes: Any) -> ServePlan:
    return ServePlan(layout=Layout(tp=tp, etp=tp), **changes)


def scenario(**given_: Any) -> InferScenario:
    return infer_scenario(read_options(InferOptions, {"model": "llama-3.1-8b", "on": "1xa100-80gb-sxm", **given_}))


def memory(s: InferScenario, length: float = 2048) -> ServeMemory:
    return serve_memory(s.network, s.plan, s.engine, s.cluster, length)


@pytest.mark.parametrize(
    ("kv_heads", "tp", "heads_held"),
    [(32, 1, 32), (32, 8, 4), (8, 1, 8), (8, 8, 1), (8, 16, 1), (1, 1, 1), (1, 8, 1)],
)
def test_keys_and_values_of_whole_heads(kv_heads: int, tp: int, heads_held: int) -> None:
    """2 x heads x head size x 2 bytes a token and layer; ranks beyond the number of heads hold copies."""
    found = kv_bytes((attention(kv_heads),) * 3, plan(tp), 1000.0)
    assert found == 3 * 2 * heads_held * 128 * 2 * 1000


def test_windows_stop_growing() -> None:
    each = 2 * 8 * 128 * 2
    blocks = (attention(8), attention(8, window=512))
    assert kv_bytes(blocks, plan(), 300.0) == 2 * each * 300
    assert kv_bytes(blocks, plan(), 2000.0) == each * (2000 + 512)


def test_the_latent_is_on_every_rank() -> None:
    """DeepSeek-V2's cache: 512 latent and 64 rotary channels a token (arXiv 2405.04434, section 2.1.4)."""
    block = Block(LatentAttention(5120, 128, 1536, 512, 128, 64, 128), None, ())
    for tp in (1, 8):
        assert kv_bytes((block,), plan(tp), 100.0) == (512 + 64) * 2 * 100


def test_recurrent_state_does_not_grow() -> None:
    block = Block(StateSpace(2560, 10576, 5120, 700_000, 0.0, 0), None, ())
    assert kv_bytes((block,), plan(), 10.0) == kv_bytes((block,), plan(), 1e6) == 4 * 700_000
    assert kv_bytes((block,), plan(4), 10.0) == 700_000


def test_what_keeps_nothing_takes_nothing() -> None:
    both_ways = Block(Attention(64, 4, 4, 16, 16, causal=False), None, ())
    assert kv_bytes((Block(None, None, ()),), plan(), 100.0) == 0
    assert both_ways.mixer is not None
    assert both_ways.mixer.kv_elements_per_token == 0


@pytest.mark.parametrize(("kv", "bytes_"), [("bf16", 2), ("fp8", 1), ("int8", 1), ("fp32", 4)])
def test_the_cache_has_its_own_format(kv: str, bytes_: int) -> None:
    narrow = replace(plan(), linear=replace(plan().linear, kv=kv))
    assert kv_bytes((attention(8),), narrow, 10.0) == 2 * 8 * 128 * bytes_ * 10


@pytest.mark.parametrize(
    ("name", "bytes_"),
    [
        # 2 x layers x key/value heads x head size x 2 bytes, of the published configurations.
        ("llama-3.1-8b", 2 * 32 * 8 * 128 * 2),
        ("llama-3.1-70b", 2 * 80 * 8 * 128 * 2),
        ("llama-2-7b", 2 * 32 * 32 * 128 * 2),
        ("gpt3-175b", 2 * 96 * 96 * 128 * 2),
        ("deepseek-v3", 61 * (512 + 64) * 2),
    ],
)
def test_bytes_a_token_of_known_models(name: str, bytes_: int) -> None:
    assert kv_bytes(load_network(name).blocks, plan(), 1.0) == bytes_


@given(st.integers(0, 10**6), st.sampled_from([1, 2, 16, 64]))
def test_caches_grow_by_whole_blocks(context: int, block: int) -> None:
    found = float(rounded(context, block))
    assert context <= found < context + block
    assert found % block == 0


def test_contexts_may_be_many() -> None:
    contexts = np.array([1.0, 100.0, 5000.0])
    blocks = (attention(8), attention(8, window=512))
    together = kv_bytes(blocks, plan(), rounded(contexts, 16))
    assert list(np.asarray(together)) == [kv_bytes(blocks, plan(), rounded(float(c), 16)) for c in contexts]


@pytest.mark.parametrize(
    ("given_", "parameters", "bytes_"),
    [
        ({}, 8_030_261_248, 2),
        ({"tp": 4, "on": "4xa100-80gb-sxm"}, 8_030_261_248 / 4, 2),
        ({"model": "llama-2-7b", "precision": "fp32"}, 6_738_415_616, 4),
        ({"model": "mixtral-8x7b", "tp": 2, "ep": 2, "on": "2xh100-sxm"}, 46_702_792_704 / 2, 2),
    ],
)
def test_weights_are_the_parameters(given_: dict[str, Any], parameters: float, bytes_: int) -> None:
    """Norms, and a router, are on every rank: within 0.1 % of an even share."""
    assert memory(scenario(**given_)).weights == pytest.approx(parameters * bytes_, rel=1e-3)


def test_quantised_weights_leave_tables_as_they_are() -> None:
    tables = 2 * 128_256 * 4096
    linear = 8_030_261_248 - tables - 65 * 4096
    found = memory(scenario(precision="fp8")).weights
    assert found == pytest.approx(linear + 2 * tables, rel=1e-3)


def test_what_is_left_is_the_cache() -> None:
    s = scenario()
    m = memory(s)
    assert m.capacity == s.cluster.accelerator.hbm.capacity_bytes
    assert m.kv_budget == pytest.approx(0.9 * m.capacity - m.weights - m.activations)
    assert m.activations == activation_bytes(s.network, s.plan) + s.engine.workspace_bytes
    tokens = kv_capacity_tokens(m, s.plan, 2048)
    assert tokens == pytest.approx(m.kv_budget / (2 * 32 * 8 * 128 * 2))
    # Sequences that do not fill their last block hold fewer tokens in the same bytes.
    assert kv_capacity_tokens(m, s.plan, 2049) == pytest.approx(tokens * 2049 / 2064)


def test_measured_blocks_of_a_small_card() -> None:
    """vLLM 0.19 on an RTX 4090 (LLMServingSim@5daddb2, bench/examples): 2,589 blocks of 16 tokens, within 3 %.

    A block more or less is 2 MiB in 24 GiB: an error of 3 % is one of 0.6 % of what the engine may use.
    """
    s = scenario(on="1xrtx-4090", chunk=2048)
    assert kv_capacity_tokens(memory(s), s.plan, 16) / 16 == pytest.approx(2589, rel=0.03)


def test_given_blocks_are_taken() -> None:
    s = scenario(kv_blocks=1000, block_size=32)
    assert kv_capacity_tokens(memory(s), s.plan, 100) == 32_000


def test_a_model_that_is_too_large_leaves_less_than_nothing() -> None:
    s = scenario(model="llama-3.1-70b")
    assert memory(s).kv_budget < 0
    assert kv_capacity_tokens(memory(s), s.plan, 100) == 0


def test_the_stage_with_least_room_for_sequences_limits_all() -> None:
    """The last stage has the head, but where layers are many the stage with most of them runs out first."""
    s = scenario(model="llama-3.1-8b", pp=3, on="3xa100-80gb-sxm")
    m = memory(s)
    assert m.layers.layers == 11  # of 32 layers: 11, 11 and 10
    assert sequence_bytes(m, s.plan, 160) == 11 * 2 * 8 * 128 * 2 * 160
    # Where two stages have as many layers, the one with a table beside them has less room.
    even = scenario(model="llama-3.1-8b", pp=4, on="4xa100-80gb-sxm")
    found = memory(even)
    assert found.layers.first or found.layers.last


@pytest.mark.parametrize("name", ["llama-3.1-8b", "mixtral-8x7b", "deepseek-v2-lite", "mamba2-2.7b", "jamba-v0.1"])
def test_activations_grow_with_the_iteration_and_shrink_with_tp(name: str) -> None:
    network = load_network(name)
    small, large = (activation_bytes(network, plan(max_batched_tokens=t)) for t in (1024, 8192))
    assert large > 4 * small > 0
    split = activation_bytes(network, plan(2, max_batched_tokens=8192))
    assert large / 2 < split < large
    hidden = 2 * 2 * 8192 * network.hidden_size
    assert large > hidden


def test_experts_on_more_ranks_see_fewer_rows() -> None:
    network = load_network("qwen3-30b-a3b")
    alone = ServePlan(layout=Layout(tp=1, dp=8, ep=1, etp=1))
    spread = ServePlan(layout=Layout(tp=1, dp=8, ep=8, etp=1))
    # Eight ranks' tokens visit eight times the experts: a rank's rows are the same.
    assert activation_bytes(network, spread) == activation_bytes(network, alone)
    within = ServePlan(layout=Layout(tp=8, ep=8, etp=1))
    assert activation_bytes(network, within) < activation_bytes(network, ServePlan(layout=Layout(tp=8, etp=8)))


def test_an_empty_cache_is_never_full() -> None:
    s = scenario()
    nothing = replace(memory(s), layers=replace(memory(s).layers, blocks=()))
    assert math.isinf(kv_capacity_tokens(nothing, s.plan, 10))


def test_some_engines_take_a_share_of_what_is_free() -> None:
    s = scenario(engine="tensorrt-llm")
    m = memory(s)
    assert m.kv_budget == pytest.approx(0.9 * (m.capacity - m.weights - m.activations))
    full = memory(scenario(engine="tensorrt-llm", model="llama-3.1-405b"))
    assert full.kv_budget == full.capacity - full.weights - full.activations < 0
