"""Encoders and encoder-decoders: BERT, T5, Switch Transformers, Whisper, ViT, DiT.

Defaults of missing keys are those of the reference classes in transformers 4.57; DiT follows the code published with
arXiv 2212.09748. Encoder attention looks both ways; relative-position tables are counted outside the layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from windtunnel.models.families.common import (
    MAX_HEADS,
    Heads,
    attention,
    divided,
    layer_norms,
    read_experts,
    read_heads,
    read_moe,
    rms,
    stack,
)
from windtunnel.models.network import MLP, Block, FeedForward, Network, Norm
from windtunnel.models.reader import MAX_LAYERS, Reader

_BERT_HEADS = ("BertForMaskedLM", "BertLMHeadModel", "BertForPreTraining")


def bert(r: Reader) -> Network:
    """BERT. With a language-modelling class in ``architectures`` its head is counted, else the bare model's pooler."""
    hidden = r.needed("hidden_size", default=768)
    layers = r.layers("num_hidden_layers", default=12)
    vocab = r.needed("vocab_size", default=30522)
    positions = r.size("max_position_embeddings", default=512)
    heads = r.needed("num_attention_heads", default=12, high=MAX_HEADS)
    shape = Heads(heads, heads, divided(r, "num_attention_heads", hidden, heads))
    mixer = attention(hidden, shape, bias=True, out_bias=True, position="learned", causal=False)
    mlp = MLP(hidden, r.needed("intermediate_size", default=3072), False, True, r.word("hidden_act", default="gelu"))
    tables = vocab + positions + r.size("type_vocab_size", default=2)
    stated = r.data.get("architectures")
    name = stated[0] if isinstance(stated, list | tuple) and stated else ""
    has_head = name in _BERT_HEADS
    tied = r.flag("tie_word_embeddings", True)
    dense = hidden * hidden + hidden
    other = 0 if has_head and name != "BertForPreTraining" else dense
    if has_head:
        other += dense + 2 * hidden + (2 * hidden + 2 if name == "BertForPreTraining" else 0)
    counted = "language-modelling head counted" if has_head else "bare model with its pooler, without a head"
    return Network(
        name=r.where,
        model_type="",
        hidden_size=hidden,
        vocab_size=vocab,
        blocks=(Block(mixer, mlp, layer_norms(hidden)),) * layers,
        embedding_parameters=tables * hidden + 2 * hidden,
        head_parameters=(vocab + (0 if tied else vocab * hidden)) if has_head else 0,
        other_parameters=other,
        has_head=has_head,
        tied=tied,
        max_positions=positions,
        notes={"scope": counted},
        extra_flops_per_token=2.0 * hidden * hidden if has_head else 0.0,
    )


def _t5_blocks(r: Reader, hidden: int, encoder: list[FeedForward], decoder: list[FeedForward]) -> Network:
    heads = r.needed("num_heads", "num_attention_heads", default=8, high=MAX_HEADS)
    shape = Heads(heads, heads, r.size("d_kv", default=64, high=2**20))
    vocab = r.needed("vocab_size", default=32128)
    both = attention(hidden, shape, causal=False, position="relative")
    causal = attention(hidden, shape, position="relative")
    cross = attention(hidden, shape, causal=False, cross=True, position="none")
    buckets = r.size("relative_attention_num_buckets", default=32)
    tied = r.flag("tie_word_embeddings", True)
    return Network(
        name=r.where,
        model_type="",
        hidden_size=hidden,
        vocab_size=vocab,
        blocks=stack(decoder, lambda ffn: Block(causal, ffn, rms(hidden, 3), cross=cross)),
        embedding_parameters=vocab * hidden,
        head_parameters=0 if tied else vocab * hidden,
        other_parameters=2 * buckets * heads + 2 * hidden,
        encoder=stack(encoder, lambda ffn: Block(both, ffn, rms(hidden))),
        tied=tied,
    )


