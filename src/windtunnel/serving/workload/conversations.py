"""Requests that wait for others: users in a closed loop, and the turns of conversations."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from windtunnel.scenario.workload import Closed, Sessions
from windtunnel.serving.workload.blocks import inherited
from windtunnel.serving.workload.draws import Stream, generator
from windtunnel.serving.workload.requests import NEXT, OPEN, Floats, Ints

BLOCK_TOKENS = 64
"""Tokens of a block of a conversation: a cache finds all but less than that of what was said before."""


@dataclass(frozen=True, slots=True, eq=False)
class Turns:
    """[N] turns of conversations: of which ``session`` each is, and the turn before it in ``after`` (or ``OPEN``).

    ``arrival_s``: of first turns, else 0; ``think_s``: from the end of the turn before.
    """

    session: Ints
    after: Ints
    arrival_s: Floats
    think_s: Floats


def closed_loop(process: Closed, n: int, seed: int) -> tuple[Ints, Floats]:
    """(after, think_s) [n]: the first ``concurrency`` requests come at time 0, each other one when any is answered."""
    after = np.full(n, NEXT, dtype=np.int64)
    after[: process.concurrency] = OPEN
    think = generator(seed, Stream.THINK).standard_exponential(n) * process.think_s
    return after, np.where(after == OPEN, 0.0, think)


def take_turns(process: Sessions, n: int, rate: float, seed: int) -> Turns:
    """The first ``n`` turns of conversations that start in a Poisson process of ``rate / turns``.

    Their order is that of an engine that answers at once; so the first n of N turns are those of a run with n. With an
    infinite rate all conversations start at 0, and one's turns stand before the next one's.
    """
    count = min(n, int(n / process.turns * 1.25) + 16)
    while True:
        # Drawn anew from the start, so that more conversations begin with the same ones.
        lasting = generator(seed, Stream.TURNS).geometric(1 / process.turns, count).astype(np.int64)
        first = np.cumsum(lasting) - lasting
        session = np.repeat(np.arange(count), lasting)
        think = generator(seed, Stream.THINK).standard_exponential(len(session)) * process.think_s
        think[first] = 0.0
        if math.isinf(rate):
            start, order = np.zeros(count), np.arange(len(session))
            enough = len(session) >= n
        else:
            start = np.cumsum(generator(seed, Stream.ARRIVALS).standard_exponential(count)) * (process.turns / rate)
            told = np.cumsum(think)
            nominal = start[session] + told - told[first][session]
            order = np.argsort(nominal, kind="stable")
            enough = len(order) >= n and nominal[order[n - 1]] <= start[-1]
        if enough or count >= n:
            break
        count = min(2 * count, n)
    order = order[:n]
    place = np.zeros(len(session), dtype=np.int64)
    place[order] = np.arange(n)
    opens = order == first[session[order]]
    after = np.where(opens, OPEN, place[order - 1])
    return Turns(session[order], after, np.where(opens, start[session[order]], 0.0), think[order])


def conversation(turns: Turns, new_tokens: Ints, output_tokens: Ints) -> tuple[Ints, Ints, Ints]:
    """(input_tokens, blocks, block_offsets): each prompt is the whole conversation so far and ``new_tokens``.

    A turn's blocks are those of its prompt and its answer. Its leading ones are the whole blocks of the turn before; a
    last one that is partly filled is shared with nobody, since the next turn fills it up.
    """
    by_session = np.lexsort((np.arange(len(new_tokens)), turns.session))
    said = (new_tokens + output_tokens)[by_session]
    told = np.cumsum(said)
    opens = (turns.after == OPEN)[by_session]
    before = np.maximum.accumulate(np.where(opens, told - said, 0))
    total = np.empty_like(told)
    total[by_session] = told - before
    whole = total // BLOCK_TOKENS
    shared = np.where(turns.after == OPEN, 0, whole[turns.after])
    blocks, offsets = inherited(-(-total // BLOCK_TOKENS), turns.after, shared)
    return total - output_tokens, blocks, offsets
