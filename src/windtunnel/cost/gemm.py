"""Matrix products, dense and grouped by expert.

t = fixed + smooth max(compute, HBM, cache), where compute is the product's padded work over the rate that large ones
reach. Padding is the tiles' (rows to a tile, columns to 128) and the waves' of tiles over the compute units, the last
of which is lost in part only, since kernels split the inner dimension (stream-K, arXiv 2301.03598, section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from windtunnel.cost.calibration import Gemm
from windtunnel.cost.kernels import ALIASES, COMPUTE_BYTES, WIDER, Kernel, Lazily, Rates, effective_dtype, smooth_max
from windtunnel.ops.op import Op, Price
from windtunnel.ops.values import Value, ceil, maximum, minimum

COLUMNS = 128
"""Columns of a tile (CUTLASS's and cuBLAS's usual 128)."""
FRAGMENT = 16
"""Rows come in at least these steps (the matrix instructions' own shape)."""


@dataclass(frozen=True, slots=True)
class Product:
    """One number format's constants on one device, as seconds a FLOP and a byte."""

    resource: str
    compute_s: Value
    hbm_s: Value
    l2_s: Value
    constants: Gemm

    @staticmethod
    def of(rates: Rates, dtype: str, constants: Gemm) -> Product:
        resource, peak = rates.peak(dtype)
        compute = constants.compute * (constants.sustained if rates.sustained else 1.0)
        return Product(
            resource,
            1.0 / (compute * peak),
            1.0 / (constants.bandwidth * rates.hbm),
            1.0 / (constants.cache * rates.l2),
            constants,
        )

    def price(self, op: Op, rates: Rates, groups: Value, imbalance: Value) -> Price:
        """``groups`` products that share the rows; the busiest place has ``imbalance`` times the mean."""
        c, shape = self.constants, op.shape
        padding = padded(shape["m"] * imbalance / groups, shape["n"], groups, rates.units, c)
        flops = op.flops * imbalance * (1.0 + c.k_ramp / maximum(shape["k"], 1.0))
        compute = flops * padding * self.compute_s
        cached = op.cached_bytes * imbalance
        hbm = rates.from_memory(op.hbm_bytes, cached) * self.hbm_s
        l2 = (op.hbm_bytes + cached) * self.l2_s
        latency = rates.launch(op, c.fixed_s)
        seconds = latency + smooth_max(c.power, compute, hbm, l2)
        return Price(seconds, {self.resource: compute, "hbm": hbm, "l2": l2}, latency, rates.issue(op))


def padded(rows: Value, columns: Value, groups: Value, units: Value, constants: Gemm) -> Value:
    """Work issued over work asked for, at least 1, of ``groups`` products of [rows, columns]."""
    tiles_m = ceil(rows / constants.tile)
    height = minimum(FRAGMENT * ceil(rows / FRAGMENT), constants.tile)
    tiles = tiles_m * (ceil(columns / COLUMNS) * groups)
    x = constants.wave
    issued = ((1.0 - x) * tiles + (x * units) * ceil(tiles / units)) * (height * COLUMNS)
    # Where there is no work the ratio is of no matter; elsewhere rows and columns are well above this floor.
    return maximum(issued / maximum(rows * (columns * groups), 1e-9), 1.0)


def products(rates: Rates, table: Mapping[str, Gemm]) -> Callable[[Op], Product]:
    """An operator's constants, by number format and by whether weights are stored narrower than they are computed in.

    Raises (the function returned):
        ScenarioError: an unknown number format.
    """

    def make(key: tuple[str, bool]) -> Product:
        name, narrow = key
        dtype = effective_dtype(rates.accelerator, name)
        entry = _entry(table, name if name in table and ALIASES.get(name, name) == dtype else dtype)
        return Product.of(rates, dtype, table.get("weight_only", entry) if narrow else entry)

    by_format = Lazily(make)
    width = Lazily[str, float](lambda name: COMPUTE_BYTES[effective_dtype(rates.accelerator, name)])
    return lambda op: by_format[op.dtype, bool(op.shape["weight"] < width[op.dtype])]


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
