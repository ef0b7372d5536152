"""Where everything lies in the compiled loop's memory. Names follow the plain-Python loop's attributes.

One array of whole numbers, ``M``, holds an engine: its parameters (fixed; among them where the other parts begin), its
scalars, slots, lanes with their buffers, tables and tally. ``X`` holds the tables of fractions and the integrals over
time. ``Q`` (int64) and ``S`` (int32) [requests, …] hold what is asked and what has become of it, shared by engines.
``A`` [ring, 3]: arrivals (time, request, progress). (One array rather than many named ones: passing and keeping count
of dozens of arrays cost more than the loop itself.)
"""

from __future__ import annotations

# Parameters.
(
    BUDGET, SEQS, SLOTS, RANKS, BLOCK, VIEWS, STATE, CAPACITY, WATERMARK, RESERVE, LONGEST, SWAP, FRONT, DELAYED,
    MAX_QUEUE, TIMEOUT, MIXED, CUT, LIMITED, GATED, PADDED, ORDER, CLIENTS, INDEX, ONE_BY_ONE, LOG_SIZE,
    DECODE_CELLS, GROUPS, STRETCH, OVERLAPPED, EAGER, DEPTH,
    BASE, BASE_ROWS, BASE_COLUMNS, HEAD, SENDS, SCHEDULE, COPIES, ISSUE, DECODE, DECODE_ROWS, DECODE_POINTS,
    WINDOWS, UNITS, STOPS,
    SWAP_S, WAVES, WAVE_LENGTH, PROMPT, PROMPT_ROWS, PROMPT_COLUMNS, APART, SPREAD,
    B_CONTEXTS, B_CLIMBS, B_BUCKETS, B_GROUPS, B_PIECES, B_ENDS, B_BENDS, B_SHARES, B_COUNTERS, B_HEADS, B_TAILS,
    B_PAIRS, B_KEYS, ENDS_ROOM, BENDS_ROOM, GROUPS_ROOM, B_SIZE, B_HEAP,
        POOLS, GAPS, CELLS, COLUMNS, SAMPLES_AT, LOG_AT, DONE_AT, DONE_ROOM, LANES, LANE_SIZE, SLOTS_AT, INTEGRALS,
    P_SIZE,
) = range(85)  # fmt: skip

FCFS, SORTED, FAIR = 0, 1, 2

# Scalars of an engine, behind its parameters.
(
    CLOCK, PIPE_FREE, FLYING, BUSY_SINCE, IN_SYSTEM, OWED, COMPLETED, PRODUCED, A_HEAD, A_TAIL, DONE, EVENTS,
    ITERATIONS, BATCH_SUM, BATCH_MAX, KV_PEAK, BUSY, SAMPLED, GAP, NEXT_SAMPLE, LOGGED, BLOCKED_AT, B1, B2, B3, B4,
    Z_SIZE,
) = range(P_SIZE, P_SIZE + 27)  # fmt: skip

# Of a slot, from where it begins.
(
    READY, BEGAN, FLIGHT, ASLEEP, BLOCKED, F_START, F_ADDED, F_DEVICE, F_SLOPE, F_FLOOR, F_STEPS, F_END, F_OPEN, STABLE,
    SL_SIZE,
) = range(15)  # fmt: skip

# Of a lane, from where it begins; its buffers follow.
(
    K, N, LIVE, PARTIAL, PARTIALS, Q_HEAD, Q_TAIL, Q_LENGTH, BACK_HEAD, BACK_LENGTH, PENDING_HEAD, PENDING_TAIL,
    PENDING_LENGTH, HEAP_N, ENDS_N, BENDS_N, GROUPS_N, PIECES_N, DECODED_AT, DRAINING, DECODING, SWAP_PS, RUN_HEAD,
    RUN_TAIL, W_DECODES, W_PROMPT, W_PROMPTS, W_FINISHED, HAS_WORK, RANK, NUMBER, LN_SIZE,
) = range(32)  # fmt: skip

# Of a request.
ORIGIN, JOINED, LAST_TOKEN, HELD, SWAPPED, START, FIRST, FINISH, Q_SIZE = range(9)
(
    W_INPUT, W_OUTPUT, W_CLIENT, W_KEY, PREFILLED, GENERATED, FLAGS, EPOCH, NEXT, PREVIOUS, STATUS, PREEMPTED, REPLICA,
    S_SIZE,
) = range(14)  # fmt: skip
READY_FLAG, RESERVED_FLAG, RUNNING_FLAG, ENDED_FLAG, STARTED_FLAG = 1, 2, 4, 8, 16

# Why a queue's head waits, as in tally.BLOCKED; 0 is nothing.
NOTHING, BY_CACHE, BY_PLACES, BY_BUDGET, BY_GATE = range(5)

NEVER = (1 << 62) - 1
PS = 10**12
NONE = -1
