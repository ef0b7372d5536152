"""How long an iteration takes, looked up as in :mod:`windtunnel.serving.step_time`, operation by operation."""

from __future__ import annotations

from windtunnel.serving.compiled import fields as f
from windtunnel.serving.compiled.jit import compiled
from windtunnel.serving.knots import CONTEXT, KEYS, PROMPT, SEQUENCES, STATES, TOKENS, Ints
from windtunnel.serving.step_cost import MIX_BITS, Floats

T_D, T_M = TOKENS.dense, TOKENS.mantissa
P_D, P_M = PROMPT.dense, PROMPT.mantissa
S_D, S_M = SEQUENCES.dense, SEQUENCES.mantissa
C_D, C_M = CONTEXT.dense, CONTEXT.mantissa
K_D, K_M = KEYS.dense, KEYS.mantissa
Q_D, Q_M = STATES.dense, STATES.mantissa


@compiled
def bit_length(value: int) -> int:
    """Of a positive whole number."""
    bits = 1
    if value >> 32:
        value >>= 32
        bits += 32
    if value >> 16:
        value >>= 16
        bits += 16
    if value >> 8:
        value >>= 8
        bits += 8
    if value >> 4:
        value >>= 4
        bits += 4
    if value >> 2:
        value >>= 2
        bits += 2
    return bits + (value >> 1)


@compiled
def index(dense: int, mantissa: int, value: int) -> int:
    if value < 1 << dense:
        return value
    shift = bit_length(value) - 1 - mantissa
    return (1 << dense) + ((shift - dense + mantissa - 1) << mantissa) + (value >> shift)


@compiled
def low_end(dense: int, mantissa: int, i: int) -> int:
    if i < 1 << dense:
        return i
    beyond = i - (1 << dense)
    return ((beyond & ((1 << mantissa) - 1)) + (1 << mantissa)) << ((beyond >> mantissa) + dense - mantissa)


@compiled
def width(dense: int, mantissa: int, i: int) -> int:
    if i < 1 << dense:
        return 1
    return 1 << (((i - (1 << dense)) >> mantissa) + dense - mantissa)


@compiled
def interpolated(M: Ints, start: int, stride: int, value: int) -> int:
    """On the axis of tokens."""
    if value < 1 << T_D:
        return M[start + value * stride]
    i = index(T_D, T_M, value)
    a, b = M[start + i * stride], M[start + (i + 1) * stride]
    return a + (b - a) * (value - low_end(T_D, T_M, i)) // width(T_D, T_M, i)


@compiled
def token_time(M: Ints, group: int, tokens: int, states: int) -> int:
    columns = M[f.BASE_COLUMNS]
    start = M[f.BASE] + group * M[f.BASE_ROWS] * columns
    if columns == 1:
        return interpolated(M, start, 1, tokens)
    column = index(Q_D, Q_M, states)
    a = interpolated(M, start + column, columns, tokens)
    b = interpolated(M, start + column + 1, columns, tokens)
    return a + (b - a) * (states - low_end(Q_D, Q_M, column)) // width(Q_D, Q_M, column)


@compiled
def decode_time(M: Ints, b: int, group: int, n: int) -> int:
    row, total = index(S_D, S_M, n), 0
    for view in range(M[f.VIEWS]):
        context = M[b + M[f.B_CONTEXTS] + view]
        i = index(C_D, C_M, context)
        at = M[f.DECODE] + 2 * (((group * M[f.VIEWS] + view) * M[f.DECODE_ROWS] + row) * M[f.DECODE_POINTS] + i)
        total += M[at] + M[at + 1] * (context - low_end(C_D, C_M, i))
    return total


@compiled
def corner(X: Floats, at: int, depth: int, across: float, beyond: float) -> float:
    near = X[at] + beyond * (X[at + 1] - X[at])
    far = X[at + depth] + beyond * (X[at + depth + 1] - X[at + depth])
    return near + across * (far - near)


@compiled
def wave(M: Ints, X: Floats, row: int, tokens: int) -> float:
    start = M[f.WAVES] + row * M[f.WAVE_LENGTH]
    i = index(T_D, T_M, tokens)
    a = X[start + i]
    return a + (tokens - low_end(T_D, T_M, i)) / width(T_D, T_M, i) * (X[start + i + 1] - a)


@compiled
def prompt_time(M: Ints, X: Floats, b: int, table: int, group: int, tokens: int, prompts: int) -> int:
    rows, columns, depth = M[f.PROMPT_ROWS], M[f.PROMPT_COLUMNS], M[f.DEPTH]
    i = index(P_D, P_M, tokens)
    part = (tokens - low_end(P_D, P_M, i)) / width(P_D, P_M, i)
    total = 0.0
    for view in range(M[f.VIEWS]):
        keys = M[b + M[f.B_PAIRS] + view] / tokens
        read = M[b + M[f.B_KEYS] + view]
        column = min(index(K_D, K_M, int(keys)), columns - 2)
        across = (keys - low_end(K_D, K_M, column)) / width(K_D, K_M, column)
        third = read / prompts / (2.0 * keys) if M[f.EAGER] else read / (keys + (tokens - 1) / 2.0)
        deep = 0
        while deep < depth - 2 and third > X[M[f.SPREAD] + deep + 1]:
            deep += 1
        low = X[M[f.SPREAD] + deep]
        beyond = max((third - low) / (X[M[f.SPREAD] + deep + 1] - low), 0.0)
        row = group * M[f.VIEWS] + view
        at = table + (row * rows + i) * columns * depth + column * depth + deep
        value = corner(X, at, depth, across, beyond)
        if part > 0.0:
            value += part * (corner(X, at + columns * depth, depth, across, beyond) - value)
        total += value * wave(M, X, row, tokens)
    return int(total)


@compiled
def iteration_time(
    M: Ints, X: Floats, b: int, decodes: int, prompt: int, prompts: int, finished: int
) -> tuple[int, int]:
    """(from its start to its end, until the first stage is free)."""
    tokens, sampled = decodes + prompt, decodes + finished
    total = slowest = 0
    groups = M[f.GROUPS]
    for g in range(groups):
        device = token_time(M, g, tokens, decodes + prompts)
        if g == groups - 1:
            device += M[M[f.HEAD] + sampled]
        attention = 0
        if decodes:
            attention += decode_time(M, b, g, decodes)
        if prompt:
            attention += prompt_time(M, X, b, M[f.PROMPT], g, prompt, prompts)
            if decodes:
                attention = (attention * M[f.STRETCH]) >> MIX_BITS
            if M[f.APART] >= 0:
                attention += prompt_time(M, X, b, M[f.APART], g, prompt, prompts)
        device = max(device + attention, M[M[f.ISSUE] + g])
        total += M[M[f.COPIES] + g] * device
        slowest = max(slowest, device)
    total += interpolated(M, M[f.SENDS], 1, tokens)
    host = M[M[f.SCHEDULE] + sampled]
    return (max(total, host) if M[f.OVERLAPPED] else total + host), slowest
