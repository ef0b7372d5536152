"""What an iteration takes, as tables made from the step's tree: the event loop's price list.

An iteration's tree is a sequence, so its time is a sum of parts that depend on few statistics each: tokens (all
layers' products, norms, collectives), rows sampled (head), decodes and their contexts, prompt tokens and the pairs and
keys of their attention; prompts and decodes in one attention call stretch each other by the engine's ``mixed``
factor. Each part is tabulated on the axes of :mod:`windtunnel.serving.knots` by pricing the tree on arrays of batches,
part by part for each group of like pipeline stages, since a stage lasts as long as the slower of device and host.
Between two points times are straight lines; a lookup is within 0.5 % of the tree (tests/serving/test_step_cost.py;
latent attention within 1.2 % where pieces of a prompt are a token or two after a long context).

Where a tree has work side by side it lasts as long as the largest of a few sums over that work (:mod:`.side_by_side`):
each is a row of the tables, and a lookup takes the largest of each region's rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from windtunnel.models.network import LatentAttention, Network, StateSpace, views_of
from windtunnel.ops.fold import Evaluation, Pricer
from windtunnel.ops.values import Value
from windtunnel.parallel.iteration import iteration
from windtunnel.scenario.batch import Batch
from windtunnel.scenario.engines import ServeEngine
from windtunnel.scenario.plan import ServePlan
from windtunnel.serving.knots import CONTEXT, KEYS, PROMPT, SEQUENCES, STATES, TOKENS, Ints
from windtunnel.serving.outcome import PS
from windtunnel.serving.side_by_side import Region, largest, regions, rows

Floats = NDArray[np.float64]

SPREAD: Floats = 1.15 ** np.arange(41.0)
"""Keys read over those that one prompt of these tokens and pairs would read: up to 2 for many whole prompts, more where
the end of a long one is among them. Unfused attention works on squares of scores instead: see :data:`SQUARE`."""
SQUARE = np.array([0.5, 0.75, 1.0])
"""Keys of a prompt over twice the mean keys of its tokens: 1 from its beginning, 0.5 after much context."""
MIX_BITS = 20
"""The stretch of mixed attention is a whole number of 2^-20, so that both loops round alike."""


@dataclass(frozen=True, slots=True, eq=False)
class StepCost:
    """Picoseconds of an iteration of one attention-data-parallel rank, over G groups of like stages, R rows of the
    tables (as many, unless there is work side by side) and W windows.

    ``windows`` [W]: the views of the context that attention layers have (0: all of it; < 0: chunks), in the order of
    the tables. ``copies`` [G]: stages of a group. ``issue`` [G, 2]: host time a stage,
    of iterations without and with prompts. ``base`` [R, tokens, states];
    ``head`` [sequences] (in the last group); ``sends`` [tokens]; ``schedule`` [sequences] of the host;
    ``decode`` [R, W, sequences, contexts, 2]: time at a point and its growth a token. A prompt's attention is
    ``waves`` [R, W, tokens], at the longest context, times the share of it in ``prompt`` [R, W, tokens, keys, spread],
    which is interpolated: the waves' jumps are in the first. ``apart``, shaped as ``prompt`` or with no views, is what
    prompts add outside the attention call, which ``mixed``, 2^20 times the stretch, does not reach.
    ``overlapped``: the host prepares an iteration while the device runs the last one. ``eager``: unfused attention.
    ``maxima``: for each group how many rows each of its regions has, of which the largest counts; a group's time is
    the sum over its regions. Empty: one row a group. ``by_decodes``: the second axis of ``base`` counts the sequences
    that decode, not those whose states move.
    """

    windows: tuple[int, ...]
    copies: Ints
    issue: Ints
    base: Ints
    head: Ints
    sends: Ints
    schedule: Ints
    decode: Ints
    waves: Floats
    prompt: Floats
    apart: Floats
    mixed: int
    overlapped: bool
    eager: bool
    maxima: tuple[tuple[int, ...], ...] = ()
    by_decodes: bool = False

    @property
    def ends(self) -> Ints:
        """[R]: 2 where a row is the last of its group, else 1 where it is the last of its region, else 0."""
        found: list[int] = []
        for group in self.maxima or ((1,),) * len(self.copies):
            for n in group:
                found += [*[0] * (n - 1), 1]
            found[-1] = 2
        return np.array(found, np.int64)

    def by_group(self, values: Floats) -> Floats:
        """[G, ...] of values [R, ...]: of each region the largest, of a group the sum."""
        if not self.maxima:
            return values
        found, row = [], 0
        for group in self.maxima:
            total = 0.0 * values[0]
            for n in group:
                total = total + values[row : row + n].max(axis=0)
                row += n
            found.append(total)
        return np.stack(found)


class Prober:
    """Prices batches part by part: device seconds of each row of the tables."""

    def __init__(self, network: Network, plan: ServePlan, engine: ServeEngine, price: Pricer) -> None:
        self.network, self.plan, self.engine, self.price = network, plan, engine, price
        self.views: tuple[int, ...] = _views(network)
        made = iteration(network, plan, engine, _everything(self.views))
        self.regions = [regions(Evaluation(made.tree, price), s.part) for _, s in made.stages]
        if any(self.regions):
            self.regions = self._needed()

    def _needed(self) -> list[list[Region]]:
        """The regions without the rows that are nowhere the largest: of no part of an iteration, and so of no sum of
        parts. Seen on a coarse grid."""
        tokens, n = np.geomspace(1, 1 << 17, 60), np.geomspace(1, 4096, 16)[:, None]
        context, keys = n * np.geomspace(1, 1 << 17, 16), np.geomspace(1, 1 << 16, 12)[:, None]
        parts = [self.stages(self.batch(tokens), tokens.shape)]
        for view in self.views:
            seen = self.stages(self.decodes(n, view, context), context.shape)
            parts.append(seen - self.stages(self.batch(n, 0.0, n), context.shape))
            asked = self.prompts(tokens, view, tokens * keys, keys + tokens / 2)
            shape = (len(keys), len(tokens))
            parts.append(self.stages(asked, shape) - self.stages(self.batch(tokens, 0.0, 1.0), shape))
        values = np.concatenate([p.reshape(len(p), -1) for p in parts], axis=1)
        found: list[list[Region]] = []
        row = 0
        for group in self.regions:
            row += 1  # what runs in turn
            found.append([])
            for region in group:
                found[-1].append(Region(region.resources, tuple(largest(values[row : row + len(region.kept)]))))
                row += len(region.kept)
        return found

    @property
    def maxima(self) -> tuple[tuple[int, ...], ...]:
        """As in :class:`StepCost`."""
        return tuple((1, *(len(r.kept) for r in g)) for g in self.regions) if any(self.regions) else ()

    def stages(self, batch: Batch, shape: tuple[int, ...]) -> Floats:
        """[R, *shape] seconds of one stage of each group, row by row."""
        made = iteration(self.network, self.plan, self.engine, batch)
        evaluation = Evaluation(made.tree, self.price)
        found: list[Value] = []
        for (_, sync), known in zip(made.stages, self.regions, strict=True):
            found += rows(evaluation, sync.part, known)
        return np.stack([np.broadcast_to(np.asarray(f, float), shape) for f in found])

    def batch(self, tokens: Value, sequences: Value = 0.0, states: Value = 0.0) -> Batch:
        """Tokens that attend to nothing."""
        return Batch(tokens, sequences, sequences_in_prefill=states)

    def prompts(self, tokens: Floats, view: int, pairs: Value, keys: Value) -> Batch:
        zero = 0.0 * tokens
        windows = {w: ((pairs, keys, 0.0) if w == view else (zero, zero, 0.0)) for w in self.views if w}
        whole = (pairs, keys) if view == 0 else (zero, zero)
        return Batch(tokens, 0.0, tokens, *whole, windows=windows, sequences_in_prefill=1.0)

    def decodes(self, n: Floats, view: int, context: Value) -> Batch:
        zero = 0.0 * n
        windows = {w: (0.0, 0.0, context if w == view else zero) for w in self.views if w}
        return Batch(n, 0.0, decode_sequences=n, decode_context=context if view == 0 else zero, windows=windows)


def _everything(views: tuple[int, ...]) -> Batch:
    """A batch with some of everything."""
    few = 4.0
    windows = {w: (few, few, few) for w in views if w}
    return Batch(2 * few, few, few, few, few, few, few, windows, sequences_in_prefill=1.0)


def _views(network: Network) -> tuple[int, ...]:
    """The views that the network's attention layers have, 0 for the whole context; one at least."""
    mixers = [b.mixer for b in network.blocks if not isinstance(b.mixer, StateSpace)]
    whole = any(m is None or None in views_of(m) for m in mixers)
    found = ((0,) if whole else ()) + tuple(network.views)
    return found or (0,)


