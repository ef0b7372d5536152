"""Length of the zero-bubble schedule ZB-H1 (Qi et al., arXiv 2401.10241, section 2.1).

Rank u runs p − 1 − u forward passes ahead and then F, B, W in turn, its weight gradients u micro-batches late, so that
no rank holds more than p micro-batches. Its first u turns have no W. The longest chain of passes keeps to one rank u
in its middle, as in 1F1B (see ``alternating``), where now

- the turns without W may go by at another rank a: a > u gives its passes up to u, a < u its F passes down;
- sends only delay the receiver, so going back and forth between two ranks can be longer than staying at one;
- the passes that run late at the end are b + w each, and a rank's own late W follow its last B.

Every such chain bounds the step from below. Against the explicit layout the bound is at most 2 % short in a search
for the worst case with times within ±30 %, end stages up to twice as long and sends up to 20 % of a forward pass, for
m ≥ p, and 4 % for m < p.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from windtunnel.ops.pipeline import StageTimes
from windtunnel.ops.values import Array, Value
from windtunnel.training.stages import Stages, running_max, running_max_from

NEVER = -np.inf


def zero_bubble_length(stages: Sequence[StageTimes], micro_batches: Value) -> Value:
    """Seconds of a step: the latest of all stages' last weight gradient plus epilogue.

    Raises:
        ScenarioError: no stages, or less than one micro-batch.
    """
    st = Stages(stages, micro_batches, 1.0)
    if (alone := st.alone()) is not None:
        return st.answer(alone)
    p, m = st.p, st.m
    x = st.points(p - m, m - 1, m)
    f, b, w = st.at(st.forward, x), st.at(st.backward, x), st.at(st.weight, x)
    plain = f + b  # a turn before weight gradients begin
    full = plain + w
    first_send = st.at(st.send, 0 * p)
    before_send = st.below(st.send, x)
    there_and_back = st.below(st.forward, x) + f + st.below(st.backward, x) + b
    there_and_back = there_and_back + 2 * before_send + st.at(st.send, x) - first_send

    k = np.minimum(p - 1 - x, m - 1)
    turns = m - 1 - k
    plain_turns = np.minimum(turns, x)
    full_turns = np.maximum(m - p, 0)
    spare = turns - (k > 0)  # the last turn belongs to the end
    ahead_first = there_and_back + k * st.largest(st.forward, 0, x)
    straight = running_max_from(ahead_first)
    start = straight

    # Plain turns at an earlier rank, then down: with its last plain turn, or with its first full one.
    down = running_max(np.where(x >= 1, straight + x * plain - there_and_back, NEVER)) + there_and_back - x * plain
    start = np.maximum(start, np.where((m >= p) & (x <= spare), down, NEVER))
    down = running_max(straight + x * plain + full - there_and_back) + there_and_back - x * plain - full
    start = np.maximum(start, np.where((m >= p) & (x + 1 <= spare), down, NEVER))
    more = np.zeros_like(start)
    # With fewer micro-batches than ranks: turns at a later rank, then up and only backward passes.
    leave = np.maximum(x, turns)
    rest = (m - 1 - leave) * b + np.minimum(m - 1 - leave, np.maximum(m - 1 - x, 0)) * w
    drained = np.full_like(start, NEVER)
    for a in range(len(x)):
        up = straight[a] + leave * plain[a] + rest
        drained = np.maximum(drained, np.where((m < p) & (x < x[a]) & (leave <= turns[a]), up, NEVER))
        # Plain turns at a later rank, then up.
        for there in (plain_turns, np.broadcast_to(plain_turns[a], x.shape)):
            missed = np.minimum(there, plain_turns) * plain + np.maximum(there - plain_turns, 0) * full
            up = straight[a] + there * plain[a] - missed
            start = np.maximum(start, np.where((x < x[a]) & (there <= spare), up, NEVER))
        # Back and forth between two ranks.
        near = np.minimum(x, x[a])
        span = np.abs(x - x[a]) + 1
        near_plain, near_w = np.where(near == x, plain, plain[a]), np.where(near == x, w, w[a])
        loop = np.abs(there_and_back - there_and_back[a]) + near_plain
        times = np.maximum(np.minimum(spare, plain_turns), 0) // span
        start = np.maximum(start, straight + times * np.maximum(loop - span * plain, 0.0))
        times = np.maximum(np.minimum(full_turns, spare - plain_turns) - 1, 0) // span
        more = np.maximum(more, times * (loop + near_w - span * full))

    total = np.zeros(st.shape)
    middle = turns * plain + full_turns * w + more
    for count, group_start, group_end, epilogue in zip(st.counts, st.starts, st.ends, st.epilogue, strict=True):
        for e in (group_start, np.clip(m - 1, group_start, np.maximum(group_end - 1, group_start)), group_end - 1):
            late = np.where(x >= e, _late(st, e, x, k), NEVER)
            end = running_max_from(there_and_back + late) - there_and_back
            few = np.maximum(ahead_first + end, straight + late)
            longest = np.maximum(middle + np.where(turns >= 1, start + end, few), np.where(x >= e, drained, NEVER))
            longest = np.max(longest, axis=0)
            back = st.below(st.backward, e) + st.below(st.send, e) + st.at(st.send, e) - first_send
            own = np.minimum(m, e + 1) * st.at(st.weight, e)
            total = np.maximum(total, np.where(count > 0, longest - back + own + epilogue, 0.0))
    return st.answer(total)


def _late(st: Stages, first: Array, last: Array, k: Array) -> Array:
    """The k last backward passes of ranks ``first`` to ``last`` with the weight gradients between, at the slowest."""
    result = np.zeros_like(last)
    for b, w, start, end in zip(st.backward, st.weight, st.starts, st.ends, strict=True):
        rank = np.maximum(start, first)
        seconds = k * b + np.minimum(k, np.maximum(st.m - 1 - rank, 0)) * w
        result = np.maximum(result, np.where(rank <= np.minimum(end - 1, last), seconds, 0.0))
    return result
