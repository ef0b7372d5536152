"""Multi-head attention as operators: projections, rotary embedding, and the core (fused or not, over cp ranks)."""

from __future__ import annotations

from dataclasses import replace

from windtunnel.models.network import Attention, LatentAttention, kept
from windtunnel.models.sparse import Use
from windtunnel.ops.build import attention, attention_decode, collective, gemm, pointwise
from windtunnel.ops.op import Op
from windtunnel.ops.tree import EMPTY, Node, Par, Repeat, Seq, seq
from windtunnel.ops.values import Value, maximum, where
from windtunnel.parallel.communication import beside, enter, leave
from windtunnel.parallel.linear import chain, linear, shard_of_input, unary, used
from windtunnel.parallel.style import Style
from windtunnel.scenario.batch import Batch

CHOOSE = "kv.choose"
"""Choosing what of a sparse cache is read or kept, at a decode step."""


def attention_layer(
    a: Attention, batch: Batch, style: Style, memory: Batch | None = None, *, alone: bool = True
) -> Node:
    """Multi-head attention. ``memory``: the encoder's batch, whose keys and values a cross attention reads.

    Ranks beyond the number of key/value heads hold copies of them. Not ``alone``: as in ``mlp_layer``.
    """
    tp, tokens = style.layout.tp, batch.tokens
    heads, kv_heads = a.heads / tp, maximum(a.kv_heads / tp, 1.0)
    q_size, kv_size = a.q_size / tp, kv_heads * (a.head_dim + a.v_head_dim)
    k_size, v_size = kv_heads * a.head_dim, kv_heads * a.v_head_dim
    kept = shard_of_input(tokens, a.hidden, style)
    if a.cross:
        source = (memory or batch).prefill_tokens
        q = linear("attn.q", tokens, q_size, a.hidden, style, bias=a.q_bias, saved_bytes=kept)
        read = shard_of_input(source, a.hidden, style)
        kv = linear(
            "attn.kv", source, kv_size, a.hidden, style, bias=a.kv_bias, saved_bytes=read, widths=(k_size, v_size)
        )
        project: Node = seq(q, kv)
    else:
        widths = (q_size, k_size, v_size)
        qkv = linear("attn.qkv", tokens, q_size + kv_size, a.hidden, style, saved_bytes=kept, widths=widths)
        project = qkv.but(parameters=qkv.parameters + a.q_bias * q_size + a.kv_bias * kv_size)
    inside: list[Node] = []
    if (a.q_bias or a.kv_bias) and "qkv" not in style.fused and style.training:
        inside.append(unary("attn.bias", "elementwise", tokens * (q_size + kv_size), style, backward=0.5))
    if a.norms:
        normed = tokens * (heads + kv_heads) * a.head_dim
        qk_norm = unary("attn.qk_norm", "norm", normed, style, saved=style.act)
        inside.append(chain(qk_norm, "norm", style) if a.norms[0].affine == 1 else qk_norm)
    if a.position == "rope":
        rope = unary("attn.rope", "rope", tokens * (heads + kv_heads) * a.head_dim, style, backward=1.0)
        inside.append(chain(rope, "rope", style))
    # The queries, keys and values that the backward pass reads, and parameters that no kernel of ours names.
    extra = sum(n.parameters for n in a.norms) + a.sinks * heads + a.extra_parameters
    inside.append(keep(tokens * (heads * a.head_dim + kv_size), style, extra))
    seen = view(a, batch, memory)
    parts: list[Node] = []
    if not nothing(seen.prefill_tokens):
        core = prompt_core(seen, style, heads, kv_heads, a.head_dim, a.v_head_dim)
        parts.append(scored(core, a, seen, style, heads, kv_heads))
    if not nothing(seen.decode_sequences):
        width = 1.0 if a.sparse is None else a.sparse.width
        step = attention_decode(
            "attn.decode", sequences=seen.decode_sequences, context=seen.decode_context, heads=heads,
            kv_heads=kv_heads, head_dim=a.head_dim, v_head_dim=a.v_head_dim, dtype=style.dtype, act=style.act,
            kv_bytes_per_token=style.kv * kv_size * width, queries=seen.queries,
        )  # fmt: skip
        parts.append(chosen(step, a, batch, style, kv_heads))
    inside.append(mixed(parts, batch, style))
    if a.gated:
        size = tokens * heads * a.v_head_dim
        gate = pointwise(
            "attn.gate", "activation", reads=2 * size, writes=size, act=style.act, flops=4.0 * size,
            saved_bytes=2 * style.act * size,
        )  # fmt: skip
        inside.append(gate)
    out = linear("attn.out", tokens, a.hidden, a.out_size / tp, style, bias=a.out_bias)
    first = beside(project, enter(tokens, a.hidden, style) if alone else None, style, before=True)
    last = beside(out, leave(tokens, a.hidden, style) if alone else None, style, before=False)
    return seq(first, *inside, last, name="attention")


