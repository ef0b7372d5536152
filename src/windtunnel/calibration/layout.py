"""The table of measured kernels that ``calibrate --from`` reads: a CSV or Parquet file, one kernel run a row.

Columns: ``kernel`` (a key of :data:`KERNELS`), ``seconds`` (of one run on the device), the kernel's shape as the
functions of :mod:`windtunnel.ops.build` take it, and where they matter ``dtype`` (what is computed in),
``weight_dtype`` (how weights are stored, if not as they are computed in), ``variant`` (generation of an attention
kernel) and ``device`` (rows of other devices are left out). A cell that a kernel does not need may be empty.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from windtunnel.cost.kernels import ALIASES, WIDER
from windtunnel.cost.stream import POINTWISE
from windtunnel.errors import ScenarioError, unknown
from windtunnel.models.dtypes import BYTES
from windtunnel.ops.values import Array

if TYPE_CHECKING:
    import polars


@dataclass(frozen=True, slots=True)
class Kind:
    """How rows of one kernel are written. ``needs``: shape columns; ``may``: those with a default, which is a number
    or the name of another column; ``dtype``: whether the number format matters."""

    section: str
    needs: tuple[str, ...]
    may: Mapping[str, float | str]
    dtype: bool = True


_ATTENTION = ("tokens", "pairs", "context", "heads", "kv_heads", "head_dim")
_STREAM = Kind("pointwise", (), {"bytes": 0.0, "cold_bytes": 0.0}, dtype=False)

KERNELS: Mapping[str, Kind] = {
    "gemm": Kind("gemm", ("m", "n", "k"), {}),
    "grouped_gemm": Kind(
        "grouped_gemm", ("rows", "n", "k", "experts"), {"active_experts": "experts", "imbalance": 1.0}
    ),
    "attention": Kind("attention", _ATTENTION, {"v_head_dim": "head_dim"}),
    "attention_backward": Kind("attention_backward", _ATTENTION, {"v_head_dim": "head_dim"}),
    "attention_decode": Kind(
        "attention_decode",
        ("sequences", "context", "heads", "kv_heads", "head_dim"),
        {"v_head_dim": "head_dim", "kv_bytes_per_token": 0.0},
    ),
    **{kind: _STREAM for kind in POINTWISE if kind != "none"},
    "copy": Kind("copies", (), {"pcie_bytes": 0.0, "nvme_bytes": 0.0}, dtype=False),
}
"""Every kernel that a row may be of. ``bytes`` are those of tensors read and written that a neighbouring kernel also
touches, ``cold_bytes`` those that no neighbour does; ``kv_bytes_per_token`` 0 stands for keys and values in ``dtype``.
"""

VARIANTS = ("flash1", "flash2", "flash3", "trtllm", "vllm")
"""Generations of attention kernels."""
FORMATS = (*WIDER, *(name for name in ALIASES if name in BYTES or name == "fp8_block"))
"""Number formats that ``dtype`` may name."""

MOST_BYTES = 256 * 2**20
"""Largest file read: some millions of rows."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Measured runs of one kernel in one number format. ``columns``: shape by name; ``variant`` empty if not given;
    ``weight``: format of the weights."""

    kernel: str
    dtype: str
    weight: str
    variant: str
    columns: Mapping[str, Array]
    seconds: Array


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """``samples`` of a file; ``devices``: those that it names, spelled as there; ``left_out``: rows of others."""

    samples: tuple[Sample, ...]
    devices: tuple[str, ...] = ()
    left_out: int = 0

    @property
    def rows(self) -> int:
        return sum(len(s.seconds) for s in self.samples)


def is_kernel_table(path: str) -> bool:
    """Whether a file is meant as a table of kernels: it has columns ``kernel`` and ``seconds``, or one of them beside a
    kernel's shape. A file that cannot be read is none."""
    try:
        with open(path, "rb") as stream:
            start = stream.read(4)
            head = start + stream.readline(65536)
    except (OSError, ValueError):
        return False
    names = _parquet_names(path) if start == b"PAR1" else head.decode("utf-8", "replace").split(",")
    found = {name.strip().strip('"\ufeff').lower() for name in names}
    return "kernel" in found and bool(found & {"seconds", "m", "bytes", "tokens", "dtype"})


