"""Attention kernels: over prompts (fused, forward and backward) and for one query a sequence (split over keys)."""

from __future__ import annotations

from collections.abc import Mapping

from windtunnel.cost.calibration import Attention, Decode
from windtunnel.cost.kernels import Kernel, Lazily, Rates, effective_dtype, matrix_rates, smooth_max
from windtunnel.errors import unknown
from windtunnel.ops.op import Op, Price
from windtunnel.ops.values import Value, ceil, maximum

QUERIES = 128
"""Queries of one tile (FlashAttention-2, arXiv 2307.08691, section 3.3: blocks of 64 or 128)."""


def attention_kernel(rates: Rates, table: Mapping[str, Attention], generation: str) -> Kernel:
    """Prices ``attention`` or ``attention_backward`` operators of one kernel generation.

    Products and exponentials take turns (FlashAttention-3, arXiv 2407.08608, section 3.1: the special-function unit's
    rate is what hurts small heads), so their times add; loading overlaps both.
    """
    kernel = _generation(table, generation)

    def make(name: str) -> tuple[Attention, str, Value, Value, Value, Value]:
        dtype = effective_dtype(rates.accelerator, name)
        c = table.get(f"{kernel}.{dtype}") or table[kernel]
        resource, peak = rates.peak(dtype)
        compute = c.compute * (c.sustained if rates.sustained else 1.0)
        hbm_s, l2_s = 1.0 / (c.bandwidth * rates.hbm), 1.0 / (c.cache * rates.l2)
        return c, resource, 1.0 / (compute * peak), 1.0 / (c.vector * rates.vector), hbm_s, l2_s

    by_format = Lazily(make)

    def price(op: Op) -> Price:
        c, resource, compute_s, vector_s, hbm_s, l2_s = by_format[op.dtype]
        shape = op.shape
        more = 1.0 + c.diagonal * shape["tokens"] / maximum(shape["pairs"], 1.0)
        more = more * _waves(shape["heads"] * shape["tokens"] / QUERIES, rates.units, c.wave)
        products = op.flops * more * compute_s
        exponentials = op.vector_flops * more * vector_s
        hbm = rates.from_memory(op.hbm_bytes, op.cached_bytes) * hbm_s
        l2 = (op.hbm_bytes + op.cached_bytes) * l2_s
        latency = rates.launch(op, c.fixed_s)
        seconds = latency + smooth_max(c.power, products + exponentials, hbm, l2)
        busy = {resource: products, "vector": exponentials, "hbm": hbm, "l2": l2}
        if resource == "vector":
            busy = {"vector": products + exponentials, "hbm": hbm, "l2": l2}
        return Price(seconds, busy, latency, rates.issue(op))

    return price


def _waves(tiles: Value, units: Value, x: float) -> Value:
    """Time of ``tiles`` on ``units`` over that of a whole number of waves, of which a part ``x`` cannot be filled."""
    waves = tiles / units
    return (1.0 - x) + x * ceil(waves) / maximum(waves, 1e-9)


INSTEAD = {"eager": "flash1", "vllm": "flash3", "trtllm": "flash3", "flash3": "flash2", "flash2": "flash1"}
"""What runs where a device has no kernel of a generation: the best older one. Eager attention is other operators."""


def _generation(table: Mapping[str, Attention], generation: str) -> str:
    """The generation itself where the device has it, else the one that stands in for it."""
    name = generation
    while name not in table:
        if name not in INSTEAD:
            raise unknown("attention kernel generation", generation, (*INSTEAD, *(k for k in table if "." not in k)))
        name = INSTEAD[name]
    return name


def decode_kernel(rates: Rates, table: Mapping[str, Decode], generation: str) -> Kernel:
    """Prices ``attention_decode`` operators.

    Keys are split over compute units (Flash-Decoding), so even one sequence streams the cache at nearly full rate;
    many short sequences take rounds of a fixed minimum, one for each full set of (sequence, KV head) pairs.
    """
    c = table.get(generation) or table["default"]
    hbm_s, l2_s = 1.0 / (c.bandwidth * rates.hbm), 1.0 / (c.cache * rates.l2)
    by_format = matrix_rates(rates, c.compute)

    def price(op: Op) -> Price:
        resource, compute_s = by_format[op.dtype]
        shape = op.shape
        rounds = maximum(shape["sequences"] * shape["kv_heads"] / rates.units - 1.0, 0.0)
        products = op.flops * compute_s
        hbm = rates.from_memory(op.hbm_bytes, op.cached_bytes) * hbm_s
        l2 = (op.hbm_bytes + op.cached_bytes) * l2_s
        latency = rates.launch(op, c.fixed_s)
        seconds = latency + smooth_max(c.power, products, hbm, l2, rounds * c.wave_s)
        return Price(seconds, {resource: products, "hbm": hbm, "l2": l2}, latency, rates.issue(op))

    return price
