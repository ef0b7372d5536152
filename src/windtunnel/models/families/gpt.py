"""GPT-like decoders with plain MLPs: GPT-2, GPT-J, GPT-NeoX, OPT, BLOOM, Falcon, MPT, Phi, Nemotron-4, and PaLM.

Defaults of missing keys are those of the reference classes in transformers 4.57, and MPT's those of llm-foundry where
transformers leaves an option out.
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
    layer_norms,
    read_heads,
    rms,
    wide_norms,
)
from windtunnel.models.network import MLP, Block, Network, Norm, Position
from windtunnel.models.reader import Reader


def _mlp(r: Reader, hidden: int, width: int, key: str, activation: str) -> MLP:
    return MLP(hidden, width, gated=False, bias=True, activation=r.word(key, default=activation))


def gpt2(r: Reader) -> Network:
    hidden = r.needed("n_embd", "hidden_size", default=768)
    layers = r.layers("n_layer", "num_hidden_layers", default=12)
    heads = r.needed("n_head", "num_attention_heads", default=12, high=MAX_HEADS)
    vocab = r.needed("vocab_size", default=50257)
    positions = r.size("n_positions", "max_position_embeddings", default=1024)
    mlp = _mlp(r, hidden, r.size("n_inner", default=4 * hidden), "activation_function", "gelu_new")
    shape = Heads(heads, heads, divided(r, "n_head", hidden, heads))
    mixer = attention(hidden, shape, bias=True, out_bias=True, position="learned")
    return causal_lm(
        r,
        hidden=hidden,
        vocab=vocab,
        blocks=(Block(mixer, mlp, layer_norms(hidden)),) * layers,
        final_norm=Norm(hidden, 2),
        tied=True,
        embedding_extra=positions * hidden,
        max_positions=positions,
    )


def gptj(r: Reader) -> Network:
    hidden = r.needed("n_embd", "hidden_size", default=4096)
    layers = r.layers("n_layer", "num_hidden_layers", default=28)
    heads = r.needed("n_head", "num_attention_heads", default=16, high=MAX_HEADS)
    mlp = _mlp(r, hidden, r.size("n_inner", default=4 * hidden), "activation_function", "gelu_new")
    mixer = attention(hidden, Heads(heads, heads, divided(r, "n_head", hidden, heads)))
    return causal_lm(
        r,
        hidden=hidden,
        vocab=r.needed("vocab_size", default=50400),
        blocks=(Block(mixer, mlp, layer_norms(hidden, 1), parallel=True),) * layers,
        final_norm=Norm(hidden, 2),
        tied=False,
        head_bias=True,
        max_positions=r.size("n_positions", "max_position_embeddings", default=2048),
    )


def gpt_neox(r: Reader) -> Network:
    hidden = r.needed("hidden_size", default=6144)
    layers = r.layers("num_hidden_layers", default=44)
    heads = r.needed("num_attention_heads", default=64, high=MAX_HEADS)
    bias = r.flag("attention_bias", True)
    shape = Heads(heads, heads, divided(r, "num_attention_heads", hidden, heads))
    mixer = attention(hidden, shape, bias=bias, out_bias=bias)
    mlp = _mlp(r, hidden, r.needed("intermediate_size", default=24576), "hidden_act", "gelu")
    parallel = r.flag("use_parallel_residual", True)
    return causal_lm(
        r,
        hidden=hidden,
        vocab=r.needed("vocab_size", default=50432),
        blocks=(Block(mixer, mlp, layer_norms(hidden), parallel=parallel),) * layers,
        final_norm=Norm(hidden, 2),
        tied=False,
        max_positions=r.size("max_position_embeddings", default=2048),
    )


def opt(r: Reader) -> Network:
    """OPT. Its position table has two rows more than positions; OPT-350m's token table is narrower than its layers."""
    hidden = r.needed("hidden_size", default=768)
    layers = r.layers("num_hidden_layers", default=12)
    heads = r.needed("num_attention_heads", default=12, high=MAX_HEADS)
    vocab = r.needed("vocab_size", default=50272)
    positions = r.size("max_position_embeddings", default=2048)
    width = r.size("word_embed_proj_dim", default=hidden)
    bias = r.flag("enable_bias", True)
    norm = Norm(hidden, 2 if r.flag("layer_norm_elementwise_affine", True) else 0)
    final = r.flag("do_layer_norm_before", True) and not r.flag("_remove_final_layer_norm", False)
    shape = Heads(heads, heads, divided(r, "num_attention_heads", hidden, heads))
    mixer = attention(hidden, shape, bias=bias, out_bias=bias, position="learned")
    mlp = MLP(hidden, r.needed("ffn_dim", default=3072), False, bias, r.word("activation_function", default="relu"))
    projections = 2 * width * hidden if width != hidden else 0
    network = causal_lm(
        r,
        hidden=width,
        vocab=vocab,
        blocks=(Block(mixer, mlp, (norm, norm)),) * layers,
        final_norm=norm if final else None,
        tied=True,
        embedding_extra=(positions + 2) * hidden,
        other=projections,
        max_positions=positions,
    )
    narrow = width if projections else None
    return replace(network, hidden_size=hidden, head_width=narrow, extra_flops_per_token=2.0 * projections)


