"""Multi-head latent attention (MLA) as operators."""

from __future__ import annotations

from windtunnel.models.dtypes import BYTES
from windtunnel.models.network import LatentAttention
from windtunnel.ops.build import attention_decode
from windtunnel.ops.tree import Node, seq
from windtunnel.ops.values import Value
from windtunnel.parallel.attention import chosen, keep, mixed, nothing, prompt_core, scored, view
from windtunnel.parallel.communication import beside, enter, leave
from windtunnel.parallel.linear import chain, linear, shard_of_input, unary, used
from windtunnel.parallel.style import Style
from windtunnel.scenario.batch import Batch


def latent_layer(a: LatentAttention, batch: Batch, style: Style) -> Node:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, sections 2.1.2 and 2.1.3).

    Prompts expand the latent into full keys and values; decoding absorbs the expansions into the queries and the
    output and attends in the latent space, one shared key head wide. The projections down to the latents are not
    sharded over tp: every rank runs them on its own tokens, which are a shard under sequence parallelism, and what is
    gathered or whose gradient is reduced are the latents.
    """
    tp, tokens = style.layout.tp, batch.tokens
    own = tokens / (tp if style.sequence_parallel else 1)
    heads, latent = a.heads / tp, a.kv_lora_rank + a.rope_head_dim
    kept = style.act * own * a.hidden
    down = linear("mla.kv_down", own, latent, a.hidden, style, bias=a.bias, saved_bytes=kept)
    kv_norm = unary("mla.kv_norm", "norm", own * a.kv_lora_rank, style, saved=style.act, parameters=a.kv_lora_rank)
    norm = chain(kv_norm, "norm", style)
    if a.q_lora_rank is None:
        q = linear("mla.q", tokens, heads * a.head_dim, a.hidden, style, saved_bytes=0.0)
        queries: Node = seq(down, norm, beside(q, enter(tokens, a.hidden, style), style, before=True))
        gather = enter(tokens, latent, style)
    else:
        size = a.q_lora_rank
        kept = shard_of_input(tokens, size, style)
        q = linear("mla.q_up", tokens, heads * a.head_dim, size, style, saved_bytes=kept)
        queries = seq(
            linear("mla.q_down", own, size, a.hidden, style, bias=a.bias, saved_bytes=0.0),
            chain(unary("mla.q_norm", "norm", own * size, style, saved=style.act, parameters=size), "norm", style),
            down,
            norm,
            beside(q, enter(tokens, size + latent, style), style, before=True),
        )
        gather = None
    up_size = heads * (a.nope_head_dim + a.v_head_dim)
    seen = view(a, batch)
    # Prompts expand what is cached of them too; in training all of it is here.
    expanded = batch.prefill_tokens if style.training else seen.prefill_context
    kept = shard_of_input(expanded, a.kv_lora_rank, style)
    up = linear("mla.kv_up", expanded, up_size, a.kv_lora_rank, style, saved_bytes=kept)
    turned = unary("mla.rope", "rope", tokens * (heads + 1) * a.rope_head_dim, style, backward=1.0)
    rope = chain(turned, "rope", style)
    out = linear("attn.out", tokens, a.hidden, a.out_size / tp, style, bias=a.bias)
    return seq(
        queries,
        gather,
        used(up, batch.prefill_tokens),
        rope,
        keep(tokens * heads * (2 * a.head_dim + a.v_head_dim), style),
        _core(a, seen, batch, style, heads),
        beside(out, leave(tokens, a.hidden, style), style, before=False),
        name="attention",
    )


def _core(a: LatentAttention, seen: Batch, batch: Batch, style: Style, heads: Value) -> Node:
    parts: list[Node] = []
    if not nothing(seen.prefill_tokens):
        prompts = prompt_core(seen, style, heads, heads, a.head_dim, a.v_head_dim)
        parts.append(scored(prompts, a, seen, style, heads, heads))
    if not nothing(seen.decode_sequences):
        n, width = seen.decode_sequences * seen.queries, BYTES[style.linear.weights]
        absorb = linear("mla.absorb", n * heads, a.kv_lora_rank, a.nope_head_dim, style)
        absorb = absorb.but(parameters=0.0, hbm_bytes=width * heads * a.nope_head_dim * a.kv_lora_rank)
        expand = linear("mla.expand", n * heads, a.v_head_dim, a.kv_lora_rank, style)
        expand = expand.but(parameters=0.0, hbm_bytes=width * heads * a.v_head_dim * a.kv_lora_rank)
        latent = a.kv_lora_rank + a.rope_head_dim
        stored = latent * (1.0 if a.sparse is None else a.sparse.width)
        core = attention_decode(
            "attn.decode", sequences=seen.decode_sequences, context=seen.decode_context, heads=heads, kv_heads=1.0,
            head_dim=latent, v_head_dim=a.kv_lora_rank, dtype=style.dtype, act=style.act,
            kv_bytes_per_token=style.kv * stored, queries=seen.queries,
        )  # fmt: skip
        parts.append(seq(used(absorb, n), chosen(core, a, batch, style, 1.0), used(expand, n)))
    return mixed(parts, seen, style)
