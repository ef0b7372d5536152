"""What the constants of kernels are fitted on: the tables of ``kernel_data.py``, priced by the package itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import kernel_data as tables
from windtunnel.cost.attention import attention_kernel, decode_kernel
from windtunnel.cost.calibration import Attention, Decode, Gemm, Stream, load_calibration
from windtunnel.cost.gemm import gemm_kernel, grouped_kernel
from windtunnel.cost.kernels import Rates
from windtunnel.cost.runtime import Runtime
from windtunnel.cost.stream import stream_kernel
from windtunnel.hardware import parse_cluster
from windtunnel.models.dtypes import BYTES
from windtunnel.ops import build
from windtunnel.ops.op import Op

K1, K2, K3, K4, K5, K6 = (
    "aiconfigurator@095f58a", "vidur@7d47513", "LLMCompass@2e015fd", "InferSim@f2293da", "Frontier@a4b22df",
    "LLMServingSim@5daddb2",
)  # fmt: skip
Bounds = Mapping[str, tuple[float, float, float]]
"""(lowest, start, highest) by constant."""
Predict = Callable[[Any, pd.DataFrame], np.ndarray]
"""Seconds of rows for an entry."""


@dataclass
class Target:
    """One entry to fit. ``own``: written below ``devices`` rather than as the family's constants."""

    file: str
    device: str
    section: str
    key: str
    data: str
    rows: pd.DataFrame
    predict: Predict
    base: Any
    free: Bounds
    choices: Mapping[str, Sequence[Any]]
    own: bool = False


class Layer(Gemm):
    """With an unknown of runs with skewed routing: how uniformly experts are visited."""

    visited: float = 1.0


class Harness(Stream):
    """With the part of a measurement that is the harness's own launch (PyTorch calls timed one by one)."""

    harness_s: float = 0.0


NUISANCE = ("visited", "harness_s")
BASE = {
    "gemm": Gemm(fixed_s=4e-6, compute=0.8, bandwidth=0.85),
    "grouped_gemm": Layer(fixed_s=15e-6, compute=0.6, bandwidth=0.85),
    "attention": Attention(fixed_s=1e-5, compute=0.7, bandwidth=0.8),
    # Compute from the fit on H800, whose latent attention is bound by it.
    "attention_decode": Decode(fixed_s=10e-6, compute=0.58, bandwidth=0.85),
    "pointwise": Harness(fixed_s=3e-6, bandwidth=0.8),
}
FREE: dict[str, Bounds] = {
    "gemm": {
        "fixed_s": (0.5e-6, 3e-6, 20e-6), "compute": (0.2, 0.8, 1.0), "bandwidth": (0.4, 0.85, 0.95),
        "wave": (0.0, 0.2, 1.0), "k_ramp": (0.0, 100.0, 1024.0), "load": (0.1, 1.0, 8.0),
        "split_k": (64.0, 512.0, 16384.0), "split_s": (0.0, 3e-6, 10e-6),
    },
    "grouped_gemm": {
        "fixed_s": (2e-6, 15e-6, 60e-6), "compute": (0.05, 0.6, 1.0), "bandwidth": (0.2, 0.85, 0.95),
        "wave": (0.0, 0.2, 1.0), "k_ramp": (0.0, 100.0, 1024.0), "load": (0.1, 1.0, 8.0),
    },
    "attention": {
        "fixed_s": (2e-6, 10e-6, 40e-6), "compute": (0.2, 0.8, 0.95), "vector": (0.02, 0.3, 1.0),
        "wave": (0.0, 0.3, 1.0), "diagonal": (0.0, 64.0, 512.0),
        "tile_s": (0.0, 1e-6, 10e-6), "write": (0.0, 1.0, 4.0), "alone": (0.25, 1.0, 2.0),
    },
    "attention_decode": {
        "fixed_s": (2e-6, 10e-6, 40e-6), "bandwidth": (0.4, 0.85, 0.97), "wave_s": (0.0, 3e-6, 30e-6),
        "head_s": (0.0, 1e-9, 5e-9), "draw": (0.5, 1.5, 8.0), "block": (16.0, 128.0, 2048.0),
        "combine_s": (0.0, 3e-6, 20e-6), "split_s": (0.0, 1e-7, 1e-6),
    },
    "pointwise": {"fixed_s": (0.5e-6, 3e-6, 12e-6), "bandwidth": (0.05, 0.8, 0.95), "cache": (0.02, 0.6, 1.0)},
}  # fmt: skip
TILES = (
    ((128, 256), (128, 128), (64, 64), (16, 64)),
    ((128, 128), (64, 64), (16, 64)),
    ((128, 128), (32, 64)),
    ((128, 128), (16, 128)),
    ((256, 128), (128, 128), (64, 64), (32, 64)),
)
"""Sets of tiles that libraries' kernels may have, the best of which is taken."""
BY_ROWS = ((64, 64), (64, 128), (128, 128)), (64, 128)
"""The tiles of vLLM's fp8 products and the rows up to which each is taken."""
CHOICES: dict[str, Mapping[str, Sequence[Any]]] = {
    "gemm": {"power": (2, 4), "tiles": TILES},
    "grouped_gemm": {
        "power": (2, 4),
        "tiles": (((128, 128), (64, 64), (16, 64)), ((64, 128), (16, 128)), ((128, 128), (64, 128)), ((64, 64),)),
    },
    "attention": {"queries": (64, 128)},
    "attention_decode": {"power": (2, 4)},
    "pointwise": {"power": (2, 4)},
}