def bloom(r: Reader) -> Network:
    hidden = r.needed("hidden_size", "n_embed", default=64)
    layers = r.layers("n_layer", "num_hidden_layers", default=2)
    heads = r.needed("n_head", "num_attention_heads", default=8, high=MAX_HEADS)
    shape = Heads(heads, heads, divided(r, "n_head", hidden, heads))
    mixer = attention(hidden, shape, bias=True, out_bias=True, position="alibi")
    return causal_lm(
        r,
        hidden=hidden,
        vocab=r.needed("vocab_size", default=250880),
        blocks=(Block(mixer, MLP(hidden, 4 * hidden, False, True, "gelu"), layer_norms(hidden)),) * layers,
        final_norm=Norm(hidden, 2),
        tied=True,
        embedding_extra=2 * hidden,
        max_positions=r.optional("seq_length"),
    )


def falcon(r: Reader) -> Network:
    hidden = r.needed("hidden_size", default=4544)
    layers = r.layers("num_hidden_layers", "n_layer", default=32)
    heads = r.needed("num_attention_heads", "n_head", default=71, high=MAX_HEADS)
    new = r.flag("new_decoder_architecture", False)
    kv = r.size("num_kv_heads", default=heads, high=MAX_HEADS)
    if not new and r.flag("multi_query", True):
        kv = 1
    check_groups(r, heads, kv, "num_kv_heads")
    bias = r.flag("bias", False)
    parallel = r.flag("parallel_attn", True)
    norms = r.size("num_ln_in_parallel_attn", default=2 if new else 1, high=2) if parallel else 2
    position: Position = "alibi" if r.flag("alibi", False) else "rope"
    shape = Heads(heads, kv, divided(r, "num_attention_heads", hidden, heads))
    mixer = attention(hidden, shape, bias=bias, out_bias=bias, position=position)
    mlp = MLP(hidden, r.size("ffn_hidden_size", default=4 * hidden), False, bias, r.word("activation", default="gelu"))
    return causal_lm(
        r,
        hidden=hidden,
        vocab=r.needed("vocab_size", default=65024),
        blocks=(Block(mixer, mlp, layer_norms(hidden, norms), parallel=parallel),) * layers,
        final_norm=Norm(hidden, 2),
        tied=True,
        max_positions=r.size("max_position_embeddings", default=2048),
    )


