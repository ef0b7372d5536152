"""Queues of a lane in links between requests: those to come in, those that wait, those that lost their places."""

from __future__ import annotations

from windtunnel.serving.compiled import fields as f
from windtunnel.serving.compiled import heaps
from windtunnel.serving.compiled.jit import Smalls, compiled
from windtunnel.serving.knots import Ints
from windtunnel.serving.rules import OUTPUT_CHARGE, PROMPT_CHARGE


@compiled
def waits(M: Ints, b: int) -> int:
    """Requests in the queue."""
    return M[b + f.Q_LENGTH] + M[b + f.BACK_LENGTH] + M[b + f.HEAP_N]


@compiled
def hold(M: Ints, S: Smalls, b: int, number: int) -> None:
    """It has arrived and is not seen yet."""
    S[number, f.NEXT] = f.NONE
    if M[b + f.PENDING_LENGTH]:
        S[M[b + f.PENDING_TAIL], f.NEXT] = number
    else:
        M[b + f.PENDING_HEAD] = number
    M[b + f.PENDING_TAIL] = number
    M[b + f.PENDING_LENGTH] += 1


@compiled
def release(M: Ints, S: Smalls, b: int) -> int:
    """The first of those not seen yet."""
    number = M[b + f.PENDING_HEAD]
    M[b + f.PENDING_HEAD] = S[number, f.NEXT]
    M[b + f.PENDING_LENGTH] -= 1
    return number


@compiled
def lift(M: Ints, b: int, client: int) -> None:
    """A client that comes back to an empty queue gets no credit for idling."""
    if M[b + M[f.B_HEADS] + client] >= 0 or M[b + f.Q_LENGTH] == 0:
        return
    least = f.NEVER
    for c in range(M[f.CLIENTS]):
        if M[b + M[f.B_HEADS] + c] >= 0:
            least = min(least, M[b + M[f.B_COUNTERS] + c])
    M[b + M[f.B_COUNTERS] + client] = max(M[b + M[f.B_COUNTERS] + client], least)


@compiled
def push(M: Ints, S: Smalls, b: int, number: int) -> None:
    if M[f.ORDER] == f.SORTED:
        M[b + f.HEAP_N] = heaps.push(M, b + M[f.B_HEAP], M[b + f.HEAP_N], S[number, f.W_KEY], number)
        return
    S[number, f.NEXT] = f.NONE
    if M[f.ORDER] == f.FAIR:
        client = S[number, f.W_CLIENT]
        lift(M, b, client)
        if M[b + M[f.B_HEADS] + client] >= 0:
            S[M[b + M[f.B_TAILS] + client], f.NEXT] = number
        else:
            M[b + M[f.B_HEADS] + client] = number
        M[b + M[f.B_TAILS] + client] = number
    else:
        if M[b + f.Q_LENGTH]:
            S[M[b + f.Q_TAIL], f.NEXT] = number
        else:
            M[b + f.Q_HEAD] = number
        M[b + f.Q_TAIL] = number
    M[b + f.Q_LENGTH] += 1


@compiled
def push_back(M: Ints, S: Smalls, b: int, number: int) -> None:
    if M[f.ORDER] == f.SORTED:
        push(M, S, b, number)
    elif M[f.ORDER] == f.FAIR:
        client = S[number, f.W_CLIENT]
        lift(M, b, client)
        S[number, f.NEXT] = M[b + M[f.B_HEADS] + client]
        if S[number, f.NEXT] < 0:
            M[b + M[f.B_TAILS] + client] = number
        M[b + M[f.B_HEADS] + client] = number
        M[b + f.Q_LENGTH] += 1
    else:
        S[number, f.NEXT] = M[b + f.BACK_HEAD]
        M[b + f.BACK_HEAD] = number
        M[b + f.BACK_LENGTH] += 1


@compiled
def head(M: Ints, b: int) -> int:
    """The next one, NONE if nobody waits."""
    if M[f.ORDER] == f.SORTED:
        return M[b + M[f.B_HEAP] + 1] if M[b + f.HEAP_N] else f.NONE
    if M[f.ORDER] == f.FAIR:
        best = f.NONE
        for c in range(M[f.CLIENTS]):
            if M[b + M[f.B_HEADS] + c] >= 0 and (
                best < 0 or M[b + M[f.B_COUNTERS] + c] < M[b + M[f.B_COUNTERS] + best]
            ):
                best = c
        return M[b + M[f.B_HEADS] + best] if best >= 0 else f.NONE
    if M[b + f.BACK_LENGTH]:
        return M[b + f.BACK_HEAD]
    return M[b + f.Q_HEAD] if M[b + f.Q_LENGTH] else f.NONE


@compiled
def remove_head(M: Ints, S: Smalls, b: int, number: int) -> None:
    """``number`` is the head and leaves."""
    if M[f.ORDER] == f.SORTED:
        M[b + f.HEAP_N] = heaps.pop(M, b + M[f.B_HEAP], M[b + f.HEAP_N])
    elif M[f.ORDER] == f.FAIR:
        M[b + M[f.B_HEADS] + S[number, f.W_CLIENT]] = S[number, f.NEXT]
        M[b + f.Q_LENGTH] -= 1
    elif M[b + f.BACK_LENGTH]:
        M[b + f.BACK_HEAD] = S[number, f.NEXT]
        M[b + f.BACK_LENGTH] -= 1
    else:
        M[b + f.Q_HEAD] = S[number, f.NEXT]
        M[b + f.Q_LENGTH] -= 1


@compiled
def served_prompt(M: Ints, S: Smalls, b: int, number: int, tokens: int) -> None:
    if M[f.ORDER] == f.FAIR:
        M[b + M[f.B_COUNTERS] + S[number, f.W_CLIENT]] += PROMPT_CHARGE * tokens


@compiled
def served_output(M: Ints, b: int, steps: int) -> None:
    if M[f.ORDER] == f.FAIR:
        for c in range(M[f.CLIENTS]):
            M[b + M[f.B_COUNTERS] + c] += OUTPUT_CHARGE * steps * M[b + M[f.B_SHARES] + c]
