"""One serving iteration as a tree: prefill tokens, decode tokens or both, through every pipeline stage."""

from __future__ import annotations

from dataclasses import dataclass, replace

from windtunnel.models.dtypes import BYTES
from windtunnel.models.network import Network
from windtunnel.ops.build import collective, gemm, host_work, pointwise
from windtunnel.ops.fold import Totals, tree_totals
from windtunnel.ops.op import Op
from windtunnel.ops.tree import EMPTY, Best, Node, Repeat, Sync, seq
from windtunnel.ops.values import Value, minimum, where
from windtunnel.parallel.adapters import with_inputs_cast
from windtunnel.parallel.attention import nothing
from windtunnel.parallel.away import everything_here, layers_with_offloading, shared_out
from windtunnel.parallel.block import blocks_tree, embedding_tree, head_tree
from windtunnel.parallel.linear import chain, linear, unary
from windtunnel.parallel.stages import StageLayers, deal
from windtunnel.parallel.style import Style
from windtunnel.scenario.batch import Batch, decode
from windtunnel.scenario.engines import ServeEngine
from windtunnel.scenario.layout import Layout
from windtunnel.scenario.plan import ServePlan
from windtunnel.scenario.speculation import Draft, Guess, Speculation


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
    """The tree of one iteration of ``batch`` (what one attention-data-parallel rank holds), in which every decode gets
    one token; with speculation the share of a pass that this takes."""
    if plan.speculation is None:
        return forward(network, plan, engine, batch)
    return speculated(network, plan, engine, batch, plan.speculation)


def forward(
    network: Network,
    plan: ServePlan,
    engine: ServeEngine,
    batch: Batch,
    *,
    sequences: Value | None = None,
    drafting: Node = EMPTY,
    heads: int = 0,
) -> Iteration:
    """One pass of ``batch``. ``sequences``: that the host schedules, where they are not the rows sampled;
    ``drafting``: runs first; ``heads``: of speculation, on the last layer."""
    style = serving_style(plan, engine)
    stages: list[tuple[StageLayers, Sync]] = []
    parts: list[Node] = [drafting] if drafting is not EMPTY else []
    # Graphs are captured for decoding: batches of prompts have too many shapes.
    eager: Value = where(batch.prefill_tokens > 0, 1.0, 0.0) if engine.graphs else 1.0
    for layers in deal(network, int(plan.layout.pp)):
        issue = host_work("issue", eager * engine.host_s_per_layer * layers.layers * plan.block_batches)
        work = _stage(network, layers, batch, style, engine, plan)
        guessing = _guess_heads(network, batch.sequences, style, heads, engine, eager) if heads else None
        stage = Sync(seq(work, guessing, issue))
        stages.append((layers, stage))
        parts.append(Repeat(layers.count, stage, name=f"stages {layers.index}+{layers.count}"))
    boundaries = int(plan.layout.pp) - 1
    sends: Node = EMPTY
    if boundaries:
        size = style.act * batch.tokens * network.hidden_size / plan.layout.tp
        sends = Repeat(boundaries, collective("send_recv", size, plan.layout.pp_group, "pp_comm", name="pp.send"))
        parts.append(sends)
    rows = batch.sequences if sequences is None else sequences
    schedule = host_work("schedule", engine.host_s_per_step + engine.host_s_per_sequence * rows)
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


def draft_plan(plan: ServePlan, draft: Draft) -> ServePlan:
    """How the draft is laid out: on its own ranks, as the target's precision and engine have it."""
    return everything_here(replace(plan, layout=Layout(tp=draft.tp), speculation=None, stored=None, rewrites=()))


def verified(batch: Batch, guess: Guess, engine: ServeEngine) -> Batch:
    """The pass that checks the guesses of ``batch``'s decodes. Prompts that share it are there as often as the decodes
    take tokens from it, so that their whole work is in the share of it that is one iteration."""
    n = batch.decode_sequences
    times = where(n > 0, guess.tokens, 1.0)
    rows = n + guess.candidates * n
    # How often the cache is read.
    reads = 1.0 + guess.candidates if engine.checks_apart else 1.0
    return replace(
        batch,
        tokens=times * (batch.tokens - n) + rows,
        sequences=times * (batch.sequences - n) + rows,
        prefill_tokens=times * batch.prefill_tokens,
        prefill_pairs=times * batch.prefill_pairs,
        prefill_context=times * batch.prefill_context,
        sequences_in_prefill=times * batch.sequences_in_prefill,
        decode_sequences=reads * n,
        decode_context=reads * batch.decode_context,
        windows={w: (times * pairs, times * keys, reads * seen) for w, (pairs, keys, seen) in batch.windows.items()},
        queries=(1.0 + guess.candidates) / reads,
    )


