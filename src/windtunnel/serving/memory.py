"""What an engine keeps on a device: weights, activations, and the KV cache that takes the rest."""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.hardware.machine import Cluster
from windtunnel.models.dtypes import BYTES
from windtunnel.models.flops import counted
from windtunnel.models.network import MLP, Attention, Block, LatentAttention, MoE, Network, StateSpace
from windtunnel.ops.values import Value, ceil, maximum, minimum
from windtunnel.parallel.iteration import draft_plan, iteration, stage_weights
from windtunnel.parallel.stages import StageLayers
from windtunnel.scenario.batch import decode
from windtunnel.scenario.engines import ServeEngine
from windtunnel.scenario.plan import ServePlan


@dataclass(frozen=True, slots=True)
class ServeMemory:
    """Bytes on the fullest rank. ``kv_budget``: what is left for the cache; may be negative (it does not fit)."""

    weights: float
    activations: float
    kv_budget: float
    capacity: float
    layers: StageLayers


def kv_bytes(blocks: tuple[Block, ...], plan: ServePlan, context: Value) -> Value:
    """Bytes of one rank's memory that each sequence of ``context`` tokens takes in these layers (of its own sequences,
    where it holds those of other ranks, too).

    Windows stop growing (chunks are kept whole while they are read); a key/value head is held whole, so ranks beyond
    the number of heads hold copies; the latent of MLA is held by every tp rank; recurrent layers keep a state of fixed
    size (fp32).
    """
    tp, per = plan.layout.tp, BYTES[plan.linear.kv]
    total: Value = 0.0
    for b in blocks:
        m = b.mixer
        if isinstance(m, Attention):
            heads = maximum(m.kv_heads / tp, 1.0)
            seen = context if m.window is None else minimum(context, float(m.window))
            total = total + per * heads * (m.head_dim + m.v_head_dim) * seen
        elif isinstance(m, LatentAttention):
            total = total + per * m.kv_elements_per_token * context
        elif isinstance(m, StateSpace):
            total = total + 4.0 * m.state_elements / tp
    return total * plan.cache_copies + draft_kv_bytes(plan, context)


def draft_kv_bytes(plan: ServePlan, context: Value) -> Value:
    """Bytes that one sequence keeps for the draft that speculates for it, if there is one with a cache of its own."""
    draft = plan.speculation.draft if plan.speculation is not None else None
    if draft is None or draft.shared:
        return 0.0
    seen = context if draft.context is None else minimum(context, float(draft.context))
    return kv_bytes(draft.network.blocks, draft_plan(plan, draft), seen)


def rounded(context: Value, block_size: int) -> Value:
    """Tokens as the cache holds them: whole blocks."""
    return ceil(context / block_size) * block_size


def activation_bytes(network: Network, plan: ServePlan) -> float:
    """Live activations of one iteration of the largest batch: a layer's widest tensors and the logits.

    Two hidden-size tensors (residual and input), the projections around the mixer or the feed-forward part, whichever
    is wider, and fp32 logits of the sampled rows. A routed token is held once for each expert it visits, and with
    experts spread over attention-data-parallel ranks a rank meets its share of all ranks' visits.
    """
    tokens, tp, etp = plan.max_batched_tokens, int(plan.layout.tp), int(plan.layout.etp)
    widest = 0.0
    for b, _ in counted(network.blocks):
        m, ffn = b.mixer, b.ffn
        if isinstance(m, Attention):
            widest = max(widest, (m.q_size + m.k_size + m.v_size + m.out_size) / tp)
        elif isinstance(m, LatentAttention):
            widest = max(widest, m.heads * (2 * m.head_dim + 2 * m.v_head_dim) / tp)
        elif isinstance(m, StateSpace):
            widest = max(widest, (m.in_size + m.inner) / tp)
        if isinstance(ffn, MLP):
            widest = max(widest, (3 if ffn.gated else 2) * ffn.intermediate / tp)
        elif isinstance(ffn, MoE):
            each = (3 if ffn.expert.gated else 2) * ffn.expert.intermediate / etp
            widest = max(widest, ffn.top_k * (each + 2 * network.hidden_size) * etp / tp)
    act = BYTES[plan.linear.activations]
    return (
        act * tokens * (2 * network.hidden_size + widest)
        + 4.0 * min(plan.max_sequences, tokens) * network.vocab_size / tp
    )


def serve_memory(
    network: Network, plan: ServePlan, engine: ServeEngine, cluster: Cluster, length: float = 1.0
) -> ServeMemory:
    """Memory of the rank whose cache holds fewest sequences of ``length`` tokens: that stage's rank limits all."""
    capacity = float(cluster.accelerator.hbm.capacity_bytes)
    activations = activation_bytes(network, plan) + engine.workspace_bytes
    found = []
    for layers, totals in stage_weights(iteration(network, plan, engine, decode(1.0, 1.0))):
        weights = float(totals.held["weight_bytes"])
        left = plan.memory_utilization * capacity - weights - activations
        if engine.cache_of_free:
            free = capacity - weights - activations
            left = min(plan.memory_utilization * free, free)
        found.append(ServeMemory(weights, activations, left, capacity, layers))

    def room(memory: ServeMemory) -> float:
        if memory.kv_budget < 0:
            return memory.kv_budget
        each = sequence_bytes(memory, plan, length)
        return memory.kv_budget / each if each > 0 else float("inf")

    return min(found, key=room)


def sequence_bytes(memory: ServeMemory, plan: ServePlan, length: float) -> float:
    """Bytes that one sequence of ``length`` tokens takes of that rank's cache, in whole blocks."""
    return float(kv_bytes(memory.layers.blocks, plan, rounded(length, plan.block_size)))


def kv_capacity_tokens(memory: ServeMemory, plan: ServePlan, length: float) -> float:
    """Tokens of sequences of ``length`` that one rank's cache holds (infinite where nothing is kept a token)."""
    if plan.kv_blocks is not None:
        return float(plan.kv_blocks * plan.block_size)
    each = sequence_bytes(memory, plan, length)
    if each <= 0:
        return float("inf")
    return max(memory.kv_budget, 0.0) / each * length
