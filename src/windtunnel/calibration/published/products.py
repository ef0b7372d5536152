"""Measured matrix products: columns ``m``, ``n``, ``k``. Rows of the same weights are held out together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from windtunnel.calibration.published.rows import Measured, device, load, numbers, together
from windtunnel.models.dtypes import BYTES

if TYPE_CHECKING:
    import polars as pl

FORMATS: Mapping[str, tuple[str, str, float]] = {
    "bfloat16": ("bf16", "bf16", 2.0),
    "fp8": ("fp8", "fp8", 1.0),
    "fp8_block": ("fp8_block", "fp8_block", 1.0),
    "sq": ("int8", "int8", 1.0),
    "int8_wo": ("weight_only", "bf16", 1.0),
    "int4_wo": ("weight_only", "bf16", BYTES["int4"]),
}
"""aiconfigurator's number formats: (key of the calibration, format computed in, bytes of a weight)."""


def _measured(family: str, name: str, frame: pl.DataFrame, seconds: Any, **more: Any) -> Measured:
    columns = numbers(frame, m="m", n="n", k="k")
    more = {"group": together(columns["n"], columns["k"]), "held": "weight shapes (n, k)", **more}
    seconds = numbers(frame, seconds=seconds)["seconds"]
    return Measured(family, "gemm", device(name), columns, seconds, **more)


def k1_gemm(data: Path, name: str, system: str, kind: str, framework: str = "") -> Measured:
    """Timed back to back. ``framework``: VLLM or TRTLLM, else both.

    On L40S, small weights stay in its 96 MB cache from one run to the next, which they will not in a model: rows of
    weights below 24 MB and fewer than 512 tokens are left out.
    """
    import polars as pl

    d = load(data / f"k1_aiconfigurator/gemm_{system}.csv").filter(pl.col("gemm_dtype") == kind)
    if framework:
        d = d.filter(pl.col("framework") == framework)
    key, dtype, weight = FORMATS[kind]
    if system == "l40s":
        d = d.filter((weight * pl.col("n") * pl.col("k") > 24e6) | (pl.col("m") >= 512))
    return _measured(f"gemm.{key}", name, d, pl.col("latency_ms") * 1e-3, dtype=dtype, weight=weight)


def k2_gemm(data: Path, name: str, gpu: str) -> Measured:
    """The four products of a layer by tensor-parallel degree; the clock ticks in microseconds."""
    import polars as pl

    d = load(data / f"k2_vidur/linear_ops_{gpu}.csv")
    tp, h, wide = pl.col("num_tensor_parallel_workers"), pl.col("n_embd"), pl.col("n_expanded_embd")
    kv = pl.col("n_kv_head") * 2 * h / pl.col("n_head")
    parts = [
        d.select(m="num_tokens", n=n, k=k, seconds=pl.col(f"{column}_ms") * 1e-3)
        for column, n, k in (
            ("attn_pre_proj", (h + kv) / tp, 1.0 * h),
            ("attn_post_proj", 1.0 * h, h / tp),
            ("mlp_up_proj", 2.0 * wide / tp, 1.0 * h),
            ("mlp_down_proj", 1.0 * h, wide / tp),
        )
    ]
    rows = pl.concat(parts).drop_nulls().filter(pl.col("seconds") >= 10e-6)
    return _measured("gemm.bf16", name, rows, "seconds")


def k3_gemm(data: Path, name: str, gpu: str) -> Measured:
    """Timed call by call, so only rows in which PyTorch's own launch does not matter."""
    import polars as pl

    d = load(data / "k3_llmcompass/operators_a100_mi210.csv")
    d = d.filter((pl.col("op") == "matmul_fp16") & (pl.col("gpu") == gpu) & (pl.col("latency_ms") > 0.1))
    d = d.rename({"m_or_rows": "m", "n_or_cols": "n"})
    # The work, not the weights: rows are squares and one model's shapes.
    group = together(numbers(d, size=pl.col("m") * pl.col("k"))["size"])
    return _measured("gemm.bf16", name, d, pl.col("latency_ms") * 1e-3, dtype="fp16", group=group, held="sizes")


def k4_gemm(data: Path, name: str, gpu: str) -> Measured:
    """DeepGEMM's fp8 products in blocks, of inputs that are fp8 already."""
    import polars as pl

    d = load(data / "k4_infersim_h20_h800/gemm.csv").filter(pl.col("gpu") == gpu)
    return _measured("gemm.fp8_block", name, d, pl.col("latency_us") * 1e-6, dtype="fp8_block", weight=1.0, act=1.0)


def k5_gemm(data: Path, name: str) -> Measured:
    """The four products of a layer of Llama-3.1-405B in fp8 by tensor-parallel degree, on H800."""
    import polars as pl

    d = load(data / "k5_frontier_h800_a800/linear_h800_llama31_405b_fp8.csv")
    tp = pl.col("num_tensor_parallel_workers")
    parts = [
        d.select(m="num_tokens", n=n, k=k, seconds=pl.col(f"{column}_ms") * 1e-3)
        for column, n, k in (
            ("attn_pre_proj", 144 * 128 / tp, pl.lit(16384.0)),
            ("attn_post_proj", pl.lit(16384.0), 16384 / tp),
            ("mlp_up_proj", 2 * 53248 / tp, pl.lit(16384.0)),
            ("mlp_down_proj", pl.lit(16384.0), 53248 / tp),
        )
    ]
    rows = pl.concat(parts).drop_nulls().filter(pl.col("seconds") > 0)
    return _measured("gemm.fp8", name, rows, "seconds", dtype="fp8", weight=1.0)


LLAMA_8B = {"qkv_proj": (6144, 4096), "o_proj": (4096, 4096), "gate_up_proj": (28672, 4096), "down_proj": (4096, 14336)}
"""Output and input sizes without tensor parallelism."""
_BY_INPUT = ("o_proj", "down_proj")


def k6_gemm(data: Path, name: str, tag: str, tp: int = 1) -> Measured:
    """A layer's products in vLLM."""
    import polars as pl

    d = load(data / f"k6_llmservingsim_kernels/{tag}_Llama-3.1-8B_tp{tp}_dense.csv")
    d = d.filter(pl.col("layer").is_in(list(LLAMA_8B)))
    shapes = {layer: (n, k // tp) if layer in _BY_INPUT else (n // tp, k) for layer, (n, k) in LLAMA_8B.items()}
    n, k = (np.array([float(shapes[layer][i]) for layer in d["layer"]]) for i in (0, 1))
    d = d.with_columns(pl.Series("n", n), pl.Series("k", k)).rename({"tokens": "m"})
    return _measured("gemm.bf16", name, d, pl.col("time_us") * 1e-6)


def k6_head(data: Path, name: str, tag: str, tp: int = 1) -> Measured:
    """The product that gives logits, of Llama-3.1-8B's 128,256 tokens."""
    import polars as pl

    d = load(data / f"k6_llmservingsim_kernels/{tag}_Llama-3.1-8B_tp{tp}_per_sequence.csv")
    d = d.filter(pl.col("layer") == "lm_head").rename({"sequences": "m"})
    d = d.with_columns(pl.lit(128256 / tp).alias("n"), pl.lit(4096.0).alias("k"))
    return _measured("gemm.bf16", name, d, pl.col("time_us") * 1e-6)
