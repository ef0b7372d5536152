"""The named invariants of CONTRIBUTING.md, over random models, machines and plans."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from windtunnel.cost import Runtime, effective_dtype, load_calibration, make_pricer
from windtunnel.cost.collectives import least_wire_bytes
from windtunnel.cost.runtime import runtime_of
from windtunnel.engine.infer import infer_answer
from windtunnel.engine.train import train_answer
from windtunnel.errors import ScenarioError
from windtunnel.hardware import RESOURCES, Cluster, scale_resource
from windtunnel.ops.fold import Evaluation
from windtunnel.ops.rewrite import operators
from windtunnel.parallel.step import training_step
from windtunnel.scenario.options import InferOptions, TrainOptions, read_options
from windtunnel.scenario.serve import InferScenario, infer_scenario
from windtunnel.scenario.train import TrainScenario, train_scenario
from windtunnel.training.schedules import get_schedule

MODELS = [
    "gpt2", "llama-3.1-8b", "llama-3.1-70b", "mixtral-8x7b", "deepseek-v2-lite", "qwen3-30b-a3b", "gemma-2-9b",
    "mpt-7b", "jamba-v0.1", "bloom-176b", "gpt-oss-20b",
]  # fmt: skip
MACHINES = ["h100-sxm", "a100-80gb-sxm", "v100-sxm", "b200-sxm", "l40s", "mi300x", "tpu-v5p", "rtx-4090", "gb200"]
POWERS = st.sampled_from([1, 2, 4, 8])
LOOSE = settings(max_examples=40, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])


@st.composite
def trainings(draw: st.DrawFn) -> TrainScenario:
    """A random request that can be laid out."""
    tp, pp, cp, dp, ep = (draw(POWERS) for _ in range(5))
    micro, count = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2, 3, 8]))
    given_ = {
        "model": draw(st.sampled_from(MODELS)),
        "on": f"{tp * pp * cp * dp}x{draw(st.sampled_from(MACHINES))}",
        "tp": tp, "pp": pp, "cp": cp, "ep": ep, "micro_batch": micro,
        "global_batch": micro * dp * count * pp, "seq": draw(st.sampled_from([256, 1024])),
        "zero": draw(st.sampled_from([0, 1, 2, 3])),
        "engine": draw(st.sampled_from(["megatron", "fsdp", "deepspeed", "megatron@2021"])),
        "recompute": draw(st.sampled_from(["none", "selective", "full"])),
        "schedule": draw(st.sampled_from(["gpipe", "1f1b", "zero-bubble", "dualpipe"])),
        "context_parallel": draw(st.sampled_from(["ring", "ulysses"])),
        "finetune": draw(st.sampled_from(["full", "lora:r=8", "qlora:r=8,bits=4"])),
        "offload": draw(st.sampled_from([None, "optimizer:cpu", "params:nvme", "activations:cpu"])),
    }  # fmt: skip
    try:
        return train_scenario(read_options(TrainOptions, given_))
    except ScenarioError:
        assume(False)
        raise


@st.composite
def inferences(draw: st.DrawFn) -> InferScenario:
    """A random serving request that can be laid out."""
    tp, pp, dp, ep = (draw(POWERS) for _ in range(4))
    given_ = {
        "model": draw(st.sampled_from(MODELS)),
        "on": f"{tp * pp * dp}x{draw(st.sampled_from(MACHINES))}",
        "tp": tp, "pp": pp, "dp": dp, "ep": ep,
        "batch": draw(st.integers(1, 300)), "input": draw(st.integers(1, 900)), "output": draw(st.integers(1, 100)),
        "engine": draw(st.sampled_from(["vllm", "sglang", "tensorrt-llm", "transformers", "orca", "vllm@2023"])),
        "precision": draw(st.sampled_from([None, "fp8", "w4a16", "bf16"])),
        "techniques": draw(st.sampled_from([[], [], ["h2o:share=0.3"], ["h2o:tokens=64"]])),
    }  # fmt: skip
    if draw(st.booleans()):
        given_["engine"] = draw(st.sampled_from(["flexgen", "accelerate", "zero-inference", "vllm"]))
        given_["offload"] = draw(st.sampled_from([None, "weights:cpu", "weights:cpu=0.4,kv:cpu=0.7", "kv:nvme"]))
        given_["block_batches"] = 1 if given_["engine"] == "vllm" else draw(st.integers(1, 3))
    try:
        return infer_scenario(read_options(InferOptions, given_))
    except ScenarioError:
        assume(False)
        raise


@LOOSE
@given(trainings())
def test_no_step_beats_physics(scenario: TrainScenario) -> None:
    """INV-1 and INV-2: the mean rank's work over the machine's peak rates is a lower bound of the step."""
    answer = train_answer(scenario)
    a = scenario.cluster.accelerator
    totals = answer.tree.totals()
    at_peak = sum(
        float(v) / (a.vector_flops if k == "vector" else a.peak_flops[effective_dtype(a, k)])
        for k, v in totals.flops.items()
        if k != "vector"
    )
    assert at_peak <= answer.step_time_s * (1 + 1e-9)
    assert float(totals.bytes["hbm"]) / a.hbm.bandwidth_bytes_per_s <= answer.step_time_s * (1 + 1e-9)
    assert answer.mfu is None or 0 < answer.mfu <= 1
    assert answer.hfu is None or answer.hfu <= 1


def check_operators(evaluation: Evaluation, cluster: Cluster, runtime: Runtime) -> None:
    """No operator beats the matrix unit, the memory that serves its bytes, or a byte's way over any level of wire."""
    a = cluster.accelerator
    for op in operators(evaluation.tree):
        seconds = float(evaluation.op_price(op).seconds) * (1 + 1e-9)
        peak = a.peak_flops.get(effective_dtype(a, op.dtype), a.vector_flops)
        assert float(op.flops) / peak <= seconds, op.name
        assert float(op.hbm_bytes) / a.hbm.bandwidth_bytes_per_s <= seconds, op.name
        assert float(op.pcie_bytes) / cluster.pcie_bytes_per_s <= seconds, op.name
        assert float(op.hbm_bytes + op.cached_bytes) / a.l2.bandwidth_bytes_per_s <= seconds, op.name
        if op.group is not None:
            for level, sent in least_wire_bytes(op, cluster, runtime):
                assert float(sent) / level.bandwidth_bytes_per_s <= seconds, (op.name, level.name)


