"""One layer, and the parts of a network outside its layers, as forward trees."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from windtunnel.models.dtypes import BYTES
from windtunnel.models.flops import counted
from windtunnel.models.network import MLP, Attention, Block, LatentAttention, MoE, Network, Norm, StateSpace
from windtunnel.ops.build import collective, gemm, pointwise
from windtunnel.ops.op import Op
from windtunnel.ops.tree import Node, Repeat, Seq, seq
from windtunnel.ops.values import Value, ceil
from windtunnel.parallel.attention import attention_layer
from windtunnel.parallel.communication import enter, leave
from windtunnel.parallel.feedforward import mlp_layer, moe_layer, state_space_layer
from windtunnel.parallel.latent import latent_layer
from windtunnel.parallel.linear import chain, shard_of_input
from windtunnel.parallel.style import Style
from windtunnel.scenario.batch import Batch


def block_tree(block: Block, batch: Batch, style: Style, memory: Batch | None = None) -> Node:
    """The forward pass of one layer on one rank: each sub-layer between its norm and its residual addition."""
    hidden = block.norms[0].size if block.norms else _hidden(block)
    own = batch.tokens / (style.layout.tp if style.sequence_parallel else 1)
    norms = [_norm("norm", own, n, n.parameters, style) for n in block.norms]
    if block.parallel and isinstance(block.mixer, Attention) and isinstance(block.ffn, MLP):
        return _side_by_side(block, batch, style, norms, own * hidden)
    parts: list[Node] = []
    if isinstance(block.mixer, Attention):
        parts.append(attention_layer(block.mixer, batch, style))
    elif isinstance(block.mixer, LatentAttention):
        parts.append(latent_layer(block.mixer, batch, style))
    elif isinstance(block.mixer, StateSpace):
        parts.append(state_space_layer(block.mixer, batch, style))
    if block.cross is not None:
        parts.append(attention_layer(block.cross, batch, style, memory or batch))
    if isinstance(block.ffn, MoE):
        parts.append(moe_layer(block.ffn, batch.tokens, style))
    elif block.ffn is not None:
        parts.append(mlp_layer(block.ffn, batch.tokens, style))
    # Norms go before the sub-layers in turn; further ones (sandwich norms) after the last.
    laid: list[Node] = []
    joined = "add_norm" in style.fused and not style.training
    for i, part in enumerate(parts):
        for norm in norms[i : i + 1]:
            # One kernel adds the sub-layer before it and normalises: it reads two tensors and writes two.
            laid.append(norm.but(cached_bytes=2 * norm.cached_bytes) if joined else norm)
        laid.append(part)
        if not (joined and norms):
            laid.append(_residual(own * hidden, style))
    return seq(*laid, *norms[len(parts) :], name=_name(block))


def _side_by_side(block: Block, batch: Batch, style: Style, norms: list[Op], elements: Value) -> Node:
    """Attention and MLP of the same input: their partial sums are added before the one reduction over tp, and both
    are added to the residual at once (GPT-J; PaLM, arXiv 2204.02311, section 2)."""
    assert isinstance(block.mixer, Attention)
    assert isinstance(block.ffn, MLP)
    width = block.ffn.hidden
    residual = _residual(elements, style)
    return seq(
        *norms,
        enter(batch.tokens, width, style),
        attention_layer(block.mixer, batch, style, alone=False),
        mlp_layer(block.ffn, batch.tokens, style, alone=False),
        leave(batch.tokens, width, style),
        residual.but(cached_bytes=residual.cached_bytes + style.act * elements),
        name=_name(block),
    )


def _norm(name: str, rows: Value, norm: Norm, parameters: Value, style: Style) -> Op:
    """A normalisation. LayerNorm (two vectors) is one kernel everywhere, RMSNorm where the engine has one."""
    elements = rows * norm.size
    op = pointwise(
        name, "norm", reads=elements, writes=elements, act=style.act, flops=8.0 * elements, parameters=parameters,
        saved_bytes=style.act * elements,
    )  # fmt: skip
    return chain(op, "norm", style) if norm.affine == 1 else op


def _hidden(block: Block) -> int:
    part = block.mixer or block.ffn
    return part.hidden if part is not None else 0


def _name(block: Block) -> str:
    mixer = type(block.mixer).__name__ if block.mixer is not None else ""
    ffn = type(block.ffn).__name__ if block.ffn is not None else ""
    window = getattr(block.mixer, "window", None)
    return "+".join(x for x in (mixer + (f"[{window}]" if window else ""), ffn) if x)


def _residual(elements: Value, style: Style) -> Op:
    """x + dropout(y): one kernel where fused, otherwise the addition alone (dropout adds a mask of a byte)."""
    mask = 1.0 * elements if style.dropout else 0.0
    extra = 0.0 if "residual" in style.fused or not style.dropout else 2.0 * elements
    return pointwise(
        "residual", "elementwise", reads=2 * elements + extra, writes=elements + mask / style.act, act=style.act,
        flops=2.0 * elements, saved_bytes=mask, backward=1.0 if style.dropout else 0.0,
    )  # fmt: skip


def _as_it_is(tree: Node) -> Node:
    return tree


def blocks_tree(
    blocks: Iterable[Block],
    batch: Batch,
    style: Style,
    memory: Batch | None = None,
    change: Callable[[Node], Node] = _as_it_is,
) -> Node:
    """Layers in any order; equal ones are built once and repeated (times add up the same in any order). ``change``:
    another tree for that of one layer."""
    return Seq(
        tuple(Repeat(n, change(block_tree(b, batch, style, memory)), f"{n} layers") for b, n in counted(tuple(blocks))),
        "layers",
    )


def embedding_tree(network: Network, batch: Batch, style: Style) -> Node:
    """Token (and position) look-up, vocabulary sharded over tp; the partial rows are summed."""
    tokens = batch.tokens
    own = tokens / (style.layout.tp if style.sequence_parallel else 1)
    look = pointwise(
        "embedding", "embedding", reads=0.0, writes=own * network.hidden_size, act=style.act,
        cold_bytes=style.act * tokens * network.hidden_size / style.layout.tp,
        parameters=network.embedding_parameters / style.layout.tp, frozen=style.frozen,
        saved_bytes=8.0 * tokens, backward=2.0,
    )  # fmt: skip
    return seq(look, leave(tokens, network.hidden_size, style), name="embedding")


def head_tree(network: Network, batch: Batch, style: Style, *, copy_of_table: bool = False) -> Node:
    """Final norm, output projection over the sampled rows, and the loss (in training) or the whole rows gathered.

    ``copy_of_table``: the tied table is held here too, because the first stage is on other ranks. The loss is found
    where the vocabulary is sharded: ranks exchange a few numbers a token (Megatron-LM, arXiv 1909.08053, section 3).
    """
    rows, hidden, tp = batch.sequences, network.hidden_size, style.layout.tp
    own = rows / (tp if style.sequence_parallel else 1)
    # It is of the layers' kind.
    kind = next((n for b in network.blocks for n in b.norms), Norm(hidden, 2))
    norm = _norm("final_norm", own, Norm(hidden, kind.affine), network.other_parameters, style)
    if not network.has_head:
        return seq(norm, name="head")
    padded = ceil(network.vocab_size / (style.vocab_multiple * tp)) * style.vocab_multiple
    act, width = style.linear.activations, network.head_width or hidden
    copied = network.vocab_size * width if network.tied and copy_of_table else 0
    held = (network.head_parameters + copied) / tp
    project = gemm(
        "lm_head", rows, padded, width, dtype=act, weight=BYTES[act], act=style.act, frozen=style.frozen,
        saved_bytes=shard_of_input(rows, width, style),
    ).but(parameters=held)  # fmt: skip
    sharded = not isinstance(tp, int | float) or tp > 1
    if not style.training:
        size = style.act * rows * padded * tp
        whole = collective("all_gather", size, style.layout.tp_group, "tp_comm", name="logits.gather")
        return seq(norm, project, whole if sharded else None, name="head")
    loss = pointwise(
        "cross_entropy", "cross_entropy", reads=2 * rows * padded, writes=rows * padded, act=style.act,
        flops=6.0 * rows * padded, backward=1.0,
    )  # fmt: skip
    loss = chain(loss, "cross_entropy", style)
    # The largest logit, the target's, and the sum of exponentials, in fp32.
    shared = collective("all_reduce", 4.0 * rows, style.layout.tp_group, "tp_comm", name="loss.reduce")
    return seq(norm, enter(rows, width, style), project, Repeat(3, shared) if sharded else None, loss, name="head")
