"""What every answer holds: CONTRACT's fields with their types, as JSON that any reader takes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from windtunnel.cost import Runtime, load_calibration, make_pricer
from windtunnel.engine.answer import bottleneck, cost_usd, evaluate, sureness
from windtunnel.engine.infer import infer, infer_answer
from windtunnel.engine.train import train, train_answer
from windtunnel.errors import ScenarioError
from windtunnel.hardware import RESOURCES, accelerator_names, parse_cluster, scale_resource
from windtunnel.ops.build import gemm
from windtunnel.ops.fold import Evaluation
from windtunnel.scenario.engines import engine_names
from windtunnel.scenario.options import InferOptions, TrainOptions, read_options
from windtunnel.scenario.results import InferResult, TrainResult
from windtunnel.scenario.serve import infer_scenario
from windtunnel.scenario.train import train_scenario

NUMBER = (int, float)
TRAIN_FIELDS: dict[str, Any] = {
    "step_time_s": NUMBER, "tokens_per_second": NUMBER, "tokens_per_second_per_gpu": NUMBER,
    "samples_per_second": NUMBER, "model_tflops_per_gpu": NUMBER, "flops_convention": str, "mfu": NUMBER,
    "hfu": NUMBER, "fits": bool, "shortfall_bytes": NUMBER, "memory_bytes": dict, "time_s": dict, "bottleneck": dict,
    "elasticity": dict, "energy_j": NUMBER, "cost_usd_per_step": (*NUMBER, type(None)), "interval": (dict, type(None)),
    "warnings": list,
}  # fmt: skip
INFER_FIELDS: dict[str, Any] = {
    "ttft_s": NUMBER, "tpot_s": NUMBER, "e2e_s": NUMBER, "output_tokens_per_second": NUMBER,
    "total_tokens_per_second": NUMBER, "output_tokens_per_second_per_gpu": NUMBER, "fits": bool, "max_batch": int,
    "shortfall_bytes": NUMBER, "memory_bytes": dict, "prefill": dict, "decode": dict, "energy_j_per_token": NUMBER,
    "cost_usd_per_million_tokens": (*NUMBER, type(None)), "interval": (dict, type(None)), "warnings": list,
}  # fmt: skip
INSIDE = {
    "train": {"weights", "gradients", "optimizer", "activations", "workspace", "total", "capacity"},
    "infer": {"weights", "kv_cache", "activations", "total", "capacity"},
}
EXPOSED = {"compute", "tp_comm", "pp_comm", "pp_bubble", "dp_comm", "ep_comm", "cp_comm", "optimizer", "host"}


def checked(result: TrainResult | InferResult, fields: dict[str, Any], kind: str) -> dict[str, Any]:
    """The result's JSON, read back, with every field of CONTRACT in its type."""
    shown = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert isinstance(shown, dict)
    for name, types in fields.items():
        assert isinstance(shown[name], types), name
        assert not (types is NUMBER and isinstance(shown[name], bool)), name
    assert set(shown["memory_bytes"]) == INSIDE[kind]
    assert all(isinstance(v, NUMBER) and v >= 0 for v in shown["memory_bytes"].values())
    assert all(isinstance(w, str) and w and "\n" not in w for w in shown["warnings"])
    assert not {"explain", "timeline", "tree"} & set(shown)
    return shown


def check_bound(part: dict[str, Any]) -> None:
    """A bottleneck and elasticities."""
    assert part["bottleneck"]["resource"] in (*RESOURCES, "latency")
    assert 0 < part["bottleneck"]["share"] <= 1
    assert tuple(part["elasticity"]) == RESOURCES
    assert all(0 <= e <= 1.01 for e in part["elasticity"].values())


def trained(**given: Any) -> TrainResult:
    return train(read_options(TrainOptions, {"model": "llama-3.1-8b", "on": "8xh100-sxm", "seq": 2048, **given}))


def served(**given: Any) -> InferResult:
    return infer(read_options(InferOptions, {"model": "llama-3.1-8b", "on": "1xh100-sxm", "input": 512, **given}))


TRAINING = ("megatron", "nemo", "fsdp", "deepspeed", "maxtext", "pytorch", "flash-attn", "gpipe")
TRAIN_ENGINES = [n for n in engine_names() if n.partition("@")[0] in TRAINING]
SERVE_ENGINES = [n for n in engine_names() if n not in TRAIN_ENGINES]


@pytest.mark.parametrize("engine", TRAIN_ENGINES)
@pytest.mark.parametrize("model", ["gpt2", "mixtral-8x7b", "deepseek-v2-lite", "t5-11b", "jamba-v0.1"])
def test_training_answers_keep_the_contract(model: str, engine: str) -> None:
    shown = checked(trained(model=model, engine=engine, seq=512, tp=2, pp=2), TRAIN_FIELDS, "train")
    check_bound(shown)
    assert set(shown["time_s"]) >= EXPOSED
    assert sum(shown["time_s"].values()) == pytest.approx(shown["step_time_s"], rel=1e-9)
    assert sum(shown["critical_s"].values()) == pytest.approx(shown["step_time_s"], rel=1e-9)


@pytest.mark.parametrize("engine", SERVE_ENGINES)
@pytest.mark.parametrize("model", ["gpt2", "mixtral-8x7b", "deepseek-v2-lite", "mamba2-2.7b", "gemma-2-9b"])
def test_serving_answers_keep_the_contract(model: str, engine: str) -> None:
    shown = checked(served(model=model, engine=engine, on="2xh100-sxm", tp=2, batch=3), INFER_FIELDS, "infer")
    for phase in ("prefill", "decode"):
        check_bound(shown[phase])
        assert sum(shown[phase]["time_s"].values()) > 0


