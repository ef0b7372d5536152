"""A batch from arrival to last token: iterations laid out, priced at once, and read as latencies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from windtunnel.models.network import Network
from windtunnel.ops.fold import Evaluation, Pricer
from windtunnel.ops.tree import Node
from windtunnel.ops.values import Value, maximum
from windtunnel.parallel.iteration import Iteration, iteration
from windtunnel.scenario.batch import Batch, decode, prefill
from windtunnel.scenario.engines import ServeEngine
from windtunnel.scenario.plan import ServePlan
from windtunnel.serving.batching import Floats, Rows, as_batch, lay_out


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """How a batch went in one group of requests that iterate together. Times in seconds from arrival.

    ``seconds``: of each row, all its steps. ``evaluation`` prices every row at once; ``turns``: how many such groups
    take turns in one attention-data-parallel rank's pipeline; ``share``: requests of a group; ``running``: how many of
    them it holds at once.
    """

    rows: Rows
    seconds: Floats
    ttft: float
    tpot: float
    e2e: float
    makespan: float
    evaluation: Evaluation
    turns: int
    share: int
    running: int


def pass_seconds(made: Iteration, price: Pricer, turns: int) -> tuple[Evaluation, Value, Value]:
    """(the priced tree, seconds between two iterations of one batch, seconds of the slowest stage) when ``turns``
    batches take turns in the pipeline.

    A batch cannot start its next iteration before its tokens are back, nor before the slowest stage has served the
    other batches in between.
    """
    evaluation = Evaluation(made.tree, price)
    slowest: Value = 0.0
    for _, tree in made.stages:
        slowest = maximum(slowest, evaluation.seconds(tree))
    return evaluation, maximum(evaluation.seconds(), turns * slowest if turns > 1 else 0.0), slowest


def run_batch(
    network: Network,
    plan: ServePlan,
    engine: ServeEngine,
    price: Pricer,
    *,
    requests: int,
    input_tokens: int,
    output_tokens: int,
    slots: int,
) -> Course:
    """``requests`` equal requests on one engine, all at time 0.

    ``slots``: how many one attention-data-parallel rank holds at once; with pipeline stages they are dealt to as many
    groups as there are stages to keep busy, which start one after the other. TTFT, TPOT and E2E are means over the
    requests: TTFT to the end of the iteration that ends the prompt, TPOT (last - first token) / (output - 1).
    """
    per_rank = -(-requests // int(plan.layout.dp))
    turns = min(int(plan.layout.pp), per_rank, slots)
    share = -(-per_rank // turns)
    # Requests that all fit do not queue, even where they cannot be dealt out evenly.
    running = share if per_rank <= slots else slots // turns
    rows = lay_out(
        share, input_tokens, output_tokens, scheduler=engine.scheduler, budget=plan.max_batched_tokens, slots=running
    )
    batch = as_batch(rows, input_tokens, network.views)
    made = iteration(network, plan, engine, batch)
    evaluation, each, slowest = pass_seconds(made, price, turns)
    seconds = np.broadcast_to(np.asarray(each, float), rows.steps.shape) * rows.steps
    ends = np.cumsum(seconds)
    # Group i enters the pipeline when the first stage has served those before it.
    entry = float(np.broadcast_to(np.asarray(slowest, float), rows.steps.shape)[0])
    before = (turns - 1) / 2 * entry
    first = float(np.sum(rows.first * ends) / share) + before
    last = float(np.sum(rows.last * ends) / share) + before
    tpot = (last - first) / (output_tokens - 1) if output_tokens > 1 else 0.0
    makespan = float(ends[-1]) + (turns - 1) * entry
    return Course(rows, seconds, first, tpot, last, makespan, evaluation, turns, share, running)


def phase_trees(
    network: Network, plan: ServePlan, engine: ServeEngine, *, share: int, input_tokens: int, output_tokens: int
) -> tuple[Node, Node]:
    """One typical iteration of each phase: a full prompt iteration, and decoding in the middle of the output."""
    windows = network.views
    prompts = max(min(share, plan.max_batched_tokens // input_tokens), 1)
    length = float(min(input_tokens, plan.max_batched_tokens))
    whole: Batch = prefill(float(prompts), length, 0.0, windows)
    middle = decode(float(share), float(input_tokens + output_tokens / 2), windows)
    return iteration(network, plan, engine, whole).tree, iteration(network, plan, engine, middle).tree
