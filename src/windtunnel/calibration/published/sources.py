"""What each source holds of each device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from windtunnel.calibration.published import attention, collectives, experts, products, streams
from windtunnel.calibration.published.rows import Measured
from windtunnel.errors import ScenarioError

A100, H100, H200, V100 = "a100-80gb-sxm", "h100-sxm", "h200-sxm", "v100-sxm"
SYSTEMS = {A100: "a100_sxm", H100: "h100_sxm", H200: "h200_sxm", "l40s": "l40s"}
VLLM, TENSORRT = "VLLM", "TRTLLM"


EXPERTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    A100: {"trtllm": ("bfloat16",)},
    H100: {"vllm": ("bfloat16", "fp8", "fp8_block", "int4_wo"), "trtllm": ("bfloat16", "fp8", "fp8_block")},
    H200: {"trtllm": ("bfloat16", "fp8", "fp8_block")},
}
"""aiconfigurator's number formats of expert layers by engine. (Its few rows in mxfp4 are left out.)"""


def _named(suffix: str, m: Measured) -> Measured:
    """Apart from the rows of its family on which constants are fitted."""
    return replace(m, family=f"{m.family}.{suffix}")


def _k1(data: Path, device: str) -> Iterator[Measured]:
    system = SYSTEMS[device]
    gemms = {
        A100: ("bfloat16", "sq", "int8_wo", "int4_wo"),
        H100: ("bfloat16",),
        H200: ("bfloat16", "fp8_block"),
        "l40s": ("bfloat16", "fp8_block", "sq", "int8_wo", "int4_wo"),
    }[device]
    for kind in gemms:
        m = products.k1_gemm(data, device, system, kind)
        yield _named("int8", m) if kind == "int8_wo" else m
    if device in (H100, "l40s"):
        yield products.k1_gemm(data, device, system, "fp8", VLLM)
    if device == H100:
        yield products.k1_gemm(data, device, system, "fp8_block", TENSORRT)
        yield _named("vllm", products.k1_gemm(data, device, system, "fp8_block", VLLM))
    if device != A100:
        yield _named("trtllm", products.k1_gemm(data, device, system, "fp8", TENSORRT))
    yield from _k1_attention(data, device, system)
    for engine, kinds in EXPERTS.get(device, {}).items():
        for kind in kinds:
            for balanced in (True, False):
                m = experts.k1_experts(data, device, f"{system}_{engine}", kind, balanced=balanced)
                yield _named(f"{engine}.{'balanced' if balanced else 'skewed'}", m)


def _k1_attention(data: Path, device: str, system: str) -> Iterator[Measured]:
    generations = {A100: {"vllm": "flash2"}, H100: {"vllm": "flash3"}}.get(device, {})
    for engine, generation in (*generations.items(), ("trtllm", "flash2" if device == "l40s" else "trtllm")):
        table = f"{system}_{engine}"
        yield attention.k1_prompts(data, device, table, generation)
        if device != A100:
            yield _named("fp8_cache", attention.k1_prompts(data, device, table, generation, kv="fp8"))
            if engine == "trtllm":
                yield attention.k1_prompts(data, device, table, generation, "fp8", "fp8")
        for kv in ("bfloat16",) if device == A100 else ("bfloat16", "fp8"):
            m = attention.k1_decodes(data, device, table, generation, kv, warm=engine == "vllm")
            yield m if kv == "bfloat16" else _named("fp8_cache", m)
    if device in (H100, H200):
        for what in ("context", "generation"):
            yield _named("latent", attention.k1_latent(data, device, system, what))
            yield _named("latent.fp8_cache", attention.k1_latent(data, device, system, what, "fp8"))


def _k2(data: Path, device: str) -> Iterator[Measured]:
    gpu = device.partition("-")[0]
    yield products.k2_gemm(data, device, gpu)
    for kind in ("activation", "elementwise", "rope", "norm"):
        yield streams.k2_stream(data, device, gpu, kind)


CALL_S = 0.1e-3
"""Below this a PyTorch call that is timed by itself shows its launch."""


def _k3(data: Path, device: str) -> Iterator[Measured]:
    gpu = {A100: "A100", "mi210": "MI210"}[device]
    yield products.k3_gemm(data, device, gpu)
    for kind in ("norm", "softmax", "activation"):
        yield streams.k3_stream(data, device, gpu, kind, CALL_S)


