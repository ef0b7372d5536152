"""What an engine keeps on a device: weights, activations, and the KV cache that takes the rest."""

from __future__ import annotations

from dataclasses import dataclass, replace

from windtunnel.hardware.machine import Cluster
from windtunnel.models.dtypes import BYTES
from windtunnel.models.flops import counted
from windtunnel.models.network import MLP, Attention, Block, LatentAttention, MoE, Network, StateSpace, kept
from windtunnel.ops.values import Value, ceil, minimum
from windtunnel.parallel.away import everything_here, token_elements
from windtunnel.parallel.iteration import draft_plan, iteration, layer_weights, stage_weights
from windtunnel.parallel.stages import StageLayers
from windtunnel.scenario.batch import decode
from windtunnel.scenario.engines import ServeEngine
from windtunnel.scenario.plan import ServePlan


@dataclass(frozen=True, slots=True)
class Below:
    """One rank's part of a memory below the device's: bytes of ``weights`` and the share of every sequence's cache that
    are kept there, and its capacity. ``name``: "host" or "nvme"."""

    name: str
    weights: float
    kv_share: float
    capacity: float


@dataclass(frozen=True, slots=True)
class ServeMemory:
    """Bytes on the fullest rank. ``kv_budget``: what is left for the cache; may be negative (it does not fit).
    ``kv_here``: bytes that a sequence takes on the device over those of its cache; ``joined``: the same of the end of a
    decode step where old and new cache are both there, and what is left for them then; ``below``: the memories that
    hold what is offloaded."""

    weights: float
    activations: float
    kv_budget: float
    capacity: float
    layers: StageLayers
    kv_here: float = 1.0
    joined: tuple[float, float] | None = None
    below: tuple[Below, ...] = ()


def kv_bytes(blocks: tuple[Block, ...], plan: ServePlan, context: Value) -> Value:
    """Bytes of one rank's memory that each sequence of ``context`` tokens takes in these layers (of its own sequences,
    where it holds those of other ranks, too).

    Windows stop growing (chunks are kept whole while they are read), and of sparse caches what they hold counts; a
    key/value head is held whole, so ranks beyond the number of heads hold copies; the latent of MLA is held by every tp
    rank; recurrent layers keep a state of fixed size (fp32).
    """
    tp, per = plan.layout.tp, BYTES[plan.linear.kv]
    total: Value = 0.0
    for b in blocks:
        m = b.mixer
        if isinstance(m, Attention | LatentAttention):
            each = per * token_elements(m, tp)
            for share, view in kept(m, "hold"):
                seen = context if view is None else minimum(context, float(abs(view)))
                total = total + each * seen * share
        elif isinstance(m, StateSpace):
            total = total + 4.0 * m.state_elements / tp
    return total * plan.context_copies + draft_kv_bytes(plan, context)


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
    experts spread over attention-data-parallel ranks a rank meets its share of all ranks' visits. Of batches that take
    turns, one's.
    """
    tokens, tp, etp = plan.max_batched_tokens, int(plan.layout.tp), int(plan.layout.etp)
    tokens = tokens if plan.block_batches == 1 else -(-tokens // plan.block_batches)
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


def score_bytes(network: Network, plan: ServePlan, engine: ServeEngine, prompt: float) -> float:
    """What unfused attention over prompts of ``prompt`` tokens holds of a layer's scores, where an engine says so."""
    if not engine.score_bytes:
        return 0.0
    heads = max((m.heads for b, _ in counted(network.blocks) if isinstance(m := b.mixer, Attention)), default=0)
    tokens = plan.max_batched_tokens / plan.block_batches
    return engine.score_bytes * heads / int(plan.layout.tp) * tokens * prompt


