"""The rate that a matrix unit sustains for hours under its power limit.

A device at its limit lowers clock and voltage together: the power of a kernel falls about with the square of its rate.
One that keeps a share ``a`` of the unit busy draws a times ``WATT_PER_TFLOPS`` times the peak at full clock, so that
sqrt(power / that) of its rate is left. At its own peak a format of 8 bits draws ``NARROW`` of what the 16-bit one
draws. Attention keeps the unit and the rest of the device busy in turn, whatever its rate. A cap below the TDP does the
same to kernels that run for moments, whose constants hold at the TDP (:func:`capped`).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TypeVar

from windtunnel.cost.calibration import Attention, Calibration, Gemm, Scan, load_calibration
from windtunnel.hardware.machine import Accelerator
from windtunnel.ops.values import Value, maximum, minimum, sqrt

E = TypeVar("E", Gemm, Attention, Scan)

WATT_PER_TFLOPS = {"ampere": 1.39, "ada": 1.42, "hopper": 1.42, "blackwell": 1.76}
"""Watt above idle for each dense 16-bit TFLOP/s at full clock. Fitted by scripts/fit_training_engines.py on the step
times of A100 at 400 W, H100 at 500 and 700 W and B200 (llm-foundry, vTrain, torchtitan, NeMo, SimuMax). A family
without training runs keeps the ``sustained`` of its calibration."""
NARROW = {"ampere": 0.8, "ada": 0.805, "hopper": 0.805, "blackwell": 0.469}
"""Fitted with them: products of 8 and 4 bits need less than half the energy, for twice the rate."""
ATTENTION = 0.8
"""How busy attention keeps the device: taken as large products do."""
IN_TRAINING = ("flash1",)
"""Kernels whose constants were found inside training runs, at the power that these had."""


def slowed(accelerator: Accelerator, busy: float) -> Value | None:
    """Share of its rate that power leaves to a kernel; None where nothing is known of the family."""
    demand = WATT_PER_TFLOPS.get(accelerator.family)
    peak = accelerator.peak_flops.get("bf16")
    if demand is None or peak is None:
        return None
    return minimum(sqrt(_above_idle(accelerator, accelerator.power_w) / (demand * busy * peak / 1e12)), 1.0)


def _above_idle(accelerator: Accelerator, power_w: float) -> Value:
    return maximum(power_w - accelerator.idle_w, 0.02 * accelerator.tdp_w)


def capped(calibration: Calibration, accelerator: Accelerator) -> Calibration:
    """The constants with every kernel of the matrix unit as fast as the power cap leaves it: unchanged without one.

    Memory keeps its clock, so kernels that wait for it lose nothing, which is what measured caps do to decoding
    (Splitwise, arXiv 2311.18677, section 3.5; POLCA, arXiv 2308.12908, section 4).
    """
    if accelerator.power_cap_w >= accelerator.tdp_w:
        return calibration
    whole = replace(accelerator, power_cap_w=math.inf)

    def share(busy: float) -> Value:
        now, before = slowed(accelerator, busy), slowed(whole, busy)
        if now is None or before is None:  # nothing is known of the family: at the TDP with all units busy
            limit, full = (_above_idle(a, a.power_w) for a in (accelerator, whole))
            return minimum(sqrt(limit / (full * busy)), 1.0)
        return now / before

    def held(table: dict[str, E], busy: float | None = None) -> dict[str, E]:
        return {k: e.model_copy(update={"compute": e.compute * share(busy or e.compute)}) for k, e in table.items()}

    tables = {
        "gemm": held(calibration.gemm),
        "grouped_gemm": held(calibration.grouped_gemm),
        "attention": held(calibration.attention, ATTENTION),
        "scan": held(calibration.scan),
    }
    return calibration.model_copy(update=tables)


def at_power(calibration: Calibration, accelerator: Accelerator) -> Calibration:
    """The constants with every kernel of the matrix unit as fast as power allows. Rates may be arrays.

    Constants of a user's own hold as they stand.
    """
    if slowed(accelerator, 1.0) is None:
        return calibration

    def energy(name: str) -> float:
        """Power at the peak of a number format over that of 16 bits."""
        return NARROW[accelerator.family] if name.startswith(("fp8", "fp4", "int8")) else 1.0

    shipped = load_calibration(accelerator)

    def held(table: dict[str, E], own: dict[str, E], busy: float | None = None) -> dict[str, E]:
        return {
            k: e
            if k in IN_TRAINING or e != own.get(k)
            else e.model_copy(update={"sustained": slowed(accelerator, busy or e.compute * energy(k))})
            for k, e in table.items()
        }

    tables = {
        "gemm": held(calibration.gemm, shipped.gemm),
        "grouped_gemm": held(calibration.grouped_gemm, shipped.grouped_gemm),
        "attention": held(calibration.attention, shipped.attention, ATTENTION),
        "attention_backward": held(calibration.attention_backward, shipped.attention_backward, ATTENTION),
        "scan": held(calibration.scan, shipped.scan),
    }
    return calibration.model_copy(update=tables)
