"""Admission, tokens, preemption and ends, as in :mod:`windtunnel.serving.places`."""

from __future__ import annotations

from windtunnel.serving.compiled import fields as f
from windtunnel.serving.compiled import heaps, lanes, waiting
from windtunnel.serving.compiled.jit import Smalls, compiled
from windtunnel.serving.compiled.prices import bit_length
from windtunnel.serving.histogram import BITS
from windtunnel.serving.knots import Ints
from windtunnel.serving.step_cost import Floats

COMPLETED, TOO_LONG, QUEUE_FULL, TIMED_OUT = 1, 2, 3, 4


@compiled
def leaves(M: Ints, S: Smalls, number: int, status: int, now: int) -> None:
    """It ends here: in the record, and in the list of those that left."""
    S[number, f.STATUS] = status
    at = M[f.DONE]
    if at < M[f.DONE_ROOM]:
        row = M[f.DONE_AT] + 3 * at
        M[row], M[row + 1], M[row + 2] = now, number, status
    M[f.DONE] = at + 1


@compiled
def owes(S: Smalls, number: int) -> int:
    """Tokens that it still wants computed."""
    return lanes.left(S, number) + S[number, f.W_OUTPUT] - S[number, f.GENERATED]


@compiled
def head(M: Ints, Q: Ints, S: Smalls, b: int, now: int) -> int:
    """The next of a lane's queue; those that have waited too long are turned away."""
    number = waiting.head(M, b)
    while number >= 0 and not S[number, f.FLAGS] & f.STARTED_FLAG and now - Q[number, f.JOINED] > M[f.TIMEOUT]:
        waiting.remove_head(M, S, b, number)
        M[f.IN_SYSTEM] -= 1
        M[f.OWED] -= owes(S, number)
        S[number, f.REPLICA] = M[f.INDEX]
        leaves(M, S, number, TIMED_OUT, now)
        number = waiting.head(M, b)
    return number


@compiled
def deadline(M: Ints, Q: Ints, S: Smalls, b: int) -> int:
    if M[f.TIMEOUT] >= f.NEVER:
        return f.NEVER
    number = waiting.head(M, b)
    if number < 0 or S[number, f.FLAGS] & f.STARTED_FLAG:
        return f.NEVER
    return Q[number, f.JOINED] + M[f.TIMEOUT] + 1


@compiled
def admit(M: Ints, X: Floats, Q: Ints, S: Smalls, b: int, number: int, free: int, now: int) -> tuple[int, int]:
    """(units of the free ones that it takes or -1, what it lacks)."""
    if M[b + f.N] + M[b + f.PARTIALS] >= M[f.SEQS]:
        return -1, f.BY_PLACES
    ready = S[number, f.FLAGS] & f.READY_FLAG
    tokens = lanes.cached(S, number) if ready else S[number, f.W_INPUT] + S[number, f.GENERATED]
    soon = tokens + 1 if ready else tokens
    reserved = M[f.RESERVE] or M[f.PADDED]
    if reserved:
        tokens = soon = S[number, f.W_INPUT] + S[number, f.W_OUTPUT] - 1
    units = lanes.held(M, soon)
    if units > free - (M[f.WATERMARK] if M[b + f.N] or M[b + f.PARTIALS] else 0):
        return -1, f.BY_CACHE
    own = lanes.held(M, tokens)
    M[M[f.POOLS] + 2 * M[b + f.RANK]] -= own
    waiting.remove_head(M, S, b, number)
    Q[number, f.HELD] = own
    if reserved:
        S[number, f.FLAGS] |= f.RESERVED_FLAG
    if not S[number, f.FLAGS] & f.STARTED_FLAG:
        S[number, f.FLAGS] |= f.STARTED_FLAG
        Q[number, f.START] = now
        S[number, f.REPLICA] = M[f.INDEX]
    if ready:
        swapped = Q[number, f.SWAPPED]
        if swapped:
            M[M[f.POOLS] + 2 * M[b + f.RANK] + 1] += swapped
            M[b + f.SWAP_PS] += int(swapped * X[M[f.SWAP_S]] * f.PS)
            Q[number, f.SWAPPED] = 0
        if Q[number, f.LAST_TOKEN] < 0:
            Q[number, f.LAST_TOKEN] = Q[number, f.FIRST]
        since = Q[number, f.LAST_TOKEN]
        lanes.join(M, Q, S, b, number, since)
        add_group(M, b, since, 1)
    else:
        M[b + f.PARTIALS] += 1
    return units, f.NOTHING