def compile_step(
    network: Network,
    plan: ServePlan,
    engine: ServeEngine,
    price: Pricer,
    *,
    most_tokens: int,
    most_prompt_tokens: int,
    most_sequences: int,
    most_context: int,
    longest: int,
) -> StepCost:
    """The price list of iterations of at most so many tokens (of prompts), sequences and context tokens in all, with
    no request ``longest`` tokens or more long.

    Raises:
        ScenarioError: a number format or a kernel that the machine has no price for.
    """
    probe = Prober(network, plan, engine, price)
    recurrent = any(isinstance(b.mixer, StateSpace) for b in network.blocks)
    tokens = TOKENS.points(most_tokens).astype(float)
    tokens[0] = 1.0  # no iteration is empty
    states = STATES.points(most_sequences).astype(float) if recurrent else np.zeros(1)
    base = probe.stages(
        probe.batch(tokens[:, None], 0.0, states[None, :] if recurrent else 0.0), (len(tokens), len(states))
    )
    sequences = np.arange(most_sequences + 2, dtype=float)
    sampled = probe.stages(probe.batch(1.0, sequences), sequences.shape)
    head = (sampled - sampled[:, :1]).sum(axis=0)
    made = iteration(network, plan, engine, probe.batch(tokens))
    sends = np.broadcast_to(np.asarray(Evaluation(made.sends, price).seconds(), float), tokens.shape)
    schedule = np.broadcast_to(np.asarray(_schedule(probe, sequences), float), sequences.shape)
    eager = engine.attention == "eager"
    waves = _waves(probe, most_prompt_tokens, longest)
    prompt = prompt_table(probe, most_prompt_tokens, longest, eager)
    apart = prompt[:, :0]
    if any(isinstance(b.mixer, LatentAttention) for b in network.blocks):
        inside = _inside(network, plan, engine, price, most_prompt_tokens, longest)
        prompt, apart = inside, prompt - inside
    at = PROMPT.points(most_prompt_tokens)
    at[0] = 1
    share = waves[..., [TOKENS.index(int(t)) for t in at], None, None]
    return StepCost(
        windows=probe.views,
        copies=np.array([layers.count for layers, _ in made.stages]),
        issue=in_ps(_issue(probe)),
        base=in_ps(base),
        head=in_ps(head),
        sends=in_ps(sends),
        schedule=in_ps(schedule),
        decode=_decode_table(probe, most_sequences, most_context),
        waves=waves,
        prompt=np.divide(prompt, share, out=np.zeros_like(prompt), where=share > 0),
        apart=np.divide(apart, share[:, : apart.shape[1]], out=np.zeros_like(apart), where=apart != 0),
        mixed=round(engine.mixed_attention * (1 << MIX_BITS)),
        overlapped=engine.asynchronous,
        eager=eager,
        maxima=probe.maxima,
    )


