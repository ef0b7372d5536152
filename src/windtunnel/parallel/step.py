"""One training step as a tree: a pipeline of stages with their gradient, communication and update work.

What a stage does for one micro-batch is a forward tree, whose backward trees follow from it; data parallelism wraps
these in Flows (bucketed reductions behind the backward pass, gathered layers ahead of their use) and the update
comes after the last micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from windtunnel.models.flops import counted
from windtunnel.models.network import Block, Network
from windtunnel.ops.build import collective, host_work
from windtunnel.ops.fold import Totals, tree_totals
from windtunnel.ops.gradient import gradient
from windtunnel.ops.pipeline import Schedule
from windtunnel.ops.rewrite import operators, rewrite
from windtunnel.ops.tree import EMPTY, Node, Par, Pipeline, Repeat, Stage, Sync, seq
from windtunnel.ops.values import Value, maximum
from windtunnel.parallel.adapters import with_adapters, with_casts
from windtunnel.parallel.block import block_tree, embedding_tree, head_tree
from windtunnel.parallel.held import Held
from windtunnel.parallel.low_rank import Subspace, projecting, subspaces
from windtunnel.parallel.offload import moves, offloaded
from windtunnel.parallel.recompute import Recomputed, recomputed
from windtunnel.parallel.sharding import Sharding
from windtunnel.parallel.stages import StageLayers, deal
from windtunnel.parallel.style import Style
from windtunnel.scenario.batch import Batch, training
from windtunnel.scenario.engines import TrainEngine
from windtunnel.scenario.plan import TrainPlan


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A training step's tree and what each group of stages holds."""

    tree: Pipeline
    held: tuple[Held, ...]
    batch: Batch


def style_of(plan: TrainPlan, engine: TrainEngine, domain: int = 1) -> Style:
    """How layers run under a plan. ``domain``: ranks in the innermost level of the interconnect."""
    frozen = plan.finetune.kind != "full"
    return Style(
        layout=plan.layout,
        linear=plan.linear,
        experts=plan.linear,
        training=True,
        sequence_parallel=plan.sequence_parallel,
        eager_attention=plan.eager_attention,
        fused=frozenset(engine.fused),
        dropout=engine.dropout,
        context=plan.context,
        expert_imbalance=engine.expert_imbalance,
        expert_passes=engine.expert_passes,
        expert_once=engine.expert_dispatch == "once",
        domain=domain,
        overlap_tp=engine.tp_overlap,
        # Where weight gradients are put off there is nothing to hide a reduction behind.
        overlap_backward=engine.tp_overlap_backward and plan.schedule != "zero-bubble",
        interference=engine.interference,
        frozen=frozen,
        vocab_multiple=engine.vocab_multiple,
    )


def _shortened(batch: Batch, cp: Value) -> Batch:
    """The tokens and pairs of one of cp ranks (balanced halves); each still reads all keys."""
    share = 1 / cp
    return replace(
        batch,
        tokens=batch.tokens * share,
        sequences=batch.sequences * share,
        prefill_tokens=batch.prefill_tokens * share,
        prefill_pairs=batch.prefill_pairs * share,
        windows={w: (p * share, c, d) for w, (p, c, d) in batch.windows.items()},
    )


def training_step(
    network: Network,
    plan: TrainPlan,
    engine: TrainEngine,
    schedule: Schedule,
    domain: int = 1,
    parts: dict[object, Part] | None = None,
) -> Step:
    """The tree of one optimizer step of ``plan`` (layout.pp a plain integer; other sizes may be arrays).

    ``parts``: of steps with the same layers, to which this one's are added. Plans may share them that differ in
    nothing but pp, dp, virtual stages, ZeRO, recomputation, what is offloaded, and schedules other than zero-bubble
    (in 8 bits, the number of micro-batches must be the same, too).
    """
    batch = _shortened(training(plan.micro_batch, plan.seq, plan.document_tokens, network.views), plan.layout.cp)
    style = style_of(plan, engine, domain)
    builder = _Builder(network, plan, engine, style, batch, schedule.overlaps, {} if parts is None else parts)
    built = [builder.stage(layers) for layers in deal(network, int(plan.layout.pp))]
    tree = Pipeline(tuple(stage for stage, _ in built), plan.micro_batches, schedule, plan.virtual_stages, "step")
    return Step(tree, tuple(held for _, held in built), batch)


Known = Mapping[int, Node]


def computing(node: Node, known: Known = MappingProxyType({})) -> Node:
    """A tree without its messages."""
    return rewrite(node, lambda op: EMPTY if op.group is not None else op, known)


def talking(node: Node, known: Known = MappingProxyType({})) -> Node:
    """A tree's messages alone."""
    return rewrite(node, lambda op: EMPTY if op.group is None else op, known)


