"""A batch from arrival to last token: iterations laid out, priced at once, and read as latencies."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from windtunnel.models.network import Network
from windtunnel.ops.fold import Evaluation, Pricer
from windtunnel.ops.tree import Node
from windtunnel.ops.values import Value, maximum
from windtunnel.parallel.iteration import Iteration, iteration
from windtunnel.scenario.batch import Batch, decode, prefill
from windtunnel.scenario.engines import ServeEngine
from windtunnel.scenario.plan import ServePlan
from windtunnel.serving.batching import Floats, Rows, after, as_batch, lay_out
from windtunnel.serving.memory import kv_bytes


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
    cached: int = 0,
    wait_s: float = 0.0,
) -> Course:
    """``requests`` equal requests on one engine, all at time 0.

    ``cached``: tokens that come before the ``input_tokens`` of each and are in the cache ``wait_s`` after its arrival.
    ``slots``: how many one attention-data-parallel rank holds at once; with pipeline stages they are dealt to as many
    groups as there are stages to keep busy, which start one after the other. TTFT, TPOT and E2E are means over the
    requests: TTFT to the end of the iteration that ends the prompt, TPOT (last - first token) / (output - 1).

    With a store of contexts, iterations begin when the contexts of all requests are there; where that store may be
    passed by, the quicker way counts.
    """
    stored = plan.stored
    if stored is not None:
        context, _ = stored.split(input_tokens)
        ways = [context] if not stored.text else [context, 0]
        courses = [
            run_batch(
                network, replace(plan, stored=None), engine, price, requests=requests, input_tokens=input_tokens - c,
                output_tokens=output_tokens, slots=slots, cached=c, wait_s=_fetch_s(network, plan, c, requests),
            )
            for c in ways
        ]  # fmt: skip
        return min(courses, key=lambda course: course.ttft)
    per_rank = -(-requests // int(plan.layout.dp))
    turns = min(int(plan.layout.pp), per_rank, slots)
    share = -(-per_rank // turns)
    # Requests that all fit do not queue, even where they cannot be dealt out evenly.
    running = share if per_rank <= slots else slots // turns
    rows = lay_out(
        share, input_tokens, output_tokens, scheduler=engine.scheduler, budget=plan.max_batched_tokens, slots=running
    )
    if cached:
        rows = after(rows, cached)
    batch = as_batch(rows, input_tokens, network.views, cached)
    made = iteration(network, plan, engine, batch)
    evaluation, each, slowest = pass_seconds(made, price, 1)
    whole, stage = (np.broadcast_to(np.asarray(s, float), rows.steps.shape) for s in (each, slowest))
    ends = in_turns(whole, stage, rows.steps, turns, wait_s)
    seconds = np.diff(ends, axis=1, prepend=0.0).mean(axis=0)
    first, last = (float(np.sum(count * ends) / (turns * share)) for count in (rows.first, rows.last))
    tpot = (last - first) / (output_tokens - 1) if output_tokens > 1 else 0.0
    return Course(rows, seconds, first, tpot, last, float(ends.max()), evaluation, turns, share, running)


SETTLED = 3
"""Like iterations of every batch after which they come at even distances."""


def in_turns(whole: Floats, stage: Floats, steps: Floats, turns: int, start: float = 0.0) -> Floats:
    """[turns, rows] seconds at which each row ends for each of ``turns`` batches that go through the same rows in one
    pipeline, from ``start`` on. ``whole`` [rows]: of an iteration by itself; ``stage`` [rows]: of its slowest stage.

    A batch begins when its last tokens are back and the first stage is free; behind a longer one it leaves the last
    stage a stage's time after it: none overtakes another (permutation flow shop, C[i,j] = max(C[i-1,j], C[i,j-1]) +
    t[i], for stages that are alike).
    """
    if turns == 1:
        alone = whole * steps
        alone[0] += start
        return np.asarray(np.cumsum(alone)[None])
    ready, free, left = [start] * turns, start, start
    ends = np.zeros((turns, len(steps)))
    for row, (time, own, count) in enumerate(zip(whole.tolist(), stage.tolist(), steps.tolist(), strict=True)):
        for _ in range(min(int(count), SETTLED)):
            for i, at in enumerate(ready):
                begin = max(at, free)
                left = ready[i] = max(begin + time, left + own)
                free = begin + own
        more = max(count - SETTLED, 0.0) * max(time, turns * own)
        ready, free, left = [at + more for at in ready], free + more, left + more
        ends[:, row] = ready
    return ends


def _fetch_s(network: Network, plan: ServePlan, context: int, requests: int) -> float:
    """Seconds until the stored caches of all requests' contexts are on the engine's ranks."""
    if not context or plan.stored is None:
        return 0.0
    whole = replace(plan, layout=replace(plan.layout, tp=1))
    size = float(kv_bytes(network.blocks, whole, float(context)))
    return plan.stored.fetch_s(requests * size, requests * context)


def phase_trees(
    network: Network, plan: ServePlan, engine: ServeEngine, *, share: int, input_tokens: int, output_tokens: int
) -> tuple[Node, Node]:
    """One typical iteration of each phase: a full prompt iteration, and decoding in the middle of the output."""
    windows = network.views
    context, own = (0, input_tokens) if plan.stored is None else plan.stored.split(input_tokens)
    prompts = max(min(share, plan.max_batched_tokens // own), 1)
    length = float(min(own, plan.max_batched_tokens))
    whole: Batch = prefill(float(prompts), length, float(context), windows)
    middle = decode(float(share), float(input_tokens + output_tokens / 2), windows)
    return iteration(network, plan, engine, whole).tree, iteration(network, plan, engine, middle).tree