@cache
def rates(device: str) -> Rates:
    """Kernels were timed back to back, from graphs or between events: the gap is inside the fixed cost."""
    cluster = parse_cluster(f"1x{device}")
    return Rates.of(cluster, load_calibration(cluster.accelerator), Runtime(graphs=True))


def columns(rows: pd.DataFrame, *names: str) -> list[np.ndarray]:
    return [rows[name].to_numpy(float) for name in names]


# --- what each table's rows cost ------------------------------------------------------------------------------------


def gemm(device: str, dtype: str, weight: float, act: float = 2.0) -> Predict:
    def predict(entry: Gemm, rows: pd.DataFrame) -> np.ndarray:
        op = build.gemm("", *columns(rows, "m", "n", "k"), dtype=dtype, weight=weight, act=act)
        table = {"bf16": entry, dtype: entry, "weight_only": entry}
        return np.asarray(gemm_kernel(rates(device), table)(op).seconds)

    return predict


def prefill(device: str, dtype: str) -> Predict:
    def predict(entry: Attention, rows: pd.DataFrame) -> np.ndarray:
        names = ("tokens", "pairs", "context", "heads", "kv_heads", "head_dim", "v_head_dim")
        op = build.attention("", **dict(zip(names, columns(rows, *names), strict=True)), dtype=dtype, act=BYTES[dtype])
        return np.asarray(attention_kernel(rates(device), {"x": entry}, "x")(op).seconds)

    return predict


def decode(device: str) -> Predict:
    def predict(entry: Decode, rows: pd.DataFrame) -> np.ndarray:
        names = ("sequences", "context", "heads", "kv_heads", "head_dim", "v_head_dim")
        values = dict(zip(names, columns(rows, *names), strict=True))
        size = 2.0 * values["kv_heads"] * rows.latent.to_numpy(float)
        op = build.attention_decode("", **values, dtype="bf16", act=2.0, kv_bytes_per_token=size)
        return np.asarray(decode_kernel(rates(device), {"default": entry}, "default")(op).seconds)

    return predict


def expert_layer(device: str, dtype: str, weight: float, *, balanced: bool) -> Predict:
    """A fused expert layer as the package writes it: permute, up, activation, down, unpermute."""

    def predict(entry: Layer, r: pd.DataFrame) -> np.ndarray:
        rows, local, h, i, ups = columns(r, "rows", "local", "hidden", "inter", "ups")
        active = np.minimum(local, rows) if balanced else local * (1 - np.exp(-entry.visited * rows / local))
        kernel = grouped_kernel(rates(device), {"bf16": entry, dtype: entry, "weight_only": entry})
        common: dict[str, Any] = {"experts": local, "active": active, "imbalance": 1.0, "dtype": dtype}
        pointwise = load_calibration(rates(device).accelerator).pointwise
        total: Any = 0.0
        for n, k in ((ups * i, h), (h, i)):
            total = total + kernel(build.grouped_gemm("", rows, n, k, **common, weight=weight, act=2.0)).seconds
        permute = build.pointwise("", "elementwise", reads=rows * h, writes=rows * h, act=2.0)
        activate = build.pointwise("", "activation", reads=ups * rows * i, writes=rows * i, act=2.0)
        for op, times in ((permute, 2), (activate, 1)):
            total = total + times * stream_kernel(rates(device), pointwise, op.kind)(op).seconds
        return np.asarray(total)

    return predict