def side_by_side(stage: Stage, engine: TrainEngine, known: tuple[Known, Known] = ({}, {})) -> Stage:
    """The stage with one micro-batch's forward beside another's backward pass: the communication of each hides behind
    the other's computing (arXiv 2412.19437, section 3.2.1). Kernels share the device's compute units, so those of the
    two passes run one after the other. ``known``: :func:`computing` and :func:`talking` of some parts, by ``id``."""
    passes = (stage.forward, stage.backward, stage.weight)
    work = seq(*(computing(p, known[0]) for p in passes), name="computing")
    messages = seq(*(talking(p, known[1]) for p in passes), name="communication")
    return replace(stage, overlapped=Par((work, messages), engine.interference, "forward beside backward"))


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A piece of a stage: its forward tree, the trees of its backward pass, and what it holds."""

    forward: Node
    backward: Node
    weight: Node
    holds: Totals
    adapters: Value

    @property
    def experts(self) -> bool:
        """Whether it routes tokens to experts."""
        return any(op.expert for op in operators(self.forward))


class _Builder:
    """Builds the stages of one step. Every distinct layer is built once and shared, so it is priced once."""

    def __init__(
        self,
        network: Network,
        plan: TrainPlan,
        engine: TrainEngine,
        style: Style,
        batch: Batch,
        overlaps: bool,
        parts: dict[object, Part],
    ) -> None:
        self.network, self.plan, self.engine, self.style, self.batch = network, plan, engine, style, batch
        self.overlaps, self.parts = overlaps, parts
        self.again: dict[int, Recomputed] = {}

    def _part(self, key: object, make: Callable[[], Node]) -> Part:
        """What ``key`` names, made where it is not there yet."""
        if key not in self.parts:
            self.parts[key] = self._made(make())
        return self.parts[key]

    def _made(self, tree: Node) -> Part:
        for change in self.plan.rewrites:
            tree = change(tree)
        if self.plan.finetune.kind != "full":
            tree = with_adapters(tree, self.plan.finetune, self.style.linear.activations)
        if self.plan.linear.compute == "fp8":
            tree = with_casts(tree, self.plan.micro_batches)
        backward, weight = gradient(tree, self.engine.gradient_bytes)
        adapters = sum(op.parameters for op in operators(tree) if ".lora_" in op.name)
        return Part(tree, backward, weight, tree_totals(tree), adapters)

    def _recomputed(self, part: Part) -> Recomputed:
        if id(part) not in self.again:
            engine = self.engine
            self.again[id(part)] = recomputed(
                part.forward, part.holds, self.plan.recompute, engine.selective, engine.recompute_stops
            )
        return self.again[id(part)]

    @property
    def _by_operator(self) -> bool:
        return self.plan.recompute == "selective" and self.engine.selective == "operators"

    def _layer(self, block: Block, encoder: bool) -> Part:
        return self._part((block, encoder), lambda: block_tree(block, self.batch, self.style, self.batch))

    def _edges(self, layers: StageLayers) -> tuple[list[Part], list[Part]]:
        """(before, after) the layers."""
        before, after = [], []
        network, batch, style = self.network, self.batch, self.style
        if layers.first:
            before.append(self._part("embedding", lambda: embedding_tree(network, batch, style)))
        if layers.last:
            apart = int(self.plan.layout.pp) > 1
            after.append(self._part(("head", apart), lambda: head_tree(network, batch, style, copy_of_table=apart)))
        return before, after

    def stage(self, layers: StageLayers) -> tuple[Stage, Held]:
        """One group of like stages."""
        plan, engine = self.plan, self.engine
        body = [(self._layer(b, True), k) for b, k in counted(layers.encoder)]
        body += [(self._layer(b, False), k) for b, k in counted(layers.blocks)]
        before, after = self._edges(layers)
        held = self._held(layers, before + after, body)
        forward: Node = seq(
            *(p.forward for p in before),
            *(Repeat(k, p.forward, f"{k} layers") for p, k in body),
            *(p.forward for p in after),
            host_work("issue", self._issue_s(body)),
            name="forward",
        )
        backward: Node = seq(
            *self._again(body),
            *(p.backward for p in reversed(after)),
            *(Repeat(k, p.backward, f"{k} layers") for p, k in reversed(body)),
            *(p.backward for p in before),
            host_work("issue.back", engine.host_backward_ratio * self._issue_s(body)),
            name="backward",
        )
        weight: Node = seq(
            *(p.weight for p in reversed(after)),
            *(Repeat(k, p.weight, f"{k} layers") for p, k in reversed(body) if p.weight is not EMPTY),
            name="weight gradient",
        )
        sharding = Sharding(plan, engine, held, layers, self._projecting(body))
        if plan.zero == 3:
            forward = sharding.gathered(forward, reduce=False)
            backward, weight = sharding.gathered(seq(backward, weight, name="backward"), reduce=True), EMPTY
        if plan.zero == 2:
            backward, weight = sharding.reduced(seq(backward, weight, name="backward")), EMPTY
        if moves(plan, engine):
            forward = offloaded(forward, held, plan, engine, back=False)
            both = seq(backward, weight, name="backward")
            backward, weight = offloaded(both, held, plan, engine, back=True), EMPTY
        # Collectives hide behind passes as long as these last, be it the device or the host that takes the time.
        passes = seq(Sync(backward), Sync(weight), name="backward")
        epilogue = sharding.epilogue(self.network, Sync(forward), passes)
        stage = Stage(layers.count, forward, backward, weight, self._send(), epilogue)
        return (side_by_side(stage, engine) if self.overlaps and int(plan.layout.pp) > 1 else stage), held

    def _issue_s(self, body: list[tuple[Part, int]]) -> float:
        """Host seconds to issue the layers' forward passes."""
        engine = self.engine
        return sum(k * (engine.host_s_per_layer + engine.expert_host_s * p.experts) for p, k in body)

    def _again(self, body: list[tuple[Part, int]]) -> list[Node]:
        """What recomputation runs before the backward pass."""
        parts = [(self._recomputed(p), k) for p, k in body]
        again: list[Node] = [Repeat(k, r.tree) for r, k in parts if r.tree is not EMPTY]
        if self.plan.recompute == "full":
            again.append(host_work("issue.again", self._issue_s(body)))
            if self.plan.partition_activations and not self.plan.sequence_parallel:
                # ZeRO (arXiv 1910.02054), section 6.1: gathered once a layer, right before it runs again.
                size = self.style.act * self.batch.tokens * self.network.hidden_size
                group = self.plan.layout.tp_group
                gather = collective("all_gather", size, group, "tp_comm", name="tp.gather_kept")
                again.append(Repeat(sum(k for _, k in body), gather, "kept inputs"))
        if not again:
            return []
        every, share = seq(*again, name="recompute"), self.plan.recompute_share
        return [every if share == 1 else Repeat(share, every, "recompute")]

    def _projecting(self, body: list[tuple[Part, int]]) -> Node:
        """What a low-rank optimizer does to the gradients of all layers."""
        low_rank = self.plan.optimizer.low_rank
        if low_rank is None or self.plan.finetune.kind != "full":
            return EMPTY
        dtype = self.style.linear.activations
        each = (Repeat(k, projecting(p.forward, low_rank, dtype, self.engine.gradient_bytes)) for p, k in body)
        return seq(*each, name="projection")

    def _subspaces(self, body: list[tuple[Part, int]]) -> tuple[Subspace, Subspace] | None:
        low_rank = self.plan.optimizer.low_rank
        if low_rank is None or self.plan.finetune.kind != "full":
            return None
        dense, expert = Subspace(), Subspace()
        for part, k in body:
            own = subspaces(part.forward, low_rank)
            dense, expert = dense.plus(own[0], k), expert.plus(own[1], k)
        return dense, expert

    def _send(self) -> Node:
        """One boundary: each tp rank sends a shard of the sequence (arXiv 2104.04473, section 4.1, scatter/gather)."""
        layout = self.plan.layout
        if int(layout.pp) == 1:
            return EMPTY
        size = self.style.act * self.batch.tokens * self.network.hidden_size / layout.tp
        return collective("send_recv", size, layout.pp_group, "pp_comm", name="pp.send")

    def _held(self, layers: StageLayers, edges: list[Part], body: list[tuple[Part, int]]) -> Held:
        plan, batch = self.plan, self.batch
        every = [(p, 1) for p in edges] + body

        def held(key: str, parts: list[tuple[Part, int]]) -> Value:
            return sum((k * p.holds.held.get(key, 0.0) for p, k in parts), 0.0)

        outside: Value = 0.0
        frozen = held("dense_frozen", every) + held("expert_frozen", every)
        dense, expert = held("dense", every), held("expert", every)
        if plan.finetune.kind != "full":
            # Norms, routers and tables are frozen with the base: only adapters are trained.
            adapters: Value = sum((k * p.adapters for p, k in every), 0.0)
            frozen, dense, expert = frozen + dense + expert - adapters, adapters, 0.0
            ends = [(p, 1) for p in edges]
            outside = held("dense_frozen", ends) + held("dense", ends)
        split = plan.sequence_parallel or (plan.partition_activations and plan.recompute == "full")
        own = batch.tokens / (plan.layout.tp if split else 1)
        layer_input = self.style.act * own * self.network.hidden_size
        saved: Value = layer_input * layers.layers * (plan.recompute == "full" or self._by_operator)
        saved = saved + sum((k * self._recomputed(p).kept for p, k in body), 0.0)
        if plan.recompute_share != 1:
            saved = plan.recompute_share * saved + (1 - plan.recompute_share) * held("saved", body)
        transient = sum((k * self._recomputed(p).brought_back for p, k in body), 0.0) / max(layers.layers, 1)
        logits: Value = 0.0
        if layers.last and self.network.has_head:
            logits = batch.sequences * self.network.vocab_size / plan.layout.tp
        saved = saved + held("saved", [(p, 1) for p in edges])
        largest: Value = 0.0
        for part, _ in every:
            own_trained = part.holds.held.get("dense", 0.0) + part.holds.held.get("expert", 0.0)
            largest = maximum(largest, own_trained if plan.finetune.kind == "full" else part.adapters)
        return Held(
            layers, dense, expert, frozen, saved, transient, logits, outside, largest, layer_input,
            self._subspaces(body),
        )  # fmt: skip
