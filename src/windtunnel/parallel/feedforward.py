"""Feed-forward parts as operators: dense MLPs, mixtures of experts, state-space mixers."""

from __future__ import annotations

from typing import Any

from windtunnel.models.dtypes import BYTES
from windtunnel.models.network import MLP, MoE, StateSpace
from windtunnel.ops.build import collective, gemm, grouped_gemm, pointwise
from windtunnel.ops.op import Group, Op
from windtunnel.ops.tree import Node, seq
from windtunnel.ops.values import Value, exp, maximum, minimum, where
from windtunnel.parallel.communication import beside, enter, leave
from windtunnel.parallel.linear import chain, linear, shard_of_input, unary
from windtunnel.parallel.style import Style
from windtunnel.scenario.batch import Batch


def activation(name: str, rows: Value, size: Value, gated: bool, style: Style, *, bias: bool = False) -> Op:
    """The non-linearity (and gate product); its input is kept. An unfused bias costs one more pass."""
    reads = rows * size * (2 if gated else 1)
    more = reads if bias and "activation" not in style.fused and style.training else 0.0
    op = pointwise(
        name, "activation", reads=reads + more, writes=rows * size + more, act=style.act, flops=8.0 * rows * size,
        saved_bytes=style.act * reads,
    )  # fmt: skip
    return chain(op, "activation", style) if gated else op


def mlp_layer(mlp: MLP, tokens: Value, style: Style, name: str = "mlp", *, alone: bool = True) -> Node:
    """Up (and gate), activation, down; column- then row-parallel over tp.

    Not ``alone``: it shares its input and the sum of its output with other work, whose collectives serve it too.
    """
    size = mlp.intermediate / style.layout.tp
    ups = 2 if mlp.gated else 1
    kept = shard_of_input(tokens, mlp.hidden, style)
    up = linear(
        f"{name}.up", tokens, ups * size, mlp.hidden, style, bias=mlp.bias, saved_bytes=kept, widths=(size,) * ups
    )
    down = linear(f"{name}.down", tokens, mlp.hidden, size, style, bias=mlp.bias)
    return seq(
        beside(up, enter(tokens, mlp.hidden, style) if alone else None, style, before=True),
        activation(f"{name}.act", tokens, size, mlp.gated, style, bias=mlp.bias),
        beside(down, leave(tokens, mlp.hidden, style) if alone else None, style, before=False),
        name=name,
    )


def active_experts(experts: Value, visits: Value) -> Value:
    """Expected number of ``experts`` that at least one of ``visits`` independent uniform visits reaches."""
    return experts * (1.0 - exp(-visits / maximum(experts, 1.0)))


def moe_layer(moe: MoE, tokens: Value, style: Style) -> Node:
    """Router, dispatch, experts, combine; shared experts run as an ordinary sharded MLP.

    Experts lie on etp x ep ranks, a share of the width on each of etp, and meet ``rows`` token visits. With the
    sequence sharded, each rank exchanges its own tokens over ep and gathers what its etp group received (without ep,
    the tokens themselves). Where tp ranks hold the same tokens they divide the visits: each exchanges its part with
    the ranks beyond its tp group, and the sum over tp, one for routed and shared experts, combines.
    """
    layout, e, hidden = style.layout, moe.expert, moe.hidden
    p, sharded = style.experts, style.sequence_parallel
    rows = tokens * moe.top_k * layout.etp / layout.tp
    local = moe.experts / layout.ep
    # Ranks that each hold a share of every expert have the same rows.
    imbalance = where(layout.ep > 1, style.expert_imbalance, 1.0)
    common: dict[str, Any] = {
        "experts": local, "active": active_experts(local, rows), "imbalance": imbalance,
        "dtype": p.compute, "weight": BYTES[p.weights], "act": style.act, "bias": e.bias, "frozen": style.frozen,
    }  # fmt: skip
    ups = 2 if e.gated else 1
    size = e.intermediate / layout.etp
    own = tokens / layout.tp if sharded else tokens
    # Shared experts keep the same input as the router.
    kept = 0.0 if moe.shared is not None else style.act * own * hidden
    router = gemm(
        "moe.router", own, moe.experts, hidden, dtype=style.linear.activations, weight=style.act, act=style.act,
        saved_bytes=kept, frozen=style.frozen,
    ).but(parameters=moe.router_parameters)  # fmt: skip
    permuted = where(layout.ep > 1, own * moe.top_k, rows) if sharded else rows
    # The gates' probabilities are applied inside the experts, so that their outputs need not be kept.
    moved = permuted * hidden * style.expert_passes
    permute = unary("moe.permute", "elementwise", moved, style, backward=1.0)
    unpermute = unary("moe.unpermute", "elementwise", moved, style, backward=1.0)
    up = grouped_gemm("moe.up", rows, ups * size, hidden, widths=(size,) * ups, **common)
    act = activation("moe.act", rows, size, e.gated, style)
    down = grouped_gemm("moe.down", rows, hidden, size, **common)
    copies = _copies(moe.top_k, style)
    if sharded:
        gathered = where(layout.ep > 1, rows, rows / moe.top_k)
        sent = style.act * own * hidden * copies
        dispatch = [_exchange("ep.dispatch", sent, layout.ep_group)]
        dispatch.append(_over_etp("all_gather", "reduce_scatter", style.act * gathered * hidden, style))
        combine = [_over_etp("reduce_scatter", "all_gather", style.act * gathered * hidden, style)]
        combine.append(_exchange("ep.combine", sent, layout.ep_group))
    else:
        spread = layout.ep * layout.etp / layout.tp
        ranks = where(spread > 1, layout.ep * maximum(layout.etp / layout.tp, 1), 1)
        group = Group(ranks, minimum(layout.etp, layout.tp))
        sent = style.act * rows / moe.top_k * hidden * copies
        dispatch, combine = [_exchange("ep.dispatch", sent, group)], [_exchange("ep.combine", sent, group)]
    routed = seq(router, permute, *dispatch, up, act, down, *combine, unpermute, name="routed")
    shared: Node | None = None
    if moe.shared is not None:
        shared = mlp_layer(moe.shared, tokens, style, "shared", alone=sharded)
    if sharded:
        return seq(routed, shared, name="moe")
    return seq(enter(tokens, hidden, style), routed, shared, leave(tokens, hidden, style), name="moe")