def one_grouped(device: str) -> Predict:
    def predict(entry: Gemm, r: pd.DataFrame) -> np.ndarray:
        rows, n, k, local = columns(r, "rows", "n", "k", "local")
        common: dict[str, Any] = {"experts": local, "active": local, "imbalance": 1.0, "dtype": "fp8", "weight": 1.0}
        op = build.grouped_gemm("", rows, n, k, **common, act=2.0)
        return np.asarray(grouped_kernel(rates(device), {"bf16": entry, "fp8": entry})(op).seconds)

    return predict


def stream(device: str, kind: str) -> Predict:
    def predict(entry: Harness, rows: pd.DataFrame) -> np.ndarray:
        op = Op("", kind, cached_bytes=rows.bytes.to_numpy(float), hbm_bytes=rows.cold.to_numpy(float))
        return np.asarray(stream_kernel(rates(device), {kind: entry}, kind)(op).seconds) + entry.harness_s

    return predict


# --- what is fitted on which ----------------------------------------------------------------------------------------


def targets(data: Path) -> list[Target]:
    result: list[Target] = []

    def add(
        file: str,
        device: str,
        section: str,
        key: str,
        source: str,
        rows: pd.DataFrame,
        predict: Predict,
        own: bool = False,
        **more: Any,
    ) -> None:
        fields = {"base": BASE[section], "free": FREE[section], "choices": CHOICES[section], **more}
        result.append(Target(file, device, section, key, source, rows, predict, own=own, **fields))

    def limited(section: str, *names: str, **more: tuple[float, float, float]) -> dict[str, Any]:
        return {"free": {k: v for k, v in FREE[section].items() if k not in names} | more}

    # Streams first: expert layers use them.
    for file, device, gpu in (("ampere", "a100-80gb-sxm", "a100"), ("hopper", "h100-sxm", "h100")):
        for kind in ("activation", "elementwise", "rope"):
            rows = tables.k2_stream(data, gpu, kind)
            add(file, device, "pointwise", kind, K2, rows, stream(device, kind))
    # A harness that times call by call hides the kernel's own fixed cost: that stays at 3 us.
    hidden = limited("pointwise", "fixed_s", harness_s=(0.0, 20e-6, 80e-6))
    for file, device, gpu, kinds in (
        ("ampere", "a100-80gb-sxm", "A100", ("norm", "softmax")),
        ("cdna2", "mi210", "MI210", ("norm", "softmax", "activation")),
    ):
        for kind in kinds:
            rows = tables.k3_stream(data, gpu, kind)
            add(file, device, "pointwise", kind, f"{K3}, PyTorch", rows, stream(device, kind), **hidden)
    for kind in ("norm", "embedding", "activation", "rope"):
        own = kind in ("activation", "rope")
        add("hopper", "h800", "pointwise", kind, K5, tables.k5_stream(data, kind), stream("h800", kind), own)
    small = (("ada", "rtx-4090", "RTX4090"), ("blackwell", "rtx-pro-6000", "RTXPRO6000"))
    for file, device, tag in small:
        for kind in ("activation", "norm", "rope"):
            add(file, device, "pointwise", kind, K6, tables.k6_stream(data, tag, kind), stream(device, kind), True)

    for file, device, key, name, kind, version, weight in (
        ("ampere", "a100-80gb-sxm", "bf16", "a100_sxm", "bfloat16", "", 2.0),
        ("ampere", "a100-80gb-sxm", "int8", "a100_sxm", "sq", "", 1.0),
        ("ampere", "a100-80gb-sxm", "weight_only", "a100_sxm", "int4_wo", "", BYTES["int4"]),
        ("hopper", "h100-sxm", "bf16", "h100_sxm", "bfloat16", "", 2.0),
        ("hopper", "h100-sxm", "fp8", "h100_sxm", "fp8", "0.19", 1.0),
        ("hopper", "h100-sxm", "fp8_block", "h100_sxm", "fp8_block", "1.3", 1.0),
        ("hopper", "h200-sxm", "bf16", "h200_sxm", "bfloat16", "", 2.0),
        ("hopper", "h200-sxm", "fp8_block", "h200_sxm", "fp8_block", "", 1.0),
        ("ada", "l40s", "bf16", "l40s", "bfloat16", "", 2.0),
        ("ada", "l40s", "fp8", "l40s", "fp8", "0.14", 1.0),
        ("ada", "l40s", "int8", "l40s", "sq", "", 1.0),
        ("ada", "l40s", "weight_only", "l40s", "int4_wo", "", BYTES["int4"]),
    ):
        dtype = {"weight_only": "bf16", "fp8_block": "fp8"}.get(key, key)
        # TensorRT-LLM's per-tensor fp8 rows hold a second kernel that quantises: vLLM's are used.
        source = K1 + {"": "", "0": ", vLLM rows", "1": ", TensorRT-LLM rows"}[version[:1]]
        rows = tables.k1_gemm(data, name, kind, version)
        more = {"free": FREE["gemm"], "choices": CHOICES["gemm"]}
        if dtype == "fp8":
            # CUTLASS and DeepGEMM: no split inner dimension; their rows hold the cast of the input.
            more = limited("gemm", "split_k", "split_s", alone=(1.0, 1.2, 2.0), cast=(0.05, 0.5, 1.0))
            more["choices"] = {
                "power": (2, 4),
                **(
                    {"tiles": (BY_ROWS[0],), "up_to": (BY_ROWS[1],)}
                    if "VLLM" in rows.framework.unique()
                    else {"tiles": TILES}
                ),
            }
        add(file, device, "gemm", key, source, rows, gemm(device, dtype, weight), device == "h200-sxm", **more)
    # Its inputs come in 8 bits.
    whole = limited("gemm", "split_k", "split_s", alone=(1.0, 1.2, 2.0))
    rows = tables.k4_gemm(data)
    add("hopper", "h800", "gemm", "fp8_block", f"{K4}, DeepGEMM", rows, gemm("h800", "fp8", 1.0, 1.0), True, **whole)
    few = limited("gemm", "fixed_s", "wave", "load", "split_k", "split_s", bandwidth=(0.2, 0.85, 0.95))
    few["choices"] = {"power": (2, 4, 8)}
    add("cdna2", "mi210", "gemm", "bf16", K3, tables.k3_gemm(data), gemm("mi210", "fp16", 2.0), **few)
    # Two inner dimensions only, 4096 and 14336.
    ramp = {"base": BASE["gemm"].model_copy(update={"k_ramp": 100.0}), **limited("gemm", "k_ramp")}
    for file, device, tag in small:
        add(file, device, "gemm", "bf16", K6, tables.k6_gemm(data, tag), gemm(device, "bf16", 2.0), True, **ramp)

    k1, k5, k6 = (partial(f, data) for f in (tables.k1_attention, tables.k5_attention, tables.k6_attention))
    a100, h100, fp8 = "a100-80gb-sxm", "h100-sxm", ("context", "fp8", "fp8")
    trt = "h100_sxm_trtllm"
    for file, device, key, source, rows in (
        ("ampere", a100, "flash2", f"{K1}, vLLM 0.14", k1("a100_sxm_vllm", "context")),
        ("ampere", a100, "trtllm", f"{K1}, TensorRT-LLM 1.0", k1("a100_sxm_trtllm", "context")),
        ("hopper", h100, "flash3", f"{K1}, vLLM 0.19", k1("h100_sxm_vllm", "context")),
        ("hopper", h100, "trtllm", f"{K1}, TensorRT-LLM 1.3", k1(trt, "context")),
        ("hopper", h100, "flash3.fp8", f"{K1}, TensorRT-LLM 1.3", k1(trt, *fp8)),
        ("ada", "l40s", "flash2", f"{K1}, TensorRT-LLM 1.0", k1("l40s_trtllm", "context")),
        ("ampere", "a800", "flash2", f"{K5}, FlashInfer", k5("a800_llama2_7b", 32, 32, prefill=True)),
        ("hopper", "h800", "flash3", f"{K5}, FlashInfer", k5("h800_llama31_405b", 128, 8, prefill=True)),
        ("ada", "rtx-4090", "flash2", f"{K6}, vLLM 0.19", k6("RTX4090", prefill=True)),
        ("blackwell", "rtx-pro-6000", "flash3", f"{K6}, vLLM 0.19", k6("RTXPRO6000", prefill=True)),
    ):
        dtype = "fp8" if key.endswith("fp8") else "bf16"
        own = not source.startswith(K1)
        # Frontier times the writes into the cache apart.
        more = limited("attention", "write") if source.startswith(K5) else {}
        add(file, device, "attention", key, source, rows, prefill(device, dtype), own, **more)

    for file, device, source, rows in (
        ("ampere", a100, f"{K1}, vLLM 0.14", k1("a100_sxm_vllm", "generation")),
        ("hopper", h100, f"{K1}, vLLM 0.19", k1("h100_sxm_vllm", "generation")),
        ("ampere", a100, f"{K1}, TensorRT-LLM 1.0", k1("a100_sxm_trtllm", "generation")),
        ("hopper", h100, f"{K1}, TensorRT-LLM 1.3", k1("h100_sxm_trtllm", "generation")),
        ("ada", "l40s", f"{K1}, TensorRT-LLM 1.0", k1("l40s_trtllm", "generation")),
        ("ampere", "a800", f"{K5}, FlashInfer", k5("a800_llama2_7b", 32, 32, prefill=False)),
        ("hopper", "h800", f"{K4}, FlashAttention-3 and FlashMLA", tables.k4_decode(data)),
        ("ada", "rtx-4090", f"{K6}, vLLM 0.19", k6("RTX4090", prefill=False)),
        ("blackwell", "rtx-pro-6000", f"{K6}, vLLM 0.19", k6("RTXPRO6000", prefill=False)),
    ):
        if "TensorRT" in source:  # runs out of the cache, and pages that sequences share, beat HBM
            a, size = rates(device).accelerator, 2.0 * rows.context * rows.kv_heads * rows.latent
            slow = size / rows.seconds < 0.97 * a.hbm.bandwidth_bytes_per_s
            rows = rows[(size < 2e6) | ((size > 2 * a.l2.capacity_bytes) & slow)]
            rows = rows[rows.heads <= 32 * rows.kv_heads]  # more are not packed into one pass
        own = not source.startswith(K1)
        more = {}
        if device == "h800":
            more = limited("attention_decode", compute=(0.2, 0.5, 0.95))
        elif "0.14" in source:
            # FlashAttention 2 in vLLM splits keys only for grouped queries, which it copies into order first.
            more = limited("attention_decode", regroup_s=(0.0, 5e-6, 20e-6))
            more["base"] = BASE["attention_decode"].model_copy(update={"split_from": 2})
        key = "trtllm" if "TensorRT" in source and device != "l40s" else "default"
        add(file, device, "attention_decode", key, source, rows, decode(device), own, **more)

    skewed = limited("grouped_gemm", visited=(0.2, 0.9, 1.2))
    for file, device, key, engine, name, kind, weight in (
        ("ampere", "a100-80gb-sxm", "bf16", "TensorRT-LLM 1.0, skewed", "a100_sxm_trtllm", "bfloat16", 2.0),
        ("hopper", "h100-sxm", "bf16", "vLLM 0.19, balanced", "h100_sxm_vllm", "bfloat16", 2.0),
        ("hopper", "h100-sxm", "fp8", "vLLM 0.19, balanced", "h100_sxm_vllm", "fp8", 1.0),
        ("hopper", "h100-sxm", "fp8_block", "TensorRT-LLM 1.3, balanced", "h100_sxm_trtllm", "fp8_block", 1.0),
        ("hopper", "h100-sxm", "weight_only", "vLLM 0.19 Marlin, balanced", "h100_sxm_vllm", "int4_wo", BYTES["int4"]),
        ("hopper", "h200-sxm", "bf16", "TensorRT-LLM 1.3, skewed", "h200_sxm_trtllm", "bfloat16", 2.0),
        ("hopper", "h200-sxm", "fp8", "TensorRT-LLM 1.3, skewed", "h200_sxm_trtllm", "fp8", 1.0),
    ):
        even = "balanced" in engine
        dtype = {"weight_only": "bf16", "fp8_block": "fp8"}.get(key, key)
        rows = tables.k1_experts(data, name, kind, balanced=even)
        predict = expert_layer(device, dtype, weight, balanced=even)
        more = {} if even else skewed
        add(file, device, "grouped_gemm", key, f"{K1}, {engine}", rows, predict, device == "h200-sxm", **more)
    add("hopper", "h800", "grouped_gemm", "fp8", f"{K4}, DeepGEMM", tables.k4_experts(data), one_grouped("h800"), True)
    return result
