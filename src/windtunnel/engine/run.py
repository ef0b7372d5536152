"""The whole run behind a step: failures, checkpoints, restarts and stragglers, in time, energy and money."""

from __future__ import annotations

import math
from typing import Any

from windtunnel.engine.answer import cost_usd
from windtunnel.errors import Infeasible, ScenarioError
from windtunnel.parallel.step import Step
from windtunnel.scenario.text import number
from windtunnel.scenario.train import TrainScenario
from windtunnel.training.checkpoints import Checkpoints, StorageTier, get_tier
from windtunnel.training.failures import HOUR, FailureRates, default, spare_nodes
from windtunnel.training.memory import subspace_state_bytes
from windtunnel.training.run import TrainingRun, estimate_run

DEFAULT_TIER = "parallel-fs"


def checkpoint_bytes(scenario: TrainScenario, step: Step) -> float:
    """Bytes of one checkpoint of the whole job: weights, their fp32 copy and the optimizer state of what is trained.

    A frozen base is not written: it is where it came from.
    """
    plan = scenario.plan
    trained, subspaces = 0.0, 0.0
    shards = (plan.layout.tp, plan.layout.etp * plan.layout.ep)
    for held in step.held:
        sharded = held.dense * shards[0] + held.expert * shards[1]
        trained += float(sharded) * held.layers.count
        if held.subspaces is not None:
            dense, expert = subspace_state_bytes(held, plan)
            subspaces += float(dense * shards[0] + expert * shards[1]) * held.layers.count
    master = 4.0 if plan.weight_bytes < 4 else 0.0
    if subspaces:
        return trained * (plan.weight_bytes + master) + subspaces
    return trained * (plan.weight_bytes + master + plan.optimizer.state_bytes)


def _every(text: str) -> tuple[float | None, int | None]:
    """(seconds, steps) between checkpoints; neither for ``auto``.

    Raises:
        ScenarioError: none of the three.
    """
    if text == "auto":
        return None, None
    bare = text.removesuffix("s").removesuffix("step").rstrip()
    if not text.endswith(("step", "steps")):
        return number(text, "checkpoint_every", at_most=1e12), None
    steps = number(bare, "checkpoint_every: steps", at_most=1e9)
    if steps != int(steps):
        raise ScenarioError(f"checkpoint_every={text!r}: a whole number of steps is accepted")
    return None, int(steps)


def writers(scenario: TrainScenario) -> int:
    """Processes that write a checkpoint: one for each part of the state that is held once."""
    layout, plan = scenario.plan.layout, scenario.plan
    parts = int(layout.tp) * int(layout.pp)
    if plan.zero == 0:
        return parts
    return parts * int(layout.dp * layout.cp if plan.hsdp is None else plan.hsdp)


def checkpoints_of(scenario: TrainScenario, step: Step, passes_s: float) -> Checkpoints:
    """How the run of a scenario saves its state. ``passes_s``: seconds of a step in which the state does not change.

    Raises:
        ScenarioError: an unknown tier or an interval that is neither seconds, steps nor ``auto``.
    """
    o, engine, cluster = scenario.options, scenario.engine, scenario.cluster
    every_s, every_steps = _every(o.checkpoint_every)
    one, cache = engine.checkpoint_writer_bytes_per_s, engine.checkpoint_cache_bytes
    copy_tier = None
    if engine.lazy_checkpoints:
        link = float(cluster.pcie_bytes_per_s) * min(cluster.node_size, int(scenario.plan.layout.world))
        if cluster.dram.capacity_bytes > 0:
            link = min(link, float(cluster.dram.bandwidth_bytes_per_s))
        copy_tier = StorageTier("host memory", link, link, source="the accelerators' PCIe and the node's DRAM")
    return Checkpoints(
        size_bytes=checkpoint_bytes(scenario, step),
        tier=get_tier(o.checkpoint_to or DEFAULT_TIER),
        every_s=every_s,
        every_steps=every_steps,
        asynchronous=o.checkpoint_async,
        copy_tier=copy_tier,
        writing_bytes_per_s=math.inf if one is None else one * writers(scenario),
        unchanged_s=passes_s if engine.lazy_checkpoints else 0.0,
        streamed=engine.lazy_checkpoints,
        buffer_bytes=math.inf if cache is None else cache * int(scenario.plan.layout.world),
    )


