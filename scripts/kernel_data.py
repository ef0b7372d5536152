"""Measured kernels as tables with one set of columns, by source: see ``fit_kernels.py``.

Every table has ``seconds`` and ``group`` (rows of one group are held out together: a model where the source names some,
else a shape; ``attrs["held"]`` says which), and by family: ``m n k`` for
products; ``rows local n k`` or ``rows local hidden inter ups`` for experts; ``tokens pairs context sequences heads
kv_heads head_dim v_head_dim latent`` for attention; ``bytes cold`` for streams.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

LLAMA_8B = {"qkv_proj": (6144, 4096), "o_proj": (4096, 4096), "gate_up_proj": (28672, 4096), "down_proj": (4096, 14336)}


def together(*columns: pd.Series | np.ndarray) -> list[tuple[float, ...]]:
    return list(zip(*columns, strict=True))


def held(rows: pd.DataFrame, what: str) -> pd.DataFrame:
    """``rows``, with what their groups are."""
    rows.attrs["held"] = what
    return rows


# --- products -------------------------------------------------------------------------------------------------------


def k1_gemm(data: Path, name: str, dtype: str, version: str = "") -> pd.DataFrame:
    d = pd.read_csv(data / f"k1_aiconfigurator/gemm_{name}.csv")
    d = d[(d.gemm_dtype == dtype) & d.version.str.startswith(version)]
    if name == "l40s":
        # Small weights of the back-to-back runs stay in its 96 MB cache, which they will not in a model.
        weight = {"bfloat16": 2.0, "int4_wo": 0.5}.get(dtype, 1.0) * d.n * d.k
        d = d[(weight > 24e6) | (d.m >= 512)]
    return held(d.assign(seconds=d.latency_ms * 1e-3, group=together(d.n, d.k)), "weight shapes (n, k)")


def k3_gemm(data: Path) -> pd.DataFrame:
    """MI210. Timed call by call, so only rows in which PyTorch's own launch does not matter."""
    d = pd.read_csv(data / "k3_llmcompass/operators_a100_mi210.csv")
    d = d[(d.op == "matmul_fp16") & (d.gpu == "MI210") & (d.latency_ms > 0.1)]
    rows = d.assign(m=d.m_or_rows, n=d.n_or_cols, seconds=d.latency_ms * 1e-3, group=d.m_or_rows * d.k)
    return held(rows, "sizes")


def k4_gemm(data: Path) -> pd.DataFrame:
    d = pd.read_csv(data / "k4_infersim_h20_h800/gemm.csv")
    return held(d.assign(seconds=d.latency_us * 1e-6, group=together(d.n, d.k)), "weight shapes (n, k)")


def k6_gemm(data: Path, tag: str) -> pd.DataFrame:
    """One model's four layers."""
    d = pd.read_csv(data / f"k6_llmservingsim_kernels/{tag}_Llama-3.1-8B_tp1_dense.csv")
    d = d[d.layer.isin(LLAMA_8B)]
    n, k = (np.array([LLAMA_8B[layer][i] for layer in d.layer], float) for i in (0, 1))
    return held(d.assign(m=d.tokens, n=n, k=k, seconds=d.time_us * 1e-6, group=d.layer), "one layer of four")


# --- experts --------------------------------------------------------------------------------------------------------


def k1_experts(data: Path, name: str, dtype: str, *, balanced: bool) -> pd.DataFrame:
    """Whole expert layers of one rank.

    Ranks of an expert-parallel group are left out: how many rows theirs got is not stated for skewed routing, and
    vLLM's kernel there also handles the rows of experts that are elsewhere.
    """
    d = pd.read_csv(data / f"k1_aiconfigurator/moe_{name}.csv")
    d = d[(d.moe_dtype == dtype) & (d.moe_ep_size == 1) & ((d.distribution == "balanced") | (not balanced))]
    d = d.assign(
        rows=1.0 * d.num_tokens * d.topk,
        local=1.0 * d.num_experts,
        hidden=1.0 * d.hidden_size,
        inter=1.0 * d.inter_size / d.moe_tp_size,
        ups=np.where(d.kernel_source.str.contains("nongated"), 1.0, 2.0),
        seconds=d.latency_ms * 1e-3,
        group=together(d.hidden_size, d.inter_size, d.num_experts),
    )
    return held(d, "models (hidden, expert size, experts)")


