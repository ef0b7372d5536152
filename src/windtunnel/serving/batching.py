"""How an engine forms iterations from a batch of equal requests that all arrive at time 0.

What is in each iteration depends on tokens alone, not on time, so the whole run is laid out first and then priced in
one call. Stretches of pure decoding are one row with a repeat count.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from windtunnel.scenario.batch import Batch, causal_pairs, tokens_seen

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rows:
    """Iterations in order: row i stands for ``steps[i]`` iterations in which every decode grows by one a step.

    ``context``: sum of the decodes' contexts in the middle of the stretch. ``first``/``last``: how many requests get
    their first / last token at the end of the row.
    """

    steps: Floats
    prefill: Floats
    pairs: Floats
    prefill_context: Floats
    prompts: Floats
    finished_prompts: Floats
    decodes: Floats
    context: Floats
    first: Floats
    last: Floats


def lay_out(requests: int, input_tokens: int, output_tokens: int, *, scheduler: str, budget: int, slots: int) -> Rows:
    """The iterations of ``requests`` equal requests with room for ``slots`` of them at once.

    ``static``: all prompts of a batch in one iteration, then decoding to the end, then the next batch. ``iteration``
    (Orca, OSDI 2022): whole prompts join at any iteration. ``prefill-first`` (vLLM V0, SGLang): prompts, up to
    ``budget`` tokens, run alone and before any decoding. ``chunked`` (Sarathi-Serve, arXiv 2403.02310; vLLM V1):
    decodes first, the rest of the budget is filled with pieces of prompts, at least a token of them so that a
    budget below the number of decodes does not starve prompts.
    """
    rows: list[tuple[float, ...]] = []
    waiting, partial = requests, 0  # partial: tokens already done of the prompt at the head
    running: deque[list[int]] = deque()  # [requests, tokens produced], oldest first
    n_running = 0
    while waiting or running:
        room = slots - n_running
        admit_now = waiting > 0 and room > 0 and not (scheduler == "static" and running)
        if admit_now:
            decoding = n_running if scheduler in ("chunked", "iteration") else 0
            limit = _limit(scheduler, budget, decoding, input_tokens, room)
            waiting, partial, began, finished, pairs, keys, tokens = _take(waiting, partial, room, limit, input_tokens)
            context = float(sum(n * (input_tokens + k) for n, k in running)) if decoding else 0.0
            done = _advance(running, 1, output_tokens) if decoding else 0
            n_running -= done
            if finished:
                if output_tokens > 1:
                    running.append([finished, 1])
                    n_running += finished
                else:
                    done += finished
            rows.append((1, tokens, pairs, keys, began, finished, decoding, context, finished, done))
            continue
        # Nothing joins until a request ends: decode up to the next end in one row.
        steps = output_tokens - running[0][1]
        context = float(sum(n * (input_tokens + k + (steps - 1) / 2) for n, k in running))
        count = n_running
        done = _advance(running, steps, output_tokens)
        n_running -= done
        rows.append((steps, 0, 0, 0, 0, 0, count, context, 0, done))
    return Rows(*np.array(rows, dtype=float).reshape(-1, 10).T)


def _limit(scheduler: str, budget: int, decoding: int, input_tokens: int, room: int) -> int:
    """Prompt tokens that may join the next iteration."""
    if scheduler in ("static", "iteration"):
        return room * input_tokens
    return max(budget - decoding, 1)


def _take(
    waiting: int, partial: int, room: int, limit: int, length: int
) -> tuple[int, int, int, int, float, float, int]:
    """Take up to ``limit`` prompt tokens from the queue: what is left, and what was taken."""
    pairs = keys = 0.0
    began = finished = tokens = 0
    if partial:
        piece = min(length - partial, limit)
        pairs += float(causal_pairs(piece, partial))
        keys += partial + piece
        tokens += piece
        began += 1
        partial += piece
        if partial == length:
            partial, finished, waiting, room = 0, 1, waiting - 1, room - 1
    whole = 0 if partial else min(waiting, room, (limit - tokens) // length)
    if whole:
        pairs += whole * float(causal_pairs(length))
        keys += whole * length
        tokens += whole * length
        began, finished, waiting, room = began + whole, finished + whole, waiting - whole, room - whole
    left = limit - tokens
    if not partial and waiting and room and 0 < left < length:
        pairs += float(causal_pairs(left))
        keys += left
        tokens += left
        began += 1
        partial = left
    return waiting, partial, began, finished, pairs, keys, tokens


def _advance(running: deque[list[int]], steps: int, output_tokens: int) -> int:
    """Let every running request produce ``steps`` tokens; returns how many end."""
    done = 0
    for group in running:
        group[1] += steps
    while running and running[0][1] >= output_tokens:
        done += running.popleft()[0]
    return done


def after(rows: Rows, before: int) -> Rows:
    """The same rows where every request comes after ``before`` tokens that are cached."""
    return replace(
        rows,
        pairs=rows.pairs + before * rows.prefill,
        prefill_context=rows.prefill_context + before * rows.prompts,
        context=rows.context + before * rows.decodes,
    )


def as_batch(rows: Rows, input_tokens: int, windows: tuple[int, ...], before: int = 0) -> Batch:
    """The rows' statistics, with those seen through each window. ``before``: cached tokens of every request (see
    :func:`after`, which has added them to the rows).

    For prompts they are exact. For decodes the mean context of a row is cut at the window, which is an upper bound
    where some of the row's contexts are below the window and some above; in chunks it is that of the mean context.
    """
    mean = np.divide(rows.context, rows.decodes, out=np.zeros_like(rows.context), where=rows.decodes > 0)
    # Prompts are taken in order: how far the one at the head was before each row follows from the tokens so far.
    done = np.cumsum(rows.steps * rows.prefill)
    head = before + (done - rows.prefill) % input_tokens
    seen = {
        w: (
            np.diff(_windowed(done, input_tokens, w, before), prepend=0.0),
            rows.prefill + np.where(rows.prefill > 0, tokens_seen(head + 1.0, w) - 1.0, 0.0),
            rows.decodes * tokens_seen(mean, w),
        )
        for w in windows
    }
    return Batch(
        tokens=rows.prefill + rows.decodes,
        sequences=rows.finished_prompts + rows.decodes,
        prefill_tokens=rows.prefill,
        prefill_pairs=rows.pairs,
        prefill_context=rows.prefill_context,
        decode_sequences=rows.decodes,
        decode_context=rows.context,
        windows=seen,
        sequences_in_prefill=rows.prompts,
    )


def _windowed(tokens: Floats, length: int, window: int, before: int) -> Floats:
    """Query-key pairs through a window of the first ``tokens`` of a queue of prompts of ``length`` after ``before``."""
    whole, rest = np.divmod(tokens, length)
    pairs: Floats = whole * float(causal_pairs(length, before, window)) + causal_pairs(rest, before, window)
    return pairs
