"""The price list of an engine that speculates: the plain one, with decodes priced by what they cost a token.

Iterations of decodes alone are tabulated whole, best guess included, and are as near to their trees as plain ones.
What prompts and decodes of one iteration cost together depends on both counts: the second axis of ``base`` stands for
the decodes there. Such iterations are 1 to 2 % off in the median and 10 % at worst: guesses are chosen for the shortest
contexts, and prompts' attention is that of one iteration, not of the pass. With several views of the context the choice
is that of the first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from windtunnel.models.network import Network
from windtunnel.ops.fold import Evaluation, Pricer
from windtunnel.parallel.iteration import draft_plan, forward, iteration, verified
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
    plain = _one_row(plain, most_prompt_tokens)
    most = Extent(most_tokens, most_prompt_tokens, most_sequences, most_context, longest)
    return speculated(plain, network, plan, engine, price, most)


def _one_row(plain: StepCost, most_prompt_tokens: int) -> StepCost:
    """One row of tables where work side by side has several: what runs together then takes the sum of what its parts
    take at most, which is no less than it does."""
    if not plain.maxima:
        return plain
    at = [TOKENS.index(max(int(t), 1)) for t in PROMPT.points(most_prompt_tokens)]
    waves = plain.by_group(plain.waves)
    before, after = plain.waves[..., at, None, None], waves[..., at, None, None]

    def joined(table: Floats) -> Floats:
        whole = plain.by_group(table * before[:, : table.shape[1]])
        after_ = after[:, : table.shape[1]]
        return np.divide(whole, after_, out=np.zeros_like(whole), where=after_ > 0)

    base = np.rint(plain.by_group(plain.base.astype(float))).astype(np.int64)
    return replace(
        plain, base=base, waves=waves, prompt=joined(plain.prompt), apart=joined(plain.apart), maxima=()
    )  # fmt: skip


def _stage_s(probe: Prober, batch: Batch, shape: tuple[int, ...]) -> Floats:
    """Seconds of an engine's one stage on the device."""
    (_, stage), *_ = forward(probe.network, probe.plan, probe.engine, batch).stages
    evaluation = Evaluation(stage.part, probe.price)
    return np.broadcast_to(np.asarray(evaluation.cost(stage.part).seconds, float), shape)


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
        own = _stage_s(probe, probe.batch(tokens), tokens.shape)
        apart = _with_draft(plain, probe, most)
    # The host works once a pass: what it takes is in the decodes' prices, and for prompts in those of their rows.
    prompts = plain.base[0, :, 0] + in_ps(own + _heads(network, plan, engine, price))
    head, issue = plain.head, plain.issue * np.array([0, 1])
    if plain.overlapped:
        prompts = np.maximum(prompts, plain.schedule[0])
    else:
        head, issue[:, 1] = head + plain.schedule, issue[:, 1] + plain.schedule[0]
    plain = replace(plain, head=head, issue=issue, schedule=np.zeros_like(head), overlapped=False)
    base = np.concatenate([prompts[:, None], _mixed(plain, network, plan, engine, price, most, own)], axis=1)
    decode, excess = _decodes(plain, base, network, plan, engine, price, most)
    base[:, 1:] -= excess
    return replace(
        plain,
        base=np.ascontiguousarray(base[None]),
        decode=decode,
        apart=apart,
        by_decodes=True,
    )


def _draft_prober(draft: Draft, plan: ServePlan, engine: ServeEngine, price: Pricer) -> Prober:
    return Prober(draft.network, draft_plan(plan, draft), engine, price)


