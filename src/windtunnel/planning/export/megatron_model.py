"""A network as Megatron-LM's options describe it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from windtunnel.errors import ScenarioError
from windtunnel.models.network import MLP, Attention, LatentAttention, MoE
from windtunnel.planning.export.model import Model

MODEL_TYPES = (
    "deepseek_v2", "deepseek_v3", "gpt2", "internlm", "internlm2", "kimi_k2", "llama", "mistral", "mixtral", "nemotron",
    "phi3", "qwen", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe",
)  # fmt: skip
"""Architectures that its options describe without code."""


def model_options(model: Model, seq: int, notes: list[str]) -> dict[str, Any]:
    """Sizes, attention, feed-forward part and positions. ``notes`` gets what is left out.

    Raises:
        ScenarioError: an architecture that the options do not describe.
    """
    network, mixer = model.network, model.attention
    if network.model_type not in MODEL_TYPES or mixer is None:
        raise ScenarioError(
            f"--export megatron: its options do not describe model_type {network.model_type} of {network.name}; "
            f"accepted: {', '.join(MODEL_TYPES)}"
        )
    window = min((w for w in network.views if w > 0), default=None)
    if window is not None and window < seq:
        raise ScenarioError(
            f"--export megatron: seq={seq}: attention of {network.name} has a window of {window} tokens"
        )
    first = next(b for b in network.blocks if b.ffn is not None)
    dense = next((b.ffn for b in network.blocks if isinstance(b.ffn, MLP)), None)
    options: dict[str, Any] = {
        "--num-layers": len(network.blocks),
        "--hidden-size": network.hidden_size,
        "--num-attention-heads": mixer.heads,
        "--max-position-embeddings": max(network.max_positions or 0, seq),
        "--normalization": "RMSNorm" if first.norms[0].affine == 1 else "LayerNorm",
        "--norm-epsilon": _epsilon(model.config),
        "--untie-embeddings-and-output-weights": not network.tied,
        "--vocab-size": network.vocab_size,
    }
    options.update(_attention(mixer))
    kind = first.ffn.expert if isinstance(first.ffn, MoE) else first.ffn
    assert isinstance(kind, MLP)
    options["--ffn-hidden-size"] = (dense or kind).intermediate
    options["--swiglu"] = kind.gated
    options["--squared-relu"] = kind.activation == "relu2"
    options["--apply-layernorm-1p"] = network.model_type == "nemotron"
    options["--disable-bias-linear"] = not kind.bias
    options.update(_positions(model, notes))
    if model.experts is not None:
        options.update(_experts(model, model.experts, notes))
    expected = ["--norm-epsilon", *["--rotary-base"] * (options["--position-embedding-type"] == "rope")]
    unsaid = [name for name in expected if options.get(name) is None]
    if unsaid:
        notes.append(
            f"the configuration read does not say {' and '.join(unsaid)}, nor how positions or routing are scaled: "
            "Megatron-LM's defaults hold unless they are given"
        )
    return options


def _attention(mixer: Attention | LatentAttention) -> dict[str, Any]:
    if isinstance(mixer, LatentAttention):
        return {
            "--multi-latent-attention": True,
            "--q-lora-rank": mixer.q_lora_rank,
            "--kv-lora-rank": mixer.kv_lora_rank,
            "--qk-head-dim": mixer.nope_head_dim,
            "--qk-pos-emb-head-dim": mixer.rope_head_dim,
            "--v-head-dim": mixer.v_head_dim,
        }
    grouped = mixer.kv_heads != mixer.heads
    return {
        "--group-query-attention": grouped,
        "--num-query-groups": mixer.kv_heads if grouped else None,
        "--kv-channels": mixer.head_dim,
        "--qk-layernorm": bool(mixer.norms),
        "--add-qkv-bias": mixer.q_bias and not mixer.out_bias,
    }


def _epsilon(config: Mapping[str, Any]) -> float | None:
    names = ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps", "norm_eps")
    return next((float(config[n]) for n in names if config.get(n) is not None), None)


def _positions(model: Model, notes: list[str]) -> dict[str, Any]:
    mixer, config = model.attention, model.config
    if isinstance(mixer, Attention) and mixer.position == "learned":
        return {"--position-embedding-type": "learned_absolute"}
    told = {**config, **(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    kind = told.get("rope_type", told.get("type", "default"))
    options: dict[str, Any] = {"--position-embedding-type": "rope"}
    if told.get("rope_theta") is not None:
        options["--rotary-base"] = int(told["rope_theta"])
    if told.get("partial_rotary_factor") is not None:
        options["--rotary-percent"] = float(told["partial_rotary_factor"])
    if isinstance(mixer, LatentAttention) and told.get("factor") is not None:
        options["--rope-type"] = "yarn" if kind == "yarn" else "rope"
        options["--rotary-scaling-factor"] = float(told["factor"]) if kind == "yarn" else None
    elif kind == "llama3":
        options.update({"--use-rope-scaling": True, "--rope-scaling-factor": float(told["factor"])})
    elif kind not in ("default", None):
        notes.append(f"rotary positions scaled by {kind!r} are not written: the options here know llama3 and yarn")
    return options


def _experts(model: Model, experts: MoE, notes: list[str]) -> dict[str, Any]:
    config, blocks = model.config, model.network.blocks
    pattern = [isinstance(b.ffn, MoE) for b in blocks]
    dense = pattern.index(True)
    if not all(pattern[dense:]):
        notes.append("mixtures of experts are not in every layer: say where with --moe-layer-freq")
    options: dict[str, Any] = {
        "--num-experts": experts.experts,
        "--moe-router-topk": experts.top_k,
        "--moe-ffn-hidden-size": experts.expert.intermediate,
        "--moe-shared-expert-intermediate-size": experts.shared.intermediate if experts.shared else None,
        "--moe-shared-expert-gate": experts.shared_gate,
        "--moe-layer-freq": f"([0]*{dense}+[1]*{len(blocks) - dense})" if dense else None,
        "--moe-grouped-gemm": True,
        "--moe-token-dispatcher-type": "alltoall",
        "--moe-router-load-balancing-type": "aux_loss",
    }
    if config.get("scoring_func") == "sigmoid":
        options.update({
            "--moe-router-score-function": "sigmoid",
            "--moe-router-enable-expert-bias": True,
            "--moe-router-load-balancing-type": "seq_aux_loss",
        })  # fmt: skip
    if int(config.get("n_group") or 1) > 1:
        options["--moe-router-num-groups"] = int(config["n_group"])
        options["--moe-router-group-topk"] = int(config.get("topk_group") or 1)
    if float(config.get("routed_scaling_factor") or 1.0) != 1.0:
        options["--moe-router-topk-scaling-factor"] = float(config["routed_scaling_factor"])
    return options
