"""What data parallelism and the update add to a pipeline stage: gathers, reductions, local exchanges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from windtunnel.models.dtypes import BYTES
from windtunnel.models.network import Network
from windtunnel.ops.build import collective, host_work
from windtunnel.ops.op import Group
from windtunnel.ops.tree import EMPTY, Exposed, Flow, Node, Par, Repeat, seq
from windtunnel.ops.values import Value, maximum, minimum
from windtunnel.parallel.exchange import local_exchange, selecting, summed, workers
from windtunnel.parallel.held import Held
from windtunnel.parallel.stages import StageLayers
from windtunnel.parallel.update import update, updated_behind
from windtunnel.scenario.engines import TrainEngine
from windtunnel.scenario.plan import Compression, LocalSteps, TrainPlan


@dataclass(frozen=True, slots=True, eq=False)
class Sharding:
    """What data parallelism and the update add to one stage. ``projecting``: what a low-rank optimizer does to the
    gradients of all its layers."""

    plan: TrainPlan
    engine: TrainEngine
    held: Held
    layers: StageLayers
    projecting: Node = EMPTY

    @property
    def _shards(self) -> tuple[tuple[Value, Group, Group | None], ...]:
        """(parameters, group that shards them, group of replicas or None) for dense and expert weights."""
        (dense, _), (expert, _) = self._workers
        replicas: Group | None = None
        if self.plan.hsdp is not None:
            # No group is larger than a worker.
            size = self.plan.hsdp if self.plan.local is None else minimum(self.plan.hsdp, dense.size)
            replicas = Group(dense.size / size, dense.stride * size)
            dense = Group(size, dense.stride)
        parts: list[tuple[Value, Group, Group | None]] = [(self.held.dense, dense, replicas)]
        if not (isinstance(self.held.expert, int | float) and self.held.expert == 0):
            parts.append((self.held.expert, expert, None))
        return tuple(parts)

    @property
    def _workers(self) -> tuple[tuple[Group, Group], tuple[Group, Group]]:
        """(ranks that stay in step, one rank of each worker) for dense and expert weights."""
        return workers(self.plan)

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

    def _reduce(self, share: Value, how: Compression | None) -> Node:
        """Sum ``share`` of the stage's gradients over the replicas, leaving each rank its part (or all of it)."""
        ops: list[Node] = []
        width = self.engine.reduce_bytes
        for n, group, replicas in self._shards:
            ops.append(summed(n * share, group, width, self.plan.zero > 0, how))
            if replicas is not None:
                size = width * n * share
                ops.append(collective("all_reduce", size / group.size, replicas, "dp_comm", name="dp.replicas"))
        return seq(*ops)

    def _leaving(self, share: Value, how: Compression | None) -> list[tuple[Node, str]]:
        """What becomes of ``share`` of the gradients that a pass has left, each with its stream."""
        reduced = [(self._reduce(share, how), "dp")]
        if how is None:
            return reduced
        chosen = seq(*(selecting(n * share, group, how) for n, group, _ in self._shards))
        return [(chosen, "compute"), *reduced]

    def _as_compressed(self, make: Callable[[Compression | None], Node]) -> Node:
        """What ``make`` makes of the plan's compression; in the steps of its warm-up there is none."""
        how = self.plan.compression
        if how is None or not how.warmup:
            return make(how)
        return seq(Repeat(1 - how.warmup, make(how)), Repeat(how.warmup, make(None)))

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

        def flow(how: Compression | None) -> Node:
            stages = [(self._gather(1 / n), "dp"), (Repeat(1 / n, work), "compute")]
            if reduce:
                stages += self._leaving(1 / n, how)
            parts, streams = zip(*stages, strict=True)
            return Flow(n, parts, streams, self.engine.interference, 1, "zero3")

        return self._as_compressed(flow) if reduce else flow(None)

    def reduced(self, work: Node) -> Node:
        """ZeRO-2: gradients leave behind every backward pass, since no rank keeps all of them (arXiv 1910.02054,
        section 5.2)."""
        if self._alone():
            return work
        return self._as_compressed(lambda how: self._reduced(work, how))

    def _reduced(self, work: Node, how: Compression | None) -> Node:
        if not self.engine.overlap_gradients:
            return seq(work, *(node for node, _ in self._leaving(1.0, how)))
        return self._flow(work, how, "zero2")

    def epilogue(self, network: Network, forward: Node, backward: Node) -> Node:
        """After the last micro-batch: the exposed part of the reduction, the update, and the new weights' gather."""
        parts: list[Node | None] = []
        if not self._alone() and self.plan.zero < 2:
            parts.append(self._as_compressed(lambda how: self._behind(backward, how)))
        parts.append(self._tied(network))
        owned = self.owned()
        if self.plan.streamed and self.plan.offload_optimizer:
            parts.append(updated_behind(backward, owned, self.layers.layers, self.plan, self.engine))
        else:
            parts += update(owned, self.held, self.plan, self.engine)
        if self.projecting is not EMPTY:
            (_, group, _), *_ = self._shards
            parts.append(Repeat(1 / group.size, self.projecting) if self.plan.zero >= 1 else self.projecting)
        if self.plan.local is not None:
            parts.append(self._locally(self.plan.local, seq(forward, backward)))
        if not self._alone() and self.plan.zero in (1, 2):
            parts.append(self._ahead(forward))
        parts.append(host_work("step", self.engine.host_s_per_step))
        return seq(*parts, name="epilogue")

    @property
    def _buckets(self) -> Value:
        return maximum((self.held.dense + self.held.expert) / self.engine.bucket_parameters, 1.0)

    def _flow(self, work: Node, how: Compression | None, name: str = "") -> Flow:
        """Gradients leave in buckets behind a backward pass."""
        n = self._buckets
        parts, streams = zip((Repeat(1 / n, work), "compute"), *self._leaving(1 / n, how), strict=True)
        return Flow(n, parts, streams, self.engine.interference, 0, name)

    def _behind(self, work: Node, how: Compression | None) -> Node:
        if not self.engine.overlap_gradients:
            return seq(*(node for node, _ in self._leaving(1.0, how)))
        return Exposed(self._flow(work, how), "reduction behind backward")

    def _locally(self, how: LocalSteps, passes: Node) -> Node:
        """A step's share of the exchange between workers. ``passes``: those of one micro-batch; bubbles of a pipeline
        are not counted as time to hide behind."""
        parts: list[tuple[Value, tuple[Group, Group]]] = [(self.held.dense, self._workers[0])]
        if not (isinstance(self.held.expert, int | float) and self.held.expert == 0):
            parts.append((self.held.expert, self._workers[1]))
        shard = self.plan.zero > 0
        each = (local_exchange(n / how.fragments, inner, outer, shard, how) for n, (inner, outer) in parts)
        exchange: Node = seq(*each, name="local exchange")
        if not (isinstance(how.behind, int | float) and how.behind == 0):
            steps = Repeat(how.behind * self.plan.micro_batches, passes)
            exchange = Exposed(Par((steps, exchange), self.engine.interference), "exchange behind local steps")
        return Repeat(how.fragments / how.period, exchange)

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
