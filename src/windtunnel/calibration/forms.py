"""What can be fitted of each kernel family: its parameters with their bounds, and its price for measured shapes.

The prices are the package's own, so what is fitted is what is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.calibration.layout import Sample
from windtunnel.cost.attention import INSTEAD, attention_kernel, decode_kernel
from windtunnel.cost.calibration import Calibration
from windtunnel.cost.gemm import gemm_kernel, grouped_kernel
from windtunnel.cost.kernels import ALIASES, COMPUTE_BYTES, WIDER, Kernel, Rates, effective_dtype
from windtunnel.cost.runtime import Runtime
from windtunnel.cost.stream import copy_kernel, stream_kernel
from windtunnel.hardware.machine import Accelerator, Cluster
from windtunnel.models.dtypes import BYTES
from windtunnel.ops import build
from windtunnel.ops.gradient import gradient
from windtunnel.ops.op import Op
from windtunnel.ops.values import Array

Entry = Any
"""One of the entry classes of :mod:`windtunnel.cost.calibration`."""

_FIXED = (0.1e-6, 100e-6)
SHARE = (0.01, 1.0)
"""Bounds of a share of a device's peak."""

_PROMPTS = {
    "compute": SHARE, "diagonal": (0.0, 512.0), "fixed_s": _FIXED, "vector": SHARE, "wave": (0.0, 1.0),
    "tile_s": (0.0, 20e-6), "alone": (0.25, 2.0), "bandwidth": SHARE,
}  # fmt: skip

FREE: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "gemm": {
        "compute": SHARE, "bandwidth": SHARE, "fixed_s": _FIXED, "wave": (0.0, 1.0), "k_ramp": (0.0, 1024.0),
        "load": (0.1, 8.0),
    },
    "grouped_gemm": {
        "compute": SHARE, "bandwidth": SHARE, "fixed_s": _FIXED, "wave": (0.0, 1.0), "k_ramp": (0.0, 1024.0),
        "load": (0.1, 8.0),
    },
    "attention": _PROMPTS,
    "attention_backward": _PROMPTS,
    "attention_decode": {
        "bandwidth": SHARE, "compute": SHARE, "fixed_s": _FIXED, "wave_s": (0.0, 100e-6), "head_s": (0.0, 20e-9),
        "draw": (0.5, 8.0),
    },
    "pointwise": {"bandwidth": SHARE, "cache": SHARE, "fixed_s": _FIXED},
    "copies": {"pcie": SHARE, "nvme": SHARE, "fixed_s": _FIXED},
}  # fmt: skip
"""Lowest and highest value of what can be fitted, by section of a calibration file, the most important first. Shares
are of the device's peaks; physics bounds them by 1. What is off at 0 (``load``, ``draw``) is tried from its top."""

CHOICES: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "gemm": {"power": (2, 4, 8), "tiles": (((128, 128), (64, 64), (16, 64)), ((16, 64),))},
    "grouped_gemm": {"power": (2, 4), "tiles": (((128, 128), (64, 64), (16, 64)),)},
    "attention": {"power": (2, 4), "queries": (64, 128)},
    "attention_backward": {"power": (2, 4), "queries": (64, 128)},
    "attention_decode": {"power": (2, 4)},
    "pointwise": {"power": (2, 4)},
    "copies": {},
}
"""What takes one of a few values, besides the one that the device had; each is tried where there are shapes enough to
tell them apart."""


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """The samples that one entry of a calibration file is fitted to. ``key`` is empty for the copies."""

    section: str
    key: str
    samples: tuple[Sample, ...]

    @property
    def name(self) -> str:
        return f"{self.section}.{self.key}" if self.key else self.section

    @property
    def seconds(self) -> Array:
        return np.concatenate([s.seconds for s in self.samples])


def families(samples: Sequence[Sample], calibration: Calibration, accelerator: Accelerator) -> list[Family]:
    """Samples by the entry that prices them on a device."""
    found: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        found.setdefault(_entry_of(sample, calibration, accelerator), []).append(sample)
    return [Family(section, key, tuple(parts)) for (section, key), parts in found.items()]


def _entry_of(sample: Sample, calibration: Calibration, accelerator: Accelerator) -> tuple[str, str]:
    kernel = sample.kernel
    if kernel in ("gemm", "grouped_gemm"):
        computed = effective_dtype(accelerator, sample.dtype)
        if weight_bytes(sample) < COMPUTE_BYTES[computed]:
            return kernel, "weight_only"
        return kernel, sample.dtype if ALIASES.get(sample.dtype, sample.dtype) == computed else computed
    if kernel in ("attention", "attention_backward"):
        # What engines that name no generation would run here.
        variant = sample.variant or ("flash3" if "flash3" in getattr(calibration, kernel) else "flash2")
        dtype = effective_dtype(accelerator, sample.dtype)
        return kernel, f"{variant}.{dtype}" if COMPUTE_BYTES[dtype] < 2 else variant
    if kernel == "attention_decode":
        return kernel, sample.variant or "default"
    return ("copies", "") if kernel == "copy" else ("pointwise", kernel)


