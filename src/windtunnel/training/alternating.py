"""Length of schedules that run one forward, then one backward pass in turn: 1F1B and interleaved 1F1B.

A step lasts as long as its longest chain of passes, each waiting for the one before it on its rank or for its input.
Count passes in chunks (v a rank, m·v = N in all), let f, b be a chunk's times and c = f + b. Rank u runs k_u forward
passes ahead (p − 1 − u; interleaved 2(p − 1 − u) + (v − 1)p; arXiv 2104.04473, section 2.2), then in turn. The longest
chain keeps to one rank u for its middle, n_u = N − 1 − k_u turns of c_u, between a start and an end:

- start: from the first forward pass down to some rank t ≥ u and back up to u's first backward pass, Σ c of what is
  passed. The k_t passes that t runs ahead go by on the way: at the slowest rank, or by going round the ranks
  (v − 1 times at most), whichever is longer.
- start round the corner (interleaved only): as above to a late rank t, turns there until its pass v·p, on to the last
  rank and round to rank 0 and u, which misses 2u + 1 turns at u.
- end: the same, seen backwards in time, from u's last forward pass to the last backward pass of rank e.

Where sends are long, going back and forth between two ranks can last longer than turns at one.

Every chain of this kind bounds the step from below. That there is no longer one is found by test, not proved: no
difference above 1e-9 from the explicit ``layout``, in interleaved schedules while no send is longer than a chunk's
forward or backward pass (beyond, with sends up to three turns long, the bound was at most 14 % short).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from windtunnel.ops.pipeline import StageTimes
from windtunnel.ops.values import Array, Value
from windtunnel.training.stages import Stages, running_max_from

NEVER = -np.inf


def alternating_length(stages: Sequence[StageTimes], micro_batches: Value, virtual_stages: Value) -> Value:
    """Seconds of a step: the latest of all stages' last backward pass plus epilogue.

    With one chunk a rank a send holds the sender; with several it only delays the receiver (see ``schedules``).

    Raises:
        ScenarioError: no stages, or less than one micro-batch or virtual stage.
    """
    st = Stages(stages, micro_batches, virtual_stages)
    if (alone := st.alone()) is not None:
        return st.answer(alone)
    p, m = st.p, st.m
    v = np.where(p > 1, st.v, 1.0)
    single = v == 1
    n_passes = m * v
    group = np.minimum(m, p)
    middle = (p - 1) / 2
    kink = np.where(single, p - m, p - 1 - (n_passes - 1 - (v - 1) * p) / 2)
    reach = (n_passes - v * p - p - 2) / 2
    x = st.points(
        np.floor(kink), np.ceil(kink), np.floor(middle), np.ceil(middle), np.floor(reach), np.floor(reach) + 1
    )

    forward = [f / v for f in st.forward]
    backward = [(b + w) / v for b, w in zip(st.backward, st.weight, strict=True)]
    lag = [np.where(single, 0.0, s) for s in st.send]
    hold = [np.where(single, s, 0.0) for s in st.send]
    hold_first, lag_first = st.at(hold, 0 * p), st.at(lag, 0 * p)
    # A holding send is part of the pass; the last stage sends nothing on, the first nothing back.
    with_send_f = [f + h for f, h in zip(forward, hold, strict=True)]
    with_send_b = [b + h for b, h in zip(backward, hold, strict=True)]
    last_f, first_b = st.at(forward, p - 1), st.at(backward, 0 * p)
    f = np.where(x < p - 1, st.at(with_send_f, x), last_f)
    b = np.where(x > 0, st.at(with_send_b, x), first_b)
    c = f + b
    before_f = st.below(with_send_f, x)
    before_b = st.below(with_send_b, x) - np.where(x > 0, hold_first, 0.0)
    before_lag = st.below(lag, x)
    to_here = before_lag + st.at(lag, x) - lag_first  # sends back from x to rank 0
    all_f = st.below(with_send_f, p) - st.at(hold, p - 1)
    all_b = st.below(with_send_b, p) - hold_first
    all_lag = st.below(lag, p)

    def slowest_f(last: Value) -> Array:
        return np.maximum(st.largest(with_send_f, 0, np.minimum(last, p - 2)), np.where(last >= p - 1, last_f, 0.0))

    def slowest_b(first: Array, last: Value) -> Array:
        return np.maximum(st.largest(with_send_b, np.maximum(first, 1), last), np.where(first <= 0, first_b, 0.0))

    ahead = np.where(single, p - 1 - x, 2 * (p - 1 - x) + (v - 1) * p)
    k = np.minimum(ahead, n_passes - 1)
    rounds = np.minimum(v - 1, k // group)

    def gone_by(straight: Array, on_way: Array, slowest: Array, once_round: Array) -> Array:
        """Seconds of the k passes run ahead: straight on, or with rounds, the rest before or between them."""
        rest = k - rounds * group
        anywhere = np.minimum(rest, group - 1)
        more = np.maximum(once_round, group * slowest)
        around = anywhere * slowest + (rest - anywhere) * on_way + once_round + (rounds - 1) * more
        return np.where(rounds >= 1, np.maximum(straight, around), straight)

    there_and_back = before_f + f + before_b + b + before_lag + to_here
    turns = n_passes - 1 - k
    corner = (v > 1) & (m >= 2 * p)
    until_corner = v * p - ahead
    at_corner = corner & (until_corner >= 1)

    ahead_first = there_and_back + gone_by(k * slowest_f(x), slowest_f(x), slowest_f(p - 1), all_f + all_lag)
    start = running_max_from(ahead_first)
    round_start = start - before_b - to_here + until_corner * c - b + (all_f - before_f - f) + (all_lag - before_lag)
    round_start = np.max(np.where(at_corner, round_start, NEVER), axis=0)
    start_round = np.where(corner, round_start + there_and_back - (2 * x + 2) * c, NEVER)

    # Back and forth between two ranks, d apart, is longer than 2d + 1 turns at one where sends are long.
    loops = np.zeros_like(start)
    for a in range(len(x) if any(np.any(value > 0) for value in lag) else 0):
        span = 2 * np.abs(x - x[a]) + 1
        loop = np.abs(there_and_back - there_and_back[a]) + np.where(x < x[a], c, c[a])
        loops = np.maximum(loops, np.maximum(turns - 1, 0) // span * (loop - span * c))

    total = np.zeros(st.shape)
    for count, e, epilogue in zip(st.counts, st.starts, st.epilogue, strict=True):
        straight = np.where(x >= e, k * slowest_b(e, x), NEVER)
        ahead_last = gone_by(straight, slowest_b(0 * p, x), slowest_b(0 * p, p - 1), all_b + all_lag)
        end = running_max_from(there_and_back + ahead_last) - there_and_back
        round_end = end + there_and_back - before_f - before_lag + until_corner * c - f
        round_end = round_end + (all_b - before_b - b) + (all_lag - to_here)
        round_end = np.max(np.where(at_corner, round_end, NEVER), axis=0)
        end_round = np.where(corner, round_end - (2 * x + 2) * c, NEVER)
        # Too few passes for turns: only one of start and end can leave rank u.
        outer = np.where(turns >= 1, start + loops + end, np.maximum(ahead_first + end, start + ahead_last))
        one_round = np.maximum(start_round + end, start + end_round)
        outer = np.maximum(outer, np.where(turns >= 2 * x + 2, one_round, NEVER))
        outer = np.maximum(outer, np.where(turns >= 4 * x + 3, start_round + end_round, NEVER))
        longest = np.max(turns * c + outer, axis=0)
        # The way back from e to rank 0, and e's own send, are no part of e's end.
        back = st.below(with_send_b, e) - np.where(e > 0, hold_first - st.at(hold, e), 0.0)
        back = back + st.below(lag, e) + st.at(lag, e) - lag_first
        total = np.maximum(total, np.where(count > 0, longest - back + epilogue, 0.0))
    return st.answer(total)
