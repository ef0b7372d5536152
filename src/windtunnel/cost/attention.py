"""Attention kernels: over prompts (fused, forward and backward) and for one query a sequence (split over keys)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from windtunnel.cost.calibration import Attention, Decode
from windtunnel.cost.kernels import Kernel, Lazily, Rates, effective_dtype, matrix_rates, smooth_max
from windtunnel.errors import unknown
from windtunnel.ops.op import Op, Price
from windtunnel.ops.values import Value, ceil, maximum, minimum, where


def attention_kernel(rates: Rates, table: Mapping[str, Attention], generation: str) -> Kernel:
    """Prices ``attention`` or ``attention_backward`` operators of one kernel generation.

    Products and exponentials take turns (FlashAttention-3, arXiv 2407.08608, section 3.1: the special-function unit's
    rate is what hurts small heads), so their times add; loading overlaps both. A tile of queries meets its keys one
    block after another (FlashAttention-2, arXiv 2307.08691, section 3.3), so the call lasts as long as its longest
    tile at least.
    """
    kernel = _generation(table, generation)

    def make(name: str) -> tuple[Attention, str, Value, Value, Value, Value]:
        dtype = effective_dtype(rates.accelerator, name)
        c = _of_format(table, generation, dtype) or table[kernel]
        resource, peak = rates.peak(dtype)
        compute = c.compute * (c.sustained if rates.sustained else 1.0)
        hbm_s, l2_s = 1.0 / (c.bandwidth * rates.hbm), 1.0 / (c.cache * rates.l2)
        return c, resource, 1.0 / (compute * peak), 1.0 / (c.vector * rates.vector), hbm_s, l2_s

    by_format = Lazily(make)

    def price(op: Op) -> Price:
        c, resource, compute_s, vector_s, hbm_s, l2_s = by_format[op.dtype]
        tiles, more, longest = _tiles(op.shape, rates.units, c)
        products, exponentials = op.flops * compute_s, op.vector_flops * vector_s
        alone = (products + exponentials) * longest
        products, exponentials = products * more, exponentials * more
        working = smooth_max(4, products + exponentials + tiles * c.tile_s, alone)
        hbm = rates.from_memory(op.hbm_bytes, op.cached_bytes) * hbm_s
        l2 = (op.hbm_bytes + op.cached_bytes) * l2_s
        latency = rates.launch(op, c.fixed_s)
        # Training, which runs for hours, keeps no cache to write into.
        write = 0.0 if rates.sustained else op.shape["tokens"] * op.shape["kv_bytes"] * (c.write / rates.hbm)
        seconds = latency + write + smooth_max(c.power, working, hbm, l2)
        busy = {resource: products, "vector": exponentials, "hbm": hbm + write, "l2": l2}
        if resource == "vector":
            busy = {"vector": products + exponentials, "hbm": hbm + write, "l2": l2}
        return Price(seconds, busy, latency, rates.issue(op))

    return price


def _tiles(shape: Mapping[str, Value], units: Value, c: Attention) -> tuple[Value, Value, Value]:
    """(waves of tiles, at least one; work done over work counted; the longest tile's time over that of the work).

    The length q of prompts' pieces follows from what a call is told: a token meets P = past + (q + 1)/2 keys on
    average, and past/q + 1 = c keys are read for each, so q = (2P - 1)/(2c - 1) where pieces are alike.
    """
    tokens = maximum(shape["tokens"], 1.0)
    pairs = maximum(shape["pairs"], 1.0)
    keys = pairs / tokens
    pieces = maximum((2.0 * shape["context"] / tokens - 1.0) / maximum(2.0 * keys - 1.0, 1.0), 1.0 / tokens)
    each = maximum(shape["heads"], 1e-9) / units
    more = 1.0 + c.diagonal / keys
    if c.wave:
        full = each * tokens / c.queries
        more = more * ((1.0 - c.wave) + c.wave * ceil(full) / full)
    waves = maximum(each * tokens * (1.0 / c.queries + pieces), 1.0)
    longest = (keys + 0.5 / pieces + c.diagonal) * c.queries
    return waves * minimum(shape["tokens"], 1.0), more, longest / (each * pairs * c.alone)


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


def _of_format(table: Mapping[str, Attention], generation: str, dtype: str) -> Attention | None:
    """The constants of a narrow format, of the generation or of the nearest that stands in for it."""
    name: str | None = generation
    while name is not None:
        if f"{name}.{dtype}" in table:
            return table[f"{name}.{dtype}"]
        name = INSTEAD.get(name)
    return None


def decode_kernel(rates: Rates, table: Mapping[str, Decode], generation: str) -> Kernel:
    """Prices ``attention_decode`` operators.

    Keys are split over compute units (Flash-Decoding) where (sequence, KV head) pairs leave units idle, in parts of a
    block of keys at least, which a second pass joins; a unit draws so many bytes at most. More pairs than units take
    rounds of a fixed minimum each.
    """
    c = table.get(generation) or table["default"]
    hbm_s, l2_s = 1.0 / (c.bandwidth * rates.hbm), 1.0 / (c.cache * rates.l2)
    draw_s = c.bandwidth / c.draw if c.draw else 0.0
    by_format = matrix_rates(rates, c.compute)

    def price(op: Op) -> Price:
        resource, compute_s = by_format[op.dtype]
        shape = op.shape
        sequences, kv_heads, heads = shape["sequences"], shape["kv_heads"], shape["heads"]
        items = sequences * kv_heads
        extra = heads * sequences * c.head_s
        if c.block:
            parts = minimum(rates.units / maximum(items, 1.0), shape["context"] / maximum(sequences, 1.0) / c.block)
            parts = where(heads >= c.split_from * kv_heads, maximum(parts, 1.0), 1.0)
            extra = extra + c.combine_s * (1.0 - 1.0 / parts) + c.split_s * (parts - 1.0)
            items = items * parts
        if c.regroup_s:
            several: Any = (heads > kv_heads) & (kv_heads > 1) & (sequences > 1)
            extra = extra + where(several, c.regroup_s, 0.0)
        rounds = items / rates.units
        products = op.flops * compute_s
        hbm = rates.from_memory(op.hbm_bytes, op.cached_bytes) * hbm_s
        l2 = (op.hbm_bytes + op.cached_bytes) * l2_s
        read = hbm
        if draw_s:
            # Pairs that do not fill the device each take as long as one unit needs.
            idle = maximum(rates.units / maximum(items, 1.0), 1.0)
            read = maximum(hbm, op.hbm_bytes * hbm_s * draw_s * idle)
        latency = rates.launch(op, c.fixed_s)
        seconds = latency + extra + smooth_max(c.power, products, read, l2, maximum(rounds - 1.0, 0.0) * c.wave_s)
        return Price(seconds, {resource: products, "hbm": hbm, "l2": l2}, latency, rates.issue(op))

    return price
