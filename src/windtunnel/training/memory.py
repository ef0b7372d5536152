"""Memory of one rank at its peak, by kind. The worst stage decides whether a plan fits."""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.models.dtypes import BYTES
from windtunnel.ops.pipeline import Schedule
from windtunnel.ops.values import Value, minimum, where
from windtunnel.parallel.exchange import split, workers
from windtunnel.parallel.held import Held
from windtunnel.parallel.low_rank import kept_bytes
from windtunnel.scenario.engines import TrainEngine
from windtunnel.scenario.plan import TrainPlan

ALONE = 0.2
"""Of an engine's workspace, what is left on a single rank, which exchanges nothing: libraries' scratch space (LitGPT's
peaks on one GPU leave room for 0.1 to 0.4 GB)."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one rank."""

    weights: Value
    gradients: Value
    optimizer: Value
    activations: Value
    workspace: Value

    @property
    def total(self) -> Value:
        return self.weights + self.gradients + self.optimizer + self.activations + self.workspace


def stage_memory(held: Held, plan: TrainPlan, engine: TrainEngine, schedule: Schedule) -> Memory:
    """Peak bytes of the first of a group of stages (in a group, the first holds most micro-batches).

    Model states follow ZeRO (Rajbhandari et al., arXiv 1910.02054, section 3.1 and figure 1): optimizer state is
    sharded from stage 1 on, gradients from stage 2, weights from stage 3.
    Activations follow what each operator keeps (Korthikanti et al., arXiv 2205.05198, section 4), times the
    micro-batches that the schedule has in flight. DualPipe's ranks hold two stages, one for each direction (DeepSeek,
    arXiv 2412.19437, table 2), and share the optimizer state of both if it is sharded at all.
    """
    layout = plan.layout
    dense_ranks, expert_ranks = _sharing(plan)

    def share(level: int, dense: Value, expert: Value) -> Value:
        return dense / dense_ranks + expert / expert_ranks if plan.zero >= level else dense + expert

    trained = (held.dense, held.expert)
    layers = max(held.layers.layers, 1)
    sixteen = plan.weight_bytes < 4
    state, master = plan.optimizer.state_bytes, (4.0 if engine.master_weights and sixteen else 0.0)
    if engine.sharded_master_only and sixteen:
        # The fp32 weights are the only lasting ones and count as weights.
        weights = 4.0 * share(3, *trained)
        optimizer = state * share(1, *trained)
    else:
        weights = plan.weight_bytes * share(3, *trained)
        optimizer = (state + master) * share(1, *trained)
    if held.subspaces is not None:
        dense, expert = subspace_state_bytes(held, plan)
        optimizer = optimizer - state * share(1, *trained) + share(1, dense, expert)
    frozen = frozen_bytes(held, plan)
    weights = weights + share(3, frozen, 0.0)
    gradients = engine.gradient_bytes * share(2, *trained)
    if plan.layerwise_update:
        # Where micro-batches add up, all gradients are there at once.
        gradients = where(plan.micro_batches <= 1, engine.gradient_bytes * held.largest, gradients)
    if plan.offload_optimizer and plan.streamed:
        gradients = engine.gradient_bytes * held.largest
    elif plan.offload_optimizer and engine.offload_gradients:
        # They collect in a bucket, which leaves when it is full.
        gradients = engine.gradient_bytes * (held.largest + engine.bucket_parameters)
    if plan.compression is not None:
        # What a rank does not send now it adds to its next gradients.
        gradients = gradients + plan.compression.buffer_bytes * _sent_by_one(held, plan)
    # Of the layers at work under zero 3, the part that other ranks own.
    others = (held.dense * (1 - 1 / dense_ranks) + held.expert * (1 - 1 / expert_ranks)) / layers
    at_once = minimum(engine.gathered_layers, 1.0 * layers)
    if plan.zero == 3:
        # Whole layers in 16 bits while they run or wait, and one layer's unreduced gradients.
        weights = weights + at_once * (plan.weight_bytes * others + frozen / layers * (1 - 1 / dense_ranks))
        gradients = gradients + engine.reduce_bytes * others
    if plan.offload_params:
        weights = at_once * (plan.weight_bytes * sum(trained) + frozen) / layers
    if plan.offload_optimizer:
        optimizer = 0.0
    if plan.local is not None:
        optimizer = optimizer + plan.local.buffer_bytes * share(1, *trained)
    if schedule.overlaps:
        copies = minimum(layout.pp, 2)
        weights, gradients = copies * weights, copies * gradients
        optimizer = optimizer * (1 if plan.zero else copies)
    in_flight = schedule.in_flight(held.layers.index, layout.pp, plan.micro_batches, plan.virtual_stages)
    saved = held.saved * in_flight
    if plan.offload_activations:
        saved = 2 * held.saved / layers
        if plan.streamed:
            # Those of the next layer come piece by piece into the room that the layer at work gives up.
            saved = where(held.transient > 0, 2 * held.layer_input, held.saved / layers)
    return Memory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=saved + held.transient,
        workspace=where(layout.world > 1, 1.0, ALONE) * engine.workspace_bytes + engine.logits_bytes * held.logits,
    )