def _parquet_names(path: str) -> list[str]:
    import polars as pl

    try:
        return list(pl.read_parquet_schema(path))
    except (OSError, pl.exceptions.PolarsError):
        return []


def read_table(path: str, device: str | None = None) -> Table:
    """The rows of a file, those of ``device`` (a catalogue name) where the file names devices.

    Raises:
        ScenarioError: a file that cannot be read, or a row that is none of :data:`KERNELS`.
    """
    frame = _read(path)
    names = {name: name.strip().lower() for name in frame.columns}
    if len(set(names.values())) < len(names):
        raise ScenarioError(f"{_short(path)}: two columns have the same name")
    frame = frame.rename(names)
    for name in ("kernel", "seconds"):
        if name not in frame.columns:
            raise ScenarioError(
                f"{_short(path)} has no column {name!r}; a table of kernels needs kernel, seconds and the shape columns"
            )
    lines = np.arange(2.0, 2 + len(frame))
    devices: tuple[str, ...] = ()
    left_out = 0
    if "device" in frame.columns and device is not None:
        given = [str(value or "").strip() for value in frame["device"]]
        devices = tuple(dict.fromkeys(filter(None, given)))
        same = {name: _same(name, device) for name in devices}
        keep = np.array([not name or same[name] for name in given], bool)
        left_out = int(np.sum(~keep))
        if not keep.any():
            raise ScenarioError(f"{_short(path)} has no row of {device}; it has {', '.join(devices[:8])}")
        frame, lines = frame.filter(keep), lines[keep]
    if not len(frame):
        raise ScenarioError(f"{_short(path)} has no rows")
    return Table(tuple(_samples(path, frame, lines)), devices, left_out)