def in_ps(seconds: Floats) -> Ints:
    """Whole picoseconds."""
    return np.rint(np.asarray(seconds) * PS).astype(np.int64)


def _issue(probe: Prober) -> Floats:
    """[G, 2] host seconds of a stage, without and with prompts."""
    one = np.ones(1)
    batches = probe.decodes(one, probe.views[0], one), probe.prompts(one, probe.views[0], one, one)
    found = []
    for batch in batches:
        made = iteration(probe.network, probe.plan, probe.engine, batch)
        evaluation = Evaluation(made.tree, probe.price)
        found.append([float(np.max(evaluation.cost(sync.part).host)) for _, sync in made.stages])
    return np.ascontiguousarray(np.array(found).T)


def _schedule(probe: Prober, sequences: Floats) -> Value:
    made = iteration(probe.network, probe.plan, probe.engine, probe.batch(1.0, sequences))
    return Evaluation(made.schedule, probe.price).cost(made.schedule).host


def _decode_table(probe: Prober, most_sequences: int, most_context: int) -> Ints:
    """[R, W, sequences, contexts, 2] time and growth. The first view holds what depends on the sequences alone."""
    n = SEQUENCES.points(most_sequences).astype(float)[:, None]
    context = CONTEXT.points(most_context).astype(float)[None, :]
    shape = (n.shape[0], context.shape[1])
    alone = probe.stages(probe.batch(n, 0.0, n), (n.shape[0], 1))
    nothing = probe.stages(probe.decodes(n, probe.views[0], 0.0 * n), (n.shape[0], 1))
    tables = []
    for i, view in enumerate(probe.views):
        seen = probe.stages(probe.decodes(n, view, context + 0.0 * n), shape)
        at = in_ps(seen - (alone if i == 0 else nothing))
        at[:, 0] = 0
        growth = np.maximum(np.rint(np.diff(at, axis=-1) / np.diff(context[0])), 0).astype(np.int64)
        tables.append(np.stack([at[..., :-1], growth], axis=-1))
    return np.ascontiguousarray(np.stack(tables, axis=1))


