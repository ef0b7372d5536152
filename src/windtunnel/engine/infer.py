"""``infer``: a batch of equal requests on one engine, from arrival to last token."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from windtunnel.cost import Runtime, effective_dtype, energy_j, load_calibration, make_pricer
from windtunnel.cost.calibration import Calibration
from windtunnel.cost.runtime import runtime_of
from windtunnel.engine.answer import bottleneck, cost_usd, evaluate, plain, sureness
from windtunnel.engine.intervals import Kind, Sure, sure
from windtunnel.hardware.machine import Cluster
from windtunnel.ops.fold import Evaluation, Totals
from windtunnel.ops.tree import Node
from windtunnel.scenario.checks import has_experts
from windtunnel.scenario.options import InferOptions
from windtunnel.scenario.results import InferResult, Phase
from windtunnel.scenario.serve import InferScenario, infer_scenario
from windtunnel.serving.infer import Course, phase_trees, run_batch
from windtunnel.serving.memory import (
    Below,
    ServeMemory,
    kv_capacity_tokens,
    lacking_bytes,
    most_sequences,
    sequence_bytes,
    serve_memory,
)


def infer(options: InferOptions) -> InferResult:
    """The answer for one request.

    Raises:
        ScenarioError: the request is wrong. A model that does not fit is an answer with ``fits`` False.
    """
    return infer_answer(infer_scenario(options))


UNLIMITED = 10**9
"""Requests that a cache holds in which nothing is kept."""


def max_batch(scenario: InferScenario, memory: ServeMemory) -> int:
    """Requests of full length that the engine's caches hold at once, over its attention-data-parallel ranks."""
    plan, length = scenario.plan, scenario.options.input + scenario.options.output
    if plan.kv_blocks is not None:
        return plan.kv_blocks // -(-length // plan.block_size) * int(plan.layout.dp)
    most = most_sequences(memory, plan, float(length))
    return (UNLIMITED if math.isinf(most) else math.floor(most)) * int(plan.layout.dp)