def table_of(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The same from rows in memory."""
    import polars as pl

    return Table(tuple(_samples("rows", pl.DataFrame(rows, infer_schema_length=None), np.arange(1.0, 1 + len(rows)))))


def _read(path: str) -> polars.DataFrame:
    import polars as pl

    try:
        file = Path(path)
        if not file.is_file():
            raise ScenarioError(f"no file {_short(path)!r}")
        if file.stat().st_size > MOST_BYTES:
            raise ScenarioError(f"{_short(path)} is larger than the {MOST_BYTES:,} bytes accepted")
        data = file.read_bytes()
        if data[:4] == b"PAR1":
            return pl.read_parquet(io.BytesIO(data))
        return pl.read_csv(io.BytesIO(data), infer_schema=False)
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        if isinstance(error, ScenarioError):
            raise
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise ScenarioError(f"cannot read {_short(path)} as CSV or Parquet: {_short(reason)}") from None


def _same(name: str, device: str) -> bool:
    from windtunnel.hardware.catalogue import resolve_accelerator

    try:
        return resolve_accelerator(name) == device
    except ScenarioError:
        return False


def _samples(path: str, frame: polars.DataFrame, lines: Array) -> list[Sample]:
    kernels = _text(frame, "kernel")
    seconds = _numbers(path, frame, "seconds", np.ones(len(frame), bool), lines)
    wrong = np.flatnonzero(~(seconds > 0))
    if wrong.size:
        at = wrong[0]
        raise ScenarioError(f"{_short(path)}, line {lines[at]:.0f}: seconds is {seconds[at]:g}; it is above 0")
    result: list[Sample] = []
    for kernel in dict.fromkeys(kernels):
        if kernel not in KERNELS:
            at = kernels.index(kernel)
            raise ScenarioError(f"{_short(path)}, line {lines[at]:.0f}: {unknown('kernel', kernel, KERNELS)}")
        of_kind = np.array([k == kernel for k in kernels])
        columns = _shape(path, frame, kernel, of_kind, lines)
        formats = _formats(path, frame, kernel, of_kind, lines)
        for dtype, weight, variant in dict.fromkeys(formats):
            own = np.array([f == (dtype, weight, variant) for f in formats])
            picked = {name: values[own] for name, values in columns.items()}
            result.append(Sample(kernel, dtype, weight, variant, picked, seconds[of_kind][own]))
    return result


def _shape(path: str, frame: polars.DataFrame, kernel: str, rows: Array, lines: Array) -> dict[str, Array]:
    kind = KERNELS[kernel]
    columns: dict[str, Array] = {}
    for name in (*kind.needs, *kind.may):
        default = kind.may.get(name)
        if name not in frame.columns:
            if default is None:
                needed = ", ".join(kind.needs)
                raise ScenarioError(f"{_short(path)} has no column {name!r}; rows of {kernel} need {needed}")
            values = np.full(int(rows.sum()), np.nan)
        else:
            values = _numbers(path, frame, name, rows, lines, optional=default is not None)
        if default is not None:
            values = np.where(np.isnan(values), columns[default] if isinstance(default, str) else default, values)
        low = np.flatnonzero(~(values > 0) if default is None or default == 1.0 else ~(values >= 0))
        if low.size:
            line = lines[rows][low[0]]
            least = "above 0" if default is None or default == 1.0 else "at least 0"
            raise ScenarioError(f"{_short(path)}, line {line:.0f}: {name} is {values[low[0]]:g}; it is {least}")
        columns[name] = values
    if not kind.needs:
        nothing = np.flatnonzero(sum(columns.values()) <= 0)
        if nothing.size:
            either = " or ".join(kind.may)
            raise ScenarioError(f"{_short(path)}, line {lines[rows][nothing[0]]:.0f}: {kernel} needs {either} above 0")
    return columns


def _formats(path: str, frame: polars.DataFrame, kernel: str, rows: Array, lines: Array) -> list[tuple[str, str, str]]:
    """(dtype, weight_dtype, variant) of the rows of a kernel."""
    if not KERNELS[kernel].dtype:
        return [("", "", "")] * int(rows.sum())
    at = np.flatnonzero(rows)
    columns = {name: _text(frame, name) for name in ("dtype", "weight_dtype", "variant")}
    found = []
    for i in at:
        dtype, weight, variant = (columns[name][i] for name in columns)
        accepted: tuple[tuple[str, str, Sequence[str]], ...] = (
            ("dtype", dtype, FORMATS), ("weight_dtype", weight, ("", *BYTES)), ("variant", variant, ("", *VARIANTS)),
        )  # fmt: skip
        for name, value, known in accepted:
            if value not in known:
                raise ScenarioError(
                    f"{_short(path)}, line {lines[i]:.0f}: {name} of {kernel} is {value[:40]!r}; "
                    f"accepted: {', '.join(k for k in known if k)}"
                )
        found.append((dtype, weight or dtype, variant if kernel.startswith("attention") else ""))
    return found


def _text(frame: polars.DataFrame, name: str) -> list[str]:
    if name not in frame.columns:
        return [""] * len(frame)
    return [str(value if value is not None else "").strip().lower() for value in frame[name]]


def _numbers(
    path: str, frame: polars.DataFrame, name: str, rows: Array, lines: Array, *, optional: bool = False
) -> Array:
    """Numbers of a column, NaN for empty cells of an ``optional`` one."""
    values = np.empty(int(rows.sum()))
    for i, cell in enumerate(frame[name].filter(rows)):
        text = "" if cell is None else str(cell).strip()
        if not text and optional:
            values[i] = np.nan
            continue
        try:
            values[i] = float(text)
        except ValueError:
            values[i] = np.nan
        if not np.isfinite(values[i]) or "_" in text:
            shown = repr(text[:40]) if text else "empty"
            raise ScenarioError(f"{_short(path)}, line {lines[rows][i]:.0f}: {name} is {shown}; it is a number")
    return values


def _short(text: str) -> str:
    text = str(text)
    return text if len(text) <= 120 else text[:117] + "..."
