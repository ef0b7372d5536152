"""What no number of engines can change, from the price list that the event loop itself uses: how fast an engine can be
at best, and how many engines the work takes at least.

Every figure is a true bound on what ``simulate`` says, not an estimate. An iteration of n tokens takes at least
a + b·n for each supporting line (a, b) of the price list's lower convex hull, whoever the tokens belong to, so prompts
and answers cost at least that, however iterations are composed:

- A prompt of P tokens under a budget of B takes at least ⌈P/B⌉ iterations, so a·⌈P/B⌉ + b·P.
- A token of an answer takes an iteration of its own, with the attention over its context in it.
- Work of requests that meet the SLO has to be done between the first arrival and the time that the SLO gives the last
  of them. At most the share beyond the percentile may miss each limit: the costliest are left out.
- D such tokens take at least D / d iterations, where d is the most decodes of an iteration: the engine's max-batch, and
  (limit − a) / b, since Σ t·d ≤ limit·Σ d over their iterations with t ≥ a + b·d, and (Σ d)² ≤ I·Σ d² (Cauchy).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from windtunnel.serving.knots import CONTEXT, TOKENS
from windtunnel.serving.outcome import PS
from windtunnel.serving.sizing import Sized
from windtunnel.serving.step_cost import StepCost
from windtunnel.serving.workload.requests import Floats, Workload

BLOCK = 64
"""Points of a price list of tokens that are looked at together."""

SAFE = 1 - 1e-6
"""The event loop rounds to whole picoseconds."""


@dataclass(frozen=True, slots=True)
class Floors:
    """``lines`` [(a, b)]: an iteration of n tokens takes at least a + b·n seconds from its start to its end; ``turns``:
    the same of the time until the next may start. ``step``: the shortest iteration; ``context``: seconds that a decode
    adds a token of its context, ``turn_context`` of that until the next may start."""

    lines: tuple[tuple[float, float], ...]
    turns: tuple[tuple[float, float], ...]
    step: float
    context: float
    turn_context: float


def floors(cost: StepCost) -> Floors:
    """From the tables of an engine."""
    tokens = TOKENS.points(1 << 40)[: cost.base.shape[1]].astype(float)
    tokens[0] = 1.0
    base = cost.by_group(cost.base.min(axis=2) / PS)  # [G, tokens]
    host = 0.0 if cost.overlapped else float(cost.schedule.min()) / PS
    latency = (cost.copies[:, None] * base).sum(axis=0) + cost.sends / PS + host
    # The next batch follows when the slowest stage is free: no sooner than any one of them.
    slow = int(np.argmax(base[:, -1]))
    slowest = base[slow] + (host if cost.copies.sum() == 1 else 0.0)
    issue = float((cost.copies * cost.issue.min(axis=1)).sum()) / PS
    least = max(float(latency.min()), issue + host, float(cost.schedule.min()) / PS if cost.overlapped else 0.0)
    points = CONTEXT.points(1 << 40)[: cost.decode.shape[3]].astype(float)
    per_token = np.zeros(len(cost.copies))
    if cost.windows[0] == 0 and len(points) > 1 and not cost.maxima:  # beside other work it may add nothing
        # Of the whole context: the time at each point over the context of the next, for any number of sequences.
        seen = cost.decode[:, 0, :, :, 0] / PS
        growth = cost.decode[:, 0, :, -1, 1] / PS
        ratio = seen[:, :, 1:] / points[1:]
        per_token = np.minimum(ratio.min(axis=(1, 2)), growth.min(axis=1))
    return Floors(
        _lines(tokens, latency), _lines(tokens, slowest), least * SAFE,
        float((cost.copies * per_token).sum()) * SAFE, float(per_token[slow]) * SAFE,
    )  # fmt: skip


def _lines(tokens: Floats, seconds: Floats) -> tuple[tuple[float, float], ...]:
    """Lines (a, b), both at least 0, below all points: the edges of their lower convex hull, and those through the
    origin and the shortest."""
    # Lines that do not fall: below the shortest of a block of points at the block's end, they are below all of it.
    ends = np.unique(np.append(np.arange(0, len(tokens), BLOCK)[1:] - 1, len(tokens) - 1))
    starts = np.concatenate([[0], ends[:-1] + 1])
    shortest = np.minimum.reduceat(seconds, starts)
    hull: list[tuple[float, float]] = []
    for x, y in zip(tokens[ends].tolist(), shortest.tolist(), strict=True):
        while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (x - hull[-2][0]) >= (y - hull[-2][1]) * (
            hull[-1][0] - hull[-2][0]
        ):
            hull.pop()
        if not hull or x > hull[-1][0]:
            hull.append((x, y))
    found = [(float(seconds.min()), 0.0), (0.0, float((seconds / tokens).min()))]
    for (x0, y0), (x1, y1) in pairwise(hull):
        slope = (y1 - y0) / (x1 - x0)
        if slope > 0 and y0 - slope * x0 > 0:
            found.append((y0 - slope * x0, slope))
    return tuple((a * SAFE, b * SAFE) for a, b in found)


@dataclass(frozen=True, slots=True)
class Bounds:
    """``least`` {metric: seconds}: the percentile of each limited metric is at least that, whatever the number of
    engines; ``replicas``: fewer engines cannot meet the limits."""

    least: Mapping[str, float]
    replicas: int


def bounds(
    sized: Sized, workload: Workload, limits: Mapping[str, float], percentile: float, *, prefix_cache: bool = False,
    warmup_s: float = 0.0,
) -> Bounds:  # fmt: skip
    """For one engine and this workload. ``prefix_cache``: parts of prompts may be found, so they cost nothing here.
    ``warmup_s``: requests that come before it have no limits."""
    spec = sized.spec
    f = floors(spec.cost)
    counted = workload.arrival_s >= warmup_s if not workload.closed else np.ones(len(workload), np.bool_)
    if not counted.any():
        return Bounds({}, 1)
    arrival = workload.arrival_s[counted]
    prompts = workload.input_tokens[counted].astype(float)
    steps = workload.output_tokens[counted].astype(float) - 1.0
    if prefix_cache:
        prompts = np.ones_like(prompts)
    budget = float(spec.budget) if spec.rules.limited and spec.rules.cut else math.inf
    alone = spec.front_ps / PS + np.maximum(_prompt_s(f.lines, prompts, budget), f.step)
    token = f.step + f.context * (prompts + np.maximum(steps - 1.0, 0.0) / 2)  # mean over its answer
    least = {}
    if "ttft_s" in limits:
        least["ttft_s"] = _percentile(alone, percentile)
    if "tpot_s" in limits and bool(np.any(steps > 0)):
        least["tpot_s"] = _percentile(token[steps > 0], percentile)
    if "e2e_s" in limits:
        least["e2e_s"] = _percentile(alone + np.maximum(steps, 0) * token, percentile)
    if workload.closed:
        return Bounds(least, 1)
    return Bounds(least, _replicas(sized, f, arrival, prompts, steps, limits, percentile))


def _prompt_s(lines: tuple[tuple[float, float], ...], prompts: Floats, budget: float) -> Floats:
    """[N] seconds of each prompt's iterations."""
    pieces = np.ceil(prompts / budget) if math.isfinite(budget) else np.ones_like(prompts)
    # With several batches in flight, pieces of a prompt still follow one another.
    found: Floats = np.max([a * pieces + b * prompts for a, b in lines], axis=0)
    return found


