"""Decoders with gated MLPs and rotary positions: LLaMA and its dense relatives.

Defaults of missing keys are those of the reference classes in transformers 4.57 (InternLM and Qwen-1: of the code
published with the weights).
"""

from __future__ import annotations

from collections.abc import Callable

from windtunnel.models.families.common import (
    MAX_HEADS,
    Heads,
    attention,
    causal_lm,
    divided,
    head_norms,
    read_heads,
    rms,
    stack,
    wide_norms,
    windows,
)
from windtunnel.models.network import MLP, Block, Network, Norm, Position
from windtunnel.models.reader import Reader


def gated_mlp(r: Reader, hidden: int, default: int, bias: bool = False, key: str = "intermediate_size") -> MLP:
    act = r.word("hidden_act", "hidden_activation", default="silu")
    return MLP(hidden, r.needed(key, default=default), True, bias, act)


def _dense(
    r: Reader,
    *,
    hidden: int = 4096,
    layers: int = 32,
    width: int = 11008,
    vocab: int = 32000,
    heads: int = 32,
    kv: int | None = None,
    positions: int = 2048,
    qkv_bias: bool = False,
    out_bias: bool = False,
    mlp_bias: bool = False,
    window: int | None = None,
) -> Network:
    """LLaMA's layout; the sizes are the class defaults, the biases and the window are as read."""
    size = r.needed("hidden_size", default=hidden)
    count = r.layers("num_hidden_layers", default=layers)
    mixer = attention(size, read_heads(r, size, heads, kv), bias=qkv_bias, out_bias=out_bias, window=window)
    return causal_lm(
        r,
        hidden=size,
        vocab=r.needed("vocab_size", default=vocab),
        blocks=(Block(mixer, gated_mlp(r, size, width, mlp_bias), rms(size)),) * count,
        final_norm=Norm(size),
        tied=False,
        max_positions=r.size("max_position_embeddings", default=positions),
    )


def llama(r: Reader) -> Network:
    bias = r.flag("attention_bias", False)
    return _dense(r, qkv_bias=bias, out_bias=bias, mlp_bias=r.flag("mlp_bias", False))


def mistral(r: Reader) -> Network:
    """Mistral: a missing ``sliding_window`` is 4,096 tokens, a null one is none."""
    window = r.optional("sliding_window") if r.has("sliding_window") else 4096
    return _dense(r, width=14336, kv=8, positions=131072, window=window)


def phi3(r: Reader) -> Network:
    return _dense(r, hidden=3072, width=8192, vocab=32064, positions=4096, window=r.optional("sliding_window"))


def internlm(r: Reader) -> Network:
    """InternLM: ``bias`` (default true) is on all four attention projections."""
    bias = r.flag("bias", True)
    return _dense(r, vocab=103168, qkv_bias=bias, out_bias=bias)


def internlm2(r: Reader) -> Network:
    """InternLM2: ``bias`` (default true) is on the joint query-key-value and the output projection."""
    bias = r.flag("bias", True)
    return _dense(r, vocab=103168, qkv_bias=bias, out_bias=bias)