@compiled
def add_group(M: Ints, b: int, time: int, count: int) -> None:
    """So many had their last token at that time."""
    base = b + M[f.B_GROUPS]
    if M[b + f.GROUPS_N] >= M[f.GROUPS_ROOM]:
        kept = 0
        for i in range(M[b + f.GROUPS_N]):
            if M[base + 2 * i + 1]:
                M[base + 2 * kept], M[base + 2 * kept + 1] = M[base + 2 * i], M[base + 2 * i + 1]
                kept += 1
        M[b + f.GROUPS_N] = kept
    at = base + 2 * M[b + f.GROUPS_N]
    M[at], M[at + 1] = time, count
    M[b + f.GROUPS_N] += 1


@compiled
def bin_of(value: int) -> int:
    if value < 1 << BITS:
        return max(value, 0)
    shift = bit_length(value) - 1 - BITS
    return ((shift + 1) << BITS) + (value >> shift) - (1 << BITS)


@compiled
def add_run(M: Ints, value: int, growth: int, steps: int, weight: int) -> None:
    done = 0
    while done < steps:
        now = value + done * growth
        where = bin_of(now)
        n = steps - done
        if growth > 0 and n > 1:
            exponent = where >> BITS
            upper = where + 1
            if exponent:
                upper = ((where & ((1 << BITS) - 1)) + (1 << BITS) + 1) << (exponent - 1)
            n = min(n, (upper - now + growth - 1) // growth)
        M[M[f.GAPS] + where] += n * weight
        done += n


@compiled
def duration(M: Ints, o: int, steps: int) -> int:
    low = floored(M, o, steps)
    total = steps * M[o + f.F_ADDED] + low * M[o + f.F_FLOOR] + (steps - low) * M[o + f.F_DEVICE]
    return total + M[o + f.F_SLOPE] * ((steps * (steps - 1) - low * (low - 1)) // 2)


@compiled
def floored(M: Ints, o: int, steps: int) -> int:
    if M[o + f.F_DEVICE] >= M[o + f.F_FLOOR]:
        return 0
    if M[o + f.F_SLOPE] <= 0:
        return steps
    return min(steps, -(-(M[o + f.F_FLOOR] - M[o + f.F_DEVICE]) // M[o + f.F_SLOPE]))


@compiled
def gaps(M: Ints, b: int, o: int) -> None:
    first = M[o + f.F_START] + duration(M, o, 1)
    for i in range(M[b + f.GROUPS_N]):
        at = b + M[f.B_GROUPS] + 2 * i
        add_run(M, first - M[at], 0, 1, M[at + 1])
    steps = M[o + f.F_STEPS]
    if steps > 1:
        low = floored(M, o, steps)
        if low > 1:
            add_run(M, M[o + f.F_ADDED] + M[o + f.F_FLOOR], 0, low - 1, M[b + f.LIVE])
        begin = max(low, 1)
        if steps > begin:
            at_first = M[o + f.F_ADDED] + M[o + f.F_DEVICE] + begin * M[o + f.F_SLOPE]
            add_run(M, at_first, M[o + f.F_SLOPE], steps - begin, M[b + f.LIVE])


@compiled
def decoded(M: Ints, Q: Ints, S: Smalls, b: int, o: int, now: int) -> None:
    steps = M[o + f.F_STEPS]
    M[b + f.DRAINING] = 1
    gaps(M, b, o)
    M[f.OWED] -= steps * M[b + f.LIVE]
    M[f.PRODUCED] += steps * M[b + f.LIVE]
    waiting.served_output(M, b, steps)
    lanes.stepped(M, Q, S, b, steps)
    base = b + M[f.B_ENDS]
    while M[b + f.ENDS_N] and M[base] <= M[b + f.K]:
        at, number = M[base], M[base + 1]
        M[b + f.ENDS_N] = heaps.pop(M, base, M[b + f.ENDS_N])
        if lanes.end_holds(Q, S, at, number) and not S[number, f.FLAGS] & f.ENDED_FLAG:
            end(M, Q, S, b, number, now)
    M[b + f.GROUPS_N] = 0
    if M[b + f.LIVE]:
        add_group(M, b, now, M[b + f.LIVE])
    M[b + f.DECODED_AT] = now


@compiled
def prefilled(M: Ints, Q: Ints, S: Smalls, b: int, now: int) -> None:
    finished = 0
    for i in range(M[b + f.PIECES_N]):
        number, tokens = M[b + M[f.B_PIECES] + 2 * i], M[b + M[f.B_PIECES] + 2 * i + 1]
        waiting.served_prompt(M, S, b, number, tokens)
        S[number, f.PREFILLED] += tokens
        M[f.OWED] -= tokens
        if lanes.left(S, number):
            M[b + f.PARTIAL] = number
            continue
        S[number, f.GENERATED] += 1
        M[f.OWED] -= 1
        M[f.PRODUCED] += 1
        M[b + f.PARTIALS] -= 1
        if M[b + f.PARTIAL] == number:
            M[b + f.PARTIAL] = f.NONE
        if S[number, f.GENERATED] == 1:
            Q[number, f.FIRST] = now
        else:
            add_run(M, now - Q[number, f.LAST_TOKEN], 0, 1, 1)
        if S[number, f.GENERATED] >= S[number, f.W_OUTPUT]:
            M[M[f.POOLS] + 2 * M[b + f.RANK]] += Q[number, f.HELD]
            finish(M, Q, S, number, now)
        else:
            lanes.join(M, Q, S, b, number, now)
            finished += 1
    if finished:
        last = b + M[f.B_GROUPS] + 2 * (M[b + f.GROUPS_N] - 1)
        if M[b + f.GROUPS_N] and M[last] == now:
            M[last + 1] += finished
        else:
            add_group(M, b, now, finished)
    M[b + f.PIECES_N] = 0


@compiled
def finish(M: Ints, Q: Ints, S: Smalls, number: int, now: int) -> None:
    Q[number, f.FINISH] = now
    leaves(M, S, number, COMPLETED, now)
    M[f.COMPLETED] += 1
    M[f.IN_SYSTEM] -= 1


@compiled
def end(M: Ints, Q: Ints, S: Smalls, b: int, number: int, now: int) -> None:
    finish(M, Q, S, number, now)
    lanes.gone(M, S, b, number)
    if not M[f.PADDED]:
        release(M, Q, S, b, number)
        return
    S[number, f.FLAGS] |= f.ENDED_FLAG
    if not M[b + f.LIVE]:
        while M[b + f.RUN_HEAD] >= 0:
            release(M, Q, S, b, M[b + f.RUN_HEAD])


@compiled
def release(M: Ints, Q: Ints, S: Smalls, b: int, number: int) -> None:
    tokens = Q[number, f.ORIGIN] + M[b + f.K]
    lanes.leave(M, Q, S, b, number)
    if not S[number, f.FLAGS] & f.RESERVED_FLAG:
        Q[number, f.HELD] = lanes.held(M, tokens)
    M[M[f.POOLS] + 2 * M[b + f.RANK]] += Q[number, f.HELD]
    Q[number, f.HELD] = 0


@compiled
def make_room(M: Ints, X: Floats, Q: Ints, S: Smalls, b: int) -> tuple[int, int]:
    lost = 0
    need = lanes.need(M, b, 1)
    while need > M[M[f.POOLS] + 2 * M[b + f.RANK]] and (M[b + f.PARTIALS] or M[b + f.N]):
        preempt(M, X, Q, S, b)
        lost += 1
        need = lanes.need(M, b, 1)
    return need, lost


@compiled
def preempt(M: Ints, X: Floats, Q: Ints, S: Smalls, b: int) -> None:
    if M[b + f.PARTIALS]:
        number = M[b + f.PARTIAL]
        M[b + f.PARTIAL] = f.NONE
        M[b + f.PARTIALS] -= 1
        M[M[f.POOLS] + 2 * M[b + f.RANK]] += Q[number, f.HELD]
        M[f.OWED] += S[number, f.PREFILLED]
        Q[number, f.HELD] = 0
        S[number, f.PREFILLED] = 0
    else:
        number = M[b + f.RUN_TAIL]
        since = M[b + f.K] - (lanes.cached(S, number) - Q[number, f.ORIGIN])
        last = M[b + f.DECODED_AT] if since else Q[number, f.JOINED]
        Q[number, f.LAST_TOKEN] = last
        for i in range(M[b + f.GROUPS_N]):
            if M[b + M[f.B_GROUPS] + 2 * i] == last:
                M[b + M[f.B_GROUPS] + 2 * i + 1] -= 1
                break
        lanes.gone(M, S, b, number)
        S[number, f.GENERATED] = Q[number, f.ORIGIN] + M[b + f.K] - S[number, f.W_INPUT] + 1
        units = Q[number, f.HELD]
        if not S[number, f.FLAGS] & f.RESERVED_FLAG:
            units = lanes.held(M, lanes.cached(S, number))
        release(M, Q, S, b, number)
        if units <= M[M[f.POOLS] + 2 * M[b + f.RANK] + 1]:
            M[M[f.POOLS] + 2 * M[b + f.RANK] + 1] -= units
            Q[number, f.SWAPPED] = units
            S[number, f.FLAGS] |= f.READY_FLAG
            M[b + f.SWAP_PS] += int(units * X[M[f.SWAP_S]] * f.PS)
        else:
            S[number, f.FLAGS] &= ~f.READY_FLAG
            S[number, f.PREFILLED] = 0
            M[f.OWED] += S[number, f.W_INPUT] + S[number, f.GENERATED]
    S[number, f.PREEMPTED] += 1
    waiting.push_back(M, S, b, number)