def weight_bytes(sample: Sample) -> float:
    """Bytes of a weight as it is stored."""
    return BYTES.get(sample.weight) or BYTES[ALIASES[sample.weight]]


def inherited(calibration: Calibration, section: str, key: str) -> Entry:
    """The constants that price a family while nothing is fitted for it."""
    table = getattr(calibration, section)
    if section == "copies":
        return table
    if section in ("gemm", "grouped_gemm"):
        plain = ALIASES.get(key, key)
        return next(table[k] for k in (key, plain, *WIDER.get(plain, ()), "bf16") if k in table)
    if section in ("attention", "attention_backward"):
        generation = key.partition(".")[0]
        while generation not in table:
            generation = INSTEAD[generation]
        return table.get(key) or table[generation]
    return table.get(key) or table["default" if section == "attention_decode" else "elementwise"]


def predict(family: Family, entry: Entry, rates: Rates, cluster: Cluster) -> Array:
    """Seconds of every row of a family, in order, for one set of constants."""
    parts = []
    for sample in family.samples:
        op, kernel = PRICES[family.section](sample, entry, rates, cluster)
        parts.append(np.broadcast_to(np.asarray(kernel(op).seconds, float), sample.seconds.shape))
    return np.concatenate(parts)


def rates_of(cluster: Cluster, calibration: Calibration) -> Rates:
    """Kernels are timed back to back: what gap there is between them is inside their fixed cost."""
    return Rates.of(cluster, calibration, Runtime(graphs=True))


Pricing = Callable[[Sample, Entry, Rates, Cluster], tuple[Op, Kernel]]


def _gemm(sample: Sample, entry: Entry, rates: Rates, cluster: Cluster) -> tuple[Op, Kernel]:
    shape: dict[str, Any] = {**sample.columns}
    op = build.gemm("", **shape, **_formats(sample))
    return op, gemm_kernel(rates, _everywhere(sample, entry))


def _grouped(sample: Sample, entry: Entry, rates: Rates, cluster: Cluster) -> tuple[Op, Kernel]:
    c: dict[str, Any] = {**sample.columns}
    op = build.grouped_gemm("", active=np.minimum(c.pop("active_experts"), c["rows"]), **c, **_formats(sample))
    return op, grouped_kernel(rates, _everywhere(sample, entry))


def _formats(sample: Sample) -> dict[str, Any]:
    act = 4.0 if sample.dtype in ("fp32", "tf32") else 2.0
    return {"dtype": sample.dtype, "weight": weight_bytes(sample), "act": act}


def _everywhere(sample: Sample, entry: Entry) -> dict[str, Entry]:
    """A table in which every look-up finds ``entry``."""
    return dict.fromkeys((*WIDER, sample.dtype, "weight_only"), entry)


def _attention(sample: Sample, entry: Entry, rates: Rates, cluster: Cluster) -> tuple[Op, Kernel]:
    shape: dict[str, Any] = {**sample.columns}
    op: Any = build.attention("", **shape, dtype=sample.dtype, act=_width(sample))
    if sample.kernel == "attention_backward":
        op, _ = gradient(op)
    return op, attention_kernel(rates, {"flash2": entry}, "flash2")


def _decode(sample: Sample, entry: Entry, rates: Rates, cluster: Cluster) -> tuple[Op, Kernel]:
    c: dict[str, Any] = {**sample.columns}
    plain = _width(sample) * c["kv_heads"] * (c["head_dim"] + c["v_head_dim"])
    stored = c.pop("kv_bytes_per_token")
    size = np.where(stored > 0, stored, plain)
    op = build.attention_decode("", **c, dtype=sample.dtype, act=_width(sample), kv_bytes_per_token=size)
    return op, decode_kernel(rates, {"default": entry}, "default")


def _width(sample: Sample) -> float:
    return BYTES.get(sample.dtype) or BYTES[ALIASES[sample.dtype]]


def _pointwise(sample: Sample, entry: Entry, rates: Rates, cluster: Cluster) -> tuple[Op, Kernel]:
    c = sample.columns
    op = Op("", sample.kernel, cached_bytes=c["bytes"], hbm_bytes=c["cold_bytes"])
    return op, stream_kernel(rates, {sample.kernel: entry}, sample.kernel)


def _copy(sample: Sample, entry: Entry, rates: Rates, cluster: Cluster) -> tuple[Op, Kernel]:
    c = sample.columns
    return build.transfer("", "", pcie=c["pcie_bytes"], nvme=c["nvme_bytes"]), copy_kernel(rates, cluster, entry)


PRICES: Mapping[str, Pricing] = {
    "gemm": _gemm,
    "grouped_gemm": _grouped,
    "attention": _attention,
    "attention_backward": _attention,
    "attention_decode": _decode,
    "pointwise": _pointwise,
    "copies": _copy,
}