def keep(elements: Value, style: Style, parameters: Value = 0.0) -> Op:
    """No work: ``elements`` kept for the backward pass, and parameters, that belong to no operator of their own."""
    return Op(
        "attn.keep", "none", kernels=0.0, shape={"weight": style.act}, parameters=parameters,
        saved_bytes=style.act * elements, adjoint=(),
    )  # fmt: skip


def view(a: Attention | LatentAttention, batch: Batch, memory: Batch | None = None) -> Batch:
    """The batch as one layer's core sees it: through its window, both ways, over the encoder's tokens, or what of it
    is used."""
    if a.sparse is None:
        pairs, context, decode_context = batch.seen(a.view)
    else:
        pairs, context, _ = used_part(a, batch, "prompt")
        decode_context = used_part(a, batch, "read")[2]
    if isinstance(a, Attention) and a.cross:
        context = (memory or batch).prefill_context
        pairs = batch.prefill_tokens * context / maximum(batch.sequences_in_prefill, 1.0)
    elif not a.causal:
        pairs = 2 * pairs - batch.prefill_tokens
    return replace(batch, prefill_pairs=pairs, prefill_context=context, decode_context=decode_context, windows={})


def used_part(a: Attention | LatentAttention, batch: Batch, use: Use) -> tuple[Value, Value, Value]:
    """(Prefill pairs, prefill context, decode context) of the parts of the context that a layer holds, reads or lets
    prompts attend to."""
    found: tuple[Value, Value, Value] = (0.0, 0.0, 0.0)
    for share, own in kept(a, use):
        pairs, context, decode_context = batch.seen(own)
        found = (found[0] + share * pairs, found[1] + share * context, found[2] + share * decode_context)
    return found


def scored(
    core: Node, a: Attention | LatentAttention, seen: Batch, style: Style, heads: Value, kv_heads: Value
) -> Node:
    """A prompt's attention, after which the weights of some queries are summed over: those that unfused attention left
    in memory, or else queries and keys meet once more."""
    sparse = a.sparse
    if sparse is None or not sparse.score:
        return core
    if style.eager_attention:
        length = seen.prefill_context / maximum(seen.sequences_in_prefill, 1.0)
        weights = sparse.score * seen.prefill_tokens * length * heads
        add = pointwise("kv.score", "elementwise", reads=weights, writes=0.0, act=style.act, flops=weights)
        return seq(core, used(add, seen.prefill_tokens))
    again = attention(
        "kv.score", tokens=sparse.score * seen.prefill_tokens, pairs=sparse.score * seen.prefill_pairs,
        context=sparse.score * seen.prefill_context, heads=heads, kv_heads=kv_heads, head_dim=a.head_dim, v_head_dim=0,
        dtype=style.dtype, act=style.act,
    )  # fmt: skip
    return seq(core, again)


def chosen(step: Op, a: Attention | LatentAttention, batch: Batch, style: Style, kv_heads: Value) -> Node:
    """A decode step's attention with what choosing its tokens moves."""
    sparse = a.sparse
    if sparse is None or not sparse.choose:
        return step
    held = used_part(a, batch, "hold")[2]
    move = pointwise(
        CHOOSE, "elementwise", reads=0.0, writes=0.0, act=style.act,
        cold_bytes=style.act * sparse.choose * kv_heads * held,
    )  # fmt: skip
    return seq(step, used(move.but(kernels=sparse.choose_kernels), batch.decode_sequences))


def nothing(value: Value) -> bool:
    """Whether a plain number is zero: the operator is left out. Arrays keep it, at no cost where they are zero."""
    return isinstance(value, int | float) and value == 0


def mixed(parts: list[Node], batch: Batch, style: Style) -> Node:
    """Prefill and decode rows in one call interfere with each other."""
    if len(parts) < 2:
        return parts[0] if parts else EMPTY
    both = (batch.prefill_tokens > 0) & (batch.decode_sequences > 0)
    return Repeat(where(both, style.mixed_attention, 1.0), Seq(tuple(parts)))