def k4_experts(data: Path) -> pd.DataFrame:
    """The two products of an expert layer one by one. Rows that beat HBM had not visited every expert: left out."""
    parts = []
    for name in ("decode", "prefill"):
        d = pd.read_csv(data / f"k4_infersim_h20_h800/grouped_gemm_{name}.csv")
        local, h, i = 1.0 * d.num_local_experts, 1.0 * d.hidden_size, 1.0 * d.intermediate_size
        for column, n, k in (("up_proj_us", 2 * i, h), ("down_proj_us", h, i)):
            rows = d.tokens_per_expert * local
            parts.append(pd.DataFrame({"rows": rows, "local": local, "n": n, "k": k, "seconds": d[column] * 1e-6}))
    all_ = pd.concat(parts)
    all_ = all_[all_.seconds * 3.35e12 > all_.n * all_.k * all_.local]
    return held(all_.assign(group=together(all_.local, all_.n, all_.k)), "weight shapes (experts, n, k)")


# --- attention ------------------------------------------------------------------------------------------------------


def k1_attention(data: Path, name: str, what: str, dtype: str = "bfloat16", kv: str = "bfloat16") -> pd.DataFrame:
    """``what``: context (whole causal prompts) or generation. Without windows."""
    d = pd.read_csv(data / f"k1_aiconfigurator/attn_{what}_{name}.csv")
    d = d[(d.attn_dtype == dtype) & (d.kv_cache_dtype == kv)]
    if "window_size" in d:
        d = d[d.window_size == 0]
    if what == "context":
        d = d[d.isl > 1]  # one token after nothing is no prompt
    kv_heads = d.num_key_value_heads.where(d.num_key_value_heads > 0, d.num_heads)
    s = d.isl if what == "context" else d.step + 1
    d = d.assign(
        tokens=d.batch_size * d.isl,
        pairs=d.batch_size * s * (s + 1) / 2,
        context=d.batch_size * s,
        sequences=d.batch_size,
        heads=d.num_heads,
        kv_heads=kv_heads,
        v_head_dim=d.head_dim,
        latent=2 * d.head_dim,
        seconds=d.latency_ms * 1e-3,
        group=together(d.num_heads, kv_heads, d.head_dim),
    )
    return held(d, "(heads, KV heads, head size)")


def k4_decode(data: Path) -> pd.DataFrame:
    """Heads-KV heads-size in the tag; for latent attention heads-latent-rotary, one KV head."""
    parts = []
    for name in ("mha", "mla"):
        d = pd.read_csv(data / f"k4_infersim_h20_h800/{name}_decode.csv")
        tag = d.shape_tag.str.split("-", expand=True).astype(float)
        if name == "mha":
            d = d.assign(kv_heads=tag[1], head_dim=tag[2], v_head_dim=tag[2], latent=2 * tag[2])
        else:
            d = d.assign(kv_heads=1.0, head_dim=tag[1] + tag[2], v_head_dim=tag[1], latent=tag[1] + tag[2])
        parts.append(d.assign(heads=tag[0], seconds=d.latency_us * 1e-6)[d.kv_dtype == "bf16"])
    rows = pd.concat(parts).dropna(subset=["batch_size", "kv_len", "seconds"])
    context = rows.batch_size * rows.kv_len
    shape = together(rows.heads, rows.kv_heads, rows.head_dim)
    return held(rows.assign(sequences=rows.batch_size, context=context, group=shape), "(heads, KV heads, head size)")


def k5_attention(data: Path, name: str, heads: int, kv_heads: int, *, prefill: bool) -> pd.DataFrame:
    d = pd.read_csv(data / f"k5_frontier_h800_a800/attention_{name}.csv")
    tp = d.num_tensor_parallel_workers if "num_tensor_parallel_workers" in d else 1
    d = d.assign(heads=heads / tp, kv_heads=np.maximum(kv_heads / tp, 1.0), sequences=1.0 * d.batch_size)
    d = d.assign(head_dim=128.0, v_head_dim=128.0, latent=256.0)
    past = 1.0 * d.kv_cache_size
    if prefill:
        chunk = 1.0 * d.prefill_chunk_size
        pairs = d.sequences * chunk * (past + (chunk + 1) / 2)
        d = d.assign(tokens=d.sequences * chunk, pairs=pairs, context=d.sequences * (past + chunk))
        d = d.assign(seconds=d.attn_prefill_ms * 1e-3)
        d = d[d.is_prefill & (d.seconds > 0) & (chunk > 0)]
        if "equal_seq_len" in d:  # unlike prompts in one call, of which only the sum is stated
            d = d[d.batch_size == 1]
    else:
        d = d.assign(context=d.sequences * (past + 1), seconds=d.attn_decode_ms * 1e-3)
        d = d[~d.is_prefill & (d.seconds > 0)]
    if d.heads.nunique() > 1:
        return held(d.assign(group=d.heads), "tensor-parallel sizes")
    return held(d.assign(group=together(d.sequences, d.context)), "sizes")


