"""What a long context costs a serving engine beside a short one: prefill, users at once, decoding, context switches.

The concurrent-serving framework of Fu, "Challenges in Deploying Long-Context Transformers: A Theoretical Peak
Performance Analysis" (arXiv 2405.08944, section 2), priced on the engine's own step tree: users ask questions about
documents of their own; all four costs go back to the bytes of one user's KV cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np

from windtunnel.cost import Runtime, make_pricer
from windtunnel.cost.calibration import Calibration
from windtunnel.cost.transfers import from_tier
from windtunnel.ops.fold import Pricer
from windtunnel.parallel.iteration import iteration
from windtunnel.scenario.batch import decode
from windtunnel.scenario.serve import InferScenario
from windtunnel.serving.batching import as_batch
from windtunnel.serving.infer import pass_seconds, run_batch
from windtunnel.serving.memory import kv_bytes, most_sequences, rounded, sequence_bytes, serve_memory

COSTS = ("prefill_s", "users", "decode_s_per_token", "decode_alone_s_per_token", "switch_s")
"""The framework's four; decoding with as many users as fit, and with one."""

MOST_USERS = 10**6
"""Users that are counted at most (where nothing is kept of a context)."""


@dataclass(frozen=True, slots=True)
class AtContext:
    """What one context costs.

    ``kv_bytes``: of one user, over all ranks; ``prefill_bytes``: what its prompt needs on a device beside the weights;
    ``users``: caches that fit at once; ``decode_s_per_token``: between two tokens of a user with so many at work (one
    where none fits), ``decode_alone_s_per_token`` with one; ``switch_s``: one user's cache to the host and another's
    back. Shares: ``attention_of_prefill`` of a prompt and ``kv_of_decode`` of a decode step would not be there if no
    token met another. Sessions: one document read and ``rounds`` answers a user, while all caches stay
    (``sessions_per_hour``) or where every answer needs a switch.
    """

    context: int
    kv_bytes: float
    prefill_s: float
    prefill_bytes: float
    users: int
    decode_s_per_token: float
    decode_alone_s_per_token: float
    switch_s: float
    attention_of_prefill: float
    kv_of_decode: float
    sessions_per_hour: float
    sessions_per_hour_switching: float


def long_context(scenario: InferScenario, runtime: Runtime, calibration: Calibration) -> Mapping[str, object]:
    """The report for the context ``input`` of a request: the short context beside it, ratios of the two, and contexts
    in between (powers of two times the short one). Contexts leave room for the answer, ``output``."""
    o = scenario.options
    price = make_pricer(scenario.cluster, runtime, calibration)
    contexts = [o.short_context]
    while 2 * contexts[-1] < o.input:
        contexts.append(2 * contexts[-1])
    if o.input not in contexts:
        contexts.append(o.input)
    found = [_at(scenario, c, price, calibration) for c in sorted(contexts)]
    short, asked = (next(f for f in found if f.context == c) for c in (o.short_context, o.input))
    over = {k: _over(getattr(asked, k), getattr(short, k)) for k in ("kv_bytes", "prefill_bytes", *COSTS)}
    return {
        "short": asdict(short), "asked": asdict(asked), "ratio": over, "rounds": o.rounds,
        "sweep": [asdict(f) for f in found],
    }  # fmt: skip


def _over(asked: float, short: float) -> float | None:
    return asked / short if short > 0 else None


def _at(scenario: InferScenario, context: int, price: Pricer, calibration: Calibration) -> AtContext:
    network, engine, cluster, o = scenario.network, scenario.engine, scenario.cluster, scenario.options
    # One prompt at a time: what a static engine sets aside is one prompt's.
    budget = context if engine.scheduler in ("static", "iteration") else scenario.plan.max_batched_tokens
    plan = replace(scenario.plan, max_batched_tokens=budget, block_batches=1)
    layout, length = plan.layout, float(context + o.output)
    memory = serve_memory(network, plan, engine, cluster, length, float(context))
    users = int(min(most_sequences(memory, plan, length), MOST_USERS)) * int(layout.dp)

    prompt = run_batch(network, plan, engine, price, requests=1, input_tokens=context, output_tokens=1, slots=1)
    whole = as_batch(prompt.rows, context, network.views)
    # The same tokens, each of which meets itself alone.
    tokens, pieces = whole.prefill_tokens, whole.sequences_in_prefill
    apart = dict.fromkeys(network.views, (tokens, pieces, 0.0))
    alone = replace(whole, prefill_pairs=tokens, prefill_context=pieces, windows=apart)
    _, each, _ = pass_seconds(iteration(network, plan, engine, alone), price, 1)
    unattended = float(np.sum(np.broadcast_to(np.asarray(each, float), prompt.rows.steps.shape) * prompt.rows.steps))

    on_rank = max(users // int(layout.dp), 1)

    def step(running: int, seen: float) -> float:
        turns = min(int(layout.pp), running)
        batch = decode(running / turns, seen, network.views)
        _, each, _ = pass_seconds(iteration(network, plan, engine, batch), price, turns)
        return float(each)

    middle = context + o.output / 2
    decoding, without = step(on_rank, middle), step(on_rank, 1.0)
    # Every rank moves what it holds over a link of its own, out and in.
    link = from_tier("host", cluster, calibration.copies, price)
    switch = 2 * (sequence_bytes(memory, plan, float(context)) / link.bytes_per_s + link.latency_s)
    unsplit = replace(plan, layout=replace(layout, tp=1))
    answers = o.rounds * o.output * decoding / max(users, 1)
    return AtContext(
        context=context,
        kv_bytes=float(kv_bytes(network.blocks, unsplit, rounded(float(context), plan.block_size))),
        prefill_s=prompt.ttft,
        prefill_bytes=memory.activations + sequence_bytes(memory, plan, float(context)),
        users=users,
        decode_s_per_token=decoding,
        decode_alone_s_per_token=step(1, middle),
        switch_s=switch,
        attention_of_prefill=1.0 - unattended / prompt.ttft,
        kv_of_decode=1.0 - without / decoding,
        sessions_per_hour=3600.0 / (prompt.ttft + answers),
        sessions_per_hour_switching=3600.0 / (prompt.ttft + answers + o.rounds * switch),
    )
