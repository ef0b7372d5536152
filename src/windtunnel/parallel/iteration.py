"""One serving iteration as a tree: prefill tokens, decode tokens or both, through every pipeline stage."""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.models.network import Network
from windtunnel.ops.build import collective, host_work, pointwise
from windtunnel.ops.fold import Totals, tree_totals
from windtunnel.ops.op import Op
from windtunnel.ops.tree import EMPTY, Node, Repeat, Sync, seq
from windtunnel.ops.values import Value, where
from windtunnel.parallel.adapters import with_inputs_cast
from windtunnel.parallel.block import blocks_tree, embedding_tree, head_tree
from windtunnel.parallel.offload import everything_here, layers_with_offloading, shared_out
from windtunnel.parallel.stages import StageLayers, deal
from windtunnel.parallel.style import Style
from windtunnel.scenario.batch import Batch, decode
from windtunnel.scenario.engines import ServeEngine
from windtunnel.scenario.plan import ServePlan


@dataclass(frozen=True, slots=True, eq=False)
class Iteration:
    """One pass of a batch. ``stages``: (layers, tree of one stage, its issue by the host included) for each group of
    like stages; ``sends``: between all stages; ``schedule``: the host's part; ``tree``: all of them in turn."""

    stages: tuple[tuple[StageLayers, Sync], ...]
    sends: Node
    schedule: Op
    tree: Node


def serving_style(plan: ServePlan, engine: ServeEngine) -> Style:
    """How layers run in a serving engine."""
    return Style(
        layout=plan.layout,
        linear=plan.linear,
        experts=plan.experts,
        eager_attention=engine.attention == "eager",
        fused=frozenset(engine.fused),
        expert_imbalance=engine.expert_imbalance,
        interference=engine.interference,
        mixed_attention=engine.mixed_attention,
    )


def iteration(network: Network, plan: ServePlan, engine: ServeEngine, batch: Batch) -> Iteration:
    """The tree of one iteration of ``batch`` (what one attention-data-parallel rank holds)."""
    style = serving_style(plan, engine)
    stages: list[tuple[StageLayers, Sync]] = []
    parts: list[Node] = []
    # Graphs are captured for decoding: batches of prompts have too many shapes.
    eager: Value = where(batch.prefill_tokens > 0, 1.0, 0.0) if engine.graphs else 1.0
    for layers in deal(network, int(plan.layout.pp)):
        issue = host_work("issue", eager * engine.host_s_per_layer * layers.layers * plan.block_batches)
        stage = Sync(seq(_stage(network, layers, batch, style, engine, plan), issue))
        stages.append((layers, stage))
        parts.append(Repeat(layers.count, stage, name=f"stages {layers.index}+{layers.count}"))
    boundaries = int(plan.layout.pp) - 1
    sends: Node = EMPTY
    if boundaries:
        size = style.act * batch.tokens * network.hidden_size / plan.layout.tp
        sends = Repeat(boundaries, collective("send_recv", size, plan.layout.pp_group, "pp_comm", name="pp.send"))
        parts.append(sends)
    schedule = host_work("schedule", engine.host_s_per_step + engine.host_s_per_sequence * batch.sequences)
    body = seq(*parts, name="iteration")
    tree = Sync(seq(schedule, body)) if engine.asynchronous else seq(Sync(schedule), body)
    return Iteration(tuple(stages), sends, schedule, tree)


def changed(tree: Node, plan: ServePlan) -> Node:
    """A layer's tree (or the embedding's, the head's) as the plan's techniques rewrite it."""
    for change in plan.rewrites:
        tree = change(tree)
    return tree


def _layers(layers: StageLayers, batch: Batch, style: Style, engine: ServeEngine, plan: ServePlan) -> Node:
    def change(tree: Node) -> Node:
        return changed(tree, plan)

    body = blocks_tree(layers.blocks, shared_out(batch, plan.block_batches), style, change=change)
    if plan.offloads:
        return layers_with_offloading(layers, body, batch, style, plan, engine)
    return Repeat(plan.block_batches, body) if plan.block_batches > 1 else body


def layer_weights(layers: StageLayers, plan: ServePlan, engine: ServeEngine) -> float:
    """Bytes of the weights of a stage's layers as stored on one rank: what can be kept off the device."""
    if not layers.blocks:
        return 0.0
    made = _layers(layers, decode(1.0, 1.0), serving_style(plan, engine), engine, everything_here(plan))
    return float(tree_totals(made).held["weight_bytes"])


def _stage(
    network: Network,
    layers: StageLayers,
    batch: Batch,
    style: Style,
    engine: ServeEngine,
    plan: ServePlan,
) -> Node:
    first = changed(embedding_tree(network, batch, style), plan) if layers.first else EMPTY
    body = _layers(layers, batch, style, engine, plan) if layers.blocks else EMPTY
    last: Node = EMPTY
    if layers.last:
        rows = batch.sequences
        # A logit is read once by the penalties and once by the softmax and the draw.
        sample = pointwise(
            "sample", "sampling", reads=2.0 * rows * network.vocab_size, writes=rows * network.vocab_size, act=4.0
        )
        sample = sample.but(kernels=1.0 + engine.sampling_kernels * rows)
        apart = int(style.layout.pp) > 1
        last = seq(changed(head_tree(network, batch, style, copy_of_table=apart), plan), sample)
    tree: Node = seq(first, body, last, name="stage")
    if style.linear.compute in ("fp8", "int8") and engine.quantize_kernels is not None:
        tree = with_inputs_cast(tree, engine.quantize_kernels, fused="quantize" in style.fused)
    return tree


def stage_weights(iteration_: Iteration) -> list[tuple[StageLayers, Totals]]:
    """What each stage holds: its parameters and their bytes as stored."""
    return [(layers, tree_totals(tree)) for layers, tree in iteration_.stages]