def qwen(r: Reader) -> Network:
    """Qwen-1: ``intermediate_size`` is both halves of the gated MLP together; query, key and value have biases."""
    hidden = r.needed("hidden_size", default=4096)
    layers = r.layers("num_hidden_layers", default=32)
    heads = r.needed("num_attention_heads", default=32, high=MAX_HEADS)
    dim = r.optional("kv_channels") or divided(r, "num_attention_heads", hidden, heads)
    width = r.needed("intermediate_size", default=22016)
    if width % 2:
        raise r.error("intermediate_size", width, "an even number (both halves of the gated MLP)")
    bias = not r.flag("no_bias", True)
    mixer = attention(hidden, Heads(heads, heads, dim), bias=True, out_bias=bias)
    mlp = MLP(hidden, width // 2, True, bias, "silu")
    return causal_lm(
        r,
        hidden=hidden,
        vocab=r.needed("vocab_size", default=151936),
        blocks=(Block(mixer, mlp, rms(hidden)),) * layers,
        final_norm=Norm(hidden),
        tied=False,
        max_positions=r.optional("max_position_embeddings", "seq_length"),
    )


def qwen_windows(r: Reader, layers: int) -> list[int | None]:
    """Qwen's windows: only with ``use_sliding_window``, and from layer ``max_window_layers`` (default 28) on."""
    first = r.size("max_window_layers", default=28, low=0)
    use = r.flag("use_sliding_window", False)
    window = r.optional("sliding_window") if r.has("sliding_window") else 4096
    return windows(r, layers, window if use else None, lambda i: i >= first)


def _qwen(r: Reader, *, qk_norm: bool, qkv_bias: bool, out_bias: bool, dim: int | None) -> Network:
    hidden = r.needed("hidden_size", default=4096)
    layers = r.layers("num_hidden_layers", default=32)
    heads = read_heads(r, hidden, 32, kv=32, dim=dim)
    mlp = gated_mlp(r, hidden, 22016)
    norms = head_norms(heads) if qk_norm else ()

    def build(window: int | None) -> Block:
        mixer = attention(hidden, heads, bias=qkv_bias, out_bias=out_bias, norms=norms, window=window)
        return Block(mixer, mlp, rms(hidden))

    return causal_lm(
        r,
        hidden=hidden,
        vocab=r.needed("vocab_size", default=151936),
        blocks=stack(qwen_windows(r, layers), build),
        final_norm=Norm(hidden),
        tied=False,
        max_positions=r.size("max_position_embeddings", default=32768),
    )


def qwen2(r: Reader) -> Network:
    return _qwen(r, qk_norm=False, qkv_bias=True, out_bias=False, dim=None)


def qwen3(r: Reader) -> Network:
    bias = r.flag("attention_bias", False)
    return _qwen(r, qk_norm=True, qkv_bias=bias, out_bias=bias, dim=128)


def olmo2(r: Reader) -> Network:
    """OLMo 2: norms after attention and MLP instead of before, and over all channels of queries and keys."""
    hidden = r.needed("hidden_size", default=4096)
    layers = r.layers("num_hidden_layers", default=32)
    heads = read_heads(r, hidden, 32)
    bias = r.flag("attention_bias", False)
    mixer = attention(hidden, heads, bias=bias, out_bias=bias, norms=wide_norms(heads))
    return causal_lm(
        r,
        hidden=hidden,
        vocab=r.needed("vocab_size", default=50304),
        blocks=(Block(mixer, gated_mlp(r, hidden, 11008), rms(hidden)),) * layers,
        final_norm=Norm(hidden),
        tied=False,
        max_positions=r.size("max_position_embeddings", default=2048),
    )


def _gemma(r: Reader, *, vocab: int, positions: int, qk_norm: bool, slides: Callable[[int], bool]) -> Network:
    """Gemma 2 and 3: norms before and after attention and MLP; the class default of the window is 4,096 tokens."""
    hidden = r.needed("hidden_size", default=2304)
    layers = r.layers("num_hidden_layers", default=26)
    heads = read_heads(r, hidden, 8, kv=4, dim=256)
    bias = r.flag("attention_bias", False)
    act = r.word("hidden_activation", default="gelu_pytorch_tanh")
    mlp = MLP(hidden, r.needed("intermediate_size", default=9216), True, False, act)
    window = r.optional("sliding_window") if r.has("sliding_window") else 4096

    def build(size: int | None) -> Block:
        norms = head_norms(heads) if qk_norm else ()
        return Block(attention(hidden, heads, bias=bias, out_bias=bias, norms=norms, window=size), mlp, rms(hidden, 4))

    return causal_lm(
        r,
        hidden=hidden,
        vocab=r.needed("vocab_size", default=vocab),
        blocks=stack(windows(r, layers, window, slides), build),
        final_norm=Norm(hidden),
        tied=True,
        max_positions=r.size("max_position_embeddings", default=positions),
    )


def gemma2(r: Reader) -> Network:
    """Gemma 2: every other layer slides, the first one included."""
    return _gemma(r, vocab=256000, positions=8192, qk_norm=False, slides=lambda i: i % 2 == 0)


def gemma3_text(r: Reader) -> Network:
    """Gemma 3's language model: all but every sixth layer slide."""
    pattern = r.size("sliding_window_pattern", "_sliding_window_pattern", default=6)
    return _gemma(r, vocab=262208, positions=131072, qk_norm=True, slides=lambda i: (i + 1) % pattern != 0)


def cohere(r: Reader) -> Network:
    """Command-R: parallel blocks with one scale-only LayerNorm, tied tables, optional query and key norms."""
    hidden = r.needed("hidden_size", default=8192)
    layers = r.layers("num_hidden_layers", default=40)
    heads = read_heads(r, hidden, 64)
    bias = r.flag("attention_bias", False)
    norms = wide_norms(heads) if r.flag("use_qk_norm", False) else ()
    mixer = attention(hidden, heads, bias=bias, out_bias=bias, norms=norms)
    return causal_lm(
        r,
        hidden=hidden,
        vocab=r.needed("vocab_size", default=256000),
        blocks=(Block(mixer, gated_mlp(r, hidden, 22528), rms(hidden, 1), parallel=True),) * layers,
        final_norm=Norm(hidden),
        tied=True,
        max_positions=r.size("max_position_embeddings", default=8192),
    )


def cohere2(r: Reader) -> Network:
    """Command-A and Command-R7B: three sliding layers with rotary positions, then a full one without positions."""
    hidden = r.needed("hidden_size", default=8192)
    layers = r.layers("num_hidden_layers", default=40)
    heads = read_heads(r, hidden, 64)
    bias = r.flag("attention_bias", False)
    mlp = gated_mlp(r, hidden, 22528)
    pattern = r.size("sliding_window_pattern", "_sliding_window_pattern", default=4)
    window = r.optional("sliding_window") if r.has("sliding_window") else 4096

    def build(size: int | None) -> Block:
        position: Position = "rope" if size else "none"
        mixer = attention(hidden, heads, bias=bias, out_bias=bias, window=size, position=position)
        return Block(mixer, mlp, rms(hidden, 1), parallel=True)

    return causal_lm(
        r,
        hidden=hidden,
        vocab=r.needed("vocab_size", default=256000),
        blocks=stack(windows(r, layers, window, lambda i: (i + 1) % pattern != 0), build),
        final_norm=Norm(hidden),
        tied=True,
        max_positions=r.size("max_position_embeddings", default=8192),
    )