def _t5_mlp(r: Reader, hidden: int) -> MLP:
    """``feed_forward_proj`` is an activation, or ``gated-`` and an activation."""
    words = r.word("feed_forward_proj", default="relu")
    gated = words.startswith("gated-")
    return MLP(hidden, r.needed("d_ff", default=2048), gated, False, words.removeprefix("gated-"))


def t5(r: Reader) -> Network:
    hidden = r.needed("d_model", "hidden_size", default=512)
    layers = r.layers("num_layers", "num_hidden_layers", default=6)
    mlp = _t5_mlp(r, hidden)
    decoder = r.size("num_decoder_layers", default=layers, high=MAX_LAYERS)
    return _t5_blocks(r, hidden, [mlp] * layers, [mlp] * decoder)


def switch_transformers(r: Reader) -> Network:
    """Switch Transformers: T5 whose every n-th feed-forward part is a mixture with one expert a token."""
    hidden = r.needed("d_model", "hidden_size", default=768)
    layers = r.layers("num_layers", "num_hidden_layers", default=12)
    decoder_layers = r.size("num_decoder_layers", default=layers, high=MAX_LAYERS)
    mlp = _t5_mlp(r, hidden)
    experts = read_experts(r, "num_experts", default=8)
    top_k = r.size("num_experts_per_tok", default=1)
    moe = read_moe(r, mlp, experts, top_k, router_bias=r.flag("router_bias", False))

    def parts(count: int, sparse: Callable[[int], bool]) -> list[FeedForward]:
        return [moe if sparse(i) else mlp for i in range(count)]

    encoder = parts(layers, _every(r, "num_sparse_encoder_layers", layers))
    decoder = parts(decoder_layers, _every(r, "num_sparse_decoder_layers", decoder_layers))
    return _t5_blocks(r, hidden, encoder, decoder)


def _every(r: Reader, key: str, layers: int) -> Callable[[int], bool]:
    """Which of ``layers`` are mixtures when ``key`` of them are: the reference class spreads them with a whole step.

    As there, none asked for still makes layer 1 one, and a step of 0 (more mixtures than layers) makes none.
    """
    count = r.size(key, default=3, low=0)
    step = layers // count if count else layers
    return lambda i: step == 1 or (step > 0 and i % step == 1)


def whisper(r: Reader) -> Network:
    """Whisper: two convolutions (the second halves the length) before the encoder; keys have no bias."""
    hidden = r.needed("d_model", "hidden_size", default=384)
    vocab = r.needed("vocab_size", default=51865)
    mels = r.size("num_mel_bins", default=80, high=2**20)
    source = r.size("max_source_positions", default=1500)
    target = r.size("max_target_positions", default=448)
    act = r.word("activation_function", default="gelu")

    def part(name: str, causal: bool, cross: bool = False) -> Block:
        heads = r.needed(f"{name}_attention_heads", default=6, high=MAX_HEADS)
        shape = Heads(heads, heads, divided(r, f"{name}_attention_heads", hidden, heads))
        mixer = attention(hidden, shape, out_bias=True, causal=causal, position="learned", extra_parameters=hidden)
        mixer = replace(mixer, q_bias=True)
        mlp = MLP(hidden, r.needed(f"{name}_ffn_dim", default=1536), False, True, act)
        other = replace(mixer, causal=False, cross=True, position="none") if cross else None
        return Block(mixer, mlp, layer_norms(hidden, 3 if cross else 2), cross=other)

    encoder = (part("encoder", False),) * r.layers("encoder_layers", default=4)
    decoder = (part("decoder", True, True),) * r.layers("decoder_layers", default=4)
    tied = r.flag("tie_word_embeddings", True)
    kernel = 3
    stem = kernel * mels * hidden + hidden + kernel * hidden * hidden + hidden
    return Network(
        name=r.where,
        model_type="",
        hidden_size=hidden,
        vocab_size=vocab,
        blocks=decoder,
        embedding_parameters=vocab * hidden + (source + target) * hidden + stem,
        head_parameters=0 if tied else vocab * hidden,
        other_parameters=2 * 2 * hidden,
        encoder=encoder,
        tied=tied,
        max_positions=target,
        notes={"encoder": f"{source} encoder positions; their fixed table is counted"},
        extra_flops_per_token=2.0 * kernel * (2 * mels * hidden + hidden * hidden),
    )


