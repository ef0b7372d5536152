"""FlashAttention-2: nothing where an engine has it, attention alone elsewhere, and never above a device's peak."""

from __future__ import annotations

from typing import Any

import pytest

from windtunnel.errors import ScenarioError
from windtunnel.studies.ask import infer, simulate, train

NAME = "flash-attention-2"
TRAIN: dict[str, Any] = {
    "model": "llama-3.2-1b", "on": "1xa100-80gb-sxm", "global_batch": 1, "seq": 8192, "engine": "flash-attn",
}  # fmt: skip
INFER: dict[str, Any] = {"model": "llama-2-7b", "on": "1xa100-80gb-sxm", "input": 4000, "output": 20, "batch": 4}
KERNELS = ("attention", "attention_backward")


def figures(result: Any) -> dict[str, Any]:
    """All of an answer but the plan, which names techniques."""
    return {k: v for k, v in result.to_dict().items() if k != "plan"}


@pytest.mark.parametrize("engine", ["flash-attn", "megatron", "megatron@2021", "deepspeed"])
def test_neutral_kernel_changes_nothing(engine: str) -> None:
    asked = {**TRAIN, "engine": engine}
    assert figures(train(**asked, techniques=[f"{NAME}:kernel=eager"])) == figures(train(**asked))


@pytest.mark.parametrize("engine", ["vllm", "sglang", "transformers"])
def test_engines_that_have_it_stay_as_they_are(engine: str) -> None:
    assert figures(infer(**INFER, engine=engine, techniques=[NAME])) == figures(infer(**INFER, engine=engine))


def test_attention_alone_changes_in_training() -> None:
    before, after = (train(**TRAIN, techniques=t).tree.by_kind() for t in ([], [NAME]))
    for kind, seconds in before.items():
        if kind in KERNELS:
            assert after[kind] < seconds
        else:
            assert after[kind] == seconds


@pytest.mark.parametrize("kernel", ["flash1", "flash2"])
@pytest.mark.parametrize("seq", [1024, 8192, 65536])
def test_no_kernel_beats_the_matrix_units(kernel: str, seq: int) -> None:
    batch = 65536 // seq
    asked = {**TRAIN, "engine": "megatron@2022", "seq": seq, "micro_batch": batch, "global_batch": batch}
    spent = train(**asked, techniques=[f"{NAME}:kernel={kernel}"]).tree.by_kind()
    forward = 16 * 4 * batch * seq * seq * 2048 / 2  # 16 layers, causal
    assert spent["attention"] > forward / 312e12
    assert spent["attention_backward"] > 2.5 * forward / 312e12


def test_scores_leave_memory() -> None:
    eager = {**TRAIN, "engine": "megatron@2022"}
    before, after = train(**eager), train(**eager, techniques=[NAME])
    assert after.step_time_s < before.step_time_s
    scores = 16 * 32 * 8192.0 * 8192.0 * 2
    assert before.memory_bytes["activations"] - after.memory_bytes["activations"] > scores


def test_prompts_of_an_old_engine_are_faster_and_simulated_ones_too() -> None:
    old = {**INFER, "engine": "vllm@2023"}
    assert infer(**old, techniques=[NAME]).ttft_s < infer(**old).ttft_s
    log: dict[str, Any] = {
        "model": "llama-2-7b", "on": "1xa100-80gb-sxm", "engine": "vllm@2023", "arrivals": "constant", "rate": 0.5,
        "requests": 20, "input_length": "3000", "output_length": "10",
    }  # fmt: skip
    assert simulate(**log, techniques=[NAME]).ttft_s["mean"] < simulate(**log).ttft_s["mean"]


def test_a_wish_for_plain_attention_is_named() -> None:
    with pytest.raises(ScenarioError, match="sets flash-attention=True; leave out flash-attention=False"):
        train(**TRAIN, flash_attention=False, techniques=[NAME])
