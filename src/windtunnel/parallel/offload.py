"""What is kept on the host or on storage, and how it moves beside a pass."""

from __future__ import annotations

from windtunnel.ops.build import transfer
from windtunnel.ops.tree import Flow, Node, Repeat
from windtunnel.ops.values import Value, maximum
from windtunnel.parallel.held import Held
from windtunnel.scenario.engines import TrainEngine
from windtunnel.scenario.plan import TrainPlan


def offloaded(work: Node, held: Held, plan: TrainPlan, engine: TrainEngine, *, back: bool) -> Node:
    """A pass (``back``: the backward one) with the copies that it needs of what the plan keeps elsewhere."""
    if plan.streamed:
        return _streamed(work, held, plan, engine, back)
    if plan.offload_params:
        work = _fetched(work, held, plan)
    if plan.offload_activations:
        work = _swapped(work, held, plan)
    if back and plan.offload_optimizer and engine.offload_gradients:
        work = _drained(work, held, plan, engine)
    return work


def moves(plan: TrainPlan, engine: TrainEngine) -> bool:
    """Whether anything is copied beside a pass."""
    gradients = bool(plan.offload_optimizer) and (engine.offload_gradients or plan.streamed)
    return bool(plan.offload_params or plan.offload_activations) or gradients


def _weights(held: Held, plan: TrainPlan) -> Value:
    """Bytes of a layer's weights that come to this rank."""
    shard = plan.layout.dp * plan.layout.cp if plan.zero == 3 else 1
    return plan.weight_bytes * (held.dense + held.expert + held.frozen) / max(held.layers.layers, 1) / shard


def _gradients(held: Held, plan: TrainPlan, engine: TrainEngine) -> Value:
    """Bytes of a layer's gradients that leave this rank, its shard if they are sharded."""
    shard = plan.layout.dp * plan.layout.cp if plan.zero >= 2 else 1
    return engine.gradient_bytes * (held.dense + held.expert) / max(held.layers.layers, 1) / shard


def _fetched(work: Node, held: Held, plan: TrainPlan) -> Node:
    """Weights kept on the host or on storage arrive layer by layer ahead of their use (ZeRO-Infinity,
    arXiv 2104.07857, section 5: overlap-centric design)."""
    n = max(held.layers.layers, 1)
    size = _weights(held, plan)
    nvme = size if plan.offload_params == "nvme" else 0.0
    arrive = transfer("offload.params", "offload", pcie=size, nvme=nvme)
    return Flow(n, (arrive, Repeat(1 / n, work)), ("pcie", "compute"), 0.0, 1, "offload")


def _swapped(work: Node, held: Held, plan: TrainPlan) -> Node:
    """Saved activations leave behind the forward pass and come back ahead of the backward pass."""
    n = max(held.layers.layers, 1)
    size = held.saved / n
    nvme = size if plan.offload_activations == "nvme" else 0.0
    move = transfer("offload.activations", "offload", pcie=size, nvme=nvme)
    return Flow(n, (Repeat(1 / n, work), move), ("compute", "pcie"), 0.0, 0, "offload")


def _drained(work: Node, held: Held, plan: TrainPlan, engine: TrainEngine) -> Node:
    """Gradients leave for the host behind the backward pass (ZeRO-Offload, arXiv 2101.06840, section 4.1)."""
    n = max(held.layers.layers, 1)
    move = transfer("offload.gradients", "offload", pcie=_gradients(held, plan, engine))
    return Flow(n, (Repeat(1 / n, work), move), ("compute", "pcie"), 0.0, 0, "offload")


def _streamed(work: Node, held: Held, plan: TrainPlan, engine: TrainEngine, back: bool) -> Node:
    """All copies of a layer in one pipeline behind the pass. A link to the host carries both directions at once, so
    the longer one counts; storage reads and writes with one bandwidth."""
    n = max(held.layers.layers, 1)
    arrive: Value = _weights(held, plan) if plan.offload_params else 0.0
    leave: Value = 0.0
    nvme = arrive if plan.offload_params == "nvme" else 0.0
    if plan.offload_activations:
        size = held.saved / n
        arrive, leave = (arrive + size, leave) if back else (arrive, leave + size)
        nvme = nvme + (size if plan.offload_activations == "nvme" else 0.0)
    if back and plan.offload_optimizer:
        leave = leave + _gradients(held, plan, engine)
    move = transfer("offload.copies", "offload", pcie=maximum(arrive, leave), nvme=nvme)
    return Flow(n, (Repeat(1 / n, work), move), ("compute", "pcie"), 0.0, 0, "offload")
