"""What every answer says beside its time: bottleneck, elasticities, energy, cost, how sure it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from windtunnel.cost import Runtime, make_pricer
from windtunnel.cost.calibration import Calibration
from windtunnel.hardware import spread
from windtunnel.hardware.machine import RESOURCES, Accelerator, Cluster
from windtunnel.ops.fold import Evaluation
from windtunnel.ops.tree import Node
from windtunnel.scenario.results import Bottleneck

Held = Callable[[Calibration, Accelerator], Calibration]

STEP = 0.01
"""Relative change of a rate from which elasticities are taken."""


def evaluate(
    tree: Node, cluster: Cluster, runtime: Runtime, calibration: Calibration, held: Held | None = None
) -> tuple[Evaluation, dict[str, float]]:
    """(The tree priced on the cluster, -d ln(time) / d ln(rate) of every resource).

    One evaluation on ten machines at once: the cluster itself, and with each resource a little faster. ``held`` makes
    the constants of these machines.
    """
    machines = spread(cluster, STEP)
    constants = calibration if held is None else held(calibration, machines.accelerator)
    many = Evaluation(tree, make_pricer(machines, runtime, constants))
    seconds = np.broadcast_to(np.asarray(many.seconds(), float), (1 + len(RESOURCES),))
    if seconds[0] <= 0:
        return many.at(0), dict.fromkeys(RESOURCES, 0.0)
    slope = -np.log(seconds[1:] / seconds[0]) / math.log1p(STEP)
    # Rounding leaves some 1e-16 either way where a resource has no part.
    return many.at(0), {r: float(e) if e > 1e-9 else 0.0 for r, e in zip(RESOURCES, slope, strict=True)}


def bottleneck(critical: Mapping[str, object]) -> Bottleneck:
    """The resource with most of the critical path."""
    shares = {k: float(v) for k, v in critical.items()}  # type: ignore[arg-type]
    total = sum(shares.values())
    name = max(shares, key=lambda k: shares[k])
    return Bottleneck(name, shares[name] / total if total > 0 else 0.0)


def plain(values: Mapping[str, object]) -> dict[str, float]:
    """Python floats, entries that are exactly zero kept."""
    return {k: float(v) for k, v in values.items()}  # type: ignore[arg-type]


def cost_usd(cluster: Cluster, seconds: float, accelerators: float) -> float | None:
    """What ``accelerators`` cost for ``seconds``; None where no price is known."""
    price = cluster.price_usd_per_hour
    return None if price is None or not price > 0 else float(price) * accelerators * seconds / 3600


def sureness(calibration: Calibration, families: tuple[str, ...]) -> tuple[bool, list[str]]:
    """Whether the kernel families that matter were fitted on this device, and the warning if not."""
    known = calibration.calibrated
    missing = [f for f in families if not known.get(f, False)]
    if not missing:
        return True, []
    return False, [
        f"{calibration.device} is uncalibrated for {', '.join(missing)}: "
        f"constants of the {calibration.family} family are used"
    ]
