"""``quantization_config`` as the common tools write it."""

from __future__ import annotations

from typing import Any

import pytest

from windtunnel.errors import ScenarioError
from windtunnel.models import load_network, network_from_config
from windtunnel.models.dtypes import BYTES
from windtunnel.models.network import Quantization

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 100,
}
DENSE = {"model_type": "llama", **SIZES}
EXPERTS = {"model_type": "mixtral", **SIZES, "num_key_value_heads": 4, "num_local_experts": 4, "num_experts_per_tok": 2}


def quantization(q: dict[str, Any] | None, base: dict[str, Any] = DENSE) -> Quantization | None:
    return network_from_config({**base, "quantization_config": q}, "x").quantization


def group(**weights: Any) -> dict[str, Any]:
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}}}


@pytest.mark.parametrize(
    ("config", "precision"),
    [
        ({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}, "fp8"),
        ({"quant_method": "fbgemm_fp8"}, "fp8"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "int4"),
        ({"quant_method": "gptq", "bits": 8}, "int8"),
        ({"quant_method": "awq", "bits": 4}, "int4"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "nf4"),
        ({"load_in_4bit": True, "load_in_8bit": False}, "nf4"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8"),
        (group(num_bits=8, type="float"), "fp8"),
        (group(num_bits=8, type="int"), "int8"),
        (group(num_bits=4, type="int", group_size=128), "int4"),
        (group(num_bits=4, type="float", group_size=16), "nvfp4"),
        (group(num_bits=4, type="float", group_size=32), "mxfp4"),
        ({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}, "nvfp4"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        ({"quant_method": "modelopt", "quantization": {"quant_algo": "FP8"}}, "fp8"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
    ],
)
def test_methods(config: dict[str, Any], precision: str) -> None:
    found = quantization(config)
    assert found is not None
    assert (found.precision, found.covers) == (precision, "linear")
    assert precision in BYTES


def test_none() -> None:
    assert quantization(None) is None
    assert quantization({}) is None
    assert quantization({"quant_method": "bitsandbytes", "load_in_4bit": False}) is None


def test_experts_only_where_attention_is_left_alone() -> None:
    spared = group(num_bits=4, type="int") | {"ignore": ["lm_head", "re:.*self_attn.*"]}
    assert quantization(spared, EXPERTS) == Quantization("int4", "experts", "compressed-tensors")
    assert quantization(spared, DENSE) == Quantization("int4", "linear", "compressed-tensors")
    kept = {"quant_method": "fp8", "modules_to_not_convert": ["gate", "lm_head"]}
    assert quantization(kept, EXPERTS) == Quantization("fp8", "linear", "fp8")


def test_catalogue() -> None:
    for name, expected in {
        "deepseek-v3": Quantization("fp8", "linear", "fp8"),
        "minimax-m2": Quantization("fp8", "linear", "fp8"),
        "gpt-oss-120b": Quantization("mxfp4", "experts", "mxfp4"),
        "llama-3.1-8b": None,
    }.items():
        assert load_network(name).quantization == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"quant_method": "aqlm"}, "aqlm"),
        ({"quant_method": "gptqq"}, "did you mean gptq"),
        ({"bits": 4}, "missing"),
        ({"quant_method": 4}, "quant_method is 4"),
        ({"quant_method": "gptq", "bits": 3}, "bits is 3; expected 4 or 8"),
        ({"quant_method": "gptq", "bits": "4"}, "bits is '4'"),
        ({"quant_method": "modelopt", "quant_algo": "W1A1"}, "w1a1"),
        ({"quant_method": "compressed-tensors", "format": "sparse"}, "sparse"),
        ({"quant_method": "compressed-tensors", "config_groups": {"a": 1}}, "expected an object"),
        (group(num_bits=2, type="float"), "num_bits is 2"),
        ("fp8", "quantization_config is 'fp8'"),
    ],
)
def test_unsupported(config: Any, expected: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        quantization(config)
    assert expected.lower() in str(caught.value).lower()
    assert "\n" not in str(caught.value)