def missing_bytes(scenario: InferScenario, memory: ServeMemory, sequences: int) -> float:
    """Bytes that a rank lacks to hold its weights and ``sequences`` of full length (0: it fits)."""
    plan, length = scenario.plan, scenario.options.input + scenario.options.output
    if plan.kv_blocks is None:
        return lacking_bytes(memory, plan, float(length), sequences)
    each = sequence_bytes(memory, plan, float(length))
    # The number of blocks is given: what they hold is limited by it, and they must be there.
    block = each / -(-length // plan.block_size)
    pool = plan.kv_blocks * block
    lacking = max(sequences * each - pool, 0.0)
    return max(lacking, memory.weights + memory.activations + pool - memory.capacity, 0.0)


def infer_answer(scenario: InferScenario) -> InferResult:
    """Price a scenario's batch and say what it means."""
    plan, cluster, network, engine, o = (
        scenario.plan, scenario.cluster, scenario.network, scenario.engine, scenario.options
    )  # fmt: skip
    runtime = runtime_of(engine)
    calibration = load_calibration(cluster.accelerator, o.calibration)
    length = float(o.input + o.output)
    memory = serve_memory(network, plan, engine, cluster, length, float(o.input))
    dp, most = int(plan.layout.dp), max_batch(scenario, memory)
    wanted = min(-(-o.batch // dp), plan.max_sequences)
    # A static batch is whole or it does not fit; others run with what memory holds, one request at the least.
    static = engine.scheduler == "static"
    slots = wanted if static else min(wanted, max(most // dp, 1))
    course = run_batch(
        network, plan, engine, make_pricer(cluster, runtime, calibration),
        requests=o.batch, input_tokens=o.input, output_tokens=o.output, slots=slots,
    )  # fmt: skip
    whole = sequence_bytes(memory, plan, length) * slots
    kv = whole * memory.kv_here
    shortfall = missing_bytes(scenario, memory, slots if static else 1)
    warnings = [*scenario.warnings, *_queueing(scenario, slots * dp), *_below(memory, whole)]
    calibrated, doubts = sureness(calibration, ("gemm", "attention", "attention_decode", "pointwise"))
    warnings += [*doubts, *_precision_warning(scenario)]
    gpus = int(plan.layout.tp * plan.layout.pp * plan.layout.dp)
    made = o.batch * o.output
    before, during = phase_trees(
        network, plan, engine, share=course.running, input_tokens=o.input, output_tokens=o.output
    )
    prefill, decode = (_phase(t, scenario, runtime, calibration) for t in (before, during))
    joules = _energy(course, scenario, calibration) * gpus
    usd = cost_usd(cluster, course.makespan, gpus)
    known = _sure(scenario, course, calibrated, gpus)
    return InferResult(
        model=network.name,
        on=o.on,
        plan=plan_fields(scenario),
        ttft_s=course.ttft,
        tpot_s=course.tpot,
        e2e_s=course.e2e,
        output_tokens_per_second=o.replicas * made / course.makespan,
        total_tokens_per_second=o.replicas * o.batch * (o.input + o.output) / course.makespan,
        output_tokens_per_second_per_gpu=made / course.makespan / gpus,
        fits=shortfall == 0,
        shortfall_bytes=shortfall,
        max_batch=most,
        kv_capacity_tokens=min(kv_capacity_tokens(memory, plan, length), UNLIMITED * length) * dp,
        memory_bytes={
            "weights": memory.weights,
            "kv_cache": kv,
            "activations": memory.activations,
            "total": memory.weights + kv + memory.activations,
            "capacity": memory.capacity,
            **{f"{b.name}_{k}": v for b in memory.below for k, v in _kept_below(b, whole).items()},
        },
        prefill=prefill[0],
        decode=decode[0],
        energy_j_per_token=joules / made,
        cost_usd_per_million_tokens=None if usd is None else usd / made * 1e6,
        interval=known.interval,
        confidence=known.confidence,
        calibrated=calibrated,
        warnings=[*warnings, *known.warnings],
        long_context=_long_context(scenario, runtime, calibration),
        explain=lambda: _explained({"prefill": prefill[1], "decode": decode[1]}, cluster),
        tree={"prefill": prefill[1], "decode": decode[1]},
    )


def _long_context(scenario: InferScenario, runtime: Runtime, calibration: Calibration) -> Mapping[str, object] | None:
    if not scenario.options.long_context:
        return None
    from windtunnel.engine.long_context import long_context  # hardly anybody asks

    return long_context(scenario, runtime, calibration)


def _kept_below(below: Below, kv: float) -> dict[str, float]:
    return {"weights": below.weights, "kv_cache": below.kv_share * kv, "capacity": below.capacity}


def _sure(scenario: InferScenario, course: Course, calibrated: bool, gpus: int) -> Sure:
    """Intervals of the latencies; the end of a request is as far off as its first token and all others together."""
    o = scenario.options
    made = o.replicas * o.batch * o.output / course.makespan
    values = {"tpot_s": course.tpot if o.output > 1 else None, "ttft_s": course.ttft, "output_tokens_per_second": made}
    family, experts = scenario.cluster.accelerator.family, has_experts(scenario.network)
    known = sure(Kind("infer", scenario.engine.name, family, experts, calibrated), values)
    if known.interval is None:
        return known
    ends = dict(known.interval)
    if "output_tokens_per_second" in ends:
        ends["output_tokens_per_second_per_gpu"] = {
            k: v / (gpus * o.replicas) for k, v in ends["output_tokens_per_second"].items()
        }
    if "ttft_s" in ends and "tpot_s" in ends:
        later = o.output - 1
        whole = course.ttft + later * course.tpot
        ends["e2e_s"] = {
            k: course.e2e * (ends["ttft_s"][k] + later * ends["tpot_s"][k]) / whole for k in ("low", "high")
        }
    return replace(known, interval=ends)


def _explained(phases: Mapping[str, Evaluation], cluster: Cluster) -> str:
    from windtunnel.report import explain  # takes longer to load than most answers take

    return "\n".join(f"{name}\n{explain(tree, cluster)}" for name, tree in phases.items())


def _phase(tree: Node, scenario: InferScenario, runtime: Runtime, calibration: Calibration) -> tuple[Phase, Evaluation]:
    evaluation, elasticity = evaluate(tree, scenario.cluster, runtime, calibration)
    time_s = {k: v for k, v in plain(evaluation.by_kind()).items() if v > 0}
    bound = bottleneck(plain(evaluation.critical()))
    return Phase(bottleneck=bound, time_s=time_s, elasticity=elasticity), evaluation


def _energy(course: Course, scenario: InferScenario, calibration: Calibration) -> float:
    """Joules of one accelerator: every row's work on it over the row's time.

    Between two iterations of a group each stage serves every group that takes turns: of ``pp`` stages that is
    ``turns`` / ``pp`` of a whole pass a rank.
    """
    part = course.turns / int(scenario.plan.layout.pp)
    work = course.evaluation.totals()
    totals = Totals(*({k: part * v for k, v in d.items()} for d in (work.flops, work.bytes, work.messages, work.held)))
    per_step = energy_j(totals, course.seconds / course.rows.steps, scenario.cluster, calibration)
    return float(np.sum(np.broadcast_to(np.asarray(per_step, float), course.rows.steps.shape) * course.rows.steps))


def plan_fields(scenario: InferScenario) -> dict[str, Any]:
    """The options that reproduce the plan, defaults filled in."""
    p, layout, o = scenario.plan, scenario.plan.layout, scenario.options
    etp = layout.etp if has_experts(scenario.network) else None
    fields: dict[str, Any] = {
        "tp": layout.tp, "pp": layout.pp, "dp": layout.dp, "ep": layout.ep, "etp": etp, "replicas": o.replicas,
        "batch": o.batch, "input": o.input, "output": o.output, "precision": p.precision,
        "kv_precision": p.linear.kv, "engine": scenario.engine.name, "kv_blocks": p.kv_blocks,
        "block_size": p.block_size, "memory_utilization": p.memory_utilization, "max_model_len": p.max_model_len,
        "chunk": p.max_batched_tokens, "max_batch": p.max_sequences, "offload": o.offload,
        "block_batches": p.block_batches if p.block_batches > 1 else None,
    }  # fmt: skip
    fields["with"] = list(o.techniques) or None
    return {k: v for k, v in fields.items() if v is not None}


def _queueing(scenario: InferScenario, at_once: int) -> list[str]:
    n = scenario.options.batch
    if n <= at_once:
        return []
    return [f"{at_once} of {n} requests run at once (memory or max_batch); the others wait for a place"]


def _below(memory: ServeMemory, kv: float) -> list[str]:
    """What the memories below the device's lack."""
    found = [(b.name, b.weights + b.kv_share * kv, b.capacity) for b in memory.below]
    return [
        f"{name}: {needed / 2**30:.1f} GiB of weights and KV cache of a GPU, {there / 2**30:.1f} GiB there for them"
        for name, needed, there in found
        if needed > there
    ]


def _precision_warning(scenario: InferScenario) -> list[str]:
    result = []
    for asked in sorted({scenario.plan.linear.compute, scenario.plan.experts.compute}):
        used = effective_dtype(scenario.cluster.accelerator, asked)
        if used != asked:
            result.append(f"{scenario.cluster.accelerator.name} has no {asked} matrix unit: {used} rates are used")
    return result
