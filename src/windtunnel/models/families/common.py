"""The parts that the families share: heads, windows, norms, equal layers, and the causal language model around them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from windtunnel.models.network import MLP, Attention, Block, MoE, Network, Norm, Position
from windtunnel.models.reader import MAX_SIZE, Reader

Kind = TypeVar("Kind", bound=Hashable)
Build = Callable[[Reader], Network]

MAX_HEADS = 2**16
MAX_EXPERTS = 2**16


@dataclass(frozen=True, slots=True)
class Heads:
    """Query heads, key/value heads and channels a head."""

    heads: int
    kv: int
    dim: int


def read_heads(r: Reader, hidden: int, default: int, kv: int | None = None, dim: int | None = None) -> Heads:
    """Heads as most configurations state them; ``kv`` and ``dim`` are the class defaults of missing keys.

    A null (or, with no class default, missing) ``num_key_value_heads`` means one for each query head, and a head's size
    is then ``hidden / heads``.
    """
    heads = r.needed("num_attention_heads", default=default, high=MAX_HEADS)
    missing = heads if r.has("num_key_value_heads") or kv is None else kv
    kv_heads = r.size("num_key_value_heads", default=missing, high=MAX_HEADS)
    stated = r.optional("head_dim", high=2**20)
    if stated is None and dim is not None and not r.has("head_dim"):
        stated = dim
    head_dim = stated or divided(r, "num_attention_heads", hidden, heads)
    check_groups(r, heads, kv_heads)
    return Heads(heads, kv_heads, head_dim)


def divided(r: Reader, key: str, hidden: int, heads: int) -> int:
    """The size of a head: ``hidden / heads``, which must come out whole."""
    if hidden % heads:
        raise r.error(key, heads, f"a divisor of the hidden size {hidden} (or a stated head_dim)")
    return hidden // heads


def check_groups(r: Reader, heads: int, kv_heads: int, key: str = "num_key_value_heads") -> None:
    if heads % kv_heads:
        raise r.error(key, kv_heads, f"a divisor of the {heads} attention heads")


def attention(
    hidden: int,
    heads: Heads,
    *,
    bias: bool = False,
    out_bias: bool = False,
    norms: tuple[Norm, ...] = (),
    window: int | None = None,
    position: Position = "rope",
    chunked: bool = False,
    gated: bool = False,
    sinks: bool = False,
    causal: bool = True,
    cross: bool = False,
    extra_parameters: int = 0,
) -> Attention:
    """Attention whose query, key and value projections all have a bias or none of them has."""
    return Attention(
        hidden=hidden,
        heads=heads.heads,
        kv_heads=heads.kv,
        head_dim=heads.dim,
        v_head_dim=heads.dim,
        q_bias=bias,
        kv_bias=bias,
        out_bias=out_bias,
        norms=norms,
        window=window,
        causal=causal,
        cross=cross,
        position=position,
        gated=gated,
        sinks=sinks,
        extra_parameters=extra_parameters,
        chunked=chunked,
    )


def head_norms(heads: Heads, affine: int = 1) -> tuple[Norm, ...]:
    """Query and key norms shared by all heads (Qwen3, Gemma 3)."""
    return (Norm(heads.dim, affine), Norm(heads.dim, affine))


def wide_norms(heads: Heads, affine: int = 1) -> tuple[Norm, ...]:
    """Query and key norms over all heads' channels (OLMo 2, Command R+, MiniMax-M2)."""
    return (Norm(heads.heads * heads.dim, affine), Norm(heads.kv * heads.dim, affine))


def rms(hidden: int, count: int = 2) -> tuple[Norm, ...]:
    return (Norm(hidden),) * count


def layer_norms(hidden: int, count: int = 2) -> tuple[Norm, ...]:
    return (Norm(hidden, 2),) * count


def stack(kinds: Iterable[Kind], build: Callable[[Kind], Block]) -> tuple[Block, ...]:
    """One block a layer; equal kinds share one object, so ten thousand layers cost no more than a few."""
    made: dict[Kind, Block] = {}
    blocks: list[Block] = []
    for kind in kinds:
        if kind not in made:
            made[kind] = build(kind)
        blocks.append(made[kind])
    return tuple(blocks)


def read_layer_types(r: Reader, layers: int, accepted: tuple[str, ...], default: Callable[[int], str]) -> list[str]:
    """``layer_types`` where stated, else ``default(i)`` for layer i."""
    return r.words("layer_types", accepted, layers) or [default(i) for i in range(layers)]


def windows(r: Reader, layers: int, window: int | None, default: Callable[[int], bool]) -> list[int | None]:
    """Each layer's sliding window: ``layer_types`` where stated, else where ``default(i)`` holds."""
    full, sliding = "full_attention", "sliding_attention"
    types = read_layer_types(r, layers, (full, sliding), lambda i: sliding if window and default(i) else full)
    if window is None and sliding in types:
        raise r.error("sliding_window", None, "a whole number, since layer_types has sliding_attention")
    return [window if t == sliding else None for t in types]


def read_moe(
    r: Reader,
    expert: MLP,
    experts: int,
    top_k: int,
    *,
    top_k_key: str = "num_experts_per_tok",
    shared: MLP | None = None,
    shared_gate: bool = False,
    router_bias: bool = False,
) -> MoE:
    """A mixture whose router is one ``hidden × experts`` product, with a bias (or a correction term) an expert."""
    if top_k > experts:
        raise r.error(top_k_key, top_k, f"at most the {experts} experts")
    router = expert.hidden * experts + router_bias * experts + shared_gate * expert.hidden
    return MoE(experts, top_k, expert, shared, router, shared_gate)


def read_experts(r: Reader, *keys: str, default: int) -> int:
    return r.needed(*keys, default=default, high=MAX_EXPERTS)


def is_sparse(r: Reader) -> Callable[[int], bool]:
    """Which layers are mixtures where ``mlp_only_layers`` and ``decoder_sparse_step`` say so (Qwen)."""
    step = r.size("decoder_sparse_step", default=1)
    dense = frozenset(r.numbers("mlp_only_layers", 0, MAX_SIZE) or ())
    return lambda i: i not in dense and (i + 1) % step == 0


def causal_lm(
    r: Reader,
    *,
    hidden: int,
    vocab: int,
    blocks: tuple[Block, ...],
    final_norm: Norm | None,
    tied: bool,
    embedding_extra: int = 0,
    head_bias: bool = False,
    other: int = 0,
    max_positions: int | None = None,
    notes: Mapping[str, str] | None = None,
) -> Network:
    """A decoder with a token table of ``vocab × hidden``, a final norm and an output projection, tied or not.

    ``tied`` is the class default; ``tie_word_embeddings`` overrides it. The caller fills in name and model type.
    """
    tied = r.flag("tie_word_embeddings", tied)
    return Network(
        name=r.where,
        model_type="",
        hidden_size=hidden,
        vocab_size=vocab,
        blocks=blocks,
        embedding_parameters=vocab * hidden + embedding_extra,
        head_parameters=(0 if tied else vocab * hidden) + head_bias * vocab,
        other_parameters=(final_norm.parameters if final_norm else 0) + other,
        tied=tied,
        max_positions=max_positions,
        notes=dict(notes or {}),
    )
