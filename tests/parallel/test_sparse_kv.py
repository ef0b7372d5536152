"""What layers keep of their context: bytes and FLOPs of attention, what choosing costs, what the cache holds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.models import load_network
from windtunnel.models.network import Attention, Network, views_of, with_mixers
from windtunnel.models.sparse import Kept, SparseKV
from windtunnel.ops.op import Op
from windtunnel.ops.rewrite import operators
from windtunnel.parallel.iteration import iteration
from windtunnel.scenario.batch import decode, prefill
from windtunnel.scenario.engines import ServeEngine, load_engine
from windtunnel.scenario.layout import Layout
from windtunnel.scenario.plan import ServePlan
from windtunnel.serving.memory import kv_bytes
from windtunnel.serving.sizing import cache_units

PLAN = ServePlan(layout=Layout())


def engine(**changes: Any) -> ServeEngine:
    loaded = load_engine("vllm", "serve")
    assert isinstance(loaded, ServeEngine)
    return loaded.model_copy(update=changes)


def with_sparse(name: str, sparse: SparseKV | None) -> Network:
    return with_mixers(load_network(name), lambda mixer: replace(mixer, sparse=sparse))


def ops(network: Network, batch: Any, name: str, **changes: Any) -> list[Op]:
    return [op for op in operators(iteration(network, PLAN, engine(**changes), batch).tree) if op.name == name]


@pytest.mark.parametrize("name", ["llama-3.1-8b", "gemma-2-9b", "deepseek-v2-lite", "llama-4-scout"])
def test_keeping_everything_is_keeping_nothing_apart(name: str) -> None:
    dense, whole = with_sparse(name, None), with_sparse(name, SparseKV())
    assert dense.views == whole.views
    for batch in (decode(4.0, 5000.0, dense.views), prefill(2.0, 700.0, 90.0, dense.views)):
        a, b = (operators(iteration(n, PLAN, engine(), batch).tree) for n in (dense, whole))
        assert [(o.name, o.flops, o.hbm_bytes, o.cached_bytes) for o in a] == [
            (o.name, o.flops, o.hbm_bytes, o.cached_bytes) for o in b
        ]
    assert kv_bytes(dense.blocks, PLAN, 5000.0) == kv_bytes(whole.blocks, PLAN, 5000.0)


@given(share=st.floats(0.01, 1), context=st.floats(1, 1e6), sequences=st.integers(1, 64))
def test_a_share_is_read_and_held_in_proportion(share: float, context: float, sequences: int) -> None:
    part = (Kept(share),)
    network = with_sparse("opt-6.7b", SparseKV(hold=part, read=part))
    batch = decode(float(sequences), context, network.views)
    (op,) = ops(network, batch, "attn.decode")
    each = 2 * 32 * 2 * 128
    assert op.hbm_bytes == pytest.approx(share * context * sequences * each)
    assert op.flops == pytest.approx(share * context * sequences * 2 * 32 * 2 * 128)
    assert kv_bytes(network.blocks, PLAN, context) == pytest.approx(32 * share * context * each)


def test_what_is_read_need_not_be_what_is_held() -> None:
    """Quest: the whole cache stays, a budget of it is read. StreamingLLM: prompts see a window, too."""
    budget = (Kept(window=2048),)
    quest = with_sparse("llama-3.1-8b", SparseKV(read=budget))
    dense = load_network("llama-3.1-8b")
    for context in (1000.0, 2048.0, 60_000.0):
        (op,) = ops(quest, decode(3.0, context, quest.views), "attn.decode")
        assert op.hbm_bytes == 3 * min(context, 2048.0) * 2 * 8 * 2 * 128
        assert kv_bytes(quest.blocks, PLAN, context) == kv_bytes(dense.blocks, PLAN, context)
    stream = with_sparse("llama-3.1-8b", SparseKV(hold=budget, read=budget, prompt=budget))
    (op,) = ops(stream, prefill(1.0, 10_000.0, 0.0, stream.views), "attn.core")
    assert op.shape["pairs"] == 2048 * 2049 / 2 + (10_000 - 2048) * 2048
    assert kv_bytes(stream.blocks, PLAN, 60_000.0) == kv_bytes(dense.blocks, PLAN, 2048.0)


def test_parts_add_up_and_windows_of_a_layer_stay() -> None:
    """Half the heads of a layer see all, half a window: shares of its bytes."""
    parts = (Kept(0.5), Kept(0.5, 256))
    network = with_sparse("llama-3.1-8b", SparseKV(hold=parts, read=parts))
    (op,) = ops(network, decode(1.0, 1000.0, network.views), "attn.decode")
    assert op.hbm_bytes == (500 + 128) * 2 * 8 * 2 * 128
    narrow = Attention(64, 4, 4, 16, 16, window=100, sparse=SparseKV(read=(Kept(window=300),)))
    assert views_of(narrow) == {100}
    chunks = replace(narrow, chunked=True)
    assert views_of(chunks) == {-100}


def test_narrower_tokens_are_fewer_bytes_and_as_many_products() -> None:
    for name in ("llama-3.1-8b", "deepseek-v2-lite"):
        dense, thin = with_sparse(name, None), with_sparse(name, SparseKV(width=0.25))
        batch = decode(2.0, 3000.0, dense.views)
        (a, *_), (b, *_) = ops(dense, batch, "attn.decode"), ops(thin, batch, "attn.decode")
        assert b.hbm_bytes == a.hbm_bytes / 4
        assert b.flops == a.flops
        assert kv_bytes(thin.blocks, PLAN, 64.0) == kv_bytes(dense.blocks, PLAN, 64.0) / 4
        assert cache_units(thin.blocks, PLAN, (0,))[0][0] * 4 == cache_units(dense.blocks, PLAN, (0,))[0][0]


def test_choosing_moves_what_it_says() -> None:
    sparse = SparseKV(hold=(Kept(0.5),), read=(Kept(0.1),), choose=6.0, choose_kernels=3)
    network = with_sparse("llama-3.1-8b", sparse)
    (op,) = ops(network, decode(2.0, 1000.0), "kv.choose")
    assert op.hbm_bytes == 2 * 6 * 8 * (0.5 * 2000)
    assert op.kernels == 3
    assert not ops(network, prefill(2.0, 1000.0), "kv.choose")


def test_scores_of_a_prompt_are_read_or_made_again() -> None:
    network = with_sparse("llama-3.1-8b", SparseKV(score=1.0))
    batch = prefill(2.0, 1000.0)
    (again,) = ops(network, batch, "kv.score")
    (core,) = ops(network, batch, "attn.core")
    assert again.flops == core.flops / 2  # queries meet keys, no values
    (read,) = ops(network, batch, "kv.score", attention="eager")
    assert read.cached_bytes == 2 * 32 * 2 * 1000 * 1000
    assert not ops(network, decode(2.0, 1000.0), "kv.score")