def mpt(r: Reader) -> Network:
    """MPT. The position table exists only without ALiBi and rotary positions (llm-foundry, MPTConfig)."""
    hidden = r.needed("d_model", "hidden_size", default=2048)
    layers = r.layers("n_layers", "num_hidden_layers", default=24)
    heads = r.needed("n_heads", "num_attention_heads", default=16, high=MAX_HEADS)
    positions = r.size("max_seq_len", default=2048)
    attn, ffn = r.sub("attn_config"), r.sub("ffn_config")
    alibi, rope = attn.flag("alibi", True), attn.flag("rope", False)
    table = r.flag("learned_pos_emb", True) and not alibi and not rope
    bias = not r.flag("no_bias", True)
    rms_norm = "rms" in r.word("norm_type", default="low_precision_layernorm")
    affine = 1 if rms_norm or not bias else 2
    kind = attn.word("attn_type", default="multihead_attention")
    kv = {"multihead_attention": heads, "multiquery_attention": 1}.get(kind)
    if kv is None:
        if kind != "grouped_query_attention":
            raise attn.error("attn_type", kind, "multihead_attention, multiquery_attention or grouped_query_attention")
        kv = attn.needed("kv_n_heads", default=heads, high=MAX_HEADS)
    check_groups(attn, heads, kv, "kv_n_heads")
    window = attn.size("sliding_window_size", default=-1, low=-1)
    shape = Heads(heads, kv, divided(r, "n_heads", hidden, heads))
    mixer = attention(
        hidden,
        shape,
        bias=bias,
        out_bias=bias,
        norms=wide_norms(shape, affine) if attn.flag("qk_ln", False) else (),
        window=window if window > 0 else None,
        position="alibi" if alibi else "rope" if rope else "learned" if table else "none",
    )
    gated = ffn.word("ffn_type", default="mptmlp") == "mptglu"
    width = ffn.optional("ffn_hidden_size") or r.scaled("expansion_ratio", hidden, 4.0)
    return causal_lm(
        r,
        hidden=hidden,
        vocab=r.needed("vocab_size", default=50368),
        blocks=(Block(mixer, MLP(hidden, width, gated, bias, "gelu"), (Norm(hidden, affine),) * 2),) * layers,
        final_norm=Norm(hidden, affine),
        tied=True,
        embedding_extra=positions * hidden if table else 0,
        max_positions=positions,
    )


def phi(r: Reader) -> Network:
    hidden = r.needed("hidden_size", default=2048)
    layers = r.layers("num_hidden_layers", default=24)
    heads = read_heads(r, hidden, 32)
    norms = (Norm(heads.dim, 2),) * 2 if r.flag("qk_layernorm", False) else ()
    mlp = _mlp(r, hidden, r.needed("intermediate_size", default=8192), "hidden_act", "gelu_new")
    mixer = attention(hidden, heads, bias=True, out_bias=True, norms=norms)
    return causal_lm(
        r,
        hidden=hidden,
        vocab=r.needed("vocab_size", default=51200),
        blocks=(Block(mixer, mlp, layer_norms(hidden, 1), parallel=True),) * layers,
        final_norm=Norm(hidden, 2),
        tied=False,
        head_bias=True,
        max_positions=r.size("max_position_embeddings", default=2048),
    )


def nemotron(r: Reader) -> Network:
    """Nemotron-4: LayerNorm1p (weight and bias) and a squared ReLU without a gate."""
    hidden = r.needed("hidden_size", default=6144)
    layers = r.layers("num_hidden_layers", default=32)
    bias = r.flag("attention_bias", False)
    width = r.needed("intermediate_size", default=24576)
    mlp = MLP(hidden, width, False, r.flag("mlp_bias", False), r.word("hidden_act", default="relu2"))
    mixer = attention(hidden, read_heads(r, hidden, 48), bias=bias, out_bias=bias)
    return causal_lm(
        r,
        hidden=hidden,
        vocab=r.needed("vocab_size", default=256000),
        blocks=(Block(mixer, mlp, layer_norms(hidden)),) * layers,
        final_norm=Norm(hidden, 2),
        tied=False,
        max_positions=r.size("max_position_embeddings", default=4096),
    )


def palm(r: Reader) -> Network:
    """PaLM (arXiv 2204.02311, section 2): multi-query attention, SwiGLU, parallel blocks, no biases, tied tables."""
    hidden = r.needed("hidden_size", default=18432)
    layers = r.layers("num_hidden_layers", default=118)
    bias = r.flag("bias", False)
    gated = r.flag("gated_mlp", True)
    width = r.needed("intermediate_size", default=73728)
    mlp = MLP(hidden, width, gated, bias, r.word("hidden_act", default="silu"))
    parallel = r.flag("parallel_attn", True)
    mixer = attention(hidden, read_heads(r, hidden, 48, kv=1), bias=bias, out_bias=bias)
    return causal_lm(
        r,
        hidden=hidden,
        vocab=r.needed("vocab_size", default=256000),
        blocks=(Block(mixer, mlp, rms(hidden, 1 if parallel else 2), parallel=parallel),) * layers,
        final_norm=Norm(hidden),
        tied=True,
        max_positions=r.optional("max_position_embeddings"),
    )
