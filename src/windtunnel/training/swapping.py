"""How many layers swap their activations, and how many compute them again: the shares that take least time."""

from __future__ import annotations

from dataclasses import replace

from windtunnel.cost import load_calibration, make_pricer
from windtunnel.cost.runtime import runtime_of
from windtunnel.cost.sustained import at_power
from windtunnel.hardware.machine import Cluster
from windtunnel.models.network import Network
from windtunnel.ops.fold import Evaluation
from windtunnel.ops.tree import EMPTY
from windtunnel.parallel.step import Part, training_step
from windtunnel.scenario.engines import TrainEngine
from windtunnel.scenario.plan import TrainPlan
from windtunnel.training.schedules import get_schedule

SHARES = tuple(i / 8 for i in range(9))
"""Shares of layers that are tried."""


def cheapest_recompute_share(
    network: Network, plan: TrainPlan, engine: TrainEngine, cluster: Cluster, calibration: str | None = None
) -> float:
    """The share of layers that recompute with which a step of ``plan``, which offloads activations and recomputes them
    in full, is shortest; the others' activations are swapped. Of equal ones the largest, which moves least.
    ``calibration``: a file, as the options name it."""
    constants = at_power(load_calibration(cluster.accelerator, calibration), cluster.accelerator)
    price = make_pricer(cluster, runtime_of(engine), constants)
    schedule = get_schedule(plan.schedule)
    parts: dict[object, Part] = {}
    known = Evaluation(EMPTY, price)
    seconds: dict[float, float] = {}
    for share in SHARES:
        step = training_step(
            network, replace(plan, recompute_share=share), engine, schedule, cluster.levels[0].domain, parts
        )
        for part in parts.values():
            for tree in (part.forward, part.backward, part.weight):
                known.cost(tree)
        seconds[share] = float(Evaluation(step.tree, price, known).seconds())
    return min(SHARES, key=lambda share: (seconds[share], -share))
