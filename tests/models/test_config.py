"""What a configuration means (windows, heads, positions, caches) and what a bad one says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from windtunnel.errors import ScenarioError
from windtunnel.models import known_model_types, load_network, network_from_config
from windtunnel.models.network import MLP, Attention, LatentAttention, MoE, Network, StateSpace

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 160,
    "vocab_size": 100,
}
MOE = {**LLAMA, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
QWEN = {**LLAMA, "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
HYBRID = {**LLAMA, "model_type": "nemotron_h", "num_hidden_layers": 3, "hybrid_override_pattern": "M*-"}


def read(config: dict[str, Any], **changes: Any) -> Network:
    return network_from_config({**config, **changes}, "x")


def windows(network: Network) -> list[int | None]:
    return [b.mixer.window for b in network.blocks if isinstance(b.mixer, Attention)]


# KV-cache bytes a token in bf16. DeepSeek-V3, Qwen2.5-72B and Llama-3.1-405B: arXiv 2505.09343, table 1 (70.272,
# 327.680 and 516.096 KB); the others by hand: 2 bytes, 2 × layers × kv heads × head size.
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("deepseek-v3", 70_272),
        ("qwen2.5-72b", 327_680),
        ("llama-3.1-405b", 516_096),
        ("llama-2-7b", 2 * 2 * 32 * 32 * 128),
        ("llama-3.1-8b", 2 * 2 * 32 * 8 * 128),
        ("llama-3.1-70b", 2 * 2 * 80 * 8 * 128),
        ("falcon-7b", 2 * 2 * 32 * 1 * 64),
        ("falcon-180b", 2 * 2 * 80 * 8 * 64),
        ("gpt3-175b", 2 * 2 * 96 * 96 * 128),
        ("gpt-oss-120b", 2 * 2 * 36 * 8 * 64),
        ("jamba-v0.1", 2 * 2 * 4 * 8 * 128),
        ("qwen3-next-80b", 2 * 2 * 12 * 2 * 256),
        ("mamba-2.8b", 0),
        ("bert-base", 0),
        ("t5-11b", 2 * 2 * 24 * 128 * 128),
    ],
)
def test_kv_bytes_per_token(name: str, expected: int) -> None:
    assert 2 * load_network(name).kv_elements_per_token == expected


def test_window_patterns() -> None:
    def leading(name: str, count: int) -> list[int | None]:
        return windows(load_network(name))[:count]

    assert leading("gemma-2-9b", 4) == [4096, None, 4096, None]
    assert leading("gemma-3-27b", 7) == [1024] * 5 + [None, 1024]
    assert leading("gpt-oss-20b", 4) == [128, None, 128, None]
    assert leading("command-a", 5) == [4096, 4096, 4096, None, 4096]
    assert set(windows(load_network("mistral-7b-v0.1"))) == {4096}
    assert set(windows(load_network("mistral-large"))) == {None}
    assert set(windows(load_network("qwen2-7b"))) == {None}  # states a window and does not use it
    scout = load_network("llama-4-scout")
    assert leading("llama-4-scout", 5) == [8192, 8192, 8192, None, 8192]
    kinds = [(b.mixer.chunked, b.mixer.position) for b in scout.blocks[:4] if isinstance(b.mixer, Attention)]
    assert kinds == [(True, "rope")] * 3 + [(False, "none")]


def test_qwen_slides_from_a_layer_on() -> None:
    changes = {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 3}
    assert windows(read(LLAMA, **changes)) == [None, None, None, 16]
    assert windows(read(LLAMA, **{**changes, "use_sliding_window": False})) == [None] * 4
    types = ["sliding_attention", "full_attention"] * 2
    assert windows(read(LLAMA, **changes, layer_types=types)) == [16, None, 16, None]


def test_class_defaults_of_missing_switches() -> None:
    assert set(windows(read(LLAMA, model_type="mistral"))) == {4096}
    assert set(windows(read(LLAMA, model_type="mistral", sliding_window=None))) == {None}
    assert read(LLAMA, model_type="gemma2").tied
    assert not read(LLAMA).tied
    without = {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"}
    first = read(without).blocks[0].mixer
    assert isinstance(first, Attention)
    assert (first.kv_heads, first.head_dim) == (8, 8)


def test_mixtures_and_dense_layers() -> None:
    def kinds(name: str, count: int) -> list[type]:
        return [type(b.ffn) for b in load_network(name).blocks[:count]]

    assert kinds("deepseek-v3", 5) == [MLP] * 3 + [MoE] * 2
    assert kinds("llama-4-maverick", 4) == [MLP, MoE] * 2
    assert kinds("jamba-v0.1", 4) == [MLP, MoE] * 2
    assert [type(b.ffn) for b in read(QWEN, decoder_sparse_step=2, mlp_only_layers=[3]).blocks] == [MLP, MoE, MLP, MLP]
    encoder = load_network("switch-base-8").encoder
    assert [type(b.ffn) for b in encoder[:4]] == [MLP, MoE] * 2


def test_hybrids() -> None:
    jamba = load_network("jamba-v0.1")
    assert [isinstance(b.mixer, Attention) for b in jamba.blocks[:8]] == [False] * 4 + [True] + [False] * 3
    next_80b = load_network("qwen3-next-80b")
    assert [isinstance(b.mixer, StateSpace) for b in next_80b.blocks[:4]] == [True, True, True, False]
    nano = load_network("nemotron-3-nano-30b-a3b")
    assert [type(b.mixer or b.ffn) for b in nano.blocks[:6]] == [
        StateSpace,
        MoE,
        StateSpace,
        MoE,
        StateSpace,
        Attention,
    ]


def test_state_sizes() -> None:
    """By hand: Mamba-2.8B has 5,120 channels of 16, Mamba-2 5,120 × 128, each with three tokens of convolution."""
    assert load_network("mamba-2.8b").state_elements == 64 * 5120 * (16 + 3)
    assert load_network("mamba2-2.7b").state_elements == 64 * (5120 * 128 + 3 * (5120 + 2 * 128))


def test_latent_attention() -> None:
    mixer = load_network("deepseek-v2-lite").blocks[0].mixer
    assert isinstance(mixer, LatentAttention)
    assert mixer.q_lora_rank is None
    assert mixer.kv_elements_per_token == 512 + 64


def test_encoder_decoder() -> None:
    t5 = load_network("t5-11b")
    assert (len(t5.encoder), len(t5.blocks), t5.layers) == (24, 24, 48)
    assert t5.cross_kv_elements_per_source_token == 24 * 2 * 128 * 128
    cross = t5.blocks[0].cross
    assert cross is not None
    assert cross.cross


def test_positions() -> None:
    def position(name: str) -> str:
        mixer = load_network(name).blocks[0].mixer
        assert isinstance(mixer, Attention)
        return mixer.position

    names = ["gpt2", "llama-7b", "bloom-176b", "t5-11b", "opt-13b", "mpt-7b"]
    assert [position(n) for n in names] == ["learned", "rope", "alibi", "relative", "learned", "learned"]


def test_multimodal_text_part_takes_class_defaults() -> None:
    """A Gemma 3 wrapper writes only what differs from the defaults; the text part of 4B has 3,880,263,168.

    That is the published 4,300,079,472 less the vision tower's 419,816,304 (transformers 4.57.1, instantiated).
    """
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}
    network = network_from_config({"model_type": "gemma3", "text_config": text, "vision_config": {}}, "x")
    assert network.total_parameters == 4_300_079_472 - 419_816_304
    assert "text" in network.notes["scope"]
    wrapped = network_from_config({"model_type": "some_vlm", "text_config": {**LLAMA}}, "x")
    assert wrapped.total_parameters == read(LLAMA).total_parameters


def test_llama4_without_its_tower() -> None:
    scout = load_network("llama-4-scout")
    folder = Path(load_network.__code__.co_filename).parent / "catalogue"
    config = json.loads((folder / "llama-4-scout.json").read_text(encoding="utf-8"))
    text = network_from_config({k: v for k, v in config.items() if k != "vision_config"}, "x")
    tower = int(scout.notes["vision"].split("(")[1].split()[0].replace(",", ""))
    assert scout.total_parameters - text.total_parameters == tower
    assert text.blocks == scout.blocks


def test_bert_counts_the_head_that_architectures_names() -> None:
    base = {**LLAMA, "model_type": "bert"}
    bare, masked = read(base), read(base, architectures=["BertForMaskedLM"])
    assert not bare.has_head
    assert masked.total_parameters - bare.total_parameters == 2 * 64 + 100  # the head's norm and bias, no pooler


def test_ten_thousand_layers_share_their_blocks() -> None:
    network = read(LLAMA, num_hidden_layers=10_000, model_type="gemma2")
    assert len({id(b) for b in network.blocks}) == 2


def test_infinity_where_published_files_have_it() -> None:
    assert read(HYBRID, time_step_limit=[0.0, math.inf]).layers == 3


BAD: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (LLAMA, {"model_type": "lama"}, "did you mean llama"),
    (LLAMA, {"model_type": "lama"}, "gpt_neox"),
    (LLAMA, {"model_type": "zzz"}, "nemotron_h"),
    (LLAMA, {"model_type": None}, "model_type is missing"),
    (LLAMA, {"model_type": 3}, "model_type is 3"),
    (LLAMA, {"model_type": "unet2d_condition"}, "unet2d_condition"),
    (LLAMA, {"hidden_size": "64"}, "hidden_size is '64'; expected a whole number"),
    (LLAMA, {"hidden_size": 64.0}, "hidden_size is 64.0; expected a whole number"),
    (LLAMA, {"hidden_size": True}, "hidden_size is True"),
    (LLAMA, {"hidden_size": 0}, "hidden_size is 0"),
    (LLAMA, {"hidden_size": -64}, "hidden_size is -64"),
    (LLAMA, {"hidden_size": 10**40}, "hidden_size is 1000"),
    (LLAMA, {"hidden_size": 10**5000}, "a whole number of 16610 bits"),
    (LLAMA, {"hidden_size": [64]}, "hidden_size is [64]"),
    (LLAMA, {"hidden_size": {"a": 1}}, "hidden_size is an object"),
    (LLAMA, {"hidden_size": None}, "hidden_size is null"),
    (LLAMA, {"hidden_size": math.nan}, "hidden_size holds nan"),
    (LLAMA, {"vocab_size": math.inf}, "vocab_size holds inf"),
    (LLAMA, {"rope_scaling": {"factor": math.nan}}, "factor holds nan"),
    (LLAMA, {"rms_norm_eps": "tiny"}, "rms_norm_eps is 'tiny'; expected a number"),
    (LLAMA, {"num_hidden_layers": 10**9}, "from 1 to 10000"),
    (LLAMA, {"num_attention_heads": 7}, "a divisor of the hidden size 64"),
    (LLAMA, {"num_key_value_heads": 3}, "num_key_value_heads is 3; expected a divisor of the 8"),
    (LLAMA, {"tie_word_embeddings": "yes"}, "true or false"),
    (LLAMA, {"attention_bias": 1}, "true or false"),
    (LLAMA, {"hidden_act": 5}, "hidden_act is 5"),
    (LLAMA, {"torch_dtype": "float7"}, "bfloat16"),
    (LLAMA, {"head_dim": 0}, "head_dim is 0"),
    (MOE, {"num_experts_per_tok": 5}, "at most the 4 experts"),
    (MOE, {"num_local_experts": 0}, "num_local_experts is 0"),
    (MOE, {"sliding_window": -1}, "sliding_window is -1"),
    (QWEN, {"mlp_only_layers": "none"}, "a list of whole numbers"),
    (QWEN, {"mlp_only_layers": [0, "1"]}, "mlp_only_layers[1] is '1'"),
    (LLAMA, {"model_type": "gemma2", "layer_types": ["full_attention"]}, "layer_types has 1 entries; expected 4"),
    (LLAMA, {"model_type": "gemma2", "layer_types": ["full"] * 4}, "layer_types is 'full'"),
    (LLAMA, {"model_type": "gemma2", "layer_types": "full_attention"}, "a list of full_attention"),
    (MOE, {"model_type": "llama4_text", "no_rope_layers": [1, 0]}, "no_rope_layers"),
    (HYBRID, {"hybrid_override_pattern": "M*x"}, "hybrid_override_pattern is 'M*x'"),
    (HYBRID, {"hybrid_override_pattern": "M*"}, "has 2 layers; expected num_hidden_layers = 3"),
    (HYBRID, {"hybrid_override_pattern": ""}, "hybrid_override_pattern"),
    (HYBRID, {"hybrid_override_pattern": None}, "hybrid_override_pattern"),
    (LLAMA, {"model_type": "gemma3", "text_config": [1]}, "text_config is [1]; expected an object"),
    (LLAMA, {"model_type": "mamba2", "num_heads": 3}, "num_heads is 3"),
    (LLAMA, {"model_type": "mpt", "d_model": 64, "n_heads": 4, "n_layers": 1, "expansion_ratio": 0.3}, "ratio"),
    (LLAMA, {"model_type": "jamba", "attn_layer_period": 2, "attn_layer_offset": 2, "num_experts": 1}, "from 0 to 1"),
]


@pytest.mark.parametrize(("base", "changes", "expected"), BAD, ids=[f"{i}-{b[2][:30]}" for i, b in enumerate(BAD)])
def test_bad_configuration_is_one_clear_line(base: dict[str, Any], changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        network_from_config({**base, **changes}, "my/config.json")
    message = str(caught.value)
    assert expected in message
    assert "my/config.json" in message
    assert "\n" not in message


@pytest.mark.parametrize("key", sorted(set(LLAMA) - {"model_type", "num_key_value_heads"}))
def test_a_missing_size_is_named(key: str) -> None:
    with pytest.raises(ScenarioError, match=f"{key} is missing; expected a whole number from 1 to"):
        network_from_config({k: v for k, v in LLAMA.items() if k != key}, "x")


def test_no_mapping_is_an_error() -> None:
    with pytest.raises(ScenarioError, match="expected an object"):
        network_from_config([1], "x")  # type: ignore[arg-type]
    with pytest.raises(ScenarioError, match="is not a string"):
        network_from_config({**LLAMA, 3: 4}, "x")  # type: ignore[dict-item]
    loop: dict[str, Any] = dict(LLAMA)
    loop["self"] = loop
    with pytest.raises(ScenarioError, match="nests deeper"):
        network_from_config(loop, "x")


def test_model_types_are_sorted_and_complete() -> None:
    required = """gpt2 gpt_neox mpt opt bloom falcon llama mistral mixtral qwen2 qwen2_moe qwen3 qwen3_moe gemma2 gemma3
    gemma3_text phi3 deepseek_v2 deepseek_v3 kimi_k2 glm4_moe gpt_oss llama4 mamba mamba2 jamba nemotron nemotron_h
    cohere cohere2 dbrx gptj internlm internlm2 qwen palm minimax_m2 olmo2 phi qwen3_next switch_transformers bert t5"""
    assert set(required.split()) <= set(known_model_types())
    assert known_model_types() == sorted(known_model_types())