def prompt_core(seen: Batch, style: Style, heads: Value, kv_heads: Value, head_dim: int, v_head_dim: int) -> Node:
    """Attention of the prompts' tokens, over context-parallel ranks if there are any; sizes are those of one rank.

    ``seen``: this rank's share of the queries and pairs, and all keys. Ulysses (arXiv 2309.14509, section 3): all
    tokens meet a share of the heads between two exchanges. Ring (arXiv 2310.01889, section 3): queries meet cp blocks
    of keys; while one is used the next arrives. Causal work is taken to be balanced over the ranks.
    """
    cp = style.layout.cp
    if isinstance(cp, int | float) and cp <= 1:
        return _call(seen, style, heads, kv_heads, head_dim, v_head_dim)
    group, tokens = style.layout.cp_group, seen.prefill_tokens
    kv_bytes = style.act * tokens * kv_heads * (head_dim + v_head_dim)
    if style.context == "ulysses":
        whole = replace(seen, prefill_tokens=tokens * cp, prefill_pairs=seen.prefill_pairs * cp)
        inner = _call(whole, style, heads / cp, maximum(kv_heads / cp, 1.0), head_dim, v_head_dim)

        def exchange(name: str, size: Value) -> Op:
            back = collective("all_to_all", size, group, "cp_comm", name=name + ".grad")
            return collective("all_to_all", size, group, "cp_comm", name=name, adjoint=(back,))

        out = style.act * tokens * heads * v_head_dim
        scatter = exchange("cp.scatter_heads", style.act * tokens * heads * head_dim + kv_bytes)
        return seq(scatter, inner, exchange("cp.gather_heads", out))
    block = replace(seen, prefill_pairs=seen.prefill_pairs / cp, prefill_context=seen.prefill_context / cp)
    piece = _call(block, style, heads, kv_heads, head_dim, v_head_dim)
    # Keys and values pass on; in the backward pass their gradients travel with them.
    back = collective("send_recv", 2 * kv_bytes, group, "cp_comm", name="cp.kv_grad")
    pass_on = collective("send_recv", kv_bytes, group, "cp_comm", name="cp.kv", adjoint=(back,))
    # Fused attention keeps one statistic a row whatever the number of blocks, the unfused one every block's scores.
    again = piece.but(saved_bytes=0.0) if isinstance(piece, Op) else piece
    return seq(piece, Repeat(cp - 1, Par((again, pass_on), style.interference)))


def _call(seen: Batch, style: Style, heads: Value, kv_heads: Value, head_dim: int, v_head_dim: int) -> Node:
    if style.eager_attention:
        return _eager(seen, style, heads, head_dim, v_head_dim)
    return attention(
        "attn.core", tokens=seen.prefill_tokens, pairs=seen.prefill_pairs, context=seen.prefill_context, heads=heads,
        kv_heads=kv_heads, head_dim=head_dim, v_head_dim=v_head_dim, dtype=style.dtype, act=style.act, core=True,
    )  # fmt: skip


def _eager(seen: Batch, style: Style, heads: Value, head_dim: int, v_head_dim: int) -> Node:
    """Attention as three kernels with the whole score matrix in memory, masked entries computed all the same.

    What is kept: q, k, v and the softmax's output (and dropout's mask and output), as Korthikanti et al. count them
    (arXiv 2205.05198, section 4.1).
    """
    tokens = seen.prefill_tokens
    length = seen.prefill_context / maximum(seen.sequences_in_prefill, 1.0)
    scores = tokens * length * heads
    act, dtype = style.act, style.dtype

    def product(name: str, n: Value, k: Value) -> Op:
        op = gemm(name, tokens * heads, n, k, dtype=dtype, weight=act, act=act, saved_bytes=0.0, core=True)
        op = used(op.but(parameters=0.0, hbm_bytes=0.0), tokens)
        return op.but(adjoint=(op.but(name=name + ".dgrad"), op.but(name=name + ".dgrad2")))

    softmax = pointwise(
        "attn.softmax", "softmax", reads=scores, writes=scores, act=act, flops=6.0 * scores,
        saved_bytes=act * scores, core=True,
    )  # fmt: skip
    dropout = pointwise(
        "attn.dropout", "dropout", reads=scores, writes=(1 + 1 / act) * scores, act=act,
        saved_bytes=(act + 1) * scores, core=True,
    )  # fmt: skip
    return seq(
        product("attn.scores", length, head_dim),
        used(chain(softmax, "softmax", style), tokens),
        used(dropout, tokens) if style.dropout else None,
        product("attn.values", v_head_dim, length),
    )