def k6_attention(data: Path, tag: str, *, prefill: bool) -> pd.DataFrame:
    """Calls of prompts only or of decodes only; ``kv_decode`` is the context of each sequence."""
    d = pd.read_csv(data / f"k6_llmservingsim_kernels/{tag}_Llama-3.1-8B_tp1_attention.csv")
    d = d.assign(heads=32.0, kv_heads=8.0, head_dim=128.0, v_head_dim=128.0, latent=256.0, seconds=d.time_us * 1e-6)
    if prefill:
        d = d[d.n_decode == 0]
        chunk = 1.0 * d.prefill_chunk
        d = d.assign(tokens=chunk, pairs=chunk * (d.kv_prefill + (chunk + 1) / 2), context=d.kv_prefill + chunk)
        return held(d.assign(sequences=1.0, group=together(d.tokens, d.context)), "sizes")
    d = d[(d.prefill_chunk == 0) & (d.n_decode > 0)]
    context = 1.0 * d.n_decode * d.kv_decode
    group = together(d.n_decode, d.kv_decode)
    return held(d.assign(sequences=1.0 * d.n_decode, context=context, group=group), "sizes")


# --- streams --------------------------------------------------------------------------------------------------------


def stream(
    size: pd.Series, seconds: pd.Series, group: pd.Series, cold: pd.Series | float = 0.0, what: str = "sizes"
) -> pd.DataFrame:
    rows = pd.DataFrame({"bytes": 1.0 * size, "cold": cold, "seconds": seconds, "group": group}).dropna()
    return held(rows, what)


def k2_stream(data: Path, gpu: str, kind: str) -> pd.DataFrame:
    d = pd.read_csv(data / f"k2_vidur/linear_ops_{gpu}.csv")
    t, h, tp = 1.0 * d.num_tokens, 1.0 * d.n_embd, d.num_tensor_parallel_workers
    column, size = {
        "activation": ("mlp_act_ms", 6 * t * d.n_expanded_embd / tp),
        "elementwise": ("add_ms", 6 * t * h),
        "rope": ("attn_rope_ms", 4 * t * (d.n_head + d.n_kv_head) / tp * (d.n_embd / d.n_head)),
    }[kind]
    rows = stream(size, d[column] * 1e-3, d.model, what="models")
    return rows[rows.seconds >= 4e-6]  # the clock ticks in microseconds


def k3_stream(data: Path, gpu: str, kind: str) -> pd.DataFrame:
    d = pd.read_csv(data / "k3_llmcompass/operators_a100_mi210.csv")
    op = {"norm": "layernorm_fp16", "softmax": "softmax_fp16", "activation": "gelu_fp16"}[kind]
    d = d[(d.gpu == gpu) & (d.op == op)]
    elements = d.m_or_rows * d.n_or_cols.fillna(1.0)
    return stream(4.0 * elements, d.latency_ms * 1e-3, elements)


def k5_stream(data: Path, kind: str) -> pd.DataFrame:
    """Llama-3.1-405B on H800. The embedding reads its rows cold and writes them."""
    d = pd.read_csv(data / "k5_frontier_h800_a800/linear_h800_llama31_405b_fp8.csv")
    t, tp = 1.0 * d.num_tokens, d.num_tensor_parallel_workers
    column, size, cold = {
        "norm": ("input_layernorm_ms", 4 * t * 16384, 0.0),
        "embedding": ("emb_ms", 2 * t * 16384, 2 * t * 16384 / tp),
        "activation": ("mlp_act_ms", 6 * t * 53248 / tp, 0.0),
        "rope": ("attn_rope_ms", 4 * t * 136 * 128 / tp, 0.0),
    }[kind]
    return stream(size, d[column] * 1e-3, t, cold)


def k6_stream(data: Path, tag: str, kind: str) -> pd.DataFrame:
    d = pd.read_csv(data / f"k6_llmservingsim_kernels/{tag}_Llama-3.1-8B_tp1_dense.csv")
    layer, size = {
        "activation": ("act_fn", 6 * 14336),
        "norm": ("final_layernorm", 4 * 4096),
        "rope": ("rotary_emb", 4 * 40 * 128),
    }[kind]
    d = d[d.layer == layer]
    return stream(size * d.tokens, d.time_us * 1e-6, d.tokens)


# --- power ----------------------------------------------------------------------------------------------------------


def s4_power(data: Path) -> pd.DataFrame:
    """Runs of Llama-2-70B; at prompts of 8,192 the mean power covers mostly idle time: left out."""
    d = pd.read_csv(data / "s4_splitwise/prompt_token_latency.csv")
    return d[(d.average_power > 0) & (d.prompt_size < 8192)]
