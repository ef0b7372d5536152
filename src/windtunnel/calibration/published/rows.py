"""Measured kernels as plain columns, whatever file they come from, and the operators that they ran."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from windtunnel.cost.runtime import Runtime
from windtunnel.hardware import Cluster, parse_cluster
from windtunnel.models.dtypes import BYTES
from windtunnel.ops import build
from windtunnel.ops.op import Group, Op
from windtunnel.ops.values import Array, minimum
from windtunnel.parallel.feedforward import active_experts

if TYPE_CHECKING:
    import polars as pl

GRAPHS = Runtime(graphs=True)
"""Kernels were timed back to back, from graphs or between events: the gap is inside the fixed cost."""


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Runs of one kernel family on one machine.

    ``family``: the entry of the calibration that prices it, and what else tells it apart. ``columns``: arrays [rows]
    by the names that :mod:`windtunnel.ops.build` gives a shape. ``group`` [rows]: rows of one group are alike and are
    held out together; ``held`` says what they share. ``weight`` and ``act``: bytes of a weight as stored, of an input.
    """

    family: str
    kernel: str
    cluster: Cluster
    columns: Mapping[str, Array]
    seconds: Array
    group: Sequence[str]
    dtype: str = "bf16"
    weight: float = 2.0
    act: float = 2.0
    runtime: Runtime = GRAPHS
    held: str = "sizes"

    def __len__(self) -> int:
        return len(self.seconds)

    def labels(self) -> list[str]:
        """A row's shape in words."""
        names = list(self.columns)
        columns = [[f"{v:.10g}" for v in values] for values in self.columns.values()]
        return [" ".join(f"{n}={v}" for n, v in zip(names, row, strict=True)) for row in zip(*columns, strict=True)]

    def take(self, rows: Array) -> Measured:
        """The rows at these indices."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return replace(self, columns=columns, seconds=self.seconds[rows], group=[self.group[i] for i in rows])


def operators(m: Measured) -> Iterator[Op]:
    """What a run consists of, as the package writes it; each operator is over all rows at once."""
    c = m.columns
    if m.kernel == "gemm":
        yield build.gemm("", c["m"], c["n"], c["k"], dtype=m.dtype, weight=m.weight, act=m.act)
    elif m.kernel == "grouped_gemm":
        yield _grouped(m, c["rows"], c["n"], c["k"])
    elif m.kernel == "expert_layer":
        rows, hidden, inter, ups = (c[name] for name in ("rows", "hidden", "inter", "ups"))
        yield build.pointwise("", "elementwise", reads=rows * hidden, writes=rows * hidden, act=2.0)
        yield _grouped(m, rows, ups * inter, hidden)
        yield build.pointwise("", "activation", reads=ups * rows * inter, writes=rows * inter, act=2.0)
        yield _grouped(m, rows, hidden, inter)
        yield build.pointwise("", "elementwise", reads=rows * hidden, writes=rows * hidden, act=2.0)
    elif m.kernel == "attention":
        yield build.attention("", **c, dtype=m.dtype, act=BYTES[m.dtype])
    elif m.kernel == "attention_decode":
        yield build.attention_decode("", **c, dtype=m.dtype, act=2.0)
    elif m.kernel in build.COLLECTIVES:
        group = Group(c["ranks"], np.ones(len(m)))
        yield build.collective(m.kernel, c["bytes"], group, "any")
    else:
        yield Op("", m.kernel, cached_bytes=c["bytes"], hbm_bytes=c["cold_bytes"])


def _grouped(m: Measured, rows: Array, n: Array, k: Array) -> Op:
    c = m.columns
    common: dict[str, Any] = {"experts": c["experts"], "active": c["active_experts"], "imbalance": 1.0}
    return build.grouped_gemm("", rows, n, k, **common, dtype=m.dtype, weight=m.weight, act=2.0)


def visited(experts: Array, rows: Array, *, balanced: bool) -> Array:
    """Experts that ``rows`` row visits reach: as many as there can be, or as even routing at random would."""
    found: Array = np.asarray(minimum(experts, rows) if balanced else active_experts(experts, rows))
    return found


def load(path: Path) -> pl.DataFrame:
    """A source's CSV file."""
    import polars as pl

    return pl.read_csv(path, infer_schema_length=None)


def numbers(frame: pl.DataFrame, **columns: Any) -> dict[str, Array]:
    """Float arrays [rows] by name, each from a column's name, an expression over columns, or one number for all."""
    import polars as pl

    found: dict[str, Array] = {}
    for name, what in columns.items():
        expression = pl.col(what) if isinstance(what, str) else pl.lit(what) if isinstance(what, float) else what
        found[name] = np.broadcast_to(
            frame.select(expression.cast(pl.Float64).alias(name))[name].to_numpy(), (len(frame),)
        ).copy()
    return found


def together(*columns: Array) -> list[str]:
    """A group for each row: rows that are equal in all of these."""
    texts = [[f"{v:.10g}" for v in values] for values in columns]
    return [" ".join(row) for row in zip(*texts, strict=True)]


def device(name: str) -> Cluster:
    """One accelerator of the catalogue."""
    return parse_cluster(f"1x{name}")