def _k4(data: Path, device: str) -> Iterator[Measured]:
    yield products.k4_gemm(data, device, device)
    yield experts.k4_experts(data, device, device)
    yield attention.k4_decodes(data, device, device)
    yield _named("latent", attention.k4_prompts(data, device, device))


def _k5(data: Path, device: str) -> Iterator[Measured]:
    file, heads, kv_heads, generation = {
        "a800": ("a800_llama2_7b", 32, 32, "flash2"),
        H100: ("h100_qwen2_moe", 16, 16, "flash2"),
        "h800": ("h800_llama31_405b", 128, 8, "flash3"),
    }[device]
    if device == "h800":
        yield products.k5_gemm(data, device)
        for kind in ("norm", "embedding", "activation", "rope"):
            yield streams.k5_stream(data, device, kind)
    yield attention.k5_attention(data, device, file, heads, kv_heads, generation, prefill=True)
    if device != "h800":
        yield attention.k5_attention(data, device, file, heads, kv_heads, generation, prefill=False)


def _k6(data: Path, device: str) -> Iterator[Measured]:
    tag, generation, degrees = {
        "rtx-4090": ("RTX4090", "flash2", (1,)),
        "rtx-pro-6000": ("RTXPRO6000", "flash3", (1, 2)),
    }[device]
    for tp in degrees:
        yield products.k6_gemm(data, device, tag, tp)
        yield products.k6_head(data, device, tag, tp)
        for kind in ("activation", "norm", "rope"):
            yield streams.k6_stream(data, device, tag, kind, tp)
        yield attention.k6_attention(data, device, tag, generation, tp, prefill=True)
        yield attention.k6_attention(data, device, tag, generation, tp, prefill=False)


def _k1_collectives(data: Path, device: str) -> Iterator[Measured]:
    system = SYSTEMS[device]
    yield from collectives.k1_nccl(data, device, system)
    yield from collectives.k1_custom(data, device, system)
    if device in (H100, H200):
        yield from collectives.k1_deepep(data, device, system)


def _k2_collectives(data: Path, device: str) -> Iterator[Measured]:
    yield from collectives.k2_network(data, device, device.partition("-")[0])


def _s3_collectives(data: Path, device: str) -> Iterator[Measured]:
    if device == V100:
        yield from collectives.s3_ethernet(data)
    else:
        yield from collectives.s3_nccl(data, device, {H100: "H100-SXM-80GB", H200: "H200"}[device])


def _t5_collectives(data: Path, device: str) -> Iterator[Measured]:
    yield from collectives.t5_nccl(data, device, device.partition("-")[0])


def _h1_collectives(data: Path, device: str) -> Iterator[Measured]:
    yield from collectives.h1_nccl(data, device)


def _s9_collectives(data: Path, device: str) -> Iterator[Measured]:
    yield from collectives.s9_deepep(data, device)


READERS: Mapping[str, tuple[str, Callable[[Path, str], Iterable[Measured]]]] = {
    "k1": ("k1_aiconfigurator", _k1),
    "k2": ("k2_vidur", _k2),
    "k3": ("k3_llmcompass", _k3),
    "k4": ("k4_infersim_h20_h800", _k4),
    "k5": ("k5_frontier_h800_a800", _k5),
    "k6": ("k6_llmservingsim_kernels", _k6),
    "k1-collectives": ("k1_aiconfigurator", _k1_collectives),
    "k2-collectives": ("k2_vidur", _k2_collectives),
    "s3-collectives": ("s3_apex_plus", _s3_collectives),
    "t5-collectives": ("t5_vtrain", _t5_collectives),
    "h1-collectives": ("h1_hardware", _h1_collectives),
    "s9-collectives": ("s9_amd_sglang_deepep", _s9_collectives),
}
"""By name: the folder of the source, and its rows of a device."""


def read_published(reader: str, data: Path, device: str) -> list[Measured] | None:
    """A source's runs on a device; None where the folder ``data`` does not hold the source, or not all of it.

    Raises:
        ScenarioError: a file of another layout.
    """
    import polars as pl

    folder, read = READERS[reader]
    try:
        return [m for m in read(data, device) if len(m)]
    except FileNotFoundError:
        return None
    except pl.exceptions.PolarsError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ScenarioError(f"{data / folder} is not as its source has it: {reason[:200]}") from None