def speculated(
    network: Network, plan: ServePlan, engine: ServeEngine, batch: Batch, speculation: Speculation
) -> Iteration:
    """One token for every decode, by the best of the guesses (elementwise: it changes with the load)."""
    options: list[Node] = []
    for guess in speculation.guesses:
        checked = verified(batch, guess, engine)
        drafting: Node = EMPTY
        if speculation.draft is not None:
            drafting = _drafting(plan, engine, batch, checked, guess, speculation.draft)
        scheduled = batch.sequences - batch.decode_sequences + checked.decode_sequences
        made = forward(network, plan, engine, checked, sequences=scheduled, drafting=drafting, heads=speculation.heads)
        share = where(batch.decode_sequences > 0, 1.0 / guess.tokens, 1.0)
        options.append(Repeat(share, made.tree, name=f"{guess.candidates} guesses"))
    # What a rank holds: the target, its heads, and the draft.
    held = forward(network, plan, engine, batch, heads=speculation.heads)
    stages = held.stages
    draft = speculation.draft
    if draft is not None and not draft.shared:
        (layers, stage), *others = stages
        own = forward(draft.network, draft_plan(plan, draft), engine, _decodes(batch, draft, 1.0))
        stages = ((layers, Sync(seq(stage.part, own.stages[0][1]))), *others)
    tree = options[0] if len(options) == 1 else Best(tuple(options), name="speculation")
    return Iteration(stages, held.sends, held.schedule, tree)


def _decodes(batch: Batch, draft: Draft, queries: Value) -> Batch:
    """The decodes of a batch as a pass of the draft has them."""
    n = batch.decode_sequences

    def read(context: Value) -> Value:
        return context if draft.context is None else minimum(context, draft.context * n)

    windows = {w: (0.0, 0.0, read(context)) for w, (_, _, context) in batch.windows.items()}
    windows |= {
        w: (0.0, 0.0, minimum(batch.decode_context, abs(w) * n)) for w in draft.network.views if w not in windows
    }
    rows = n * queries
    return Batch(
        rows, rows, decode_sequences=n, decode_context=read(batch.decode_context), windows=windows, queries=queries
    )


def _drafting(
    plan: ServePlan, engine: ServeEngine, batch: Batch, checked: Batch, guess: Guess, draft: Draft
) -> Node:  # fmt: skip
    """The draft's passes, and its own prefill of prompts that share the pass. The host schedules once for them all."""
    own = draft_plan(plan, draft)
    parts: list[Node] = []
    if guess.passes and not nothing(batch.decode_sequences):
        made = forward(draft.network, own, engine, _decodes(batch, draft, guess.candidates / guess.passes))
        times = where(batch.decode_sequences > 0, float(guess.passes), 0.0)
        parts.append(Repeat(times, made.stages[0][1], name="draft"))
    if not draft.shared and not nothing(batch.prefill_tokens):
        prompts = replace(
            checked, tokens=checked.prefill_tokens, sequences=0.0 * batch.sequences, decode_sequences=0.0,
            decode_context=0.0,
            windows={w: (pairs, keys, 0.0) for w, (pairs, keys, _) in checked.windows.items()},
        )  # fmt: skip
        made = forward(draft.network, own, engine, prompts)
        parts.append(Repeat(where(batch.prefill_tokens > 0, 1.0, 0.0), made.stages[0][1], name="draft's prompts"))
    return seq(*parts, name="drafting") if parts else EMPTY


_PRODUCTS = 7
"""Products of a layer that the host issues (queries, keys, values, output, and three of the feed-forward part), of
which a head of speculation has two."""


def _guess_heads(
    network: Network, rows: Value, style: Style, heads: int, engine: ServeEngine, eager: Value
) -> Node:  # fmt: skip
    """``heads`` that guess later tokens from the last hidden state: a square layer with SiLU and a residual, and an
    output projection each (Medusa, arXiv 2401.10774, section 2.1.1), over all rows that are checked, since which of
    them is the last to be accepted is known after."""
    hidden = network.hidden_size
    square = linear("guess.square", rows, hidden, hidden, style, bias=True)
    residual = chain(unary("guess.residual", "activation", rows * hidden, style), "activation", style)
    project = gemm(
        "guess.head", rows, network.vocab_size / style.layout.tp, hidden, dtype=style.linear.activations,
        weight=BYTES[style.linear.activations], act=style.act,
    )  # fmt: skip
    issue = host_work("issue", eager * engine.host_s_per_layer * 2 / _PRODUCTS)
    return Repeat(heads, seq(square, residual, project, issue), name="heads")


def stage_weights(iteration_: Iteration) -> list[tuple[StageLayers, Totals]]:
    """What each stage holds: its parameters and their bytes as stored."""
    return [(layers, tree_totals(tree)) for layers, tree in iteration_.stages]
