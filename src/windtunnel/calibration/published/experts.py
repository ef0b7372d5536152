"""Measured expert layers: whole ones (``rows experts active_experts hidden inter ups``) and their products one by one
(``rows n k experts active_experts``). Rows of one model are held out together."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from windtunnel.calibration.published.products import FORMATS
from windtunnel.calibration.published.rows import Measured, device, load, numbers, together, visited

MODELS = "models (experts and their size)"


def k1_experts(data: Path, name: str, system: str, kind: str, *, balanced: bool | None) -> Measured:
    """Whole expert layers of one rank, with routing that is balanced or follows a power law, or either (None).

    Ranks of an expert-parallel group are left out: how many rows theirs got is not stated for skewed routing, and
    vLLM's kernel there also handles the rows of experts that are elsewhere. ``active_experts`` of skewed routing is
    what even routing at random would visit, as the package assumes.
    """
    import polars as pl

    d = load(data / f"k1_aiconfigurator/moe_{system}.csv")
    d = d.filter((pl.col("moe_dtype") == kind) & (pl.col("moe_ep_size") == 1))
    if balanced is not None:
        d = d.filter((pl.col("distribution") == "balanced") == balanced)
    nongated = pl.col("kernel_source").str.contains("nongated")
    c = numbers(
        d, rows=pl.col("num_tokens") * pl.col("topk"), experts="num_experts", hidden="hidden_size",
        inter=pl.col("inter_size") / pl.col("moe_tp_size"), ups=pl.when(nongated).then(1.0).otherwise(2.0),
        tp="moe_tp_size", seconds=pl.col("latency_ms") * 1e-3,
    )  # fmt: skip
    seconds, tp = c.pop("seconds"), c.pop("tp")
    c["active_experts"] = visited(c["experts"], c["rows"], balanced=bool(balanced))
    key, dtype, weight = FORMATS[kind]
    group = together(c["hidden"], c["inter"] * tp, c["experts"])
    return Measured(f"grouped_gemm.{key}", "expert_layer", device(name), c, seconds, group, dtype, weight, held=MODELS)


def k4_experts(data: Path, name: str, gpu: str) -> Measured:
    """DeepGEMM's two products of an expert layer. Rows that beat HBM had not visited every expert: left out."""
    import polars as pl

    parts = []
    for file in ("decode", "prefill"):
        d = load(data / f"k4_infersim_h20_h800/grouped_gemm_{file}.csv").filter(pl.col("gpu") == gpu)
        local, h, i = (1.0 * pl.col(c) for c in ("num_local_experts", "hidden_size", "intermediate_size"))
        for column, n, k in (("up_proj_us", 2 * i, h), ("down_proj_us", h, i)):
            rows = pl.col("tokens_per_expert") * local
            parts.append(d.select(rows=rows, n=n, k=k, experts=local, seconds=pl.col(column) * 1e-6))
    d = pl.concat(parts).drop_nulls()
    cluster = device(name)
    c = numbers(d, rows="rows", n="n", k="k", experts="experts", seconds="seconds")
    possible = c["seconds"] * cluster.accelerator.hbm.bandwidth_bytes_per_s > c["n"] * c["k"] * c["experts"]
    c = {name: values[np.flatnonzero(possible)] for name, values in c.items()}
    seconds = c.pop("seconds")
    c["active_experts"] = c["experts"]
    group = together(c["experts"], c["n"], c["k"])
    return Measured("grouped_gemm.fp8", "grouped_gemm", cluster, c, seconds, group, "fp8", 1.0, held=MODELS)