@pytest.mark.parametrize("device", accelerator_names())
def test_every_device_answers(device: str) -> None:
    """Devices without a price have no cost; every other figure is there."""
    model = {"model": "gpt2", "on": f"2x{device}"}
    priced = not math.isnan(parse_cluster(f"2x{device}").price_usd_per_hour)
    step = checked(trained(**model, seq=256), TRAIN_FIELDS, "train")
    batch = checked(served(**model, batch=2), INFER_FIELDS, "infer")
    assert (step["cost_usd_per_step"] is not None) is priced
    assert (batch["cost_usd_per_million_tokens"] is not None) is priced
    assert step["energy_j"] > 0
    assert batch["energy_j_per_token"] > 0
    assert 0 < step["mfu"] <= 1


def test_costs() -> None:
    cluster = parse_cluster("8xh100-sxm", {"price_usd_per_hour": 2.0})
    assert cost_usd(cluster, 1800, 8) == pytest.approx(8.0)
    assert cost_usd(replace(cluster, price_usd_per_hour=math.nan), 1800, 8) is None
    result = trained(set={"price_usd_per_hour": 2.0})
    assert result.cost_usd_per_step == pytest.approx(2.0 * 8 * result.step_time_s / 3600)
    batch = served(set={"price_usd_per_hour": 2.0}, batch=16, output=100)
    seconds = 16 * 100 / batch.output_tokens_per_second
    assert batch.cost_usd_per_million_tokens == pytest.approx(2.0 * seconds / 3600 / 1600 * 1e6)


@pytest.mark.parametrize("resource", RESOURCES)
def test_elasticities_say_what_a_faster_machine_does(resource: Any) -> None:
    """Against a second run on a machine with that rate 1 % higher."""
    s = train_scenario(
        read_options(TrainOptions, {
            "model": "llama-3.1-8b", "on": "16xh100-sxm", "tp": 4, "pp": 2, "seq": 2048, "global_batch": 16,
            "offload": "optimizer:nvme",
        })
    )  # fmt: skip
    slow = train_answer(s)
    fast = train_answer(replace(s, cluster=scale_resource(s.cluster, resource, 1.01)))
    slope = -math.log(fast.step_time_s / slow.step_time_s) / math.log(1.01)
    assert slow.elasticity[resource] == pytest.approx(slope, abs=1e-6)


def test_elasticities_of_one_product_add_up_to_what_is_not_latency() -> None:
    cluster = parse_cluster("1xh100-sxm")
    calibration = load_calibration(cluster.accelerator)
    op = gemm("x", 8192.0, 8192.0, 8192.0, dtype="bf16", weight=2.0, act=2.0)
    found = evaluate(op, cluster, Runtime(), calibration)[1]
    price = make_pricer(cluster, Runtime(), calibration)(op)
    assert sum(found.values()) == pytest.approx(1 - float(price.latency) / float(price.seconds), abs=1e-2)
    assert bottleneck(Evaluation(op, make_pricer(cluster, Runtime(), calibration)).critical()).resource == "tensor"


def test_a_bottleneck_is_the_largest_share() -> None:
    assert bottleneck({"hbm": 3.0, "tensor": 1.0}) == bottleneck({"tensor": 1.0, "hbm": 3.0})
    found = bottleneck({"hbm": 3.0, "tensor": 1.0})
    assert (found.resource, found.share) == ("hbm", 0.75)
    assert bottleneck({"latency": 0.0}).share == 0


def test_doubts_are_said() -> None:
    known = load_calibration(parse_cluster("1xh100-sxm").accelerator)
    assert sureness(known, ("gemm",)) == (True, [])
    assert not any("uncalibrated" in w for w in trained().warnings)
    far = trained(model="gpt2", on="1xgaudi3", seq=256)
    assert not far.calibrated
    assert any("gaudi3" in w and "uncalibrated" in w for w in far.warnings)


@pytest.mark.parametrize("what", [trained, served])
def test_narrow_formats_that_a_device_lacks_are_said(what: Any) -> None:
    said = what(on="8xa100-80gb-sxm", precision="fp8").warnings
    assert any("no fp8 matrix unit: bf16 rates" in w for w in said)
    assert not any("matrix unit" in w for w in what(precision="fp8").warnings)


@pytest.mark.parametrize("what", [trained, served])
def test_a_missing_calibration_is_one_line(what: Any) -> None:
    with pytest.raises(ScenarioError) as caught:
        what(calibration="no/such/file.yaml")
    assert "no/such/file.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", ["llama-3.1-8b", "mixtral-8x7b", "gpt-oss-20b", "qwen3-30b-a3b"])
def test_a_plan_repeats_itself(model: str) -> None:
    """The options that an answer names give the same answer again."""
    asked = {"model": model, "on": "8xh100-sxm", "tp": 2, "pp": 2, "seq": 1024, "recompute": "selective"}
    step = train_answer(train_scenario(read_options(TrainOptions, asked)))
    again = train(read_options(TrainOptions, {"model": model, "on": "8xh100-sxm", **step.plan}))
    assert (again.step_time_s, again.memory_bytes, again.plan) == (step.step_time_s, step.memory_bytes, step.plan)
    for engine in ("vllm", "transformers"):
        wanted = {"model": model, "on": "4xh100-sxm", "tp": 2, "dp": 2, "batch": 8, "engine": engine}
        batch = infer_answer(infer_scenario(read_options(InferOptions, wanted)))
        same = infer(read_options(InferOptions, {"model": model, "on": "4xh100-sxm", **batch.plan}))
        assert (same.e2e_s, same.memory_bytes, same.plan) == (batch.e2e_s, batch.memory_bytes, batch.plan)