def _prompt_grid(most_tokens: int, longest: int, eager: bool) -> tuple[Floats, Floats, Floats]:
    """(tokens, mean keys, keys read) on axes 0, 1 and 2."""
    tokens = PROMPT.points(most_tokens).astype(float)[:, None, None]
    tokens[0] = 1.0
    keys = np.maximum(KEYS.points(longest).astype(float), 0.5)[None, :, None]
    read = SQUARE * 2 * keys + 0 * tokens if eager else SPREAD * (keys + (tokens - 1) / 2)
    return tokens, keys, read


def prompt_table(probe: Prober, most_tokens: int, longest: int, eager: bool) -> Floats:
    """[R, W, tokens, keys, spread] picoseconds. The first view holds what depends on the tokens alone."""
    tokens, keys, read = _prompt_grid(most_tokens, longest, eager)
    shape, flat = np.broadcast_shapes(tokens.shape, keys.shape, read.shape), tokens.shape
    alone = probe.stages(probe.batch(tokens, 0.0, 1.0), flat)
    nothing = probe.stages(probe.prompts(tokens, probe.views[0], 0.0 * tokens, 0.0 * tokens), flat)
    tables = []
    for i, view in enumerate(probe.views):
        seen = probe.stages(probe.prompts(tokens, view, tokens * keys, read), shape)
        table = (seen - (alone if i == 0 else nothing)) * PS
        table[:, 0] = 0.0
        tables.append(table)
    return np.ascontiguousarray(np.stack(tables, axis=1))


def _waves(probe: Prober, most_tokens: int, longest: int) -> Floats:
    """[R, W, tokens] picoseconds that prompt tokens add where each meets the most keys."""
    tokens = TOKENS.points(2 * most_tokens).astype(float)
    tokens[0] = 1.0
    keys = float(KEYS.points(longest)[-1])
    alone = probe.stages(probe.batch(tokens, 0.0, 1.0), tokens.shape)
    far = [
        probe.stages(probe.prompts(tokens, view, tokens * keys, keys + (tokens - 1) / 2), tokens.shape)
        for view in probe.views
    ]
    return np.ascontiguousarray(np.stack([f - alone for f in far], axis=1) * PS)


def _inside(
    network: Network, plan: ServePlan, engine: ServeEngine, price: Pricer, most_tokens: int, longest: int
) -> Floats:
    """[R, W, tokens, keys, spread] picoseconds of a prompt's attention call alone: what is twice as long beside a
    decode whose call stretches twofold, less that decode. (Latent attention expands its keys outside the call.)"""
    tokens, keys, read = _prompt_grid(most_tokens, longest, False)
    shape = np.broadcast_shapes(tokens.shape, keys.shape, read.shape)
    low, high = (Prober(network, plan, engine.model_copy(update={"mixed_attention": m}), price) for m in (1.0, 2.0))
    # What attention of one decode adds, wherever it looks.
    decode: dict[str, Value] = {"decode_sequences": 1.0, "decode_context": 1.0}
    one = Batch(1.0, 0.0, windows={w: (0.0, 0.0, 1.0) for w in low.views if w}, **decode)
    alone = low.stages(one, (1, 1, 1)) - low.stages(low.batch(1.0, 0.0, 1.0), (1, 1, 1))

    def stretched(prompts: Batch) -> Floats:
        """What the prompts add when the call takes twice as long."""
        windows = {w: (pairs, context, 1.0) for w, (pairs, context, _) in prompts.windows.items()}
        both = replace(prompts, tokens=prompts.tokens + 1.0, windows=windows, **decode)
        return high.stages(both, shape) - low.stages(both, shape) - alone

    # As in :func:`prompt_table`, the first view holds what depends on the tokens alone.
    nothing = stretched(low.prompts(tokens, low.views[0], 0.0 * tokens, 0.0 * tokens))
    tables = [
        stretched(low.prompts(tokens, view, tokens * keys, read)) - (nothing if i else 0.0)
        for i, view in enumerate(low.views)
    ]
    return np.ascontiguousarray(np.stack(tables, axis=1) * PS)


def summary(cost: StepCost) -> Mapping[str, int]:
    """Entries of each table, for a benchmark to print."""
    return {name: int(getattr(cost, name).size) for name in ("base", "head", "decode", "prompt")}