def serve_memory(
    network: Network, plan: ServePlan, engine: ServeEngine, cluster: Cluster, length: float = 1.0, prompt: float = 0.0
) -> ServeMemory:
    """Memory of the rank whose cache holds fewest sequences of ``length`` tokens: that stage's rank limits all.
    ``prompt``: tokens of the longest prompt."""
    capacity = float(cluster.accelerator.hbm.capacity_bytes)
    activations = activation_bytes(network, plan) + score_bytes(network, plan, engine, prompt) + engine.workspace_bytes
    found = []
    for layers, totals in stage_weights(iteration(network, everything_here(plan), engine, decode(1.0, 1.0))):
        weights = float(totals.held["weight_bytes"])
        below: tuple[Below, ...] = ()
        if plan.offloads:
            movable = layer_weights(layers, plan, engine)
            below = _below(plan, movable, cluster)
            # Of what is elsewhere, the layer at work is here, and the next one where it is fetched ahead.
            at_once = min((2 if engine.offload_overlap else 1) / max(layers.layers, 1), 1.0)
            weights -= plan.weights_away.total * movable * (1.0 - at_once)
        left = plan.memory_utilization * capacity - weights - activations
        if engine.cache_of_free:
            free = capacity - weights - activations
            left = min(plan.memory_utilization * free, free)
        here, joined = _kv_here(plan, engine, layers), None
        if engine.cache_copies > 1:
            # The activations of prompts are gone by then.
            few = replace(plan, max_batched_tokens=max(int(plan.max_batched_tokens / max(prompt, 1.0)), 1))
            more = activations - activation_bytes(network, few) - engine.workspace_bytes
            joined = (engine.cache_copies * here, left + max(more, 0.0))
        found.append(ServeMemory(weights, activations, left, capacity, layers, here, joined, below))
    return min(found, key=lambda m: _room(m, plan, length))


def _room(memory: ServeMemory, plan: ServePlan, length: float) -> float:
    """Sequences that there is room for; bytes that lack without any of them, as a negative number."""
    lacking = [b.capacity - b.weights for b in memory.below if b.capacity < b.weights]
    if memory.kv_budget < 0 or lacking:
        return min(memory.kv_budget, *lacking, 0.0)
    return most_sequences(memory, plan, length)


def _kv_here(plan: ServePlan, engine: ServeEngine, layers: StageLayers) -> float:
    """Bytes that a sequence takes on the device over those of its cache. Of what is elsewhere, one batch's part of the
    layer at work (and of the next) is here unless attention goes where the cache is."""
    away = plan.kv_away.total
    here = 1.0 - away
    if away and not engine.host_attention:
        at_once = min((2 if engine.offload_overlap else 1) / max(layers.layers, 1), 1.0)
        here += away * at_once / plan.block_batches
    return here


def _below(plan: ServePlan, movable: float, cluster: Cluster) -> tuple[Below, ...]:
    ranks = min(cluster.node_size, cluster.count)
    places = (
        ("host", plan.weights_away.cpu, plan.kv_away.cpu, cluster.dram),
        ("nvme", plan.weights_away.nvme, plan.kv_away.nvme, cluster.nvme),
    )
    return tuple(
        Below(name, weights * movable, kv, float(memory.capacity_bytes) / ranks)
        for name, weights, kv, memory in places
        if weights or kv
    )


def most_sequences(memory: ServeMemory, plan: ServePlan, length: float) -> float:
    """Sequences of ``length`` tokens that one rank's memories hold at once, not rounded (infinite where nothing is
    kept)."""
    each = sequence_bytes(memory, plan, length)
    rooms = [(max(budget, 0.0), each * share) for share, budget in _rooms(memory)]
    return min((budget / taken for budget, taken in rooms if taken > 0), default=float("inf"))


def _rooms(memory: ServeMemory) -> list[tuple[float, float]]:
    """(bytes that a sequence takes over those of its cache, bytes left for all of them) in each memory."""
    joined = [] if memory.joined is None else [memory.joined]
    return [(memory.kv_here, memory.kv_budget), *joined, *((b.kv_share, b.capacity - b.weights) for b in memory.below)]


def lacking_bytes(memory: ServeMemory, plan: ServePlan, length: float, sequences: float) -> float:
    """Bytes that the fullest of one rank's memories lacks to hold its weights and ``sequences`` (0: they fit)."""
    whole = sequences * sequence_bytes(memory, plan, length)
    return max(0.0, *(whole * share - budget for share, budget in _rooms(memory)))


def sequence_bytes(memory: ServeMemory, plan: ServePlan, length: float) -> float:
    """Bytes that one sequence of ``length`` tokens takes of that rank's cache, in whole blocks."""
    return float(kv_bytes(memory.layers.blocks, plan, rounded(length, plan.block_size)))


def kv_capacity_tokens(memory: ServeMemory, plan: ServePlan, length: float) -> float:
    """Tokens of sequences of ``length`` that one rank's cache holds (infinite where nothing is kept a token)."""
    if plan.kv_blocks is not None:
        return float(plan.kv_blocks * plan.block_size)
    return most_sequences(memory, plan, length) * length
