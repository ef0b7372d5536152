"""Decoders whose feed-forward parts are mixtures of experts, with plain attention.

Defaults of missing keys are those of the reference classes in transformers 4.57 (MiniMax-M2: 5.23).
"""

from __future__ import annotations

from dataclasses import replace

from windtunnel.models.families.common import (
    MAX_HEADS,
    Heads,
    attention,
    causal_lm,
    check_groups,
    divided,
    head_norms,
    is_sparse,
    read_experts,
    read_heads,
    read_moe,
    rms,
    stack,
    wide_norms,
    windows,
)
from windtunnel.models.families.gpt import gpt2
from windtunnel.models.families.llama import gated_mlp, qwen_windows
from windtunnel.models.network import MLP, Block, Network, Norm
from windtunnel.models.reader import Reader


def read_top_k(r: Reader, default: int, *keys: str) -> int:
    return r.needed(*(keys or ("num_experts_per_tok",)), default=default)


def mixtral(r: Reader) -> Network:
    hidden = r.needed("hidden_size", default=4096)
    layers = r.layers("num_hidden_layers", default=32)
    mixer = attention(hidden, read_heads(r, hidden, 32, kv=8), window=r.optional("sliding_window"))
    experts = read_experts(r, "num_local_experts", "num_experts", default=8)
    moe = read_moe(r, gated_mlp(r, hidden, 14336), experts, read_top_k(r, 2))
    return causal_lm(
        r,
        hidden=hidden,
        vocab=r.needed("vocab_size", default=32000),
        blocks=(Block(mixer, moe, rms(hidden)),) * layers,
        final_norm=Norm(hidden),
        tied=False,
        max_positions=r.size("max_position_embeddings", default=131072),
    )


def gpt_moe(r: Reader) -> Network:
    """GPT-2 with experts in place of the MLPs of every ``decoder_sparse_step``-th layer (GShard's and DeepSpeed-MoE's
    decoders; the key names are this package's)."""
    dense = gpt2(r)
    experts = read_experts(r, "num_experts", default=8)
    mlp = dense.blocks[0].ffn
    assert isinstance(mlp, MLP)
    moe, sparse = read_moe(r, mlp, experts, read_top_k(r, 1)), is_sparse(r)
    blocks = stack(map(sparse, range(dense.layers)), lambda s: replace(dense.blocks[0], ffn=moe if s else mlp))
    return replace(dense, blocks=blocks)


def qwen2_moe(r: Reader) -> Network:
    """Qwen1.5-MoE and Qwen2-MoE: a shared expert behind a learned gate; some layers may stay dense."""
    hidden = r.needed("hidden_size", default=2048)
    layers = r.layers("num_hidden_layers", default=24)
    heads = read_heads(r, hidden, 16, kv=16)
    bias = r.flag("qkv_bias", True)
    dense = gated_mlp(r, hidden, 5632)
    expert = gated_mlp(r, hidden, 1408, key="moe_intermediate_size")
    shared = gated_mlp(r, hidden, 5632, key="shared_expert_intermediate_size")
    experts = read_experts(r, "num_experts", default=60)
    moe = read_moe(r, expert, experts, read_top_k(r, 4), shared=shared, shared_gate=True)
    sparse = is_sparse(r)

    def build(kind: tuple[int | None, bool]) -> Block:
        window, is_moe = kind
        return Block(attention(hidden, heads, bias=bias, window=window), moe if is_moe else dense, rms(hidden))

    kinds = [(window, sparse(i)) for i, window in enumerate(qwen_windows(r, layers))]
    return causal_lm(
        r,
        hidden=hidden,
        vocab=r.needed("vocab_size", default=151936),
        blocks=stack(kinds, build),
        final_norm=Norm(hidden),
        tied=False,
        max_positions=r.size("max_position_embeddings", default=32768),
    )


def qwen3_moe(r: Reader) -> Network:
    """Qwen3-MoE: no shared expert; with ``use_sliding_window`` every layer slides."""
    hidden = r.needed("hidden_size", default=2048)
    layers = r.layers("num_hidden_layers", default=24)
    heads = read_heads(r, hidden, 32, kv=4)
    bias = r.flag("attention_bias", False)
    window = r.optional("sliding_window") if r.has("sliding_window") else 4096
    if not r.flag("use_sliding_window", False):
        window = None
    mixer = attention(hidden, heads, bias=bias, out_bias=bias, norms=head_norms(heads), window=window)
    expert = gated_mlp(r, hidden, 768, key="moe_intermediate_size")
    moe = read_moe(r, expert, read_experts(r, "num_experts", default=128), read_top_k(r, 8))
    sparse, dense = is_sparse(r), gated_mlp(r, hidden, 6144)
    return causal_lm(
        r,
        hidden=hidden,
        vocab=r.needed("vocab_size", default=151936),
        blocks=stack(map(sparse, range(layers)), lambda s: Block(mixer, moe if s else dense, rms(hidden))),
        final_norm=Norm(hidden),
        tied=False,
        max_positions=r.size("max_position_embeddings", default=32768),
    )


