"""Measured attention kernels.

Of prompts: columns ``tokens pairs context heads kv_heads head_dim v_head_dim``; of one new token a sequence:
``sequences context heads kv_heads head_dim v_head_dim kv_bytes_per_token``. Rows of the same heads are held out
together where a source has several, else those of the same size.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.calibration.published.rows import GRAPHS, Measured, device, load, numbers, together
from windtunnel.ops.values import Array

PROMPT = ("tokens", "pairs", "context", "heads", "kv_heads", "head_dim", "v_head_dim")
DECODE = ("sequences", "context", "heads", "kv_heads", "head_dim", "v_head_dim", "kv_bytes_per_token")

HEADS = "(heads, KV heads, head size)"


def _measured(
    name: str, generation: str, c: dict[str, Array], group: list[str], dtype: str = "bf16", held: str = HEADS
) -> Measured:
    """``c`` has the shape and ``seconds``; decodes are told by their ``sequences``."""
    kernel, shape = ("attention", PROMPT) if "tokens" in c else ("attention_decode", DECODE)
    key = f"{generation}.{dtype}" if dtype != "bf16" else generation
    runtime = replace(GRAPHS, attention=generation)
    columns = {n: c[n] for n in shape}
    return Measured(
        f"{kernel}.{key}", kernel, device(name), columns, c["seconds"], group, dtype, runtime=runtime, held=held
    )


def k1_prompts(
    data: Path, name: str, system: str, generation: str, dtype: str = "bfloat16", kv: str = "bfloat16"
) -> Measured:
    """Whole causal prompts of two tokens and more, without windows."""
    import polars as pl

    d = _k1(data / f"k1_aiconfigurator/attn_context_{system}.csv", dtype, kv).filter(pl.col("isl") > 1)
    s = pl.col("isl")
    c = numbers(
        d, tokens=pl.col("batch_size") * s, pairs=pl.col("batch_size") * s * (s + 1) / 2,
        context=pl.col("batch_size") * s, length=s, **_k1_heads(), seconds=pl.col("latency_ms") * 1e-3,
    )  # fmt: skip
    group = together(c["heads"], c["kv_heads"], c["head_dim"])
    return _measured(name, generation, c, group, {"bfloat16": "bf16"}.get(dtype, dtype))


def k1_decodes(
    data: Path, name: str, system: str, generation: str, kv: str = "bfloat16", warm: bool = True
) -> Measured:
    """One token each, without windows. Unless ``warm``, what ran from the last-level cache is left out: TensorRT-LLM's
    rows of contexts from 2 MB up to twice the cache, and those that beat HBM because sequences share pages."""
    import polars as pl

    d = _k1(data / f"k1_aiconfigurator/attn_generation_{system}.csv", "bfloat16", kv)
    s = pl.col("step") + 1
    c = numbers(
        d, sequences="batch_size", context=pl.col("batch_size") * s, length=s, **_k1_heads(),
        seconds=pl.col("latency_ms") * 1e-3,
    )  # fmt: skip
    width = 1.0 if kv == "fp8" else 2.0
    c["kv_bytes_per_token"] = width * 2.0 * c["kv_heads"] * c["head_dim"]
    if not warm:
        a, size = device(name).accelerator, c["context"] * c["kv_bytes_per_token"]
        slow = size / c["seconds"] < 0.97 * a.hbm.bandwidth_bytes_per_s
        kept = np.flatnonzero((size < 2e6) | ((size > 2 * a.l2.capacity_bytes) & slow))
        c = {n: values[kept] for n, values in c.items()}
    return _measured(name, generation, c, together(c["heads"], c["kv_heads"], c["head_dim"]))


def _k1(path: Path, dtype: str, kv: str) -> Any:
    import polars as pl

    d = load(path).filter((pl.col("attn_dtype") == dtype) & (pl.col("kv_cache_dtype") == kv))
    return d.filter(pl.col("window_size") == 0) if "window_size" in d.columns else d


def _k1_heads() -> dict[str, Any]:
    import polars as pl

    groups = pl.col("num_key_value_heads")
    kv_heads = pl.when(groups > 0).then(groups).otherwise(pl.col("num_heads"))
    return {"heads": "num_heads", "kv_heads": kv_heads, "head_dim": "head_dim", "v_head_dim": "head_dim"}


def k1_latent(data: Path, name: str, system: str, what: str, kv: str = "bfloat16") -> Measured:
    """DeepSeek's latent attention in TensorRT-LLM, ``what``: context (keys of 192, values of 128 a head) or generation
    (one head of 576 that all queries share)."""
    import polars as pl

    d = load(data / f"k1_aiconfigurator/mla_{what}.csv")
    d = d.filter((pl.col("system") == system) & (pl.col("kv_cache_dtype") == kv))
    b, s = pl.col("batch_size"), pl.col("isl") if what == "context" else pl.col("step") + 1
    shape: dict[str, Any] = {"heads": "num_heads", "kv_heads": "num_heads", "head_dim": 192.0, "v_head_dim": 128.0}
    if what == "context":
        shape |= {"tokens": b * s, "pairs": b * s * (s + 1) / 2}
    else:
        width = 1.0 if kv == "fp8" else 2.0
        shape |= {"kv_heads": 1.0, "head_dim": 576.0, "v_head_dim": 512.0, "sequences": b}
        shape |= {"kv_bytes_per_token": width * 576.0}
    c = numbers(d, **shape, context=b * s, length=s, seconds=pl.col("latency_ms") * 1e-3)
    return _measured(name, "trtllm", c, together(c["heads"]))


def k4_decodes(data: Path, name: str, gpu: str) -> Measured:
    """FlashAttention-3 (heads-KV heads-size in the tag) and FlashMLA (heads-latent-rotary, one KV head)."""
    import polars as pl

    parts = []
    for file in ("mha", "mla"):
        d = load(data / f"k4_infersim_h20_h800/{file}_decode.csv")
        d = d.filter((pl.col("gpu") == gpu) & (pl.col("kv_dtype") == "bf16"))
        tag = [pl.col("shape_tag").str.split("-").list.get(i).cast(pl.Float64) for i in range(3)]
        shape = {"kv_heads": tag[1], "head_dim": tag[2], "v_head_dim": tag[2], "latent": 2 * tag[2]}
        if file == "mla":
            size = tag[1] + tag[2]
            shape = {"kv_heads": pl.lit(1.0), "head_dim": size, "v_head_dim": tag[1], "latent": size}
        parts.append(d.select(sequences=1.0 * pl.col("batch_size"), length=1.0 * pl.col("kv_len"), heads=tag[0],
                              seconds=pl.col("latency_us") * 1e-6, **shape))  # fmt: skip
    d = pl.concat(parts).drop_nulls()
    c = numbers(d, **{n: n for n in d.columns})
    c["context"] = c["sequences"] * c["length"]
    c["kv_bytes_per_token"] = 2.0 * c["kv_heads"] * c["latent"]
    return _measured(name, "flash3", c, together(c["heads"], c["kv_heads"], c["head_dim"]))


def k4_prompts(data: Path, name: str, gpu: str) -> Measured:
    """Latent attention over whole prompts: keys of 192 and values of 128 a head."""
    import polars as pl

    d = load(data / "k4_infersim_h20_h800/mla_prefill.csv").filter(pl.col("gpu") == gpu)
    s = pl.col("seq_len")
    c = numbers(
        d, tokens=s, pairs=s * (s + 1) / 2, context=s, heads=128.0, kv_heads=128.0, head_dim=192.0, v_head_dim=128.0,
        seconds=pl.col("latency_us") * 1e-6,
    )  # fmt: skip
    return _measured(name, "flash3", c, together(c["tokens"]), held="sizes")


def k5_attention(
    data: Path, name: str, file: str, heads: int, kv_heads: int, generation: str, *, prefill: bool
) -> Measured:
    """FlashInfer with heads of 128. Left out: calls of unlike prompts, of which only the sum is stated. (Decodes of
    llama31_405b read their caches at up to 7.5 TB/s, twice what HBM gives: what their sizes count is not stated.)"""
    import polars as pl

    d = load(data / f"k5_frontier_h800_a800/attention_{file}.csv")
    column = "attn_prefill_ms" if prefill else "attn_decode_ms"
    d = d.filter((pl.col("is_prefill") == prefill) & (pl.col(column) > 0))
    if prefill:
        d = d.filter(pl.col("prefill_chunk_size") > 0)
        if "equal_seq_len" in d.columns:
            d = d.filter(pl.col("batch_size") == 1)
    tp = pl.col("num_tensor_parallel_workers") if "num_tensor_parallel_workers" in d.columns else pl.lit(1)
    c = numbers(
        d, heads=heads / tp, kv_heads=pl.max_horizontal(kv_heads / tp, pl.lit(1.0)), head_dim=128.0, v_head_dim=128.0,
        sequences="batch_size", past="kv_cache_size", chunk="prefill_chunk_size", seconds=pl.col(column) * 1e-3,
    )  # fmt: skip
    sequences, past, chunk = (c[n] for n in ("sequences", "past", "chunk"))
    if prefill:
        c["tokens"], c["pairs"] = sequences * chunk, sequences * chunk * (past + (chunk + 1) / 2)
        c["context"] = sequences * (past + chunk)
    else:
        c["context"], c["kv_bytes_per_token"] = sequences * (past + 1), 4.0 * c["kv_heads"] * c["head_dim"]
    several = len(set(c["heads"])) > 3
    if several:
        return _measured(name, generation, c, together(c["heads"]), held="tensor-parallel sizes")
    return _measured(name, generation, c, together(c["heads"], sequences, c["context"]), held="sizes")


def k6_attention(data: Path, name: str, tag: str, generation: str, tp: int = 1, *, prefill: bool) -> Measured:
    """Llama-3.1-8B in vLLM: calls of prompts only or of decodes only; ``kv_decode`` is the context of each sequence."""
    import polars as pl

    d = load(data / f"k6_llmservingsim_kernels/{tag}_Llama-3.1-8B_tp{tp}_attention.csv")
    kind = pl.col("n_decode") == 0 if prefill else (pl.col("prefill_chunk") == 0) & (pl.col("n_decode") > 0)
    c = numbers(
        d.filter(kind), heads=32.0 / tp, kv_heads=8.0 / tp, head_dim=128.0, v_head_dim=128.0,
        sequences="n_decode", length="kv_decode", chunk="prefill_chunk", past="kv_prefill",
        seconds=pl.col("time_us") * 1e-6,
    )  # fmt: skip
    if prefill:
        chunk, past = c["chunk"], c["past"]
        c |= {"tokens": chunk, "pairs": chunk * (past + (chunk + 1) / 2), "context": past + chunk}
        return _measured(name, generation, c, together(chunk, c["context"]), held="sizes")
    c["context"], c["kv_bytes_per_token"] = c["sequences"] * c["length"], 4.0 * c["kv_heads"] * c["head_dim"]
    return _measured(name, generation, c, together(c["sequences"], c["length"]), held="sizes")
