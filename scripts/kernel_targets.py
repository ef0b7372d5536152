"""What the constants of kernels are fitted on: published measurements, priced by the package itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.calibration.published import Measured, experts, operators, products, streams
from windtunnel.calibration.published import attention as attentions
from windtunnel.cost.attention import attention_kernel, decode_kernel
from windtunnel.cost.calibration import Attention, Decode, Gemm, Stream, load_calibration
from windtunnel.cost.gemm import gemm_kernel, grouped_kernel
from windtunnel.cost.kernels import Kernel, Rates
from windtunnel.cost.runtime import Runtime
from windtunnel.cost.stream import stream_kernel
from windtunnel.hardware import parse_cluster

K1, K2, K3, K4, K5, K6 = (
    "aiconfigurator@095f58a", "vidur@7d47513", "LLMCompass@2e015fd", "InferSim@f2293da", "Frontier@a4b22df",
    "LLMServingSim@5daddb2",
)  # fmt: skip
Bounds = Mapping[str, tuple[float, float, float]]
"""(lowest, start, highest) by constant."""
Predict = Callable[[Any, Measured], np.ndarray]
"""Seconds of rows for an entry."""


@dataclass
class Target:
    """One entry to fit. ``own``: written below ``devices`` rather than as the family's constants."""

    file: str
    device: str
    section: str
    key: str
    data: str
    rows: Measured
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


def price(entry: Any, rows: Measured) -> np.ndarray:
    """Seconds of the rows, with ``entry`` for the family's constants."""
    total = np.zeros(len(rows))
    for op in operators(rows):
        total = total + kernel(entry, rows, op.kind)(op).seconds
    return total


def kernel(entry: Any, rows: Measured, kind: str) -> Kernel:
    r = rates(rows.cluster.accelerator.name)
    if kind in ("gemm", "grouped_gemm"):
        table = {"bf16": entry, rows.dtype: entry, "weight_only": entry}
        return (gemm_kernel if kind == "gemm" else grouped_kernel)(r, table)
    if kind == "attention":
        return attention_kernel(r, {"x": entry}, "x")
    if kind == "attention_decode":
        return decode_kernel(r, {"default": entry}, "default")
    # The small kernels of an expert layer are those that were fitted before it.
    known = load_calibration(r.accelerator).pointwise if rows.kernel == "expert_layer" else {kind: entry}
    return stream_kernel(r, known, kind)


def skewed_layers(entry: Layer, rows: Measured) -> np.ndarray:
    c = rows.columns
    active = c["experts"] * (1 - np.exp(-entry.visited * c["rows"] / c["experts"]))
    return price(entry, replace(rows, columns={**c, "active_experts": active}))


def calls(entry: Harness, rows: Measured) -> np.ndarray:
    return price(entry, rows) + entry.harness_s


# --- what is fitted on which ----------------------------------------------------------------------------------------