def _copies(top_k: int, style: Style) -> Value:
    """How often a token is sent: to each of its experts, or over networks once to each domain that has some of them
    (of experts that are chosen uniformly)."""
    if not style.expert_once:
        return top_k
    domains = maximum(style.layout.ep * style.layout.tp / style.domain, 1.0)
    return where(domains > 1.0, domains * (1.0 - (1.0 - 1.0 / domains) ** top_k), top_k)


def _exchange(name: str, size: Value, group: Group) -> Op | None:
    if isinstance(group.size, int | float) and group.size <= 1:
        return None
    back = collective("all_to_all", size, group, "ep_comm", name=name + ".grad")
    return collective("all_to_all", size, group, "ep_comm", name=name, adjoint=(back,))


def _over_etp(kind: str, adjoint: str, size: Value, style: Style) -> Op | None:
    group = style.layout.etp_group
    if isinstance(group.size, int | float) and group.size <= 1:
        return None
    back = collective(adjoint, size, group, "tp_comm", name="etp." + adjoint)
    return collective(kind, size, group, "tp_comm", name="etp." + kind, adjoint=(back,))


def state_space_layer(m: StateSpace, batch: Batch, style: Style) -> Node:
    """A recurrent mixer: input projection, scan over the sequence, output projection.

    The chunked scan of Mamba-2 (arXiv 2405.21060, section 6) keeps its state on chip; in decoding each sequence's
    state is read and written once.
    """
    tp, tokens = style.layout.tp, batch.tokens
    kept = shard_of_input(tokens, m.hidden, style)
    into = linear("ssm.in", tokens, m.in_size / tp, m.hidden, style, bias=m.bias, saved_bytes=kept)
    inner = [
        linear(f"ssm.inner{i}", tokens, n / tp, k, style, saved_bytes=style.act * tokens * k / tp)
        for i, (k, n) in enumerate(m.inner_gemms)
    ]
    counted = sum(k * n for k, n in m.inner_gemms)
    matrix = m.version != "mamba"
    work = m.scan_flops_per_token * tokens / tp
    scan = Op(
        "ssm.scan",
        "scan",
        dtype=style.dtype,
        flops=work if matrix else 0.0,
        vector_flops=0.0 if matrix else work,
        hbm_bytes=2 * 4.0 * m.state_elements * (batch.decode_sequences + batch.sequences_in_prefill) / tp,
        cached_bytes=style.act * tokens * (m.in_size + m.inner) / tp,
        shape={"tokens": tokens, "inner": m.inner / tp, "weight": style.act},
        parameters=(m.inner_parameters - counted) / tp,
        saved_bytes=style.act * tokens * m.in_size / tp,
        backward=2.5,
    )
    out = linear("ssm.out", tokens, m.hidden, m.inner / tp, style, bias=m.bias)
    return seq(
        beside(into, enter(tokens, m.hidden, style), style, before=True),
        *inner,
        scan,
        beside(out, leave(tokens, m.hidden, style), style, before=False),
        name="ssm",
    )
