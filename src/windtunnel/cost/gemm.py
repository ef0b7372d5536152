"""Matrix products, dense and grouped by expert.

t = fixed + the best tile's smooth max(compute, loads, HBM) + cast. A kernel cuts its result into tiles, one a compute
unit at a time: so many waves of tiles, each as long as the inner dimension and its prologue take. Libraries have
kernels for several tile shapes and take the fastest (cuBLAS, by measured rules) or the one of the smallest row count
that fits (CUTLASS in serving engines). Where tiles leave units idle, the inner dimension is split over them and the
parts are added up (split-K, stream-K: arXiv 2301.03598, section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.cost.calibration import Gemm
from windtunnel.cost.kernels import ALIASES, COMPUTE_BYTES, WIDER, Kernel, Lazily, Rates, effective_dtype, smooth_max
from windtunnel.models.dtypes import BYTES
from windtunnel.ops.op import Op, Price
from windtunnel.ops.values import Value, ceil, maximum, minimum, where


@dataclass(frozen=True, slots=True)
class Product:
    """One number format's constants on one device, as seconds a FLOP and a byte.

    ``unit_s``: of one compute unit, for a FLOP; ``load_s``: of one unit, for a byte from the last-level cache;
    ``width``: bytes of an operand as the unit takes it.
    """

    resource: str
    compute_s: Value
    hbm_s: Value
    l2_s: Value
    unit_s: Value
    load_s: Value
    width: float
    constants: Gemm

    @staticmethod
    def of(rates: Rates, dtype: str, constants: Gemm) -> Product:
        resource, peak = rates.peak(dtype)
        compute_s = 1.0 / (constants.compute * (constants.sustained if rates.sustained else 1.0) * peak)
        l2_s = 1.0 / rates.l2
        return Product(
            resource,
            compute_s,
            1.0 / (constants.bandwidth * rates.hbm),
            l2_s,
            rates.units * compute_s,
            rates.units * l2_s / constants.load if constants.load else 0.0,
            COMPUTE_BYTES[dtype],
            constants,
        )

    def price(self, op: Op, rates: Rates, groups: Value, imbalance: Value) -> Price:
        """``groups`` products that share the rows; the busiest place has ``imbalance`` times the mean."""
        c, shape = self.constants, op.shape
        cached = op.cached_bytes * imbalance
        cast: Value = 0.0
        if c.cast and shape["weight"] <= self.width < shape["act"]:
            # A kernel before the product's reads its input and writes it narrower, to be read from there. (Training,
            # whose weights are wide, casts with operators of its own.)
            narrowed = shape["m"] * shape["k"] * imbalance
            moved = narrowed * (shape["act"] + self.width)
            cast = rates.from_memory(0.0, moved) * self.hbm_s + moved * (self.l2_s / c.cast)
            cached = cached - narrowed * (shape["act"] - self.width)
        hbm = rates.from_memory(op.hbm_bytes, cached) * self.hbm_s
        l2 = (op.hbm_bytes + cached) * self.l2_s
        least = op.flops * imbalance * self.compute_s
        rows = shape["m"] * imbalance / groups
        seconds, compute = self._tiled(rows, shape, groups, maximum(hbm, l2), rates.units)
        # A kernel may overlap its parts, but not undercut the work that is counted.
        compute = maximum(compute, least)
        latency = rates.launch(op, c.fixed_s)
        busy = {self.resource: compute, "hbm": hbm + cast, "l2": l2 + cast}
        return Price(latency + cast + maximum(seconds, least), busy, latency, rates.issue(op))

    def _tiled(
        self, rows: Value, shape: Mapping[str, Value], groups: Value, moving: Value, units: Value
    ) -> tuple[Value, Value]:
        """(seconds, those of the matrix unit) with the tile that is taken, of ``groups`` products of ``rows`` rows."""
        c, n, k = self.constants, shape["n"], shape["k"]
        narrow = minimum(shape["weight"], self.width)
        if not any(isinstance(v, np.ndarray) for v in (rows, n, k, groups, moving, self.unit_s)):
            return self._tiled_one(rows, n, k, groups, narrow, moving, units)  # type: ignore[arg-type]
        best: tuple[Value, Value] | None = None
        above = (0, *c.up_to) if c.up_to else (0,) * len(c.tiles)
        for (tile_m, tile_n), rows_before in zip(c.tiles, above, strict=True):
            tiles = ceil(rows / tile_m) * (ceil(n / tile_n) * groups)
            depth = k
            added: Value = 0.0
            if c.split_k:
                splits = maximum(minimum(units / maximum(tiles, 1e-9), k / c.split_k), 1.0)
                tiles, depth, added = tiles * splits, k / splits, c.split_s * (1.0 - 1.0 / splits)
            filled = tiles / units
            waves = filled
            if c.wave:
                waves = (1.0 - c.wave) * filled + c.wave * ceil(filled)
            waves = maximum(waves, minimum(tiles, 1.0))
            depth = depth + c.k_ramp
            compute = maximum(filled, waves / c.alone) * depth * (2.0 * tile_m * tile_n * self.unit_s)
            loaded = minimum(rows, tile_m) * self.width + minimum(n, tile_n) * narrow
            seconds = smooth_max(c.power, compute, waves * depth * loaded * self.load_s, moving) + added
            if best is None:
                best = seconds, compute
            else:
                taken: Any = rows > rows_before if c.up_to else seconds < best[0]
                best = where(taken, seconds, best[0]), where(taken, compute, best[1])
        assert best is not None
        return best

    def _tiled_one(
        self, rows: float, n: float, k: float, groups: float, narrow: float, moving: float, units: float
    ) -> tuple[float, float]:
        """The same of plain numbers, twice as fast."""
        c, power, unit_s, load_s = self.constants, self.constants.power, float(self.unit_s), float(self.load_s)
        wave, alone, k_ramp, split_k, width = c.wave, c.alone, c.k_ramp, c.split_k, self.width
        last = len(c.up_to)
        moved = moving**power
        best = matrix = float("inf")
        for i, (tile_m, tile_n) in enumerate(c.tiles):
            if i < last and rows > c.up_to[i]:
                continue
            tiles = -(-rows // tile_m) * -(-n // tile_n) * groups
            depth, added = k, 0.0
            if split_k and 0.0 < tiles < units and k > split_k:
                splits = min(units / tiles, k / split_k)
                tiles, depth, added = tiles * splits, k / splits, c.split_s * (1.0 - 1.0 / splits)
            waves = filled = tiles / units
            if wave:
                waves -= wave * (filled + -filled // 1.0)
            if waves < 1.0:
                waves = max(waves, min(tiles, 1.0))
            depth += k_ramp
            compute = max(filled, waves / alone) * depth * (2.0 * tile_m * tile_n * unit_s)
            loaded = (rows if rows < tile_m else tile_m) * width + (n if n < tile_n else tile_n) * narrow
            seconds = (compute**power + (waves * depth * loaded * load_s) ** power + moved) ** (1.0 / power) + added
            if seconds < best:
                best, matrix = seconds, compute
            if last:
                break
        return best, matrix


def products(rates: Rates, table: Mapping[str, Gemm]) -> Callable[[Op], Product]:
    """An operator's constants, by number format and, where weights are stored narrower than that, by how.

    Raises (the function returned):
        ScenarioError: an unknown number format.
    """

    def make(key: tuple[str, float]) -> Product:
        name, stored = key
        dtype = effective_dtype(rates.accelerator, name)
        entry = _entry(table, name if name in table and ALIASES.get(name, name) == dtype else dtype)
        if stored < COMPUTE_BYTES[dtype]:
            entry = table.get("weight_only", entry)
            if stored == BYTES["mxfp4"]:  # kernels of its own: scales are powers of two
                entry = table.get("mxfp4", entry)
        return Product.of(rates, dtype, entry)

    by_format = Lazily(make)
    return lambda op: by_format[op.dtype, float(op.shape["weight"])]


def _entry(table: Mapping[str, Gemm], dtype: str) -> Gemm:
    """The constants of a number format: its own, else those of the next wider one that has any, else bf16's."""
    return next((table[t] for t in (dtype, *WIDER.get(dtype, ())) if t in table), table["bf16"])


def gemm_kernel(rates: Rates, table: Mapping[str, Gemm]) -> Kernel:
    """Prices ``gemm`` operators. Weights narrower than the type computed in are dequantised on the way."""
    product = products(rates, table)

    def price(op: Op) -> Price:
        return product(op).price(op, rates, 1.0, 1.0)

    return price


def grouped_kernel(rates: Rates, table: Mapping[str, Gemm]) -> Kernel:
    """Prices ``grouped_gemm`` operators: one product for each visited expert, in one launch.

    The fixed cost holds the experts' bookkeeping (sorting rows, offsets, tile schedule).
    """
    product = products(rates, table)

    def price(op: Op) -> Price:
        # Fewer than one expert visited on average: the work is an expectation over steps.
        groups = maximum(op.shape["groups"], 1e-6)
        return product(op).price(op, rates, groups, op.shape["imbalance"])

    return price