@LOOSE
@given(trainings())
def test_no_operator_of_a_step_beats_physics(scenario: TrainScenario) -> None:
    """INV-1, INV-2 and INV-3."""
    check_operators(train_answer(scenario).tree, scenario.cluster, runtime_of(scenario.engine))


@LOOSE
@given(inferences())
def test_no_operator_of_an_iteration_beats_physics(scenario: InferScenario) -> None:
    """INV-1, INV-2 and INV-3."""
    for evaluation in infer_answer(scenario).tree.values():
        check_operators(evaluation, scenario.cluster, runtime_of(scenario.engine))


@LOOSE
@given(trainings(), st.sampled_from(RESOURCES), st.floats(1.01, 10))
def test_more_of_a_resource_is_never_slower(scenario: TrainScenario, resource: str, factor: float) -> None:
    """INV-4."""
    slow = train_answer(scenario)
    fast = train_answer(replace(scenario, cluster=scale_resource(scenario.cluster, resource, factor)))
    assert fast.step_time_s <= slow.step_time_s * (1 + 1e-9)


@LOOSE
@given(trainings())
def test_exposed_times_add_up(scenario: TrainScenario) -> None:
    """INV-5, for the categories and for the critical path; elasticities are shares of it."""
    answer = train_answer(scenario)
    assert sum(answer.time_s.values()) == pytest.approx(answer.step_time_s, rel=1e-9)
    assert sum(answer.critical_s.values()) == pytest.approx(answer.step_time_s, rel=1e-9)
    assert all(v >= -1e-9 * answer.step_time_s for v in answer.time_s.values())
    assert all(v >= -1e-9 * answer.step_time_s for v in answer.critical_s.values())
    assert all(0 <= e <= 1.02 for e in answer.elasticity.values())
    assert sum(answer.elasticity.values()) <= 1.05


@LOOSE
@given(inferences())
def test_serving_answers_hold_together(scenario: InferScenario) -> None:
    """INV-1, INV-2 and order: a first token before the last, throughput within what memory and arithmetic allow."""
    answer = infer_answer(scenario)
    assert 0 < answer.ttft_s <= answer.e2e_s * (1 + 1e-12)
    o = scenario.options
    assert answer.e2e_s == pytest.approx(answer.ttft_s + answer.tpot_s * (o.output - 1), rel=1e-9)
    a = scenario.cluster.accelerator
    decode = answer.tree["decode"]
    assert float(decode.totals().bytes["hbm"]) / a.hbm.bandwidth_bytes_per_s <= float(decode.seconds()) * (1 + 1e-9)
    for phase in (answer.prefill, answer.decode):
        assert sum(phase.time_s.values()) > 0
        assert all(e >= 0 for e in phase.elasticity.values())
    assert answer.fits == (answer.shortfall_bytes == 0)


@LOOSE
@given(inferences(), st.sampled_from(RESOURCES), st.floats(1.01, 10))
def test_more_of_a_resource_never_slows_serving(scenario: InferScenario, resource: str, factor: float) -> None:
    """INV-4."""
    slow = infer_answer(scenario)
    fast = infer_answer(replace(scenario, cluster=scale_resource(scenario.cluster, resource, factor)))
    assert fast.e2e_s <= slow.e2e_s * (1 + 1e-9)


@settings(max_examples=25, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(trainings())
def test_arrays_of_plans_price_as_one_plan_each(scenario: TrainScenario) -> None:
    """INV-7: tp, dp and micro-batch as arrays against the same plans one at a time."""
    assume(scenario.plan.hsdp is None)
    layout, plan = scenario.plan.layout, scenario.plan
    schedule = get_schedule(plan.schedule)
    price = make_pricer(scenario.cluster, runtime_of(scenario.engine), load_calibration(scenario.cluster.accelerator))

    def seconds(tp: object, micro: object) -> object:
        # Ranks enough that every tp leaves room for the experts, sequences enough for the largest micro-batch.
        more = int(layout.etp * layout.ep)
        laid = replace(layout, tp=tp, dp=more * layout.dp)  # type: ignore[arg-type]
        batch = 4 * more * plan.global_batch
        changed = replace(plan, layout=laid, micro_batch=micro, global_batch=batch)  # type: ignore[arg-type]
        tree = training_step(scenario.network, changed, scenario.engine, schedule).tree
        return Evaluation(tree, price).seconds()

    tps, micros = np.array([1.0, 2.0, 4.0, 8.0]), np.array([1.0, 2.0, 1.0, 4.0])
    together = np.broadcast_to(np.asarray(seconds(tps, micros), float), tps.shape)
    for i in range(tps.size):
        alone = float(seconds(float(tps[i]), float(micros[i])))  # type: ignore[arg-type]
        assert math.isclose(together[i], alone, rel_tol=1e-12)