def _percentile(values: Floats, percentile: float) -> float:
    return float(np.percentile(values, percentile)) * SAFE


def _may_miss(n: int, percentile: float) -> int:
    """How many of ``n`` values may be above a limit that their percentile meets."""
    return n - 1 - math.floor((n - 1) * percentile / 100) if n else 0


def _replicas(
    sized: Sized, f: Floors, arrival: Floats, prompts: Floats, steps: Floats, limits: Mapping[str, float],
    percentile: float,
) -> int:  # fmt: skip
    spec, n = sized.spec, len(arrival)
    ttft, tpot, e2e = (limits.get(m) for m in ("ttft_s", "tpot_s", "e2e_s"))
    answers = np.maximum(steps, 0.0)
    engines = sized.copies * spec.ranks  # that work side by side, for each replica
    places = float(spec.most_sequences)
    whole = f.turn_context * (answers * prompts + answers * np.maximum(answers - 1, 0.0) / 2)
    found = 1
    if ttft is not None:
        cost = np.max([b * prompts for _, b in f.turns], axis=0)
        found = max(
            found, _engines(cost, _may_miss(n, percentile), float((arrival + ttft).max() - arrival[0]), engines)
        )
    ends = None
    if e2e is not None:
        ends, missing = arrival + e2e, _may_miss(n, percentile)
    elif ttft is not None and tpot is not None:
        ends = arrival + ttft + answers * tpot
        missing = _may_miss(n, percentile) + _may_miss(int(np.count_nonzero(steps > 0)), percentile)
    if ends is not None:
        span = float(ends.max() - arrival[0])
        most = min([places, *_decodes(f, tpot)]) if tpot is not None and e2e is None else places
        for a, b in f.turns:
            cost = b * (prompts + answers) + a * answers / most + whole
            found = max(found, _engines(cost, missing, span, engines))
    return found


def _decodes(f: Floors, tpot: float) -> list[float]:
    """Most decodes of an iteration on average, over iterations whose time a token meets the limit."""
    return [max((tpot - a) / b, 1.0) for a, b in f.lines if b > 0]


def _engines(cost: Floats, missing: int, span_s: float, engines: int) -> int:
    """Replicas that the cheapest requests take, ``missing`` of them left out, in ``span_s``."""
    kept = np.sort(cost)[: max(len(cost) - missing, 0)]
    if span_s <= 0:
        return 1
    return max(math.ceil(float(kept.sum()) / (span_s * engines) * SAFE), 1)
