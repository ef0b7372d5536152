"""The rate that a matrix unit sustains for hours under its power limit.

A device at its limit lowers clock and voltage together, so its power falls faster than its rate, about with the
square: of a unit that would draw ``demand`` at full rate, sqrt(power / demand) is left. What a kernel reaches in a
benchmark of milliseconds is therefore held to that share of the peak in training. Narrower formats do more with the
same energy: their peaks are taken to draw the same power as the 16-bit one.
"""

from __future__ import annotations

from math import sqrt
from typing import TypeVar

from windtunnel.cost.calibration import Attention, Calibration, Gemm, Scan
from windtunnel.hardware.machine import Accelerator

E = TypeVar("E", Gemm, Attention, Scan)

WATT_PER_TFLOPS = {"ampere": 1.82, "ada": 1.3, "hopper": 1.5, "blackwell": 1.9}
"""Watt above idle for each dense 16-bit TFLOP/s at full clock, by process: 7 nm (ampere) and 4 nm. Fitted by
scripts/fit_training_engines.py on the step times of A100 at 400 W and H100 at 500 and 700 W (llm-foundry, torchtitan,
NeMo). A family without training runs keeps the ``sustained`` of its calibration."""


def ceiling(accelerator: Accelerator) -> float | None:
    """Share of the matrix peak that power allows; None where nothing is known."""
    demand = WATT_PER_TFLOPS.get(accelerator.family)
    peak = accelerator.peak_flops.get("bf16")
    if demand is None or peak is None:
        return None
    power = max(float(accelerator.tdp_w) - float(accelerator.idle_w), 0.02 * float(accelerator.tdp_w))
    return min(1.0, sqrt(power / (demand * float(peak) / 1e12)))


def at_power(calibration: Calibration, accelerator: Accelerator) -> Calibration:
    """The constants with every kernel of the matrix unit held to what power allows (plain figures only)."""
    most = ceiling(accelerator)
    if most is None:
        return calibration

    def held(table: dict[str, E]) -> dict[str, E]:
        return {k: e.model_copy(update={"sustained": min(1.0, most / e.compute)}) for k, e in table.items()}

    tables = {
        "gemm": held(calibration.gemm),
        "grouped_gemm": held(calibration.grouped_gemm),
        "attention": held(calibration.attention),
        "attention_backward": held(calibration.attention_backward),
        "scan": held(calibration.scan),
    }
    return calibration.model_copy(update=tables)
