"""Sequences that step together, as in :mod:`windtunnel.serving.lane`."""

from __future__ import annotations

from windtunnel.serving.compiled import fields as f
from windtunnel.serving.compiled import heaps
from windtunnel.serving.compiled.jit import Smalls, compiled
from windtunnel.serving.knots import Ints

LOAD_EPOCH, LOAD_VIEW = 27, 43
"""Bits of a bend's load: number, epoch, view."""


@compiled
def seen(tokens: int, window: int) -> int:
    if window == 0:
        return tokens
    return min(tokens, window) if window > 0 else (tokens - 1) % -window + 1


@compiled
def held(M: Ints, tokens: int) -> int:
    total = M[f.STATE]
    for view in range(M[f.VIEWS]):
        total += M[M[f.UNITS] + view] * -(-min(tokens, M[M[f.STOPS] + view]) // M[f.BLOCK])
    return total


@compiled
def cached(S: Smalls, number: int) -> int:
    return S[number, f.W_INPUT] + S[number, f.GENERATED] - 1


@compiled
def left(S: Smalls, number: int) -> int:
    if S[number, f.FLAGS] & f.READY_FLAG:
        return 0
    return S[number, f.W_INPUT] + S[number, f.GENERATED] - S[number, f.PREFILLED]


@compiled
def push_end(M: Ints, Q: Ints, S: Smalls, b: int, key: int, number: int) -> None:
    if M[b + f.ENDS_N] >= M[f.ENDS_ROOM]:  # entries of lost places are in the way
        kept, base = 0, b + M[f.B_ENDS]
        for i in range(M[b + f.ENDS_N]):
            at, other = M[base + 2 * i], M[base + 2 * i + 1]
            if end_holds(Q, S, at, other):
                M[base + 2 * kept], M[base + 2 * kept + 1] = at, other
                kept += 1
        for i in range(kept // 2, -1, -1):
            heaps.sink(M, base, kept, i)
        M[b + f.ENDS_N] = kept
    M[b + f.ENDS_N] = heaps.push(M, b + M[f.B_ENDS], M[b + f.ENDS_N], key, number)


@compiled
def end_holds(Q: Ints, S: Smalls, at: int, number: int) -> bool:
    """Whether an entry of the ends is of a place that its request still has."""
    if not S[number, f.FLAGS] & f.RUNNING_FLAG:
        return False
    return at == S[number, f.W_INPUT] + S[number, f.W_OUTPUT] - 1 - Q[number, f.ORIGIN]


@compiled
def bend_holds(S: Smalls, load: int) -> bool:
    number = load & ((1 << LOAD_EPOCH) - 1)
    epoch = (load >> LOAD_EPOCH) & 0xFFFF
    return S[number, f.FLAGS] & f.RUNNING_FLAG != 0 and (S[number, f.EPOCH] & 0xFFFF) == epoch


@compiled
def push_bend(M: Ints, S: Smalls, b: int, key: int, view: int, number: int) -> None:
    if M[b + f.BENDS_N] >= M[f.BENDS_ROOM]:
        kept, base = 0, b + M[f.B_BENDS]
        for i in range(M[b + f.BENDS_N]):
            if bend_holds(S, M[base + 2 * i + 1]):
                M[base + 2 * kept], M[base + 2 * kept + 1] = M[base + 2 * i], M[base + 2 * i + 1]
                kept += 1
        for i in range(kept // 2, -1, -1):
            heaps.sink(M, base, kept, i)
        M[b + f.BENDS_N] = kept
    load = (view << LOAD_VIEW) | ((S[number, f.EPOCH] & 0xFFFF) << LOAD_EPOCH) | number
    M[b + f.BENDS_N] = heaps.push(M, b + M[f.B_BENDS], M[b + f.BENDS_N], key, load)


@compiled
def join(M: Ints, Q: Ints, S: Smalls, b: int, number: int, since: int) -> None:
    tokens, block = cached(S, number), M[f.BLOCK]
    origin = tokens - M[b + f.K]
    Q[number, f.ORIGIN], Q[number, f.JOINED] = origin, since
    M[b + f.N] += 1
    M[b + f.LIVE] += 1
    S[number, f.FLAGS] |= f.RUNNING_FLAG
    S[number, f.NEXT], S[number, f.PREVIOUS] = f.NONE, M[b + f.RUN_TAIL]
    if M[b + f.RUN_TAIL] >= 0:
        S[M[b + f.RUN_TAIL], f.NEXT] = number
    else:
        M[b + f.RUN_HEAD] = number
    M[b + f.RUN_TAIL] = number
    M[b + M[f.B_SHARES] + S[number, f.W_CLIENT]] += 1
    push_end(M, Q, S, b, M[b + f.K] + S[number, f.W_OUTPUT] - S[number, f.GENERATED], number)
    reserved = S[number, f.FLAGS] & f.RESERVED_FLAG
    for view in range(M[f.VIEWS]):
        window, stop = M[M[f.WINDOWS] + view], M[M[f.STOPS] + view]
        M[b + M[f.B_CONTEXTS] + view] += seen(tokens + 1, window)
        if tokens < stop:
            if not reserved:
                M[b + M[f.B_BUCKETS] + view * block + -origin % block] += 1
            if window >= 0:
                M[b + M[f.B_CLIMBS] + view] += 1
        if window < 0:
            M[b + M[f.B_CLIMBS] + view] += 1
            push_bend(M, S, b, (tokens // -window + 1) * -window - origin, view, number)
        elif tokens < stop and window:
            push_bend(M, S, b, stop - origin, view, number)


@compiled
def stepped(M: Ints, Q: Ints, S: Smalls, b: int, steps: int) -> None:
    M[b + f.K] += steps
    for view in range(M[f.VIEWS]):
        M[b + M[f.B_CONTEXTS] + view] += steps * M[b + M[f.B_CLIMBS] + view]
    while M[b + f.BENDS_N] and M[b + M[f.B_BENDS]] <= M[b + f.K]:
        at, load = M[b + M[f.B_BENDS]], M[b + M[f.B_BENDS] + 1]
        M[b + f.BENDS_N] = heaps.pop(M, b + M[f.B_BENDS], M[b + f.BENDS_N])
        if not bend_holds(S, load):
            continue
        number, view = load & ((1 << LOAD_EPOCH) - 1), load >> LOAD_VIEW
        window, block = M[M[f.WINDOWS] + view], M[f.BLOCK]
        origin = Q[number, f.ORIGIN]
        if origin + at == M[M[f.STOPS] + view] and not S[number, f.FLAGS] & f.RESERVED_FLAG:
            M[b + M[f.B_BUCKETS] + view * block + -origin % block] -= 1
        if window < 0:
            M[b + M[f.B_CONTEXTS] + view] += window
            push_bend(M, S, b, at - window, view, number)
        else:
            M[b + M[f.B_CLIMBS] + view] -= 1


@compiled
def leave(M: Ints, Q: Ints, S: Smalls, b: int, number: int) -> None:
    origin, block = Q[number, f.ORIGIN], M[f.BLOCK]
    tokens = origin + M[b + f.K]
    after, ahead = S[number, f.NEXT], S[number, f.PREVIOUS]
    if ahead >= 0:
        S[ahead, f.NEXT] = after
    else:
        M[b + f.RUN_HEAD] = after
    if after >= 0:
        S[after, f.PREVIOUS] = ahead
    else:
        M[b + f.RUN_TAIL] = ahead
    S[number, f.FLAGS] &= ~f.RUNNING_FLAG
    S[number, f.EPOCH] += 1
    M[b + f.N] -= 1
    reserved = S[number, f.FLAGS] & f.RESERVED_FLAG
    for view in range(M[f.VIEWS]):
        window = M[M[f.WINDOWS] + view]
        M[b + M[f.B_CONTEXTS] + view] -= seen(tokens + 1, window)
        if tokens < M[M[f.STOPS] + view]:
            if not reserved:
                M[b + M[f.B_BUCKETS] + view * block + -origin % block] -= 1
            if window >= 0:
                M[b + M[f.B_CLIMBS] + view] -= 1
        if window < 0:
            M[b + M[f.B_CLIMBS] + view] -= 1


@compiled
def gone(M: Ints, S: Smalls, b: int, number: int) -> None:
    M[b + f.LIVE] -= 1
    M[b + M[f.B_SHARES] + S[number, f.W_CLIENT]] -= 1
    if not M[b + f.LIVE]:
        M[b + f.DRAINING] = 0


@compiled
def need(M: Ints, b: int, steps: int) -> int:
    """Units of cache that the next ``steps`` decode steps take."""
    block, total = M[f.BLOCK], 0
    whole, rest = steps // block, steps % block
    for view in range(M[f.VIEWS]):
        unit = M[M[f.UNITS] + view]
        if unit:
            base, count = b + M[f.B_BUCKETS] + view * block, 0
            if whole:
                for j in range(block):
                    count += M[base + j]
                count *= whole
            for j in range(rest):
                count += M[base + (M[b + f.K] + j) % block]
            total += unit * count
    return total


@compiled
def steps_within(M: Ints, b: int, free: int, most: int) -> int:
    block, cycle = M[f.BLOCK], 0
    for view in range(M[f.VIEWS]):
        count = 0
        for j in range(block):
            count += M[b + M[f.B_BUCKETS] + view * block + j]
        cycle += M[M[f.UNITS] + view] * count
    if cycle * (most // block + 1) <= free:
        return most
    whole = min(most // block, free // cycle)
    steps = whole * block
    free -= whole * cycle
    while steps < most:
        at = (M[b + f.K] + steps) % block
        for view in range(M[f.VIEWS]):
            free -= M[M[f.UNITS] + view] * M[b + M[f.B_BUCKETS] + view * block + at]
        if free < 0:
            break
        steps += 1
    return steps


@compiled
def next_end(M: Ints, Q: Ints, S: Smalls, b: int) -> int:
    base = b + M[f.B_ENDS]
    while not end_holds(Q, S, M[base], M[base + 1]):
        M[b + f.ENDS_N] = heaps.pop(M, base, M[b + f.ENDS_N])
    return M[base] - M[b + f.K]


@compiled
def next_bend(M: Ints, S: Smalls, b: int) -> int:
    while M[b + f.BENDS_N]:
        if bend_holds(S, M[b + M[f.B_BENDS] + 1]):
            return M[b + M[f.B_BENDS]] - M[b + f.K]
        M[b + f.BENDS_N] = heaps.pop(M, b + M[f.B_BENDS], M[b + f.BENDS_N])
    return 1 << 60


@compiled
def compose(M: Ints, S: Smalls, b: int) -> None:
    """The statistics of the iteration that has been decided on."""
    M[b + f.HAS_WORK] = 1 if M[b + f.DECODING] or M[b + f.PIECES_N] else 0
    M[b + f.W_DECODES] = M[b + f.N] if M[b + f.DECODING] else 0
    M[b + f.W_PROMPT] = M[b + f.W_PROMPTS] = M[b + f.W_FINISHED] = 0
    for view in range(M[f.VIEWS]):
        M[b + M[f.B_PAIRS] + view] = M[b + M[f.B_KEYS] + view] = 0
    for i in range(M[b + f.PIECES_N]):
        number, new = M[b + M[f.B_PIECES] + 2 * i], M[b + M[f.B_PIECES] + 2 * i + 1]
        M[b + f.W_PROMPT] += new
        M[b + f.W_PROMPTS] += 1
        if new == left(S, number):
            M[b + f.W_FINISHED] += 1
        prior = S[number, f.PREFILLED]
        for view in range(M[f.VIEWS]):
            pairs, keys = pairs_and_keys(new, prior, M[M[f.WINDOWS] + view])
            M[b + M[f.B_PAIRS] + view] += pairs
            M[b + M[f.B_KEYS] + view] += keys


@compiled
def in_chunks(tokens: int, size: int) -> int:
    rest = tokens % size
    return (tokens - rest) * (size + 1) // 2 + rest * (rest + 1) // 2


@compiled
def pairs_and_keys(new: int, prior: int, window: int) -> tuple[int, int]:
    if window == 0:
        return new * prior + new * (new + 1) // 2, prior + new
    if window < 0:
        size = -window
        return in_chunks(prior + new, size) - in_chunks(prior, size), new - 1 + seen(prior + 1, window)
    ramp = min(max(window - prior, 0), new)
    return ramp * prior + ramp * (ramp + 1) // 2 + (new - ramp) * window, new - 1 + min(prior + 1, window)