def glm4_moe(r: Reader) -> Network:
    """GLM-4.5: the first layers dense, then routed and shared experts; the router's correction bias is counted."""
    hidden = r.needed("hidden_size", default=4096)
    layers = r.layers("num_hidden_layers", default=46)
    heads = read_heads(r, hidden, 96, kv=8)
    norms = head_norms(heads) if r.flag("use_qk_norm", False) else ()
    mixer = attention(hidden, heads, bias=r.flag("attention_bias", False), norms=norms)
    expert = gated_mlp(r, hidden, 1408, key="moe_intermediate_size")
    shared = MLP(hidden, expert.intermediate * r.size("n_shared_experts", default=1, high=1024), True)
    experts = read_experts(r, "n_routed_experts", default=128)
    moe = read_moe(r, expert, experts, read_top_k(r, 8), shared=shared, router_bias=True)
    first, dense = r.size("first_k_dense_replace", default=1, low=0), gated_mlp(r, hidden, 10944)
    return causal_lm(
        r,
        hidden=hidden,
        vocab=r.needed("vocab_size", default=151552),
        blocks=stack((i >= first for i in range(layers)), lambda s: Block(mixer, moe if s else dense, rms(hidden))),
        final_norm=Norm(hidden),
        tied=False,
        max_positions=r.size("max_position_embeddings", default=131072),
        notes=mtp_note(r),
    )


def mtp_note(r: Reader) -> dict[str, str]:
    """A note where the checkpoint also holds multi-token-prediction layers, which are outside the main model."""
    count = r.size("num_nextn_predict_layers", default=0, low=0, high=1000)
    return {"mtp": f"{count} multi-token-prediction layer(s) of the checkpoint are not counted"} if count else {}


def gpt_oss(r: Reader) -> Network:
    """gpt-oss: a sink logit a head, biases everywhere, sliding and full layers in turn."""
    hidden = r.needed("hidden_size", default=2880)
    layers = r.layers("num_hidden_layers", default=36)
    heads = read_heads(r, hidden, 64, kv=8, dim=64)
    bias = r.flag("attention_bias", True)
    expert = gated_mlp(r, hidden, 2880, bias=True)
    experts = read_experts(r, "num_local_experts", "num_experts", default=128)
    moe = read_moe(r, expert, experts, read_top_k(r, 4, "num_experts_per_tok", "experts_per_token"), router_bias=True)
    window = r.optional("sliding_window") if r.has("sliding_window") else 128

    def build(size: int | None) -> Block:
        return Block(attention(hidden, heads, bias=bias, out_bias=bias, window=size, sinks=True), moe, rms(hidden))

    return causal_lm(
        r,
        hidden=hidden,
        vocab=r.needed("vocab_size", default=201088),
        blocks=stack(windows(r, layers, window, lambda i: i % 2 == 0), build),
        final_norm=Norm(hidden),
        tied=False,
        max_positions=r.size("max_position_embeddings", default=131072),
    )


def dbrx(r: Reader) -> Network:
    """DBRX: scale-only LayerNorms; heads and experts are described in ``attn_config`` and ``ffn_config``."""
    hidden = r.needed("d_model", "hidden_size", default=2048)
    layers = r.layers("n_layers", "num_hidden_layers", default=24)
    heads = r.needed("n_heads", "num_attention_heads", default=16, high=MAX_HEADS)
    attn, ffn = r.sub("attn_config"), r.sub("ffn_config")
    kv = attn.size("kv_n_heads", default=1, high=MAX_HEADS)
    check_groups(attn, heads, kv, "kv_n_heads")
    mixer = attention(hidden, Heads(heads, kv, divided(r, "n_heads", hidden, heads)))
    expert = MLP(hidden, ffn.size("ffn_hidden_size", default=3584), True)
    experts = read_experts(ffn, "moe_num_experts", default=4)
    moe = read_moe(ffn, expert, experts, ffn.size("moe_top_k", default=1), top_k_key="moe_top_k")
    return causal_lm(
        r,
        hidden=hidden,
        vocab=r.needed("vocab_size", default=32000),
        blocks=(Block(mixer, moe, rms(hidden)),) * layers,
        final_norm=Norm(hidden),
        tied=False,
        max_positions=r.size("max_seq_len", "max_position_embeddings", default=2048),
    )


def minimax_m2(r: Reader) -> Network:
    """MiniMax-M2: query and key norms over all heads' channels; the router's correction bias is counted."""
    hidden = r.needed("hidden_size", default=3072)
    layers = r.layers("num_hidden_layers", default=62)
    heads = read_heads(r, hidden, 48, kv=8, dim=128)
    norms = wide_norms(heads) if r.flag("use_qk_norm", True) else ()
    experts = read_experts(r, "num_local_experts", "num_experts", default=256)
    correction = r.flag("use_routing_bias", True)
    moe = read_moe(r, gated_mlp(r, hidden, 1536), experts, read_top_k(r, 8), router_bias=correction)
    notes = {"mtp": "multi-token-prediction modules are not counted"} if r.flag("use_mtp", False) else {}
    return causal_lm(
        r,
        hidden=hidden,
        vocab=r.needed("vocab_size", default=200064),
        blocks=(Block(attention(hidden, heads, norms=norms), moe, rms(hidden)),) * layers,
        final_norm=Norm(hidden),
        tied=False,
        max_positions=r.size("max_position_embeddings", default=196608),
        notes=notes,
    )