def _heads(network: Network, plan: ServePlan, engine: ServeEngine, price: Pricer) -> float:
    """Seconds of the heads that guess, on the last token of a prompt."""
    assert plan.speculation is not None
    one = Batch(1.0, 1.0)
    made = [forward(network, plan, engine, one, heads=n).stages[0][1].part for n in (plan.speculation.heads, 0)]
    some, none = (float(Evaluation(tree, price).cost(tree).seconds) for tree in made)
    return some - none


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
    plain: StepCost, network: Network, plan: ServePlan, engine: ServeEngine, price: Pricer, most: Extent, own: Floats
) -> Ints:
    """[tokens, decodes from 1 on] of iterations beside the target's attention and the rows sampled."""
    speculation = plan.speculation
    assert speculation is not None
    n = STATES.points(most.sequences).astype(float)[1:]
    points = TOKENS.points(most.tokens).astype(float)
    left = np.maximum(points[:, None] - n, 0.0)
    probe = Prober(network, replace(plan, speculation=None), engine, price)
    one = np.ones(1)
    first = probe.prompts(one, probe.views[0], one, one)
    launch = _stage_s(probe, first, one.shape) - _stage_s(probe, probe.batch(one, 0.0, 1.0), one.shape)
    best = np.full(left.shape, np.inf)
    most_rows = max(g.tokens * most.tokens + (1 + g.candidates) * n[-1] for g in speculation.guesses)
    wide = TOKENS.points(int(most_rows) + 1).astype(float)
    wide[0] = 1.0
    layers = _stage_s(probe, probe.batch(wide), wide.shape)
    for guess in speculation.guesses:
        # All tokens of the pass, where the prompts' are there as often as the decodes take tokens from it.
        checked = (1 + guess.candidates) * n
        rows = guess.tokens * (points[:, None] - n) + checked
        prompts = np.interp(rows, wide, layers) - np.interp(checked, wide, layers)
        prompts += np.where(left > 0, np.interp(guess.tokens * left, points, own), 0.0)
        # A call of prompts' attention is launched once a pass; the tables count it once an iteration.
        prompts -= np.where(left > 0, (guess.tokens - 1) * launch * engine.mixed_attention, 0.0)
        best = np.minimum(best, (prompts + _alone(probe, speculation, guess, n)) / guess.tokens)
    least = np.minimum(n, len(plain.head) - 1).astype(int)
    found: Ints = in_ps(best) - plain.head[least]
    return found


def _alone(probe: Prober, speculation: Speculation, guess: Guess, n: Floats) -> Floats:
    """Seconds of a pass of ``n`` decodes without the target's attention; the draft's is to contexts of a token."""
    plan = replace(probe.plan, speculation=replace(speculation, guesses=(guess,)))
    batch = Batch(n, n, decode_sequences=n, decode_context=n)
    made = iteration(probe.network, plan, probe.engine, batch)
    whole = guess.tokens * np.broadcast_to(np.asarray(Evaluation(made.tree, probe.price).seconds(), float), n.shape)
    checked = replace(verified(batch, guess, probe.engine), sequences=0.0)
    attention = _stage_s(probe, checked, n.shape) - _stage_s(probe, probe.batch(checked.tokens), n.shape)
    return whole - attention


def _decodes(
    plain: StepCost, base: Ints, network: Network, plan: ServePlan, engine: ServeEngine, price: Pricer, most: Extent
) -> tuple[Ints, int]:
    """([1, W, sequences, contexts, 2] what decodes alone take beyond the other tables, and by how much those are too
    high at most: the axis of decodes has few points)."""
    n = SEQUENCES.points(most.sequences).astype(float)
    context = CONTEXT.points(most.context).astype(float)
    known = np.minimum(n.astype(int), most.sequences)
    others = _looked_up(base, known, most) + plain.head[known]
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
    n = np.maximum(n, 1.0)
    seen = {w: (0.0, 0.0, np.maximum(context, n) if w == view else n) for w in windows if w}
    whole = np.maximum(context, n) if view == 0 else n + 0.0 * context
    batch = Batch(n, n, decode_sequences=n, decode_context=whole, windows=seen)
    made = iteration(network, plan, engine, batch)
    return np.broadcast_to(np.asarray(Evaluation(made.tree, price).seconds(), float), whole.shape)


def _looked_up(base: Ints, n: Ints, most: Extent) -> Ints:
    """``base`` [tokens, decodes] for ``n`` decodes alone, as the loops read it."""
    tokens, states = TOKENS.points(most.tokens), STATES.points(most.sequences)
    row, column = (np.array([axis.index(int(x)) for x in n]) for axis in (TOKENS, STATES))

    def between(a: Ints, b: Ints, points: Ints, i: Ints) -> Ints:
        found: Ints = a + (b - a) * (n - points[i]) // (points[i + 1] - points[i])
        return found

    a, b = (between(base[row, c], base[row + 1, c], tokens, row) for c in (column, column + 1))
    return between(a, b, states, column)
