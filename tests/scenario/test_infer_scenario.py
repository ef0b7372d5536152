"""The serving side of the front door."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from windtunnel.errors import ScenarioError
from windtunnel.models import load_network
from windtunnel.models.dtypes import PRECISIONS
from windtunnel.models.network import Quantization
from windtunnel.scenario.options import InferOptions, read_options
from windtunnel.scenario.serve import InferScenario, infer_scenario, serving_precision


def scenario(**given: Any) -> InferScenario:
    return infer_scenario(read_options(InferOptions, {"model": "llama-3.1-8b", "on": "8xh100-sxm", **given}))


WRONG: dict[str, tuple[dict[str, Any], list[str]]] = {
    "model": ({"model": "llama-3.1-9b"}, ["'llama-3.1-9b'", "llama-3.1-8b"]),
    "encoder": ({"model": "bert-base"}, ["bert-base", "decoder-only"]),
    "encoder and decoder": ({"model": "t5-11b"}, ["t5-11b", "encoder-decoder", "decoder-only"]),
    "device": ({"on": "8xh201"}, ["h201", "h200"]),
    "engine": ({"engine": "vlllm"}, ["engine 'vlllm'", "vllm"]),
    "training engine": ({"engine": "megatron"}, ["engine 'megatron'", "vllm"]),
    "precision": ({"precision": "w3a16"}, ["precision 'w3a16'", "w4a16"]),
    "empty precision": ({"precision": ""}, ["precision ''", "bf16"]),
    "kv precision": ({"kv_precision": "fp9"}, ["kv_precision 'fp9'", "fp8"]),
    "heads": ({"tp": 3}, ["tp=3", "32 attention heads", "accepted: 1, 2, 4"]),
    "stages": ({"pp": 40, "on": "40xh100-sxm"}, ["pp=40", "32 layers"]),
    "ranks": (
        {"tp": 4, "dp": 2, "replicas": 2}, ["tp x pp x dp x replicas = 4 x 1 x 2 x 2 = 16", "8 accelerators"],
    ),
    "experts": ({"ep": 2, "tp": 2}, ["ep=2", "no experts", "accepted: 1"]),
    "expert ranks": ({"model": "mixtral-8x7b", "ep": 8, "tp": 4}, ["ep=8", "4 ranks", "accepted: 1, 2, 4"]),
    "odd experts": ({"model": "mixtral-8x7b", "ep": 3, "dp": 3}, ["ep=3", "8 experts", "1, 2, 4, 8"]),
    "positions": (
        {"model": "gpt2", "input": 1000, "output": 100}, ["input + output=1100", "1024 learned positions", "up to 1024"]
    ),
    "more iterations than can be laid out": (
        {"batch": 10_000, "input": 100_000_000}, ["batch=10000", "input=100000000", "at most 1,000,000"],
    ),
    "model length": ({"max_model_len": 100}, ["input + output = 1152", "max_model_len=100"]),
}  # fmt: skip


@pytest.mark.parametrize(("given", "words"), WRONG.values(), ids=WRONG)
def test_wrong_requests_are_one_clear_line(given: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ScenarioError) as caught:
        scenario(**given)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 1500
    for word in words:
        assert word in text


def test_settings_come_from_the_request_or_the_engine() -> None:
    plan, engine = scenario().plan, scenario().engine
    assert (plan.block_size, plan.memory_utilization) == (engine.block_size, engine.memory_utilization)
    assert (plan.max_sequences, plan.max_batched_tokens) == (engine.max_sequences, engine.max_batched_tokens)
    asked = scenario(
        block_size=32, memory_utilization=0.5, max_batch=7, chunk=512, kv_blocks=99, max_model_len=4096
    ).plan
    assert (asked.block_size, asked.memory_utilization, asked.max_sequences) == (32, 0.5, 7)
    assert (asked.max_batched_tokens, asked.kv_blocks, asked.max_model_len) == (512, 99, 4096)


@pytest.mark.parametrize("engine", ["transformers", "orca"])
def test_whole_prompts_join_however_long_they_are(engine: str) -> None:
    """An engine without chunks runs as many tokens at once as the prompts that join have."""
    s = scenario(engine=engine, batch=6, input=3000, dp=2, chunk=128)
    assert s.plan.max_batched_tokens == 3 * 3000
    assert any("chunk=128 does nothing" in w for w in s.warnings)
    assert scenario(engine=engine, batch=600, max_batch=4, input=1000).plan.max_batched_tokens == 4000


def test_experts_lie_on_all_ranks_of_an_engine() -> None:
    assert scenario(model="mixtral-8x7b", tp=2, dp=4).plan.layout.etp == 8
    assert scenario(model="mixtral-8x7b", tp=2, dp=4, ep=8).plan.layout.etp == 1
    assert scenario(model="mixtral-8x7b", tp=2, dp=4, ep=4).plan.layout.etp == 2
    assert scenario(tp=2, dp=4).plan.layout.etp == 2


def test_unused_accelerators_are_warned_of() -> None:
    assert any("4 of 8 accelerators are not used" in w for w in scenario(tp=4).warnings)
    assert not any("not used" in w for w in scenario(tp=4, replicas=2).warnings)


def test_a_checkpoint_keeps_its_own_precision() -> None:
    name, linear, experts = serving_precision(load_network("deepseek-v3"), None)
    assert (name, linear.weights, experts.weights) == ("fp8", "fp8", "fp8")
    name, linear, experts = serving_precision(load_network("gpt-oss-120b"), None)
    assert (name, linear.weights, experts.weights) == ("mxfp4", "bf16", "mxfp4")
    assert serving_precision(load_network("gpt-oss-120b"), "bf16")[2].weights == "bf16"
    assert serving_precision(load_network("llama-2-7b"), None)[0] == "fp16"
    # Engines widen nothing: an fp32 checkpoint is served in 16 bits.
    assert serving_precision(load_network("olmo-2-7b"), None)[1].weights == "fp16"


@pytest.mark.parametrize("stored", ["fp8", "int8", "mxfp4", "nvfp4", "mxfp8", "int4", "nf4"])
@pytest.mark.parametrize("covers", ["linear", "experts"])
def test_every_storage_format_is_served_and_can_be_asked_for(stored: str, covers: Any) -> None:
    """The precision that an answer names gives the same answer when it is asked for."""
    network = replace(load_network("mixtral-8x7b"), quantization=Quantization(stored, covers))
    found = serving_precision(network, None)
    assert found[2].weights == stored
    assert found[1].weights == (stored if covers == "linear" else network.dtype)
    assert serving_precision(network, found[0]) == found
    assert found[0] in PRECISIONS


def test_the_cache_may_be_narrower() -> None:
    plan = scenario(kv_precision="fp8").plan
    assert (plan.linear.kv, plan.linear.weights, plan.linear.compute) == ("fp8", "bf16", "bf16")


def test_checkpoints_made_for_an_engine_bring_its_cache() -> None:
    def cache(model: str, **asked: Any) -> str:
        return scenario(model=model, on="8xh100-sxm", tp=8, **asked).plan.linear.kv

    assert cache("llama-3.1-70b", engine="tensorrt-llm", precision="fp8") == "fp8"
    assert cache("llama-3.1-70b", engine="tensorrt-llm", precision="fp8", kv_precision="bf16") == "bf16"
    assert cache("llama-3.1-70b", engine="tensorrt-llm") == "bf16"
    assert cache("llama-3.1-70b", engine="vllm", precision="fp8") == "bf16"


def test_sums_over_ranks_are_the_engines_own_unless_said() -> None:
    asked: dict[str, Any] = {"model": "llama-3.1-8b", "on": "2xh100-sxm", "tp": 2}
    assert scenario(**asked).engine.all_reduce == "custom"
    assert scenario(**asked, all_reduce="nccl").engine.all_reduce == "nccl"


def test_devices_without_8_bit_units_leave_inputs_in_16_bits() -> None:
    asked: dict[str, Any] = {"model": "llama-3.1-8b", "precision": "fp8"}
    assert scenario(**asked, on="1xa100-80gb-sxm").engine.quantize_kernels is None
    assert scenario(**asked, on="1xh100-sxm").engine.quantize_kernels == 1
