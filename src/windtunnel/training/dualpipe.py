"""Length of DualPipe, which feeds micro-batches in from both ends (DeepSeek-V3, arXiv 2412.19437, section 3.2.1).

Ranks r and p − 1 − r hold the same two stages and mirror each other, so h = p/2 ranks tell all: rank r < h has a near
stage r and a far stage p − 1 − r, and n = m/2 micro-batches pass the near stages inward and the far ones outward,
backward passes the other way. Numbering turns by what runs in the steady state, turn k of rank r is a pair inward
(near forward, far backward) and a pair outward (far forward, near backward); inward to the next rank keeps k, outward
adds 1. A rank's turns come in zones, after 2(h − 1 − r) near forward passes run ahead:

    zone  turns                      inward, outward
    2     h − 1 − r … h − 1          near F,              far F
    3     h … 2h − r − 2             far B and W,         far F
    4     2h − r − 1 … n − 1         near F with far B,   far F with near B
    5     n … n + h − r − 2          far B and W,         far F with near B
    6     n + h − r − 1 … n + h − 1  far B,               near B            (the second half of them without W)
    7     n + h … n + 2h − r − 2     a late W,            near B            (r + 1 late W follow)

The length is the longest chain over zones: through each zone a chain stays at one rank, and at a zone's edges, or
within zones 3, 5 and 7, it moves inward or outward. Against the explicit layout this bound from below is at most 2 %
short in a search for the worst case (times within ±30 %, end stages up to twice as long, m ≥ 2p), and mostly exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from windtunnel.errors import ScenarioError
from windtunnel.ops.pipeline import StageTimes
from windtunnel.ops.values import Array, Value
from windtunnel.training.stages import Stages, running_max, running_max_from

NEVER = -np.inf


def dualpipe_length(stages: Sequence[StageTimes], micro_batches: Value) -> Value:
    """Seconds of a step: the latest of all ranks' last pass plus the epilogues of both of its stages.

    A send holds the sender. An odd micro-batch takes as long as two. The schedule is made for m ≥ 2p; with fewer, the
    length is one micro-batch's way from each end, then one more turn of the slowest stage for every two up to m = p,
    and linear from there to m = 2p (within 20 % of the layout).

    Raises:
        ScenarioError: no stages, an odd number of them above 1, or less than one micro-batch.
    """
    st = Stages(stages, micro_batches, 1.0)
    if (alone := st.alone()) is not None:
        return st.answer(alone)
    odd = (st.p > 1) & (st.p % 2 != 0)
    if np.any(odd):
        raise ScenarioError(f"dualpipe cannot run {np.min(st.p[odd]):g} stages; an even number, or 1, is accepted")
    n = np.ceil(st.m / 2)
    whole = [f + b + w for f, b, w in zip(st.forward, st.backward, st.weight, strict=True)]
    full = _length(st, np.maximum(n, st.p))
    single = st.m * st.largest(whole, 0, 0) + st.largest(st.epilogue, 0, 0)
    return st.answer(np.where(st.p == 1, single, np.where(n >= st.p, full, _few(st, n, full))))


def _few(st: Stages, n: Array, full: Array) -> Array:
    """n < p micro-batches from each end; ``full``: the length with n = p."""
    p = st.p
    turn = [f + b + w for f, b, w in zip(st.forward, st.backward, st.weight, strict=True)]
    there_and_back = st.below(st.forward, p) + st.below(st.backward, p) + 2 * st.below(st.send, p)
    late = st.below(st.weight, p) - st.below(st.weight, p / 2) + st.at(st.weight, 0 * p)
    turns = np.minimum(n, p / 2)
    x = np.minimum(st.points(p / 2 - 1), p / 2 - 1)
    far = p - 1 - x
    epilogue = st.at(st.epilogue, x) + st.at(st.epilogue, far)
    way = there_and_back + late - st.below(st.backward, x) - st.below(st.send, x)
    way = way + (turns - 1) * st.largest(turn, 0, p - 1)
    work = turns * (st.at(st.overlapped, x) + st.at(st.overlapped, far))
    some = np.max(np.maximum(way, work) + epilogue, axis=0)
    share = np.clip((n - p / 2) / (p / 2), 0, 1)
    result: Array = (1 - share) * np.minimum(some, full) + share * full
    return result


def _length(st: Stages, n: Array) -> Array:
    """The longest chain over the zones, for n ≥ p micro-batches from each end."""
    p = st.p
    middle = np.maximum(p / 2 - 1, 0)
    edges = [*st.starts, *(e - 1 for e in st.ends)]
    x = st.points(*(p - 1 - e for e in edges), middle, middle - 1)
    x = np.minimum(x, middle) if st.shape else x[x <= middle]
    far = p - 1 - x
    inner = np.where(x > 0, 1.0, 0.0)  # rank 0 hands nothing outward

    send, far_send = st.at(st.send, x), st.at(st.send, far)
    near_f, near_w = st.at(st.forward, x) + send, st.at(st.weight, x)
    near_b = st.at(st.backward, x) + inner * send
    far_f, far_w = st.at(st.forward, far) + inner * far_send, st.at(st.weight, far)
    far_b = st.at(st.backward, far) + far_send
    near_bw, far_bw = near_b + near_w, far_b + far_w
    pair = (st.at(st.overlapped, x) + st.at(st.overlapped, far)) / 2
    pair_in = pair + np.maximum(send, far_send)
    pair_out = pair + inner * np.maximum(send, far_send)

    def before(seconds: Array) -> Array:
        """Sum over the ranks before x: between two points of x all ranks are alike."""
        steps = np.diff(x, axis=0) * seconds[:-1]
        return np.concatenate([np.zeros((1, *st.shape)), np.cumsum(steps, axis=0)])

    before_near_b, before_far_b, before_far_f = before(near_b), before(far_b), before(far_f)
    before_in, before_out = before(pair_in), before(pair_out)
    before_far_bw, before_near_bw = before(far_bw), before(near_bw)

    def inward(chain: Array, before_rank: Array) -> Array:
        return running_max(chain - before_rank) + before_rank

    def outward(chain: Array, before_rank: Array) -> Array:
        return running_max_from(chain + before_rank) - before_rank

    def out_by_next(chain: Array, turn_in: Array, turn_out: Array, before_rank: Array) -> Array:
        """Outward with the first turn of the next zone."""
        way = turn_in + before_rank + turn_out
        return running_max_from(chain + way) - way

    def in_by_last(chain: Array, turn_in: Array, turn_out: Array, before_rank: Array) -> Array:
        """Inward with the last turn of the zone before."""
        way = before_rank + turn_in
        return running_max(chain - turn_out - way) + way + turn_out

    def better(chain: Array, other: Array, allowed: Array) -> Array:
        return np.maximum(chain, np.where(allowed, other, NEVER))

    left = middle - x
    ranks = range(len(x))
    # Zone 2, after the near passes run ahead.
    chain = out_by_next(before(near_f) + 2 * left * running_max(near_f), near_f, far_f, before_far_f)
    chain = chain + (x + 1) * (near_f + far_f)
    # Zone 3. On the middle ranks, which have none, a near forward pass fills the wait for the first far B.
    come = inward(chain, before_far_b)
    enter = np.where(left > 0, come, np.maximum(chain, come - near_f))
    turn = far_bw + far_f
    chain = enter + left * turn
    for r in ranks:
        way_in = enter[r] + left * turn[r] + before_far_b - before_far_b[r]
        chain = better(chain, way_in, (x > x[r]) & (left > 0))
        chain = better(chain, enter[r] + before_far_f[r] - before_far_f + left[r] * turn, x < x[r])
    # Zone 4. The middle ranks do not overlap their first pair.
    first_in = np.where(left > 0, pair_in, near_f + far_bw)
    enter = np.maximum(outward(chain, before_far_f), out_by_next(chain, first_in, pair_out, before_out))
    turns = n - p + x + 1
    turn = pair_in + pair_out
    chain = enter + turns * turn + (first_in - pair_in)
    for r in ranks:
        chain = better(chain, enter[r] + before_in - before_in[r] + turns[r] * turn, x > x[r])
    # Zone 5.
    enter = np.maximum(in_by_last(chain, pair_in, pair_out, before_in), inward(chain, before_far_bw))
    turn = far_bw + pair_out
    chain = enter + left * turn
    for r in ranks:
        chain = better(chain, enter[r] + left * turn[r] + before_far_bw - before_far_bw[r], x > x[r])
        chain = better(chain, enter[r] + before_out[r] - before_out + left[r] * turn, x < x[r])
    # Zone 6: of x + 1 turns the first (x + 2) // 2 far and (x + 1) // 2 near backward passes have their W.
    enter = np.maximum(outward(chain, before_out), out_by_next(chain, far_bw, near_bw, before_near_bw))
    with_far, with_near = (x + 2) // 2, (x + 1) // 2
    chain = enter + (x + 1) * (far_b + near_b) + with_far * far_w + with_near * near_w
    for r in ranks:
        all_w = st.below(st.weight, p - x[r]) - st.below(st.weight, p - np.minimum(x, 2 * x[r] + 1))
        way = enter[r] + before_far_b - before_far_b[r] + all_w + (x[r] + 1) * (far_b + near_b)
        later = x - x[r]
        way = way + np.maximum(with_far - later, 0) * far_w + np.maximum(with_near - later, 0) * near_w
        chain = better(chain, way, x > x[r])
    # Zone 7: late weight gradients, oldest first: far and near in turn, near where x is even, then near ones only.
    enter = in_by_last(chain, far_b, near_b, before_far_b)

    def far_among(first: Array) -> Array:
        return (np.minimum(first, x + 1) + x % 2) // 2

    far_late = far_among(left)
    chain = enter + left * near_b + far_late * far_w + (left - far_late) * near_w
    for r in ranks:
        last = np.broadcast_to(left[r], x.shape)
        far_last = far_late - far_among(left - last)
        way = enter[r] + before_near_b[r] - before_near_b + last * near_b + far_last * far_w
        chain = better(chain, way + (last - far_last) * near_w, x < x[r])
    chain = outward(chain, before_near_b)
    far_last = (x + 1) // 2 - far_late
    chain = chain + far_last * far_w + (x + 1 - far_last) * near_w
    return np.max(chain + st.at(st.epilogue, x) + st.at(st.epilogue, far), axis=0)  # type: ignore[no-any-return]