def worst(memories: tuple[Memory, ...]) -> int:
    """Index of the fullest stage group (plain figures only)."""
    return max(range(len(memories)), key=lambda i: float(memories[i].total))


def frozen_bytes(held: Held, plan: TrainPlan) -> Value:
    """Bytes of the weights that are not trained, unsharded. QLoRA stores the layers' in ``bits`` bits and leaves
    tables and the output projection as they are (arXiv 2305.14314, section 3)."""
    if plan.finetune.kind != "qlora":
        return plan.weight_bytes * held.frozen
    stored = BYTES["nf4"] if plan.finetune.bits == 4 else BYTES["int8"]
    return stored * (held.frozen - held.frozen_outside) + plan.weight_bytes * held.frozen_outside


def _sharing(plan: TrainPlan) -> tuple[Value, Value]:
    """Ranks over which (dense, expert) model states are sharded."""
    layout = plan.layout
    if plan.local is not None:
        (dense, _), (expert, _) = workers(plan)
        return (dense.size if plan.hsdp is None else minimum(plan.hsdp, dense.size)), expert.size
    return (layout.dp * layout.cp if plan.hsdp is None else plan.hsdp), layout.edp


def subspace_state_bytes(held: Held, plan: TrainPlan) -> tuple[Value, Value]:
    """Bytes of the optimizer's state of (dense, expert) parameters, unsharded, where it works in subspaces."""
    assert held.subspaces is not None
    each = (
        kept_bytes(plan.optimizer, n, own) for n, own in zip((held.dense, held.expert), held.subspaces, strict=True)
    )
    (dense, dense_projectors), (expert, expert_projectors) = each
    return dense + dense_projectors, expert + expert_projectors


def _sent_by_one(held: Held, plan: TrainPlan) -> Value:
    """Gradient elements that one rank compresses: its node's sum is divided among the node's ranks."""
    total: Value = 0.0
    for n, group in ((held.dense, plan.layout.dp_group), (held.expert, plan.layout.edp_group)):
        inner, _ = split(group, plan.compression.node if plan.compression else 1)
        total = total + n / inner.size
    return total


def host_bytes(held: Held, plan: TrainPlan, engine: TrainEngine, tier: str = "cpu", in_flight: Value = 1.0) -> Value:
    """Bytes that one rank keeps in its node's DRAM ("cpu") or storage ("nvme") because they were offloaded there.

    An offloaded optimizer takes an fp32 copy of the weights along (ZeRO-Offload, arXiv 2101.06840, section 4).
    Gradients wait there for the update where they leave the device for it (section 4.1); if layers are updated as soon
    as they can be, one layer's do. ``in_flight``: micro-batches whose activations wait for their backward pass.
    """
    dense_ranks, expert_ranks = _sharing(plan)
    whole = held.dense + held.expert
    owned = held.dense / dense_ranks + held.expert / expert_ranks if plan.zero >= 1 else whole
    total: Value = 0.0
    if plan.offload_optimizer == tier:
        total = total + (plan.optimizer.state_bytes + 4.0) * owned
    if plan.offload_params == tier:
        frozen = frozen_bytes(held, plan)
        sharded = plan.weight_bytes * owned + frozen / dense_ranks
        total = total + (sharded if plan.zero == 3 else plan.weight_bytes * whole + frozen)
    if plan.offload_activations == tier:
        total = total + in_flight * held.saved
    if plan.offload_optimizer and tier == "cpu" and (engine.offload_gradients or plan.streamed):
        waiting = where(plan.micro_batches <= 1, held.largest, owned) if plan.streamed else owned
        total = total + engine.gradient_bytes * waiting
    return total
