"""``train``: one optimizer step, and the whole run, of a model on a cluster under a plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from windtunnel.cost import effective_dtype, energy_j, load_calibration
from windtunnel.cost.runtime import runtime_of
from windtunnel.cost.sustained import at_power
from windtunnel.engine.answer import bottleneck, cost_usd, evaluate, plain, sureness
from windtunnel.engine.intervals import Kind, sure
from windtunnel.engine.run import whole_run
from windtunnel.hardware.machine import Cluster
from windtunnel.models.flops import (
    encoder_flops_per_token,
    forward_flops_per_token,
    hardware_flops_per_token,
    model_flops_per_token,
)
from windtunnel.ops.fold import Evaluation
from windtunnel.ops.pipeline import Schedule
from windtunnel.parallel.step import Step, training_step
from windtunnel.scenario.checks import has_experts
from windtunnel.scenario.options import TrainOptions
from windtunnel.scenario.results import TrainResult
from windtunnel.scenario.train import TrainScenario, train_scenario
from windtunnel.training.memory import Memory, host_bytes, stage_memory, worst
from windtunnel.training.schedules import get_schedule

CATEGORIES = (
    "compute",
    "tp_comm",
    "pp_comm",
    "pp_bubble",
    "dp_comm",
    "ep_comm",
    "cp_comm",
    "optimizer",
    "host",
)
"""Lines of ``time_s`` that are always there; others (``offload``) where they take time."""


def train(options: TrainOptions) -> TrainResult:
    """The answer for one request.

    Raises:
        ScenarioError: the request is wrong. A plan that does not fit in memory is an answer with ``fits`` False.
    """
    return train_answer(train_scenario(options))


def train_answer(scenario: TrainScenario) -> TrainResult:
    """Price a scenario's step and say what it means."""
    plan, cluster, network = scenario.plan, scenario.cluster, scenario.network
    schedule = get_schedule(plan.schedule)
    step = training_step(network, plan, scenario.engine, schedule, cluster.levels[0].domain)
    runtime = runtime_of(scenario.engine)
    calibration = load_calibration(cluster.accelerator, scenario.options.calibration)
    evaluation, elasticity = evaluate(step.tree, cluster, runtime, calibration, at_power)
    seconds = float(evaluation.seconds())
    exposed = plain(evaluation.exposed())
    critical = plain(evaluation.critical())
    gpus = int(plan.layout.world)
    tokens = float(plan.global_batch) * plan.seq
    convention = scenario.options.flops_convention
    model_flops, hardware_flops = (tokens * f for f in flops_per_token(scenario))
    totals = evaluation.totals()
    peak = cluster.accelerator.peak_flops.get(effective_dtype(cluster.accelerator, plan.linear.compute))
    memories = [stage_memory(h, plan, scenario.engine, schedule) for h in step.held]
    memory = memories[worst(tuple(memories))]
    capacity = float(cluster.accelerator.hbm.capacity_bytes)
    shortfall = max(float(memory.total) - capacity, 0.0)
    offloaded = host_needs(scenario, step, schedule)
    calibrated, doubts = sureness(calibration, ("gemm", "attention", "pointwise"))
    warnings = [
        *scenario.warnings,
        *doubts,
        *_precision_warning(scenario),
        *_host_memory(offloaded),
    ]
    joules = float(energy_j(totals, seconds, cluster, calibration)) * gpus
    time_s = {**dict.fromkeys(CATEGORIES, 0.0), **{c: s for c, s in exposed.items() if s != 0 or c in CATEGORIES}}
    rates: dict[str, float] = {
        "tokens_per_second": tokens / seconds,
        "tokens_per_second_per_gpu": tokens / seconds / gpus,
        "samples_per_second": float(plan.global_batch) / seconds,
        "model_tflops_per_gpu": model_flops / seconds / gpus / 1e12,
    }
    used: dict[str, float | None] = {
        "mfu": model_flops / seconds / gpus / float(peak) if peak else None,
        "hfu": hardware_flops / seconds / gpus / float(peak) if peak else None,
    }
    known = sure(
        Kind("train", scenario.engine.name, cluster.accelerator.family, has_experts(network), calibrated),
        {"step_time_s": seconds, "memory_bytes.total": float(memory.total)},
        {**rates, **used},
    )
    return TrainResult(
        model=network.name,
        on=scenario.options.on,
        plan=plan_fields(scenario),
        step_time_s=seconds,
        **rates,
        mfu=used["mfu"],
        hfu=used["hfu"],
        flops_convention=convention,
        fits=shortfall == 0,
        shortfall_bytes=shortfall,
        memory_bytes=memory_fields(memory, capacity),
        memory_by_stage=[
            {"stage": h.layers.index, "stages": h.layers.count, **memory_fields(m, capacity)}
            for h, m in zip(step.held, memories, strict=True)
        ],
        time_s=time_s,
        bottleneck=bottleneck(critical),
        critical_s=critical,
        elasticity=elasticity,
        energy_j=joules,
        cost_usd_per_step=cost_usd(cluster, seconds, gpus),
        interval=known.interval,
        confidence=known.confidence,
        calibrated=calibrated,
        warnings=[*warnings, *known.warnings],
        run=whole_run(scenario, step, seconds, joules, seconds - time_s["optimizer"]),
        explain=_explainer(evaluation, cluster),
        timeline=_timeline(evaluation, step, plan.schedule),
        tree=evaluation,
        offloaded=offloaded,
    )