def training_run(scenario: TrainScenario, step: Step, step_time_s: float, passes_s: float = 0.0) -> TrainingRun:
    """The run that the options ask for. ``passes_s``: as in :func:`checkpoints_of`.

    Raises:
        ScenarioError: as :func:`checkpoints_of`; or failures of the job and of its parts both given.
    """
    o, plan, cluster = scenario.options, scenario.plan, scenario.cluster
    assert o.tokens is not None
    gpus = int(plan.layout.world)
    saves = checkpoints_of(scenario, step, passes_s)
    # What is not given has the published rate, unless the job's own is stated.
    published = FailureRates.published()
    rates = FailureRates(
        o.accelerator_mtbf_hours or published.accelerator_mtbf_hours, o.node_mtbf_hours or published.node_mtbf_hours
    )
    if o.mtbf_hours is not None and (o.accelerator_mtbf_hours is not None or o.node_mtbf_hours is not None):
        raise ScenarioError("mtbf_hours is the whole job's; give it or the hours of its parts, not both")
    return TrainingRun(
        step_time_s=step_time_s,
        tokens_per_step=float(plan.global_batch) * plan.seq,
        tokens=o.tokens,
        accelerators=gpus,
        nodes=max(math.ceil(gpus / cluster.node_size), 1),
        mtbf_hours=o.mtbf_hours,
        rates=rates,
        checkpoints=saves,
        detection_s=default("detection_s") if o.detection_s is None else o.detection_s,
        restart_s=default("restart_s") if o.restart_s is None else o.restart_s,
        step_time_cv=o.straggler_cv,
    )


def _spares(run: TrainingRun) -> int:
    """Nodes to keep ready so that repairs hardly ever leave the job short (in 1 % of the time)."""
    if math.isinf(run.mtbf_s):
        return 0
    return spare_nodes(run.nodes, run.mtbf_s / HOUR * run.nodes, default("node_repair_hours"))


def whole_run(
    scenario: TrainScenario, step: Step, step_time_s: float, step_energy_j: float, passes_s: float = 0.0
) -> dict[str, Any] | None:
    """``run`` of the answer, or None if no ``tokens`` were asked for. ``passes_s``: as in :func:`checkpoints_of`.

    While a job saves or is down its accelerators draw idle power. ``feasible`` is False, with the ``problem`` in words
    and no times, where failures leave no time to progress.
    """
    if scenario.options.tokens is None:
        return None
    run = training_run(scenario, step, step_time_s, passes_s)
    try:
        estimate = estimate_run(run)
    except Infeasible as error:
        nothing = dict.fromkeys(("time_to_train_s", "energy_j", "cost_usd", "gpu_hours"), None)
        return {"feasible": False, "problem": str(error), "goodput_fraction": 0.0, "lost_s": {}, **nothing}
    cluster = scenario.cluster
    idle_s = estimate.lost_s["checkpoints"] + estimate.lost_s["restarts"]
    idle_w = float(cluster.accelerator.idle_w) + cluster.node_power_w / cluster.node_size
    active_s = estimate.time_to_train_s - idle_s
    return {
        "feasible": True,
        "time_to_train_s": estimate.time_to_train_s,
        "goodput_fraction": estimate.goodput_fraction,
        "lost_s": dict(estimate.lost_s),
        "useful_s": estimate.useful_s,
        "energy_j": active_s / step_time_s * step_energy_j + idle_s * idle_w * run.accelerators,
        "cost_usd": cost_usd(cluster, estimate.time_to_train_s, run.accelerators),
        "gpu_hours": estimate.gpu_hours,
        "steps": run.steps,
        "failures": estimate.failures,
        "spare_nodes": _spares(run),
        "job_mtbf_hours": estimate.mtbf_hours if math.isfinite(estimate.mtbf_hours) else None,
        "checkpoint_every_s": estimate.checkpoint_interval_s,
        "checkpoint_bytes": run.checkpoints.size_bytes if run.checkpoints else 0.0,
        "checkpoints": estimate.checkpoints,
    }
