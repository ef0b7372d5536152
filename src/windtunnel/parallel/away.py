"""Weights and KV cache that live off the device: what arrives for a serving iteration, and how it meets the work.

Layer by layer, what is kept in host memory or on drives arrives over the link to the host. Engines that fetch ahead
hide it behind the layers before (a :class:`~windtunnel.ops.tree.Flow`), others wait. A block of batches takes turns on
each layer, so that its weights arrive once for all of them (FlexGen's zig-zag schedule, arXiv 2303.06865, section 4.1).
An engine that attends where the cache is sends queries to the host instead of fetching keys and values.
"""

from __future__ import annotations

from dataclasses import replace

from windtunnel.models.network import Attention, Block, LatentAttention
from windtunnel.ops.build import transfer
from windtunnel.ops.fold import tree_totals
from windtunnel.ops.op import Op
from windtunnel.ops.rewrite import rewrite
from windtunnel.ops.tree import EMPTY, Flow, Node, Par, Repeat, seq
from windtunnel.ops.values import Value, maximum
from windtunnel.parallel.attention import CHOOSE, used_part
from windtunnel.parallel.stages import StageLayers
from windtunnel.parallel.style import Style
from windtunnel.scenario.batch import Batch
from windtunnel.scenario.engines import ServeEngine
from windtunnel.scenario.plan import Away, ServePlan


def shared_out(batch: Batch, parts: int) -> Batch:
    """One of ``parts`` equal batches."""
    if parts == 1:
        return batch
    return Batch(
        tokens=batch.tokens / parts,
        sequences=batch.sequences / parts,
        prefill_tokens=batch.prefill_tokens / parts,
        prefill_pairs=batch.prefill_pairs / parts,
        prefill_context=batch.prefill_context / parts,
        decode_sequences=batch.decode_sequences / parts,
        decode_context=batch.decode_context / parts,
        windows={w: (p / parts, c / parts, d / parts) for w, (p, c, d) in batch.windows.items()},
        sequences_in_prefill=batch.sequences_in_prefill / parts,
        queries=batch.queries,
    )


def layers_with_offloading(
    layers: StageLayers, body: Node, batch: Batch, style: Style, plan: ServePlan, engine: ServeEngine
) -> Node:
    """A stage's layers for the whole of ``batch``, with what arrives and leaves. ``body``: for one batch of a block."""
    n, turns = layers.layers, plan.block_batches
    weights = tree_totals(body).held["weight_bytes"] / n
    on_host = engine.host_attention and plan.kv_away.total > 0
    work = rewrite(body, lambda op: _on_host(op, plan, engine, style)) if on_host else body
    if turns > 1:
        work = Repeat(turns, work, f"{turns} batches")
    read, written = _cache_bytes(layers.blocks, batch, style)
    read = 0.0 if on_host else read
    arrive = seq(
        _copy("offload.weights", weights, plan.weights_away, engine.offload_bytes_per_s),
        _copy("offload.kv", read / n, plan.kv_away, engine.offload_bytes_per_s),
    )
    leave = _copy("offload.kv_new", written / n, plan.kv_away, engine.offload_store_bytes_per_s)
    if not engine.offload_overlap:
        return seq(Repeat(n, arrive), work, Repeat(n, leave), name="offload")
    stages: tuple[Node, ...] = (arrive, Repeat(1 / n, work), leave)
    return Flow(n, stages, ("pcie", "compute", "pcie"), 0.0, 1, "offload")


def _copy(name: str, size: Value, away: Away, most: float | None) -> Node:
    """A layer's transfer over the link, part of which comes from or goes to the drives; ``most`` bytes a second."""
    if away.total == 0:
        return EMPTY
    op = transfer(name, "offload", pcie=away.total * size, nvme=away.nvme * size)
    return op if most is None else op.but(shape={"bytes_per_s": most})


def _on_host(op: Op, plan: ServePlan, engine: ServeEngine, style: Style) -> Node:
    """Decoding's attention, and choosing what it reads, where the cache is: the host streams what they need through its
    own memory, queries and outputs cross the link."""
    if op.kind != "attention_decode" and op.name != CHOOSE:
        return op
    share = plan.kv_away.total
    there = Op(
        op.name + ".host", "host_memory", "offload", kernels=0.0, adjoint=(),
        shape={"bytes": share * engine.host_attention_traffic * op.hbm_bytes},
    )  # fmt: skip
    if op.name == CHOOSE:
        return Par((Repeat(1.0 - share, op), there)) if share < 1 else there
    cross = transfer("offload.queries", "offload", pcie=share * op.cached_bytes)
    drives = _copy("offload.kv", op.hbm_bytes, Away(nvme=plan.kv_away.nvme), engine.offload_bytes_per_s)
    host = seq(cross, drives, there)
    return Par((Repeat(1.0 - share, op), host)) if share < 1 else host


def _cache_bytes(blocks: tuple[Block, ...], batch: Batch, style: Style) -> tuple[Value, Value]:
    """(Bytes that these layers read of the cache, bytes that they add to it) on one rank for ``batch``."""
    read: Value = 0.0
    written: Value = 0.0
    for b in blocks:
        m = b.mixer
        if not isinstance(m, Attention | LatentAttention):
            continue
        each = style.kv * token_elements(m, style.layout.tp)
        # Pieces of prompts meet what was kept of them before.
        before = maximum(used_part(m, batch, "prompt")[1] - batch.prefill_tokens, 0.0)
        read = read + each * (used_part(m, batch, "read")[2] + before)
        share = min(sum(part.share for part in m.sparse.hold), 1.0) if m.sparse is not None else 1.0
        written = written + each * (share * batch.prefill_tokens + batch.decode_sequences)
    return read, written


def token_elements(m: Attention | LatentAttention, tp: Value) -> Value:
    """Elements that one token kept by a layer takes on one of ``tp`` ranks (whole heads; the latent of MLA whole)."""
    width = 1.0 if m.sparse is None else m.sparse.width
    if isinstance(m, LatentAttention):
        return m.kv_elements_per_token * width
    return maximum(m.kv_heads / tp, 1.0) * (m.head_dim + m.v_head_dim) * width


def everything_here(plan: ServePlan) -> ServePlan:
    """The plan with everything on the device."""
    return replace(plan, weights_away=Away(), kv_away=Away(), block_batches=1)