def targets(data: Path) -> list[Target]:
    result: list[Target] = []

    def add(
        file: str,
        device: str,
        section: str,
        key: str,
        source: str,
        rows: Measured,
        own: bool = False,
        predict: Predict = price,
        **more: Any,
    ) -> None:
        fields = {"base": BASE[section], "free": FREE[section], "choices": CHOICES[section], **more}
        result.append(Target(file, device, section, key, source, rows, predict, own=own, **fields))

    def limited(section: str, *names: str, **more: tuple[float, float, float]) -> dict[str, Any]:
        return {"free": {k: v for k, v in FREE[section].items() if k not in names} | more}

    # Streams first: expert layers use them.
    for file, device, gpu in (("ampere", "a100-80gb-sxm", "a100"), ("hopper", "h100-sxm", "h100")):
        for kind in ("activation", "elementwise", "rope"):
            add(file, device, "pointwise", kind, K2, streams.k2_stream(data, device, gpu, kind))
    # A harness that times call by call hides the kernel's own fixed cost: that stays at 3 us.
    hidden = limited("pointwise", "fixed_s", harness_s=(0.0, 20e-6, 80e-6))
    for file, device, gpu, kinds in (
        ("ampere", "a100-80gb-sxm", "A100", ("norm", "softmax")),
        ("cdna2", "mi210", "MI210", ("norm", "softmax", "activation")),
    ):
        for kind in kinds:
            rows = streams.k3_stream(data, device, gpu, kind)
            add(file, device, "pointwise", kind, f"{K3}, PyTorch", rows, predict=calls, **hidden)
    for kind in ("norm", "embedding", "activation", "rope"):
        own = kind in ("activation", "rope")
        add("hopper", "h800", "pointwise", kind, K5, streams.k5_stream(data, "h800", kind), own)
    small = (("ada", "rtx-4090", "RTX4090"), ("blackwell", "rtx-pro-6000", "RTXPRO6000"))
    for file, device, tag in small:
        for kind in ("activation", "norm", "rope"):
            add(file, device, "pointwise", kind, K6, streams.k6_stream(data, device, tag, kind), True)

    for file, device, key, name, kind, engine in (
        ("ampere", "a100-80gb-sxm", "bf16", "a100_sxm", "bfloat16", ""),
        ("ampere", "a100-80gb-sxm", "int8", "a100_sxm", "sq", ""),
        ("ampere", "a100-80gb-sxm", "weight_only", "a100_sxm", "int4_wo", ""),
        ("hopper", "h100-sxm", "bf16", "h100_sxm", "bfloat16", ""),
        ("hopper", "h100-sxm", "fp8", "h100_sxm", "fp8", "VLLM"),
        ("hopper", "h100-sxm", "fp8_block", "h100_sxm", "fp8_block", "TRTLLM"),
        ("hopper", "h200-sxm", "bf16", "h200_sxm", "bfloat16", ""),
        ("hopper", "h200-sxm", "fp8_block", "h200_sxm", "fp8_block", ""),
        ("ada", "l40s", "bf16", "l40s", "bfloat16", ""),
        ("ada", "l40s", "fp8", "l40s", "fp8", "VLLM"),
        ("ada", "l40s", "int8", "l40s", "sq", ""),
        ("ada", "l40s", "weight_only", "l40s", "int4_wo", ""),
    ):
        # TensorRT-LLM's per-tensor fp8 rows hold a second kernel that quantises: vLLM's are used.
        source = K1 + {"": "", "VLLM": ", vLLM rows", "TRTLLM": ", TensorRT-LLM rows"}[engine]
        rows = products.k1_gemm(data, device, name, kind, engine)
        more = {}
        if kind.startswith("fp8"):
            # CUTLASS and DeepGEMM: no split inner dimension; their rows hold the cast of the input.
            more = limited("gemm", "split_k", "split_s", alone=(1.0, 1.2, 2.0), cast=(0.05, 0.5, 1.0))
            tiles = {"tiles": (BY_ROWS[0],), "up_to": (BY_ROWS[1],)} if engine == "VLLM" else {"tiles": TILES}
            more["choices"] = {"power": (2, 4), **tiles}
        add(file, device, "gemm", key, source, rows, device == "h200-sxm", **more)
    # Its inputs come in 8 bits.
    whole = limited("gemm", "split_k", "split_s", alone=(1.0, 1.2, 2.0))
    add("hopper", "h800", "gemm", "fp8_block", f"{K4}, DeepGEMM", products.k4_gemm(data, "h800", "h800"), True, **whole)
    few = limited("gemm", "fixed_s", "wave", "load", "split_k", "split_s", bandwidth=(0.2, 0.85, 0.95))
    few["choices"] = {"power": (2, 4, 8)}
    add("cdna2", "mi210", "gemm", "bf16", K3, products.k3_gemm(data, "mi210", "MI210"), **few)
    # Two inner dimensions only, 4096 and 14336.
    ramp = {"base": BASE["gemm"].model_copy(update={"k_ramp": 100.0}), **limited("gemm", "k_ramp")}
    for file, device, tag in small:
        add(file, device, "gemm", "bf16", K6, products.k6_gemm(data, device, tag), True, **ramp)

    def prompts(name: str, device: str, generation: str, dtype: str = "bfloat16") -> Measured:
        return attentions.k1_prompts(data, device, name, generation, dtype, dtype)

    def decodes(name: str, device: str, generation: str) -> Measured:
        return attentions.k1_decodes(data, device, name, generation, warm="trtllm" not in name)

    def small_attention(device: str, tag: str, *, prefill: bool) -> Measured:
        return attentions.k6_attention(data, device, tag, "flash2", prefill=prefill)

    llama_7b, llama_405b = ("a800", "a800_llama2_7b", 32, 32, "flash2"), ("h800", "h800_llama31_405b", 128, 8, "flash3")
    a100, h100, pro = "a100-80gb-sxm", "h100-sxm", "rtx-pro-6000"
    trt = "h100_sxm_trtllm"
    for file, device, key, source, rows in (
        ("ampere", a100, "flash2", f"{K1}, vLLM 0.14", prompts("a100_sxm_vllm", a100, "flash2")),
        ("ampere", a100, "trtllm", f"{K1}, TensorRT-LLM 1.0", prompts("a100_sxm_trtllm", a100, "trtllm")),
        ("hopper", h100, "flash3", f"{K1}, vLLM 0.19", prompts("h100_sxm_vllm", h100, "flash3")),
        ("hopper", h100, "trtllm", f"{K1}, TensorRT-LLM 1.3", prompts(trt, h100, "trtllm")),
        ("hopper", h100, "flash3.fp8", f"{K1}, TensorRT-LLM 1.3", prompts(trt, h100, "trtllm", "fp8")),
        ("ada", "l40s", "flash2", f"{K1}, TensorRT-LLM 1.0", prompts("l40s_trtllm", "l40s", "flash2")),
        ("ada", "l40s", "flash2.fp8", f"{K1}, TensorRT-LLM 1.0", prompts("l40s_trtllm", "l40s", "flash2", "fp8")),
        ("ampere", "a800", "flash2", f"{K5}, FlashInfer", attentions.k5_attention(data, *llama_7b, prefill=True)),
        ("hopper", "h800", "flash3", f"{K5}, FlashInfer", attentions.k5_attention(data, *llama_405b, prefill=True)),
        ("ada", "rtx-4090", "flash2", f"{K6}, vLLM 0.19", small_attention("rtx-4090", "RTX4090", prefill=True)),
        ("blackwell", pro, "flash3", f"{K6}, vLLM 0.19", small_attention(pro, "RTXPRO6000", prefill=True)),
    ):
        # Frontier times the writes into the cache apart.
        more = limited("attention", "write") if source.startswith(K5) else {}
        add(file, device, "attention", key, source, rows, not source.startswith(K1), **more)

    for file, device, source, rows in (
        ("ampere", a100, f"{K1}, vLLM 0.14", decodes("a100_sxm_vllm", a100, "flash2")),
        ("hopper", h100, f"{K1}, vLLM 0.19", decodes("h100_sxm_vllm", h100, "flash3")),
        ("ampere", a100, f"{K1}, TensorRT-LLM 1.0", decodes("a100_sxm_trtllm", a100, "trtllm")),
        ("hopper", h100, f"{K1}, TensorRT-LLM 1.3", decodes(trt, h100, "trtllm")),
        ("ada", "l40s", f"{K1}, TensorRT-LLM 1.0", decodes("l40s_trtllm", "l40s", "flash2")),
        ("ampere", "a800", f"{K5}, FlashInfer", attentions.k5_attention(data, *llama_7b, prefill=False)),
        ("hopper", "h800", f"{K4}, FlashAttention-3 and FlashMLA", attentions.k4_decodes(data, "h800", "h800")),
        ("ada", "rtx-4090", f"{K6}, vLLM 0.19", small_attention("rtx-4090", "RTX4090", prefill=False)),
        ("blackwell", pro, f"{K6}, vLLM 0.19", small_attention(pro, "RTXPRO6000", prefill=False)),
    ):
        if "TensorRT" in source:  # more are not packed into one pass
            rows = rows.take(np.flatnonzero(rows.columns["heads"] <= 32 * rows.columns["kv_heads"]))
        own = not source.startswith(K1)
        more = {}
        if device == "h800":
            more = limited("attention_decode", compute=(0.2, 0.5, 0.95))
        elif "0.14" in source:
            # FlashAttention 2 in vLLM splits keys only for grouped queries, which it copies into order first.
            more = limited("attention_decode", regroup_s=(0.0, 5e-6, 20e-6))
            more["base"] = BASE["attention_decode"].model_copy(update={"split_from": 2})
        key = "trtllm" if "TensorRT" in source and device != "l40s" else "default"
        add(file, device, "attention_decode", key, source, rows, own, **more)

    skewed = {"predict": skewed_layers, **limited("grouped_gemm", visited=(0.2, 0.9, 1.2))}
    for file, device, key, engine, name, kind in (
        ("ampere", a100, "bf16", "TensorRT-LLM 1.0, skewed", "a100_sxm_trtllm", "bfloat16"),
        ("hopper", h100, "bf16", "vLLM 0.19, balanced", "h100_sxm_vllm", "bfloat16"),
        ("hopper", h100, "fp8", "vLLM 0.19, balanced", "h100_sxm_vllm", "fp8"),
        ("hopper", h100, "fp8_block", "TensorRT-LLM 1.3, balanced", "h100_sxm_trtllm", "fp8_block"),
        ("hopper", h100, "weight_only", "vLLM 0.19 Marlin, balanced", "h100_sxm_vllm", "int4_wo"),
        ("hopper", "h200-sxm", "bf16", "TensorRT-LLM 1.3, skewed", "h200_sxm_trtllm", "bfloat16"),
        ("hopper", "h200-sxm", "fp8", "TensorRT-LLM 1.3, skewed", "h200_sxm_trtllm", "fp8"),
    ):
        even = "balanced" in engine
        rows = experts.k1_experts(data, device, name, kind, balanced=True if even else None)
        more = {} if even else skewed
        add(file, device, "grouped_gemm", key, f"{K1}, {engine}", rows, device == "h200-sxm", **more)
    rows = experts.k4_experts(data, "h800", "h800")
    add("hopper", "h800", "grouped_gemm", "fp8", f"{K4}, DeepGEMM", rows, True)
    return result
