"""Time passes: the next event, decisions, stretches of iterations and their ends, as in :mod:`windtunnel.serving.engine`."""

from __future__ import annotations

from windtunnel.serving.compiled import fields as f
from windtunnel.serving.compiled import lanes, places, waiting
from windtunnel.serving.compiled.jit import Smalls, compiled
from windtunnel.serving.compiled.prices import (
    C_D, C_M, S_D, S_M, index, iteration_time, low_end, token_time, width,
)  # fmt: skip
from windtunnel.serving.knots import Ints
from windtunnel.serving.step_cost import Floats
from windtunnel.serving.tally import COLUMNS, SAMPLES, SIZES

END, ARRIVAL, DECISION = 0, 1, 2
Z_D, Z_M = SIZES.dense, SIZES.mantissa
REACHED, FULL, PAUSED = 0, 1, 2
"""Why :func:`advance` came back: its time, no room for those that leave, its number of events."""


@compiled
def advance(M: Ints, X: Floats, Q: Ints, S: Smalls, A: Ints, until: int, most_events: int) -> int:
    """Let time pass until ``until``, or for so many events."""
    spare = M[f.DONE_ROOM] - M[f.SLOTS] * M[f.RANKS] * (M[f.SEQS] + 1)
    for _ in range(most_events):
        if M[f.DONE] >= spare:
            return FULL
        time, kind, slot = next_event(M, A)
        if time > until or (time == until and kind != END) or time >= f.NEVER:
            if until < f.NEVER:
                pass_time(M, X, until)
            return REACHED
        pass_time(M, X, time)
        if kind == ARRIVAL:
            if not ingest(M, X, Q, S, A, time):
                return FULL
        elif kind == END:
            land(M, Q, S, slot)
        elif not ingest(M, X, Q, S, A, time):
            return FULL
        else:
            decide(M, X, Q, S, A, slot, time)
    return PAUSED


@compiled
def lane_at(M: Ints, lane: int) -> int:
    """Where a lane begins."""
    return M[f.LANES] + lane * M[f.LANE_SIZE]


@compiled
def slot_at(M: Ints, slot: int) -> int:
    """Where a slot begins."""
    return M[f.SLOTS_AT] + slot * f.SL_SIZE


@compiled
def busy(M: Ints, slot: int) -> bool:
    ranks = M[f.RANKS]
    for lane in range(slot * ranks, (slot + 1) * ranks):
        b = lane_at(M, lane)
        if M[b + f.N] or M[b + f.PARTIALS] or M[b + f.PENDING_LENGTH] or waiting.waits(M, b):
            return True
    return False


@compiled
def next_event(M: Ints, A: Ints) -> tuple[int, int, int]:
    best, kind, which, idle = f.NEVER, DECISION, 0, False
    for slot in range(M[f.SLOTS]):
        o = slot_at(M, slot)
        if M[o + f.FLIGHT]:
            time, what = M[o + f.F_END], END
        elif M[o + f.ASLEEP] or not busy(M, slot):
            idle = True
            continue
        else:
            time, what = max(M[o + f.READY], M[f.PIPE_FREE], M[f.CLOCK]), DECISION
        if time < best or (time == best and what < kind):
            best, kind, which = time, what, slot
    if idle and M[f.A_HEAD] < M[f.A_TAIL]:
        time = A[M[f.A_HEAD], 0]
        if time < best or (time == best and ARRIVAL < kind):
            return max(time, M[f.CLOCK]), ARRIVAL, which
    return best, kind, which


@compiled
def used(M: Ints) -> int:
    total = M[f.CAPACITY] * M[f.RANKS]
    for rank in range(M[f.RANKS]):
        total -= M[M[f.POOLS] + 2 * rank]
    return total


@compiled
def pass_time(M: Ints, X: Floats, time: int) -> None:
    elapsed = time - M[f.CLOCK]
    if elapsed > 0:
        X[M[f.INTEGRALS]] += M[f.IN_SYSTEM] * (elapsed / f.PS)
        X[M[f.INTEGRALS] + 1] += used(M) * (elapsed / f.PS)
        M[f.CLOCK] = time


