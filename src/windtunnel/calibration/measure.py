"""``calibrate --measure``: times kernels on the machine at hand, fits them, and checks itself on a transformer."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from windtunnel.calibration.bench import FULL, QUICK, kernel_benches, table_rows, unsteadiness
from windtunnel.calibration.clock import Clock, Device, load_torch, repeats
from windtunnel.calibration.fit import fit_table
from windtunnel.calibration.layout import table_of
from windtunnel.calibration.machine import Machine, last_cache_bytes, local_cpu, local_gpu
from windtunnel.calibration.result import Fitted, write_calibration
from windtunnel.calibration.selfcheck import (
    CASES,
    LARGE,
    SMALL,
    Checked,
    case_calls,
    host_times,
    predict_case,
    summary,
    write_config,
)
from windtunnel.scenario.files import write_file

Tell = Callable[[str], None]

UNSTEADY = 0.2
"""Of repeats, from which a measurement is said to be disturbed."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a measurement found. ``host``: host times of a GPU's machine that no file holds; ``unsteady``: how far a
    kernel's repeats typically lie apart (the middle half of them over their median), more where others use the machine.
    """

    machine: Machine
    threads: int
    dtype: str
    torch_version: str
    kernels: int
    unsteady: float
    fitted: Fitted
    host: dict[str, float]
    checked: tuple[Checked, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "machine": self.machine.description,
            "on": self.machine.on,
            "figures": None if self.machine.file is None else self.machine.file["set"],
            "threads": self.threads,
            "precision": self.dtype,
            "torch": self.torch_version,
            "kernels": self.kernels,
            "unsteady": self.unsteady,
            **self.fitted.to_dict(),
            "host": self.host,
            "check": {**summary(self.checked), "rows": [c.to_dict() for c in self.checked]},
        }


def measure(
    device: Device,
    *,
    quick: bool,
    on: str | None = None,
    threads: int | None = None,
    tell: Tell = lambda line: None,
) -> Measured:
    """Times, fits and checks. ``on``: the catalogue's name of a CUDA device whose own name it does not know;
    ``threads``: of PyTorch on a CPU, by default as many as it takes itself; ``tell`` hears how far it is.

    Raises:
        ScenarioError: PyTorch is not installed, or the device is not there or not known.
    """
    torch = load_torch(device)
    if threads is not None:
        torch.set_num_threads(threads)
    used = int(torch.get_num_threads())
    fine = time.get_clock_info("process_time").resolution <= 1e-6
    clock = Clock(torch, device, alone=device == "cpu" and used == 1 and fine)
    machine = local_gpu(torch, on) if device == "cuda" else None
    dtype = "bf16" if device == "cuda" else "fp32"
    grid, rounds = (QUICK, 5) if quick else (FULL, 11)
    threaded = f" on {used} thread{'s' if used > 1 else ''}" if device == "cpu" else ""
    tell(f"timing kernels and a small transformer in {dtype}{threaded}")
    sizes = SMALL if quick else LARGE
    cache = float(machine.cluster().accelerator.l2.capacity_bytes) if machine else last_cache_bytes()
    host = host_times(clock, sizes, dtype, rounds)
    benches = kernel_benches(clock, grid, dtype, cache)
    calls = case_calls(clock, sizes, dtype, CASES)
    by_kernel, by_case = repeats(clock, [b.call for b in benches], calls, rounds)
    rows, unsteady = table_rows(benches, by_kernel), unsteadiness(by_kernel)
    machine = machine or local_cpu(torch, rows)
    tell(f"fitting {len(rows)} kernels")
    what = f"{machine.description}, PyTorch {torch.__version__}"
    # A CPU's peaks are the best of these very rows: to reach them is no sign of anything.
    fitted = replace(fit_table(table_of(rows), machine.cluster(), what), warnings=_warnings(unsteady))
    with tempfile.TemporaryDirectory() as folder:
        config = write_config(sizes, dtype, folder)
        calibration, cluster = str(Path(folder) / "calibration.yaml"), str(Path(folder) / "cluster.yaml")
        write_calibration(fitted, calibration)
        if machine.file is not None:
            write_file(cluster, machine.text())
        where = cluster if machine.file is not None else f"1x{machine.on}"
        predicted = [predict_case(case, config, where, calibration, dtype, host) for case in CASES]
    measured = [median(seconds) for seconds in by_case]
    checked = tuple(Checked(*row) for row in zip(CASES, predicted, measured, strict=True))
    return Measured(machine, used, dtype, str(torch.__version__), len(rows), unsteady, fitted, host, checked)


def _warnings(unsteady: float) -> tuple[str, ...]:
    if unsteady < UNSTEADY:
        return ()
    line = f"repeats of a kernel lie {unsteady:.0%} apart: the machine is busy; measure it idle, or on fewer threads"
    return (line,)


def cluster_path(out: str) -> str:
    """Where the cluster file lies that belongs to a calibration file."""
    path = Path(out)
    return str(path.with_name(f"{path.stem}.cluster.yaml"))
