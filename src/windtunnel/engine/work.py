"""What a service's iterations cost beside time: busy resources, joules, what holds them back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from windtunnel.cost import energy_j
from windtunnel.cost.calibration import Calibration
from windtunnel.engine.answer import cost_usd
from windtunnel.engine.fleet import calibration_of
from windtunnel.hardware.machine import RESOURCES, Cluster
from windtunnel.models.network import Network
from windtunnel.ops.fold import Evaluation, Pricer, Totals
from windtunnel.ops.values import Array, Value
from windtunnel.parallel.iteration import iteration
from windtunnel.scenario.batch import Batch
from windtunnel.scenario.results import Bottleneck
from windtunnel.scenario.simulate import EngineSetup
from windtunnel.serving.metrics import Paid, Physics
from windtunnel.serving.outcome import Cells, Pool


@dataclass(frozen=True, slots=True, eq=False)
class Ran:
    """A pool of like engines and what they did. ``engines``: how many there are, with ``ranks`` that step together."""

    setup: EngineSetup
    pool: Pool
    ranks: int
    price: Pricer


def cell_batch(cells: Cells, windows: Sequence[int]) -> Batch:
    """The mean iteration of each cell."""
    n = np.maximum(cells.count, 1.0)
    mean = {name: column / n for name, column in cells.sums.items()}
    views = {
        w: (mean[f"pairs.{w}"], mean[f"context.{w}"], mean[f"decode_context.{w}"]) for w in windows if w
    }  # fmt: skip
    whole = (mean["pairs.0"], mean["context.0"], mean["decode_context.0"]) if "pairs.0" in mean else (0.0, 0.0, 0.0)
    return Batch(
        tokens=mean["prefill_tokens"] + mean["decode_sequences"],
        sequences=mean["sequences"],
        prefill_tokens=mean["prefill_tokens"],
        prefill_pairs=whole[0],
        prefill_context=whole[1],
        decode_sequences=mean["decode_sequences"],
        decode_context=whole[2],
        windows=views,
        sequences_in_prefill=mean["prefill_sequences"],
    )


def physics(ran: Sequence[Ran], network: Network) -> Physics:
    """Utilisation of each resource over the accelerators' time, energy, cost and the bottleneck of the whole run.

    Each group of like iterations is priced at its mean statistics; what a resource is busy with is nearly
    proportional to them.
    """
    busy: dict[str, float] = dict.fromkeys(RESOURCES, 0.0)
    critical: dict[str, float] = {}
    joules = seconds = 0.0
    paid: dict[float, float] = {}  # accelerator seconds by price
    pools = []
    for each in ran:
        pool, stages = each.pool, int(each.setup.plan.layout.pp)
        cluster, calibration = each.setup.cluster, calibration_of(each.setup)
        on_rank = each.setup.accelerators / each.ranks
        price = cluster.price_usd_per_hour
        paid[price] = paid.get(price, 0.0) + pool.accelerator_seconds
        before, worked, passed = joules, 0.0, 0.0
        if pool.cells.count.size:
            part = _priced(each, network)
            for name, amount in part.busy.items():
                busy[name] += amount * on_rank / stages
            for name, amount in part.critical.items():
                critical[name] = critical.get(name, 0.0) + amount
            passed = part.passed / stages
            worked = min(float(np.sum(part.seconds)) * on_rank, pool.accelerator_seconds)
            joules += _energy(part, stages, on_rank, worked, cluster, calibration)
        idle = energy_j(_nothing(), 1.0, cluster, calibration)
        joules += float(np.max(np.asarray(idle))) * max(pool.accelerator_seconds - worked, 0.0)
        seconds += pool.accelerator_seconds
        own = cost_usd(cluster, 1.0, pool.accelerator_seconds)
        pools.append(Paid(joules - before, own, provisioned_w(cluster), passed))
    shares = {name: min(amount / seconds, 1.0) if seconds > 0 else 0.0 for name, amount in busy.items()}
    total = sum(critical.values())
    worst = max(critical, key=lambda k: critical[k]) if total > 0 else None
    known = all(price > 0 for price in paid)
    return Physics(
        utilization=shares,
        energy_j=joules,
        bottleneck=None if worst is None else Bottleneck(worst, critical[worst] / total),
        cost_usd=sum(float(price) * each / 3600 for price, each in paid.items()) if known else None,
        pools=tuple(pools),
    )


def provisioned_w(cluster: Cluster) -> float:
    """Watt that must be there for one accelerator and its share of the node."""
    return cluster.accelerator.power_w + cluster.node_power_w / min(cluster.node_size, cluster.count)


@dataclass(frozen=True, slots=True, eq=False)
class _Priced:
    """``seconds`` of each cell in all, waiting in the pipeline included, and without it ``passed`` of all cells;
    ``busy`` and ``critical`` of all cells; ``totals`` of one iteration of each."""

    count: Array
    seconds: Array
    passed: float
    busy: dict[str, float]
    critical: dict[str, float]
    totals: Totals


def _priced(ran: Ran, network: Network) -> _Priced:
    cells = ran.pool.cells
    made = iteration(network, ran.setup.plan, ran.setup.engine, cell_batch(cells, network.views))
    evaluation = Evaluation(made.tree, ran.price)

    def summed(value: object) -> float:
        return float(np.sum(cells.count * np.asarray(value, float)))

    found = evaluation.cost(made.tree).busy
    busy: dict[str, float] = {name: summed(found[name]) for name in RESOURCES if name in found}
    busy["host"] = summed(evaluation.cost(made.schedule).host)
    critical = {name: summed(value) for name, value in evaluation.critical().items()}
    return _Priced(
        cells.count, cells.sums["seconds"], summed(evaluation.seconds()), busy, critical, evaluation.totals()
    )


def _energy(
    part: _Priced, stages: int, on_rank: float, worked: float, cluster: Cluster, calibration: Calibration
) -> float:
    """Joules of the accelerators while they work: of a rank's, each has its stage's share of every pass."""
    scale = part.count / stages
    groups = part.totals.flops, part.totals.bytes, part.totals.messages, part.totals.held
    scaled: list[dict[str, Value]] = [{k: scale * v for k, v in d.items()} for d in groups]
    totals = Totals(*scaled)
    whole = float(np.sum(part.seconds)) * on_rank
    seconds = part.seconds * (worked / whole) if whole > 0 else part.seconds
    return float(np.sum(np.asarray(energy_j(totals, seconds, cluster, calibration)))) * on_rank


def _nothing() -> Totals:
    zero: dict[str, Value] = {"hbm": 0.0, "cached": 0.0, "pcie": 0.0, "nvme": 0.0}
    return Totals({}, zero, {}, {})