@compiled
def unfinished(M: Ints, b: int) -> int:
    return M[b + f.LIVE] + M[b + f.PARTIALS] + waiting.waits(M, b) + M[b + f.PENDING_LENGTH]


@compiled
def ingest(M: Ints, X: Floats, Q: Ints, S: Smalls, A: Ints, now: int) -> bool:
    """Everything that has arrived goes to the lane with the fewest requests; False if no more may leave."""
    while M[f.A_HEAD] < M[f.A_TAIL] and A[M[f.A_HEAD], 0] <= now:
        if M[f.DONE] >= M[f.DONE_ROOM] - M[f.SLOTS] * M[f.RANKS] * (M[f.SEQS] + 1):
            return False
        time, number, progress = A[M[f.A_HEAD], 0], A[M[f.A_HEAD], 1], A[M[f.A_HEAD], 2]
        M[f.A_HEAD] += 1
        asked, answer = S[number, f.W_INPUT], S[number, f.W_OUTPUT]
        ready = progress >= asked
        S[number, f.PREFILLED] = min(progress, asked)
        S[number, f.GENERATED] = 1 if ready else 0
        S[number, f.FLAGS] = f.READY_FLAG if ready else 0
        S[number, f.EPOCH] += 1
        Q[number, f.JOINED], Q[number, f.LAST_TOKEN] = time, -1
        Q[number, f.HELD] = Q[number, f.SWAPPED] = 0
        lane = 0
        for other in range(1, M[f.SLOTS] * M[f.RANKS]):
            if unfinished(M, lane_at(M, other)) < unfinished(M, lane_at(M, lane)):
                lane = other
        b = lane_at(M, lane)
        last = asked + answer - 1
        if last + 1 > M[f.LONGEST] or lanes.held(M, last) > M[f.CAPACITY]:
            S[number, f.REPLICA] = M[f.INDEX]
            places.leaves(M, S, number, places.TOO_LONG, now)
        elif waiting.waits(M, b) + M[b + f.PENDING_LENGTH] >= M[f.MAX_QUEUE]:
            S[number, f.REPLICA] = M[f.INDEX]
            places.leaves(M, S, number, places.QUEUE_FULL, now)
        else:
            M[f.IN_SYSTEM] += 1
            X[M[f.INTEGRALS]] += (now - (time - M[f.FRONT])) / f.PS
            M[f.OWED] += places.owes(S, number)
            waiting.hold(M, S, b, number)
            M[slot_at(M, lane // M[f.RANKS]) + f.ASLEEP] = 0
    return True


@compiled
def take(M: Ints, X: Floats, Q: Ints, S: Smalls, b: int, free: int, now: int) -> int:
    """Prompts into the iteration; why the next one has to wait."""
    left = 1 << 60
    if M[f.LIMITED]:
        left = max(M[f.BUDGET] - (M[b + f.N] if M[b + f.DECODING] else 0), 1)
    begun, blocked = False, f.NOTHING
    if M[b + f.PARTIAL] >= 0:
        amount = lanes.left(S, M[b + f.PARTIAL])
        if M[f.CUT]:
            amount = min(left, amount)
        if amount > 0:
            add_piece(M, b, M[b + f.PARTIAL], amount)
            left, begun = left - amount, True
    while left > 0:
        number = places.head(M, Q, S, b, now)
        if number < 0:
            return blocked
        if M[f.LIMITED] and not M[f.CUT] and begun and lanes.left(S, number) > left:
            return f.BY_BUDGET
        taken, blocked = places.admit(M, X, Q, S, b, number, free, now)
        if taken < 0:
            return blocked
        free -= taken
        amount = lanes.left(S, number)
        if M[f.CUT]:
            amount = min(left, amount)
        if amount > 0:
            add_piece(M, b, number, amount)
        left, begun = left - amount, True
    return f.BY_BUDGET if places.head(M, Q, S, b, now) >= 0 else blocked


@compiled
def add_piece(M: Ints, b: int, number: int, amount: int) -> None:
    at = b + M[f.B_PIECES] + 2 * M[b + f.PIECES_N]
    M[at], M[at + 1] = number, amount
    M[b + f.PIECES_N] += 1


@compiled
def schedule(M: Ints, X: Floats, Q: Ints, S: Smalls, b: int, now: int) -> tuple[int, int]:
    """A built-in scheduler's decision: (why the head of the queue waits, until when it holds: 0 one iteration,
    1 an event, 2 an end)."""
    M[b + f.PIECES_N] = M[b + f.DECODING] = M[b + f.SWAP_PS] = 0
    free = M[M[f.POOLS] + 2 * M[b + f.RANK]]
    if M[f.MIXED] and M[b + f.N]:
        need, lost = places.make_room(M, X, Q, S, b)
        free = M[M[f.POOLS] + 2 * M[b + f.RANK]] - need
        M[b + f.DECODING] = 1 if M[b + f.N] else 0
        if lost:
            lanes.compose(M, S, b)
            return f.BY_CACHE, 0
    blocked = f.BY_GATE
    if not (M[f.GATED] and M[b + f.DRAINING]):
        blocked = take(M, X, Q, S, b, free, now)
    if not M[b + f.PIECES_N] and not M[b + f.DECODING]:
        places.make_room(M, X, Q, S, b)
        M[b + f.DECODING] = 1 if M[b + f.N] else 0
    stable = 0
    if not M[b + f.PIECES_N]:
        matter = waiting.waits(M, b) == 0 or (M[f.ORDER] != f.FCFS and blocked == f.BY_CACHE)
        stable = 1 if matter else 2
    lanes.compose(M, S, b)
    return blocked, stable


@compiled
def turns(M: Ints, X: Floats, Q: Ints, S: Smalls, slot: int, now: int, visible: int) -> tuple[bool, int, int]:
    """(whether anything runs, why a head waits, how long the first lane's decision holds)."""
    runs, reason, first, known = False, f.NOTHING, 0, False
    ranks = M[f.RANKS]
    for lane in range(slot * ranks, (slot + 1) * ranks):
        b = lane_at(M, lane)
        while M[b + f.PENDING_LENGTH] and Q[M[b + f.PENDING_HEAD], f.JOINED] <= visible:
            waiting.push(M, S, b, waiting.release(M, S, b))
        blocked, stable = schedule(M, X, Q, S, b, now)
        if lane == slot * ranks:
            first = stable
        if not known and waiting.waits(M, b):
            reason, known = blocked, True
        if M[b + f.HAS_WORK]:
            runs = True
    return runs, reason, first


@compiled
def decide(M: Ints, X: Floats, Q: Ints, S: Smalls, A: Ints, slot: int, now: int) -> None:
    o = slot_at(M, slot)
    M[o + f.ASLEEP] = 0
    just = M[o + f.BEGAN] >= 0 and M[o + f.READY] == now
    runs, reason, stable = turns(M, X, Q, S, slot, now, M[o + f.BEGAN] if M[f.DELAYED] and just else now)
    if not runs and M[f.DELAYED] and just:
        runs, reason, stable = turns(M, X, Q, S, slot, now, now)
    M[f.EVENTS] += 1
    if not runs:
        M[o + f.ASLEEP] = 1
        return
    M[o + f.BLOCKED] = reason
    M[o + f.FLIGHT], M[o + f.F_START], M[o + f.F_OPEN] = 1, now, 0
    first = slot * M[f.RANKS]
    if M[f.SLOTS] * M[f.RANKS] == 1 and not M[M[f.LANES] + f.W_PROMPT]:
        stretch(M, Q, S, A, M[f.LANES], o, stable, now)
    else:
        iteration(M, X, slot, o, now)
    for lane in range(first, first + M[f.RANKS]):
        b = lane_at(M, lane)
        if M[b + f.DECODING]:
            M[M[f.POOLS] + 2 * M[b + f.RANK]] -= lanes.need(M, b, M[o + f.F_STEPS])
    if not M[f.FLYING]:
        M[f.BUSY_SINCE] = now
    M[f.FLYING] += 1
    if now >= M[f.NEXT_SAMPLE]:
        sample(M, now)


@compiled
def iteration(M: Ints, X: Floats, slot: int, o: int, now: int) -> None:
    longest = interval = 0
    for lane in range(slot * M[f.RANKS], (slot + 1) * M[f.RANKS]):
        b = lane_at(M, lane)
        if M[b + f.HAS_WORK]:
            decodes, finished = M[b + f.W_DECODES], M[b + f.W_FINISHED]
            whole, stage = iteration_time(M, X, b, decodes, M[b + f.W_PROMPT], M[b + f.W_PROMPTS], finished)
            longest = max(longest, whole + M[b + f.SWAP_PS])
            interval = max(interval, stage + M[b + f.SWAP_PS])
    M[f.PIPE_FREE] = now + interval if M[f.SLOTS] > 1 else now
    M[o + f.F_ADDED], M[o + f.F_STEPS], M[o + f.F_END] = longest, 1, now + longest
    M[o + f.F_DEVICE] = M[o + f.F_SLOPE] = M[o + f.F_FLOOR] = 0


@compiled
def stretch(M: Ints, Q: Ints, S: Smalls, A: Ints, b: int, o: int, stable: int, now: int) -> None:
    """Iterations of the only lane that only decode, until something changes."""
    n = M[b + f.N]
    device = token_time(M, 0, n, n) + M[M[f.HEAD] + n]
    host, issue = M[M[f.SCHEDULE] + n], M[M[f.ISSUE]]
    added, floor = (0, max(issue, host)) if M[f.OVERLAPPED] else (host, issue)
    slope, most = 0, f.NEVER
    row = index(S_D, S_M, n)
    for view in range(M[f.VIEWS]):
        context, climb = M[b + M[f.B_CONTEXTS] + view], M[b + M[f.B_CLIMBS] + view]
        i = index(C_D, C_M, context)
        at = M[f.DECODE] + 2 * ((view * M[f.DECODE_ROWS] + row) * M[f.DECODE_POINTS] + i)
        low = low_end(C_D, C_M, i)
        device += M[at] + M[at + 1] * (context - low)
        slope += M[at + 1] * climb
        if climb > 0:
            most = min(most, (low + width(C_D, C_M, i) - context - 1) // climb + 1)
    M[o + f.F_ADDED], M[o + f.F_DEVICE] = added + M[b + f.SWAP_PS], device
    M[o + f.F_SLOPE], M[o + f.F_FLOOR], M[o + f.F_STEPS] = slope, floor, 1
    if stable and not M[f.ONE_BY_ONE] and not M[b + f.SWAP_PS]:
        most = min(most, lanes.next_end(M, Q, S, b), lanes.next_bend(M, S, b))
        M[o + f.F_STEPS] = max(lanes.steps_within(M, b, M[M[f.POOLS]], most), 1)
        M[o + f.F_OPEN] = 1 if stable == 1 else 0
        steps, last = M[o + f.F_STEPS], places.deadline(M, Q, S, b)
        if last < f.NEVER:
            steps = min(steps, steps_until(M, o, last))
        if M[o + f.F_OPEN]:
            if M[b + f.PENDING_LENGTH]:
                steps = 1
            elif M[f.A_HEAD] < M[f.A_TAIL]:
                steps = min(steps, steps_until(M, o, A[M[f.A_HEAD], 0]) + M[f.DELAYED])
        M[o + f.F_STEPS] = min(steps, M[o + f.F_STEPS])
    M[o + f.F_END] = now + places.duration(M, o, M[o + f.F_STEPS])


@compiled
def steps_until(M: Ints, o: int, time: int) -> int:
    low, high = 1, M[o + f.F_STEPS] + 1
    wanted = time - M[o + f.F_START]
    if places.duration(M, o, M[o + f.F_STEPS]) < wanted:
        return high
    while low < high:
        middle = (low + high) // 2
        if places.duration(M, o, middle) >= wanted:
            high = middle
        else:
            low = middle + 1
    return low


@compiled
def shorten(M: Ints, time: int) -> None:
    """The first arrival, at ``time``, ends an open stretch at the next boundary."""
    o, b = slot_at(M, 0), M[f.LANES]
    if not (M[o + f.FLIGHT] and M[o + f.F_OPEN]):
        return
    steps = steps_until(M, o, time) + M[f.DELAYED]
    if steps < M[o + f.F_STEPS]:
        whole = lanes.need(M, b, M[o + f.F_STEPS])
        M[o + f.F_STEPS] = steps
        M[o + f.F_END] = M[o + f.F_START] + places.duration(M, o, steps)
        M[M[f.POOLS]] += whole - lanes.need(M, b, steps)


@compiled
def land(M: Ints, Q: Ints, S: Smalls, slot: int) -> None:
    o, now = slot_at(M, slot), M[f.CLOCK]
    M[o + f.FLIGHT], M[o + f.READY] = 0, now
    M[o + f.BEGAN] = M[o + f.F_START]
    if M[o + f.F_STEPS] > 1:
        M[o + f.BEGAN] += places.duration(M, o, M[o + f.F_STEPS] - 1)
    M[f.FLYING] -= 1
    if not M[f.FLYING]:
        M[f.BUSY] += now - M[f.BUSY_SINCE]
    if M[o + f.BLOCKED]:
        M[f.BLOCKED_AT + M[o + f.BLOCKED] - 1] += now - M[o + f.F_START]
    for lane in range(slot * M[f.RANKS], (slot + 1) * M[f.RANKS]):
        b = lane_at(M, lane)
        if not M[b + f.HAS_WORK]:
            continue
        count(M, b, o, now)
        M[f.KV_PEAK] = max(M[f.KV_PEAK], M[f.CAPACITY] - M[M[f.POOLS] + 2 * M[b + f.RANK]])
        if M[b + f.DECODING]:
            places.decoded(M, Q, S, b, o, now)
        places.prefilled(M, Q, S, b, now)
        M[b + f.HAS_WORK] = 0
    for other in range(M[f.SLOTS]):
        M[slot_at(M, other) + f.ASLEEP] = 0


@compiled
def count(M: Ints, b: int, o: int, now: int) -> None:
    """As Tally.iteration, and the log."""
    steps, n, prompt = M[o + f.F_STEPS], M[b + f.W_DECODES], M[b + f.W_PROMPT]
    where = n if not prompt else M[f.DECODE_CELLS] + index(Z_D, Z_M, n + prompt)
    cell = M[f.CELLS] + where * M[f.COLUMNS]
    M[cell] += steps
    M[cell + 1] += now - M[o + f.F_START]
    M[cell + 2] += prompt
    M[cell + 3] += M[b + f.W_PROMPTS]
    M[cell + 4] += steps * n
    M[cell + 5] += steps * (n + M[b + f.W_FINISHED])
    for view in range(M[f.VIEWS]):
        at = cell + COLUMNS + 3 * view
        if n:
            growth = M[b + M[f.B_CLIMBS] + view] * (steps * (steps - 1) // 2)
            M[at] += steps * M[b + M[f.B_CONTEXTS] + view] + growth
        if prompt:
            M[at + 1] += M[b + M[f.B_PAIRS] + view]
            M[at + 2] += M[b + M[f.B_KEYS] + view]
    batch = n + M[b + f.W_PROMPTS]
    M[f.ITERATIONS] += steps
    M[f.BATCH_SUM] += steps * batch
    M[f.BATCH_MAX] = max(M[f.BATCH_MAX], batch)
    if M[f.LOGGED] < M[f.LOG_SIZE]:
        row = M[f.LOG_AT] + 7 * M[f.LOGGED]
        M[row], M[row + 1], M[row + 2] = M[b + f.NUMBER], M[o + f.F_START], now
        M[row + 3], M[row + 4], M[row + 5] = steps, prompt, n
        M[row + 6] = M[b + M[f.B_CONTEXTS]] if n else 0
        M[f.LOGGED] += 1


@compiled
def sample(M: Ints, now: int) -> None:
    waits = runs = 0
    for lane in range(M[f.SLOTS] * M[f.RANKS]):
        b = lane_at(M, lane)
        waits += waiting.waits(M, b) + M[b + f.PENDING_LENGTH]
        runs += M[b + f.LIVE] + M[b + f.PARTIALS]
    first = M[f.SAMPLES_AT]
    row = first + 6 * M[f.SAMPLED]
    M[row], M[row + 1], M[row + 2], M[row + 3] = now, waits, runs, used(M)
    M[row + 4], M[row + 5] = M[f.PRODUCED], M[f.COMPLETED]
    M[f.SAMPLED] += 1
    if M[f.SAMPLED] >= SAMPLES:
        for i in range((SAMPLES + 1) // 2):
            for j in range(6):
                M[first + 6 * i + j] = M[first + 12 * i + j]
        M[f.SAMPLED] = (SAMPLES + 1) // 2
        M[f.GAP] *= 2
    M[f.NEXT_SAMPLE] = now + M[f.GAP]


@compiled
def load(M: Ints, S: Smalls, A: Ints) -> tuple[int, int, int]:
    """(requests queued, running, tokens still to be computed)."""
    queued, running, owed = M[f.A_TAIL] - M[f.A_HEAD], 0, M[f.OWED]
    for lane in range(M[f.SLOTS] * M[f.RANKS]):
        b = lane_at(M, lane)
        queued += waiting.waits(M, b) + M[b + f.PENDING_LENGTH]
        running += M[b + f.LIVE] + M[b + f.PARTIALS]
    for i in range(M[f.A_HEAD], M[f.A_TAIL]):
        number, progress = A[i, 1], A[i, 2]
        asked = S[number, f.W_INPUT]
        owed += max(asked - progress, 0) + S[number, f.W_OUTPUT] - (1 if progress >= asked else 0)
    o = slot_at(M, 0)
    if M[o + f.FLIGHT] and M[o + f.F_STEPS] > 1:
        owed -= M[M[f.LANES] + f.LIVE] * (steps_until(M, o, M[f.CLOCK] + 1) - 1)
    return queued, running, owed


@compiled
def clear(M: Ints) -> None:
    """Empty queues, places and caches."""
    for lane in range(M[f.SLOTS] * M[f.RANKS]):
        b = lane_at(M, lane)
        for i in range(M[f.LANE_SIZE]):
            M[b + i] = 0
        M[b + f.NUMBER], M[b + f.RANK] = lane, lane % M[f.RANKS]
        M[b + f.PARTIAL] = M[b + f.BACK_HEAD] = M[b + f.RUN_HEAD] = M[b + f.RUN_TAIL] = f.NONE
        for c in range(M[f.CLIENTS]):
            M[b + M[f.B_HEADS] + c] = f.NONE
    for rank in range(M[f.RANKS]):
        M[M[f.POOLS] + 2 * rank], M[M[f.POOLS] + 2 * rank + 1] = M[f.CAPACITY], M[f.SWAP]
    for slot in range(M[f.SLOTS]):
        o = slot_at(M, slot)
        for i in range(f.SL_SIZE):
            M[o + i] = 0
        M[o + f.BEGAN] = -1
    M[f.OWED] = M[f.IN_SYSTEM] = M[f.FLYING] = 0


@compiled
def held(M: Ints, S: Smalls, A: Ints, found: Ints) -> int:
    """The requests that are here and have not ended, put into ``found``; how many."""
    n = 0
    for i in range(M[f.A_HEAD], M[f.A_TAIL]):
        found[n] = A[i, 1]
        n += 1
    for lane in range(M[f.SLOTS] * M[f.RANKS]):
        b = lane_at(M, lane)
        number = M[b + f.PENDING_HEAD] if M[b + f.PENDING_LENGTH] else f.NONE
        while number >= 0:
            found[n] = number
            n += 1
            number = S[number, f.NEXT]
        number = M[b + f.RUN_HEAD]
        while number >= 0:
            if not S[number, f.FLAGS] & f.ENDED_FLAG:
                found[n] = number
                n += 1
            number = S[number, f.NEXT]
        while waiting.waits(M, b):
            number = waiting.head(M, b)
            found[n] = number
            n += 1
            waiting.remove_head(M, S, b, number)
        for i in range(M[b + f.PIECES_N]):
            number = M[b + M[f.B_PIECES] + 2 * i]
            if number != M[b + f.PARTIAL]:
                found[n] = number
                n += 1
        if M[b + f.PARTIAL] >= 0:
            found[n] = M[b + f.PARTIAL]
            n += 1
    return n


@compiled
def stop(M: Ints, time: int) -> None:
    """It fails: everything it holds is lost."""
    if M[f.FLYING]:
        M[f.BUSY] += time - M[f.BUSY_SINCE]
    clear(M)
    M[f.A_HEAD] = M[f.A_TAIL] = 0
    M[f.PIPE_FREE] = time
    for slot in range(M[f.SLOTS]):
        M[slot_at(M, slot) + f.READY] = time