def flops_per_token(scenario: TrainScenario) -> tuple[float, float]:
    """(model FLOPs, FLOPs with recomputation) of training one token.

    Attention inside packed documents is counted within them. A frozen base has no weight gradients (LoRA, arXiv
    2106.09685, section 4.2): its dense products count twice, not three times; adapters are left out.
    """
    plan, network, convention = scenario.plan, scenario.network, scenario.options.flops_convention
    attended = plan.seq if plan.document_tokens is None else min(plan.document_tokens, plan.seq)
    model = model_flops_per_token(network, attended, convention)
    hardware = hardware_flops_per_token(network, attended, convention, plan.recompute)
    if plan.recompute_share != 1:
        hardware = model + plan.recompute_share * (hardware - model)
    frozen = 0.0
    if plan.finetune.kind != "full":
        frozen = forward_flops_per_token(network) + encoder_flops_per_token(network)
    return model - frozen, hardware - frozen


def memory_fields(memory: Memory, capacity: float) -> dict[str, float]:
    """Bytes by kind as the JSON has them."""
    kinds = ("weights", "gradients", "optimizer", "activations", "workspace", "total")
    return {**{k: float(getattr(memory, k)) for k in kinds}, "capacity": capacity}


def plan_fields(scenario: TrainScenario) -> dict[str, Any]:
    """The options that reproduce the plan, defaults filled in."""
    p, layout, o = scenario.plan, scenario.plan.layout, scenario.options
    etp = layout.etp if has_experts(scenario.network) else None
    fields: dict[str, Any] = {
        "tp": layout.tp, "pp": layout.pp, "dp": layout.dp, "cp": layout.cp, "ep": layout.ep, "etp": etp,
        "virtual_stages": p.virtual_stages, "schedule": p.schedule, "zero": p.zero, "hsdp": p.hsdp,
        "sequence_parallel": p.sequence_parallel, "micro_batch": p.micro_batch, "global_batch": p.global_batch,
        "seq": p.seq, "precision": p.precision, "recompute": p.recompute, "optimizer": p.optimizer.name,
        "engine": scenario.engine.name, "flash_attention": not p.eager_attention, "finetune": o.finetune,
        "offload": o.offload, "context_parallel": p.context if layout.cp > 1 else None,
        "packed_lengths": o.packed_lengths,
    }  # fmt: skip
    fields["with"] = list(o.techniques) or None
    return {k: v for k, v in fields.items() if v is not None}


def _explainer(evaluation: Evaluation, cluster: Cluster) -> Callable[[], str]:
    def explained() -> str:
        from windtunnel.report import explain  # takes longer to load than most answers take

        return explain(evaluation, cluster)

    return explained


def _timeline(evaluation: Evaluation, step: Step, schedule: str) -> Callable[[], dict[str, Any]]:
    def timeline() -> dict[str, Any]:
        from windtunnel.report import step_timeline

        return step_timeline(evaluation, step.tree, schedule)

    return timeline


def _precision_warning(scenario: TrainScenario) -> list[str]:
    asked = scenario.plan.linear.compute
    used = effective_dtype(scenario.cluster.accelerator, asked)
    if used == asked:
        return []
    return [f"{scenario.cluster.accelerator.name} has no {asked} matrix unit: {used} rates are used"]


def host_needs(scenario: TrainScenario, step: Step, schedule: Schedule) -> list[tuple[str, float, float]]:
    """(what memory, bytes needed of a node's, bytes there) of the tiers that something is offloaded to."""
    cluster, plan, result = scenario.cluster, scenario.plan, []
    pp, n, v = plan.layout.pp, plan.micro_batches, plan.virtual_stages
    sharers = min(cluster.node_size, int(plan.layout.world))
    for tier, memory, name in (("cpu", cluster.dram, "host memory"), ("nvme", cluster.nvme, "storage")):
        waiting = (schedule.in_flight(h.layers.index, pp, n, v) for h in step.held)
        each = (host_bytes(h, plan, scenario.engine, tier, w) for h, w in zip(step.held, waiting, strict=True))
        needed = max(float(b) for b in each) * sharers
        if needed > 0:
            result.append((name, needed, float(memory.capacity_bytes)))
    return result


def _host_memory(offloaded: list[tuple[str, float, float]]) -> list[str]:
    return [
        f"offloading needs {needed / 2**30:.0f} GiB of {name} a node; there are {have / 2**30:.0f}"
        for name, needed, have in offloaded
        if needed > have
    ]
