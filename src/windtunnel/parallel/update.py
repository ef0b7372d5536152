"""The optimizer's update as operators: on the device, or on the host for state that is kept there."""

from __future__ import annotations

from windtunnel.ops.build import pointwise, transfer
from windtunnel.ops.op import Op
from windtunnel.ops.tree import Exposed, Flow, Node, Repeat
from windtunnel.ops.values import Value
from windtunnel.parallel.held import Held
from windtunnel.parallel.low_rank import kept_bytes
from windtunnel.scenario.engines import TrainEngine
from windtunnel.scenario.plan import TrainPlan


def update(owned: Value, held: Held, plan: TrainPlan, engine: TrainEngine) -> list[Node]:
    """The update of ``owned`` parameters, after all gradients are there."""
    traffic = _traffic_bytes(plan, engine)
    if plan.offload_optimizer:
        width, stored = engine.gradient_bytes + plan.weight_bytes, _states_bytes(plan)
        if engine.offload_gradients:
            # They have left behind the backward pass. Where weights stay on the host, too, none come back; drives also
            # get fp32 gradients, and give them back (DeepSpeed, runtime/swap_tensor/optimizer_utils.py), and weights.
            width = 0.0 if plan.offload_params else plan.weight_bytes
            stored = stored + (8.0 if plan.offload_optimizer == "nvme" else 0.0) + _weights_bytes(plan)
        copy = transfer("offload.optimizer", "offload", pcie=width * owned, nvme=stored * owned)
        return [copy, _on_host(traffic * owned)]
    moved = traffic * owned
    if plan.optimizer.low_rank is not None and held.subspaces is not None:
        # Moments are read and written in the subspace alone.
        every = held.dense + held.expert
        (dense, _), (expert, _) = (
            kept_bytes(plan.optimizer, n, own) for n, own in zip((held.dense, held.expert), held.subspaces, strict=True)
        )
        moved = moved - 2 * owned * (plan.optimizer.state_bytes - (dense + expert) / every)
    return [
        pointwise(
            "optimizer", "optimizer", reads=0.0, writes=0.0, act=1.0, cold_bytes=moved, flops=12.0 * owned,
            category="optimizer",
        )
    ]  # fmt: skip


def updated_behind(backward: Node, owned: Value, layers: int, plan: TrainPlan, engine: TrainEngine) -> Node:
    """The host updates a layer as soon as its gradient is there, while the device goes on with the backward pass, and
    storage has its state ready (Fuyou, arXiv 2403.06504)."""
    n = max(layers, 1)
    stages: list[tuple[Node, str]] = [(Repeat(1 / n, backward), "compute")]
    nvme = (_states_bytes(plan) + _weights_bytes(plan)) * owned
    if plan.offload_optimizer == "nvme" or plan.offload_params == "nvme":
        stages.append((transfer("offload.optimizer", "offload", nvme=nvme / n), "nvme"))
    stages.append((_on_host(_traffic_bytes(plan, engine) * owned / n), "host"))
    if not plan.offload_params:
        stages.append((transfer("offload.weights", "offload", pcie=plan.weight_bytes * owned / n), "pcie"))
    parts, streams = zip(*stages, strict=True)
    return Exposed(Flow(n, parts, streams), "update behind backward")


def _traffic_bytes(plan: TrainPlan, engine: TrainEngine) -> float:
    """Of the fused update for each parameter. What is beyond its state is master, gradient and weight (see the engine
    profile)."""
    return engine.optimizer_traffic_bytes - 2 * (8.0 - plan.optimizer.state_bytes)


def _states_bytes(plan: TrainPlan) -> float:
    """Read from storage and written back for each parameter: its state and fp32 copy."""
    return 2 * (plan.optimizer.state_bytes + 4.0) if plan.offload_optimizer == "nvme" else 0.0


def _weights_bytes(plan: TrainPlan) -> float:
    """Written to storage for each parameter when it is updated."""
    return plan.weight_bytes if plan.offload_params == "nvme" else 0.0


def _on_host(size: Value) -> Op:
    return Op("optimizer.host", "host_memory", "optimizer", shape={"bytes": size}, kernels=0.0, adjoint=())
