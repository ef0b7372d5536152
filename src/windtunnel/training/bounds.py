"""How long a step takes at least under each schedule, in a few operations: what a search discards plans by.

A rank works through all passes of its stage. Before its first forward pass one micro-batch must come through the
stages before it, and after its last backward pass a gradient must go back through them. Between its first forward and
its first backward pass a micro-batch goes on to the last stage and comes back, while the rank runs the passes that its
schedule runs ahead and no others; the same holds, seen backwards in time, between its last two. What these waits leave
of the rank's time is idle. For equal stages without sends the bounds of 1F1B and interleaved 1F1B are the length.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from windtunnel.ops.pipeline import StageTimes
from windtunnel.ops.values import Value, ceil, maximum, minimum, where

SHORT, FEW = 0.98, 0.96
"""The length of the zero-bubble schedule may fall so much short of the layout, with p micro-batches or more and with
fewer: its bound, which holds for the layout, is taken lower."""
PAIRED = 0.95
"""DualPipe counts two passes that run together as the mean of both stages' pairs: at its edges, where pairs of one
kind are more, a rank seems to work less than it does."""


def alternating_least(stages: Sequence[StageTimes], micro_batches: Value, virtual_stages: Value) -> Value:
    """Seconds that 1F1B (v = 1) and interleaved 1F1B take at least."""
    v, p = virtual_stages, _sum(s.count for s in stages)
    v = where(p > 1, v, 1.0)
    passes = micro_batches * v
    # A send holds its rank where there is one chunk, and delays what it sends to where there are several.
    holding = where(v > 1, 0.0, 1.0)
    f, b = [s.forward / v for s in stages], [(s.backward + s.weight) / v for s in stages]
    hold, lag = [s.send * holding for s in stages], [s.send * (1.0 - holding) for s in stages]
    counts = [s.count for s in stages]
    all_f, all_b = _weighted(counts, f, hold) - hold[-1], _weighted(counts, b, hold) - hold[0]
    all_lag = _weighted(counts, lag)
    longest: Value = 0.0
    index: Value = 0.0
    before_f: Value = 0.0
    before_b: Value = -1.0 * hold[0]
    before_lag: Value = 0.0
    for i, stage in enumerate(stages):
        for offset in (0.0, 1.0 * stage.count - 1.0) if _several(stage.count) else (0.0,):
            u = index + offset
            own_f, own_b = f[i] + where(u < p - 1, hold[i], 0.0), b[i] + where(u > 0, hold[i], 0.0)
            to_f = before_f + offset * (f[i] + hold[i])
            to_b = where(u > 0, before_b + offset * (b[i] + hold[i]), 0.0)
            to_lag = before_lag + offset * lag[i]
            ahead = where(v > 1, 2.0 * (p - 1.0 - u) + (v - 1.0) * p, p - 1.0 - u)
            ahead = minimum(ahead, passes - 1.0)
            beyond = maximum(all_f - to_f - own_f, 0.0) + maximum(all_b - to_b - own_b, 0.0)
            beyond = beyond + maximum(2.0 * (all_lag - to_lag) - lag[-1] - lag[i], 0.0)
            first = maximum((v - 1.0) * (all_f + all_lag) + beyond - ahead * own_f, 0.0)
            last = maximum((v - 1.0) * (all_b + all_lag) + beyond - ahead * own_b, 0.0)
            idle = where(passes > ahead + 1.0, first + last, maximum(first, last))
            # Its own epilogue does not wait for its last send.
            held = where(u > 0, hold[i], 0.0)
            back = held + maximum(to_b + maximum(to_lag + lag[i] - lag[0], 0.0), 0.0) + stages[0].epilogue
            end = to_f + to_lag + passes * (own_f + own_b) - held + idle
            end = end + maximum(where(u > 0, back, 0.0), stage.epilogue)
            longest = maximum(longest, where(stage.count > 0, end, 0.0))
        index = index + stage.count
        before_f, before_b = before_f + stage.count * (f[i] + hold[i]), before_b + stage.count * (b[i] + hold[i])
        before_lag = before_lag + stage.count * lag[i]
    return longest


def zero_bubble_least(stages: Sequence[StageTimes], micro_batches: Value) -> Value:
    """Seconds that ZB-H1 takes at least: late weight gradients fill waits, the first one excepted."""
    p = _sum(s.count for s in stages)
    counts = [s.count for s in stages]
    both = _weighted(counts, [s.forward + s.backward for s in stages])
    longest: Value = 0.0
    index: Value = 0.0
    before: Value = 0.0
    before_f: Value = 0.0
    for stage in stages:
        own = stage.forward + stage.backward
        for offset in (0.0, 1.0 * stage.count - 1.0) if _several(stage.count) else (0.0,):
            ahead = minimum(p - 1.0 - index - offset, micro_batches - 1.0)
            beyond = both - before - offset * own - own
            idle = maximum(beyond - ahead * stage.forward, 0.0)
            work = micro_batches * (own + stage.weight)
            end = before_f + offset * stage.forward + work + idle + stage.epilogue
            longest = maximum(longest, where(stage.count > 0, end, 0.0))
        index, before = index + stage.count, before + stage.count * own
        before_f = before_f + stage.count * stage.forward
    return where(micro_batches >= p, SHORT, FEW) * longest


def dualpipe_least(stages: Sequence[StageTimes], micro_batches: Value) -> Value:
    """Seconds that DualPipe takes at least: the work of the ranks that hold most, passes run together where they can
    be. A rank holds a stage and the one that mirrors it, so the mean of both is no more than the busiest rank's."""
    rounds = ceil(micro_batches / 2.0)
    total: Value = 0.0
    longest: Value = 0.0
    for s in stages:
        apart = s.forward + s.backward + s.weight
        work = micro_batches * (apart if s.overlapped is None else minimum(apart, s.overlapped))
        # Half of the micro-batches pass a stage on each of its two ranks.
        total = total + s.count * (work + 2.0 * s.epilogue)
        longest = maximum(longest, where(s.count > 0, rounds * work / micro_batches + s.epilogue, 0.0))
    p = _sum(s.count for s in stages)
    return PAIRED * where(p > 1, maximum(longest, total / p), longest)


def _several(count: Value) -> bool:
    return not (isinstance(count, int | float) and count <= 1)


def _sum(values: Iterable[Value]) -> Value:
    total: Value = 0.0
    for value in values:
        total = total + value
    return total


def _weighted(counts: Sequence[Value], *each: Sequence[Value]) -> Value:
    total: Value = 0.0
    for values in each:
        for count, value in zip(counts, values, strict=True):
            total = total + count * value
    return total