def vit(r: Reader) -> Network:
    """ViT with its classifier; a token is an image patch. The classifier runs once an image, so it is not a head."""
    hidden = r.needed("hidden_size", default=768)
    layers = r.layers("num_hidden_layers", default=12)
    heads = read_heads(r, hidden, 12)
    patch = r.size("patch_size", default=16, high=65536)
    side = r.size("image_size", default=224, high=2**20) // patch
    labels = r.size("num_labels", default=len(r.sub("id2label").data) or 2)
    projection = r.size("num_channels", default=3, high=65536) * patch * patch * hidden
    mixer = attention(hidden, heads, bias=r.flag("qkv_bias", True), out_bias=True, position="learned", causal=False)
    mlp = MLP(hidden, r.needed("intermediate_size", default=3072), False, True, r.word("hidden_act", default="gelu"))
    return Network(
        name=r.where,
        model_type="",
        hidden_size=hidden,
        vocab_size=labels,
        blocks=(Block(mixer, mlp, layer_norms(hidden)),) * layers,
        embedding_parameters=projection + hidden + hidden + (side * side + 1) * hidden,
        head_parameters=0,
        other_parameters=2 * hidden + (hidden + 1) * labels,
        has_head=False,
        max_positions=side * side + 1,
        notes={"scope": f"with a classifier of {labels} labels, which runs once an image"},
        extra_flops_per_token=2.0 * projection,
    )


def dit(r: Reader) -> Network:
    """DiT (arXiv 2212.09748): transformer blocks over latent patches, modulated by the time step and the class.

    The modulation's projections (adaLN, six vectors a block) run once an image; they are counted as parameters only.
    """
    hidden = r.needed("hidden_size", default=1152)
    layers = r.layers("num_hidden_layers", default=28)
    heads = read_heads(r, hidden, 16)
    patch = r.size("patch_size", default=2, high=65536)
    side = r.size("input_size", "sample_size", default=32, high=2**20) // patch
    channels = r.size("in_channels", default=4, high=65536)
    sigma = 2 if r.flag("learn_sigma", True) else 1
    out = patch * patch * r.size("out_channels", default=channels * sigma, high=2**20)
    classes = r.size("num_classes", default=1000) + (r.real("class_dropout_prob", 0.1, high=1.0) > 0)
    frequencies = r.size("frequency_embedding_size", default=256)
    modulation = 6 * (hidden * hidden + hidden)
    mixer = attention(
        hidden, heads, bias=True, out_bias=True, position="learned", causal=False, extra_parameters=modulation
    )
    mlp = MLP(hidden, r.scaled("mlp_ratio", hidden, 4.0), False, True, "gelu")
    projection = patch * patch * channels * hidden
    conditioning = (frequencies + 1 + hidden + 1) * hidden + classes * hidden
    return Network(
        name=r.where,
        model_type="",
        hidden_size=hidden,
        vocab_size=out,
        blocks=(Block(mixer, mlp, (Norm(hidden, 0), Norm(hidden, 0))),) * layers,
        embedding_parameters=projection + hidden + side * side * hidden + conditioning,
        head_parameters=(hidden + 1) * out,
        other_parameters=2 * (hidden * hidden + hidden),
        max_positions=side * side,
        notes={"scope": "fixed position table counted; modulation (adaLN) runs once an image and counts no FLOPs"},
        extra_flops_per_token=2.0 * projection,
    )
