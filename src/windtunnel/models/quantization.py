"""``quantization_config``: which number format a checkpoint's weights are stored in, and what it covers."""

from __future__ import annotations

from windtunnel.errors import unknown
from windtunnel.models.network import Quantization
from windtunnel.models.reader import Reader

_PLAIN = {"fp8": "fp8", "fbgemm_fp8": "fp8", "mxfp4": "mxfp4", "nvfp4": "nvfp4", "eetq": "int8"}
_BY_BITS = frozenset({"gptq", "awq", "auto-round", "auto_round", "intel/auto-round"})
_MODELOPT = {
    "FP8": "fp8",
    "FP8_PB_WO": "fp8",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8",
    "NVFP4": "nvfp4",
    "NVFP4_AWQ": "nvfp4",
    "MXFP4": "mxfp4",
    "MXFP8": "mxfp8",
    "W4A16_AWQ": "int4",
    "W4A8_AWQ": "int4",
    "INT8_SQ": "int8",
    "W8A8_SQ_PER_CHANNEL": "int8",
}
METHODS = tuple(sorted({*_PLAIN, *_BY_BITS, "bitsandbytes", "compressed-tensors", "modelopt"}))
"""Accepted values of ``quant_method``."""


def read_quantization(r: Reader, has_experts: bool) -> Quantization | None:
    """The quantization of a configuration that has one.

    Raises ScenarioError for a method or a number of bits that no number format here stands for: taking the weights as
    unquantised instead would overstate their memory without a word.
    """
    q = r.sub("quantization_config")
    if not q.data:
        return None
    method = q.word("quant_method", default="").lower()
    if not method:
        method = "bitsandbytes" if "load_in_4bit" in q.data or "load_in_8bit" in q.data else "missing"
    if method == "bitsandbytes":
        precision = _bitsandbytes(q)
        if precision is None:
            return None
    elif method in _BY_BITS:
        precision = _by_bits(q, "bits", q.size("bits", "nbits", default=4, high=64))
    elif method == "compressed-tensors":
        precision = _compressed_tensors(q)
    elif method.startswith("modelopt"):
        precision = _modelopt(q)
    elif method in _PLAIN:
        precision = _PLAIN[method]
    else:
        raise unknown(f"quant_method in {r.where}: {q.prefix[:-1]}", method, METHODS)
    experts_only = has_experts and (method == "mxfp4" or _spares_attention(q))
    return Quantization(precision, "experts" if experts_only else "linear", method)


def _by_bits(q: Reader, key: str, bits: int) -> str:
    if bits not in (4, 8):
        raise q.error(key, bits, "4 or 8")
    return "int4" if bits == 4 else "int8"


def _bitsandbytes(q: Reader) -> str | None:
    """4-bit weights with a scale for 64 (nf4, and fp4 in the same bytes), or 8-bit integers."""
    if q.flag("load_in_4bit", False):
        return "nf4"
    return "int8" if q.flag("load_in_8bit", False) else None


def _compressed_tensors(q: Reader) -> str:
    groups = q.sub("config_groups")
    for name in groups.data:
        weights = groups.sub(name).sub("weights")
        if weights.data:
            bits = weights.size("num_bits", default=8, high=64)
            if weights.word("type", default="int") == "int":
                return _by_bits(weights, "num_bits", bits)
            if bits == 8:
                return "mxfp8" if weights.size("group_size", default=0, low=-1) == 32 else "fp8"
            if bits == 4:
                return "mxfp4" if weights.size("group_size", default=16, low=-1) == 32 else "nvfp4"
            raise weights.error("num_bits", bits, "4 or 8")
    formats = {"float-quantized": "fp8", "naive-quantized": "fp8", "int-quantized": "int8", "pack-quantized": "int4"}
    formats |= {"nvfp4-pack-quantized": "nvfp4", "mxfp4-pack-quantized": "mxfp4"}
    name = q.word("format", default="missing")
    if name not in formats:
        raise unknown(f"format in {q.where}: {q.prefix[:-1]}", name, formats)
    return formats[name]


def _modelopt(q: Reader) -> str:
    inner = q.sub("quantization") if "quantization" in q.data else q
    algorithm = inner.word("quant_algo", default="missing").upper()
    if algorithm not in _MODELOPT:
        raise unknown(f"quant_algo in {q.where}: {inner.prefix[:-1]}", algorithm, _MODELOPT)
    return _MODELOPT[algorithm]


def _spares_attention(q: Reader) -> bool:
    """Whether the modules left alone include attention, as they do where only the experts are quantised."""
    readers = [q, q.sub("quantization")] if "quantization" in q.data else [q]
    keys = ("modules_to_not_convert", "ignore", "exclude_modules", "llm_int8_skip_modules")
    lists = [reader.data.get(key) for reader in readers for key in keys]
    names = [name for entry in lists if isinstance(entry, list | tuple) for name in entry if isinstance(name, str)]
    return any("attn" in name or "attention" in name for name in names)
