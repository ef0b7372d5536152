"""The price list of an engine that speculates: the plain one, with decodes priced by what they cost a token.

Iterations of decodes alone are tabulated whole, best guess included, and are as near to their trees as plain ones.
What prompts and decodes of one iteration cost together depends on both counts: the second axis of ``base`` stands for
the decodes there, with contexts at their shortest in the choice between guesses. Such iterations are within a few per
cent, as the choice may change with the context. With several views of the context the choice is that of the first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from windtunnel.models.network import Network
from windtunnel.ops.fold import Evaluation, Pricer
from windtunnel.parallel.iteration import draft_plan, iteration
from windtunnel.scenario.batch import Batch
from windtunnel.scenario.engines import ServeEngine
from windtunnel.scenario.plan import ServePlan
from windtunnel.scenario.speculation import Draft, Guess, Speculation
from windtunnel.serving.knots import CONTEXT, PROMPT, SEQUENCES, STATES, TOKENS, Ints
from windtunnel.serving.step_cost import Floats, Prober, StepCost, compile_step, in_ps, prompt_table


@dataclass(frozen=True, slots=True)
class Extent:
    """How large iterations can be: see :func:`~windtunnel.serving.step_cost.compile_step`."""

    tokens: int
    prompt_tokens: int
    sequences: int
    context: int
    longest: int


def engine_cost(
    network: Network, plan: ServePlan, engine: ServeEngine, price: Pricer, *, most_tokens: int,
    most_prompt_tokens: int, most_sequences: int, most_context: int, longest: int,
) -> StepCost:  # fmt: skip
    """:func:`~windtunnel.serving.step_cost.compile_step` of an engine that may speculate.

    Raises:
        ScenarioError: a number format or a kernel that the machine has no price for.
    """
    plain = compile_step(
        network, replace(plan, speculation=None), engine, price,
        most_tokens=most_tokens, most_prompt_tokens=most_prompt_tokens, most_sequences=most_sequences,
        most_context=most_context, longest=longest,
    )  # fmt: skip
    if plan.speculation is None:
        return plain
    most = Extent(most_tokens, most_prompt_tokens, most_sequences, most_context, longest)
    return speculated(plain, network, plan, engine, price, most)


def speculated(
    plain: StepCost, network: Network, plan: ServePlan, engine: ServeEngine, price: Pricer, most: Extent
) -> StepCost:
    """``plain``, the price list of the same engine without speculation, as it is with it."""
    speculation = plan.speculation
    assert speculation is not None
    tokens = TOKENS.points(most.tokens).astype(float)
    tokens[0] = 1.0
    own, apart = np.zeros(len(tokens)), plain.apart
    if speculation.draft is not None and not speculation.draft.shared:
        probe = _draft_prober(speculation.draft, plan, engine, price)
        own = probe.stages(probe.batch(tokens), tokens.shape)[0]
        apart = _with_draft(plain, probe, most)
    # The host's part is in the decodes' prices, and where it overlaps the device in those of prompts.
    schedule = np.zeros_like(plain.schedule) if plain.overlapped else plain.schedule
    prompts = plain.base[0, :, 0] + in_ps(own)
    if plain.overlapped:
        prompts = np.maximum(prompts, plain.schedule[0])
    base = np.concatenate([prompts[:, None], _mixed(plain, network, plan, engine, price, most, own, schedule)], axis=1)
    decode, excess = _decodes(plain, base, network, plan, engine, price, most, schedule)
    base[:, 1:] -= excess
    return replace(
        plain,
        base=np.ascontiguousarray(base[None]),
        decode=decode,
        issue=plain.issue * np.array([0, 1]),
        schedule=schedule,
        apart=apart,
        overlapped=False,
        by_decodes=True,
    )


def _draft_prober(draft: Draft, plan: ServePlan, engine: ServeEngine, price: Pricer) -> Prober:
    return Prober(draft.network, draft_plan(plan, draft), engine, price)


def _with_draft(plain: StepCost, probe: Prober, most: Extent) -> Floats:
    """What prompts add outside the target's attention call, with the draft's attention to them; through its windows,
    if it has any, as if they were as long as the context."""
    eager = probe.engine.attention == "eager"
    table = prompt_table(probe, most.prompt_tokens, most.longest, eager).sum(axis=1)[0]
    at = PROMPT.points(most.prompt_tokens)
    at[0] = 1
    share = plain.waves[0, 0][[TOKENS.index(int(t)) for t in at], None, None]
    apart = plain.apart.copy() if plain.apart.shape[1] else np.zeros_like(plain.prompt)
    apart[0, 0] += np.divide(table, share, out=np.zeros_like(table), where=share > 0)
    return apart


def _mixed(
    plain: StepCost, network: Network, plan: ServePlan, engine: ServeEngine, price: Pricer, most: Extent, own: Floats,
    schedule: Ints,
) -> Ints:  # fmt: skip
    """[tokens, decodes from 1 on] of iterations beside attention, the rows sampled and the host."""
    speculation = plan.speculation
    assert speculation is not None
    n = STATES.points(most.sequences).astype(float)[1:]
    tokens = TOKENS.points(most.tokens).astype(float)[:, None]
    left = np.maximum(tokens - n, 0.0)
    least = np.minimum(n, len(plain.head) - 1).astype(int)
    best = np.full((len(tokens), len(n)), np.inf)
    probe = Prober(network, replace(plan, speculation=None), engine, price)
    for guess in speculation.guesses:
        # All tokens of the pass, where the prompts' are there as often as the decodes take tokens from it.
        rows = guess.tokens * (tokens - n) + (1 + guess.candidates) * n
        points = TOKENS.points(int(rows.max()) + 1).astype(float)
        points[0] = 1.0
        layers = np.interp(rows, points, probe.stages(probe.batch(points), points.shape)[0])
        alone = _alone(network, plan, engine, price, speculation, guess, n)
        plain_rows = np.interp((1 + guess.candidates) * n, points, probe.stages(probe.batch(points), points.shape)[0])
        best = np.minimum(best, (layers - plain_rows + alone) / guess.tokens)
    found = in_ps(best + np.where(left > 0, np.interp(left, TOKENS.points(most.tokens), own), 0.0))
    return found - plain.head[least] - schedule[least]


def _alone(
    network: Network, plan: ServePlan, engine: ServeEngine, price: Pricer, speculation: Speculation, guess: Guess, n: Floats
) -> Floats:
    """Seconds of a pass of ``n`` decodes with contexts of a token."""
    one = replace(plan, speculation=replace(speculation, guesses=(guess,)))
    made = iteration(network, one, engine, Batch(n, n, decode_sequences=n, decode_context=n))
    return guess.tokens * np.broadcast_to(np.asarray(Evaluation(made.tree, price).seconds(), float), n.shape)


def _decodes(
    plain: StepCost, base: Ints, network: Network, plan: ServePlan, engine: ServeEngine, price: Pricer, most: Extent,
    schedule: Ints,
) -> tuple[Ints, int]:  # fmt: skip
    """([1, W, sequences, contexts, 2] what decodes alone take beyond the other tables, and by how much those are too
    high at most: the axis of decodes has few points)."""
    n = SEQUENCES.points(most.sequences).astype(float)
    context = CONTEXT.points(most.context).astype(float)
    known = np.minimum(n.astype(int), most.sequences)
    others = _looked_up(base, known, most) + plain.head[known] + schedule[known]
    tables: list[Ints] = []
    excess = 0
    for view in plain.windows:
        seen = _seconds(network, plan, engine, price, plain.windows, view, n[:, None], context[None, :])
        at = in_ps(seen)
        if not tables:
            at = at - others[:, None]
            excess = max(int(-at[1:].min()), 0) if len(n) > 1 else 0
            at = at + excess
        else:
            at = at - at[:, :1]
        at[0] = 0
        growth = np.maximum(np.rint(np.diff(at, axis=-1) / np.diff(context)), 0).astype(np.int64)
        tables.append(np.stack([at[:, :-1], growth], axis=-1))
    return np.ascontiguousarray(np.stack(tables)[None]), excess


def _seconds(
    network: Network, plan: ServePlan, engine: ServeEngine, price: Pricer, windows: tuple[int, ...], view: int,
    n: Floats, context: Floats,
) -> Floats:  # fmt: skip
    """[sequences, contexts] of whole iterations of decodes that see so much through one view and a token through the
    others."""
    n = np.maximum(n, 1.0) + 0.0 * context
    seen = {w: (0.0, 0.0, np.maximum(context, n) if w == view else n) for w in windows if w}
    whole = np.maximum(context, n) if view == 0 else n
    batch = Batch(n, n, decode_sequences=n, decode_context=whole, windows=seen)
    made = iteration(network, plan, engine, batch)
    return np.broadcast_to(np.asarray(Evaluation(made.tree, price).seconds(), float), n.shape)


def _looked_up(base: Ints, n: Ints, most: Extent) -> Ints:
    """``base`` [tokens, decodes] for ``n`` decodes alone, as the loops read it."""
    tokens, states = TOKENS.points(most.tokens), STATES.points(most.sequences)
    row, column = (np.array([axis.index(int(x)) for x in n]) for axis in (TOKENS, STATES))

    def between(a: Ints, b: Ints, points: Ints, i: Ints) -> Ints:
        found: Ints = a + (b - a) * (n - points[i]) // (points[i + 1] - points[i])
        return found

    a, b = (between(base[row, c], base[row + 1, c], tokens, row) for c in (column, column + 1))
    return between(a, b, states, column)
