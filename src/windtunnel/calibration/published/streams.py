"""Measured kernels that move data: ``bytes`` that a neighbouring kernel also touches, ``cold_bytes`` that none does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from windtunnel.calibration.published.rows import Measured, device, load, numbers, together

if TYPE_CHECKING:
    import polars as pl


def _stream(
    kind: str,
    name: str,
    frame: pl.DataFrame,
    size: Any,
    seconds: Any,
    *group: Any,
    cold: Any = 0.0,
    held: str = "sizes",
) -> Measured:
    """Rows are held out together that are equal in all of ``group``."""
    c = numbers(frame, bytes=size, cold_bytes=cold, seconds=seconds)
    whole = np.flatnonzero(~np.isnan(c["bytes"]) & ~np.isnan(c["seconds"]) & (c["seconds"] > 0))
    names = together(*(numbers(frame, group=g)["group"] for g in group))
    c = {key: values[whole] for key, values in c.items()}
    return Measured(f"pointwise.{kind}", kind, device(name), c, c.pop("seconds"), [names[i] for i in whole], held=held)


def k2_stream(data: Path, name: str, gpu: str, kind: str) -> Measured:
    """Of a layer by tensor-parallel degree. The clock ticks in microseconds: rows below four are left out."""
    import polars as pl

    d = load(data / f"k2_vidur/linear_ops_{gpu}.csv")
    t, h, tp = 1.0 * pl.col("num_tokens"), 1.0 * pl.col("n_embd"), pl.col("num_tensor_parallel_workers")
    column, size = {
        "activation": ("mlp_act_ms", 6 * t * pl.col("n_expanded_embd") / tp),
        "elementwise": ("add_ms", 6 * t * h),
        "rope": ("attn_rope_ms", 4 * t * (pl.col("n_head") + pl.col("n_kv_head")) / tp * (h / pl.col("n_head"))),
        "norm": ("input_layernorm_ms", 4 * t * h),
    }[kind]
    d = d.filter(pl.col(column) >= 4e-3)
    rank = (h, pl.col("n_expanded_embd"), tp)  # of a model: there are only two on H100
    return _stream(kind, name, d, size, pl.col(column) * 1e-3, *rank, held="models and their tensor-parallel sizes")


def k3_stream(data: Path, name: str, gpu: str, kind: str, least_s: float = 0.0) -> Measured:
    """PyTorch calls timed one by one: below ``least_s`` their launch is most of it."""
    import polars as pl

    d = load(data / "k3_llmcompass/operators_a100_mi210.csv")
    op = {"norm": "layernorm_fp16", "softmax": "softmax_fp16", "activation": "gelu_fp16"}[kind]
    d = d.filter((pl.col("gpu") == gpu) & (pl.col("op") == op) & (pl.col("latency_ms") > 1e3 * least_s))
    elements = pl.col("m_or_rows") * pl.col("n_or_cols").fill_null(1.0)
    return _stream(kind, name, d, 4.0 * elements, pl.col("latency_ms") * 1e-3, elements)


def k5_stream(data: Path, name: str, kind: str) -> Measured:
    """Llama-3.1-405B on H800. The embedding reads its rows cold and writes them."""
    import polars as pl

    d = load(data / "k5_frontier_h800_a800/linear_h800_llama31_405b_fp8.csv")
    t, tp = 1.0 * pl.col("num_tokens"), pl.col("num_tensor_parallel_workers")
    cold: Any
    column, size, cold = {
        "norm": ("input_layernorm_ms", 4 * t * 16384, 0.0),
        "embedding": ("emb_ms", 2 * t * 16384, 2 * t * 16384 / tp),
        "activation": ("mlp_act_ms", 6 * t * 53248 / tp, 0.0),
        "rope": ("attn_rope_ms", 4 * t * 136 * 128 / tp, 0.0),
    }[kind]
    return _stream(kind, name, d, size, pl.col(column) * 1e-3, "num_tokens", cold=cold)


def k6_stream(data: Path, name: str, tag: str, kind: str, tp: int = 1) -> Measured:
    """Llama-3.1-8B in vLLM."""
    import polars as pl

    d = load(data / f"k6_llmservingsim_kernels/{tag}_Llama-3.1-8B_tp{tp}_dense.csv")
    layer, size = {
        "activation": ("act_fn", 6 * 14336 / tp),
        "norm": ("final_layernorm", 4 * 4096.0),
        "rope": ("rotary_emb", 4 * 40 * 128 / tp),
    }[kind]
    d = d.filter(pl.col("layer") == layer)
    return _stream(kind, name, d, size * pl.col("tokens"), pl.col("time_us") * 1e-6, "tokens")
