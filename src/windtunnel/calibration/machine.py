"""The machine at hand as a cluster of one: a CPU's figures from what was measured on it, a GPU from the catalogue."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from windtunnel.errors import ScenarioError
from windtunnel.hardware import load_accelerator, parse_cluster
from windtunnel.hardware.catalogue import resolve_accelerator
from windtunnel.hardware.cluster_file import plain
from windtunnel.hardware.machine import Cluster

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
HEADROOM = 1.02
"""A peak over the best that was measured, so that noise leaves efficiencies at 1 or below."""
CACHE_OVER_MEMORY = 2.0
"""Bandwidth of the last cache over the memory's, at least: kernels that stream from memory are not held up by it, also
where none that was timed shows how fast it is."""


@dataclass(frozen=True, slots=True)
class Machine:
    """``description``: of the processor, for people. ``file``: contents of a cluster file, None for a device that the
    catalogue has; ``on``: its name there."""

    description: str
    on: str
    file: Mapping[str, Any] | None = None

    def cluster(self) -> Cluster:
        return parse_cluster(self.on, None if self.file is None else self.file["set"])

    def text(self) -> str:
        """The cluster file."""
        about = (
            f"# {self.description}, as windtunnel calibrate --measure found it.\n"
            "# Rates are the best that was measured here; formats that were not measured have the rate of fp32.\n"
            f"# {self.on} lends what is not a matter of speed, and of its power the share of the threads.\n"
        )
        return about + yaml.safe_dump(dict(self.file or {}), sort_keys=False)


def local_gpu(torch: Any, on: str | None) -> Machine:
    """The CUDA device, by the name that PyTorch has for it or by ``on``.

    Raises:
        ScenarioError: the catalogue does not know it.
    """
    name = str(torch.cuda.get_device_name(0))
    try:
        return Machine(name, resolve_accelerator(on or name))
    except ScenarioError as error:
        if on is not None:
            raise
        raise ScenarioError(f"{error}; say with --on which device of the catalogue {name!r} is") from None


def local_cpu(torch: Any, rows: Sequence[Mapping[str, Any]]) -> Machine:
    """The CPU, with the best rates among measured kernels as its peaks.

    fp32 FLOP/s of the fastest product; memory bandwidth of the fastest kernel that moves several times the last cache;
    cache bandwidth of the fastest of all (or twice the memory's); copies of the fastest copy.
    """
    threads = int(torch.get_num_threads())
    on = _likeness()
    base = load_accelerator(on)
    cache = last_cache_bytes()
    moved = [(row.get("bytes", 0.0) + row.get("cold_bytes", 0.0), row["seconds"]) for row in rows if "bytes" in row]
    flops = max(2.0 * r["m"] * r["n"] * r["k"] / r["seconds"] for r in rows if r["kernel"] == "gemm")
    large = [size / s for size, s in moved if size > 4 * cache] or [max(moved)[0] / max(moved)[1]]
    reads = [4.0 * r["n"] * r["k"] / r["seconds"] for r in rows if r["kernel"] == "gemm"]
    memory = HEADROOM * max(*large, *reads)
    cached = max(HEADROOM * max(size / s for size, s in moved), CACHE_OVER_MEMORY * memory)
    copied = HEADROOM * max(r["pcie_bytes"] / r["seconds"] for r in rows if r["kernel"] == "copy")
    share = threads / base.compute_units
    figures: dict[str, float] = {
        **dict.fromkeys((f"{dtype}_tflops" for dtype in base.peak_flops), HEADROOM * flops / 1e12),
        "vector_tflops": HEADROOM * flops / 1e12,
        "hbm_gbyte": _memory_bytes() / 1e9,
        "hbm_gbyte_per_s": memory / 1e9,
        "l2_mbyte": cache / 1e6,
        "l2_gbyte_per_s": cached / 1e9,
        "pcie_gbyte_per_s": copied / 1e9,
        "dram_gbyte_per_s": memory / 1e9,
        "compute_units": threads,
        "kernel_gap_us": 0.0,
        "tdp_watt": plain(base.tdp_w) * share,
        "idle_watt": plain(base.idle_w) * share,
    }
    rounded = {name: float(f"{value:.4g}") for name, value in figures.items()} | {"compute_units": threads}
    file = {"accelerator": on, "count": 1, "set": rounded}
    return Machine(f"{_processor()}, {threads} thread{'s' if threads > 1 else ''}", on, file)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    except (OSError, UnicodeDecodeError):
        pass
    return platform.processor() or platform.machine()


def _likeness() -> str:
    """The processor of the catalogue that is most like this one."""
    if platform.machine() in ("arm64", "aarch64"):
        return "m2-pro-cpu"
    return "epyc-9654" if "amd" in _processor().lower() else "xeon-8480"


def _memory_bytes() -> float:
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return 8e9


def last_cache_bytes() -> float:
    """Bytes of the outermost cache; where the system does not say, as many for a core as the catalogue's likeness."""
    units = {"K": 2.0**10, "M": 2.0**20, "G": 2.0**30}
    found = []
    for file in CACHES.glob("index*/size"):
        try:
            text = file.read_text().strip()
            found.append(float(text[:-1]) * units[text[-1]])
        except (OSError, ValueError, KeyError, IndexError):
            continue
    if found:
        return max(found)
    base = load_accelerator(_likeness())
    return base.l2.capacity_bytes * min((os.cpu_count() or 1) / base.compute_units, 1.0)
