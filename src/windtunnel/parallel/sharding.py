"""What data parallelism, offloading and the update add to a pipeline stage: gathers, reductions, copies."""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.models.dtypes import BYTES
from windtunnel.models.network import Network
from windtunnel.ops.build import collective, host_work, pointwise, transfer
from windtunnel.ops.op import Group, Op
from windtunnel.ops.tree import Exposed, Flow, Node, Repeat, seq
from windtunnel.ops.values import Value, maximum
from windtunnel.parallel.stages import StageLayers
from windtunnel.scenario.engines import TrainEngine
from windtunnel.scenario.plan import TrainPlan


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """What one rank of a stage holds, in elements and bytes; memory is reckoned from it.

    ``dense``/``expert``: trained parameters by the group that shares their gradients; ``frozen``: not trained, of which
    ``frozen_outside`` are outside the layers (tables, output projection).
    ``saved``: activation bytes of one micro-batch kept until its backward pass under the plan's recomputation;
    ``transient``: those of the one layer (or core) that recomputation brings back; ``logits``: rows x vocabulary of
    one micro-batch on the last stage.
    """

    layers: StageLayers
    dense: Value
    expert: Value
    frozen: Value
    saved: Value
    transient: Value
    logits: Value
    frozen_outside: Value = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Sharding:
    """What data parallelism, offloading and the update add to one stage."""

    plan: TrainPlan
    engine: TrainEngine
    held: Held
    layers: StageLayers

    @property
    def _shards(self) -> tuple[tuple[Value, Group, Group | None], ...]:
        """(parameters, group that shards them, group of replicas or None) for dense and expert weights."""
        layout = self.plan.layout
        dense, expert = layout.dp_group, layout.edp_group
        replicas: Group | None = None
        if self.plan.hsdp is not None:
            replicas = Group(dense.size / self.plan.hsdp, dense.stride * self.plan.hsdp)
            dense = Group(self.plan.hsdp, dense.stride)
        parts: list[tuple[Value, Group, Group | None]] = [(self.held.dense, dense, replicas)]
        if not (isinstance(self.held.expert, int | float) and self.held.expert == 0):
            parts.append((self.held.expert, expert, None))
        return tuple(parts)

    def _gather(self, share: Value) -> Node:
        """Bring together ``share`` of the stage's weights; a frozen base is sharded by ZeRO-3 only."""
        width, finetune = self.plan.weight_bytes, self.plan.finetune
        every = [
            collective("all_gather", width * n * share, group, "dp_comm", name="dp.gather")
            for n, group, _ in self._shards
        ]
        if finetune.kind != "full" and self.plan.zero == 3:
            if finetune.kind == "qlora":
                width = BYTES["nf4" if finetune.bits == 4 else "int8"]
            size = width * self.held.frozen * share
            every.append(collective("all_gather", size, self.plan.layout.dp_group, "dp_comm", name="dp.gather"))
        return seq(*every)

    def _reduce(self, share: Value) -> Node:
        """Sum ``share`` of the stage's gradients over the replicas, leaving each rank its part (or all of it)."""
        ops: list[Node] = []
        for n, group, replicas in self._shards:
            size = self.engine.reduce_bytes * n * share
            kind = "all_reduce" if self.plan.zero == 0 else "reduce_scatter"
            ops.append(collective(kind, size, group, "dp_comm", name="dp.reduce"))
            if replicas is not None:
                ops.append(collective("all_reduce", size / group.size, replicas, "dp_comm", name="dp.replicas"))
        return seq(*ops)

    def _alone(self) -> bool:
        """Whether no rank shares this one's parameters (experts may have copies inside a tp group)."""
        groups = [g for _, group, replicas in self._shards for g in (group, replicas) if g is not None]
        return all(isinstance(g.size, int | float) and g.size <= 1 for g in groups)

    def gathered(self, work: Node, *, reduce: bool) -> Node:
        """ZeRO-3: each layer's weights arrive while the one before it runs; gradients leave behind it, after every
        micro-batch as under ZeRO-2."""
        n = max(self.layers.layers, 1)
        if self._alone():
            return work
        stages: list[Node] = [self._gather(1 / n), Repeat(1 / n, work)]
        if reduce:
            stages.append(self._reduce(1 / n))
        streams = ("dp", "compute", "dp")[: len(stages)]
        return Flow(n, tuple(stages), streams, self.engine.interference, 1, "zero3")

    def reduced(self, work: Node) -> Node:
        """ZeRO-2: gradients leave behind every backward pass, since no rank keeps all of them (arXiv 1910.02054,
        section 5.2)."""
        if self._alone():
            return work
        if not self.engine.overlap_gradients:
            return seq(work, self._reduce(1.0))
        n = self._buckets
        stages = (Repeat(1 / n, work), self._reduce(1 / n))
        return Flow(n, stages, ("compute", "dp"), self.engine.interference, 0, "zero2")

    def fetched(self, work: Node) -> Node:
        """Weights kept on the host or on storage arrive layer by layer ahead of their use (ZeRO-Infinity,
        arXiv 2104.07857, section 5: overlap-centric design)."""
        n = max(self.layers.layers, 1)
        shard = self.plan.layout.dp * self.plan.layout.cp if self.plan.zero == 3 else 1
        size = self.plan.weight_bytes * (self.held.dense + self.held.expert + self.held.frozen) / n / shard
        nvme = size if self.plan.offload_params == "nvme" else 0.0
        arrive = transfer("offload.params", "offload", pcie=size, nvme=nvme)
        return Flow(n, (arrive, Repeat(1 / n, work)), ("pcie", "compute"), 0.0, 1, "offload")

    def swapped(self, work: Node) -> Node:
        """Saved activations leave behind the forward pass and come back ahead of the backward pass."""
        n = max(self.layers.layers, 1)
        size = self.held.saved / n
        nvme = size if self.plan.offload_activations == "nvme" else 0.0
        move = transfer("offload.activations", "offload", pcie=size, nvme=nvme)
        return Flow(n, (Repeat(1 / n, work), move), ("compute", "pcie"), 0.0, 0, "offload")

    def epilogue(self, network: Network, forward: Node, backward: Node) -> Node:
        """After the last micro-batch: the exposed part of the reduction, the update, and the new weights' gather."""
        parts: list[Node | None] = []
        if not self._alone() and self.plan.zero < 2:
            parts.append(self._behind(backward))
        parts += [self._tied(network), *self._update()]
        if not self._alone() and self.plan.zero in (1, 2):
            parts.append(self._ahead(forward))
        parts.append(host_work("step", self.engine.host_s_per_step))
        return seq(*parts, name="epilogue")

    @property
    def _buckets(self) -> Value:
        return maximum((self.held.dense + self.held.expert) / self.engine.bucket_parameters, 1.0)

    def _behind(self, work: Node) -> Node:
        n = self._buckets
        if not self.engine.overlap_gradients:
            return self._reduce(1.0)
        flow = Flow(n, (Repeat(1 / n, work), self._reduce(1 / n)), ("compute", "dp"), self.engine.interference, 0)
        return Exposed(flow, "reduction behind backward")

    def _ahead(self, work: Node) -> Node:
        n = self._buckets
        if not self.engine.overlap_parameters:
            return self._gather(1.0)
        flow = Flow(n, (self._gather(1 / n), Repeat(1 / n, work)), ("dp", "compute"), self.engine.interference, 1)
        return Exposed(flow, "weights ahead of forward")

    def _tied(self, network: Network) -> Node | None:
        """First and last stage both hold a tied table and sum its gradient (arXiv 2104.04473, section 4)."""
        layout = self.plan.layout
        pp, trained = int(layout.pp), self.plan.finetune.kind == "full"
        if not network.tied or pp == 1 or not trained or not (self.layers.first or self.layers.last):
            return None
        width = network.head_width or network.hidden_size
        size = self.engine.reduce_bytes * network.vocab_size * width / layout.tp
        ends = Group(2, layout.tp * layout.cp * layout.dp * (pp - 1))
        return collective("all_reduce", size, ends, "dp_comm", name="tied")

    def owned(self) -> Value:
        """Trained parameters that this rank updates."""
        total: Value = 0.0
        for n, group, _ in self._shards:
            total = total + (n / group.size if self.plan.zero >= 1 else n)
        return total

    def _update(self) -> list[Node]:
        owned = self.owned()
        # Traffic of the fused update beyond its state is master, gradient and weight (see the engine profile).
        state = self.plan.optimizer.state_bytes
        traffic = self.engine.optimizer_traffic_bytes - 2 * (8.0 - state)
        if self.plan.offload_optimizer:
            moved = (self.engine.gradient_bytes + self.plan.weight_bytes) * owned
            nvme = 2 * (state + 4.0) * owned if self.plan.offload_optimizer == "nvme" else 0.0
            shape = {"bytes": traffic * owned}
            on_host = Op("optimizer.host", "host_memory", "optimizer", shape=shape, kernels=0.0, adjoint=())
            return [transfer("offload.optimizer", "offload", pcie=moved, nvme=nvme), on_host]
        return [
            pointwise(
                "optimizer", "optimizer", reads=0.0, writes=0.0, act=1.0, cold_bytes=traffic * owned,
                flops=12.0 * owned, category="optimizer",
            )
        ]  # fmt: skip
