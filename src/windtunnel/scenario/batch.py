"""The few statistics of a batch that a step's demands depend on. Scalars make one step, arrays a million."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from windtunnel.ops.values import Value, maximum, minimum, where


@dataclass(frozen=True, slots=True)
class Batch:
    """One iteration's work, summed over the sequences that one data-parallel rank holds.

    ``tokens``: new tokens, prefill and decode together; ``sequences``: rows whose next token is sampled;
    ``prefill_tokens``/``prefill_pairs``/``prefill_context``: new tokens of prefill, their query-key pairs (causal: a
    token sees itself and what precedes it) and the keys that they read; ``decode_sequences``/``decode_context``:
    sequences that produce one token and the sum of their contexts. ``windows``: for each window w, the same three
    statistics (pairs, prefill context, decode context) with min(context, w) instead of the context.
    ``sequences_in_prefill``: how many sequences the prefill tokens belong to. ``queries``: tokens that each decoding
    sequence brings (more than one where guesses are checked).
    """

    tokens: Value
    sequences: Value
    prefill_tokens: Value = 0.0
    prefill_pairs: Value = 0.0
    prefill_context: Value = 0.0
    decode_sequences: Value = 0.0
    decode_context: Value = 0.0
    windows: Mapping[int, tuple[Value, Value, Value]] = field(default_factory=dict)
    sequences_in_prefill: Value = 0.0
    queries: Value = 1.0

    def seen(self, window: int | None) -> tuple[Value, Value, Value]:
        """(prefill pairs, prefill context, decode context) through a window; None: all of it."""
        if window is None or window not in self.windows:
            return self.prefill_pairs, self.prefill_context, self.decode_context
        return self.windows[window]


def causal_pairs(new: Value, before: Value = 0.0, window: int | None = None) -> Value:
    """Query-key pairs of ``new`` tokens that follow ``before`` cached ones, each seeing itself and what precedes it:
    all of it, the last ``window`` tokens, or (a window below zero) what lies in its own chunk of that many tokens."""
    full = new * before + new * (new + 1) / 2
    if window is None:
        return full
    if window < 0:
        return _in_chunks(before + new, -window) - _in_chunks(before, -window)
    # Token i (from 1) sees min(before + i, window) keys: a ramp, then a plateau.
    ramp = minimum(maximum(window - before, 0.0), new)
    return ramp * before + ramp * (ramp + 1) / 2 + (new - ramp) * window


def _in_chunks(tokens: Value, chunk: int) -> Value:
    """Pairs of the first ``tokens`` of a sequence cut into chunks."""
    rest = tokens % chunk
    return (tokens - rest) * (chunk + 1) / 2 + rest * (rest + 1) / 2


def tokens_seen(context: Value, window: int | None) -> Value:
    """How many of a ``context``, its last token included, that last token attends to (see :func:`causal_pairs`)."""
    if window is None:
        return context
    if window < 0:
        return where(context > 0, (context - 1) % -window + 1, 0.0)
    return minimum(context, window)


def prefill(sequences: Value, length: Value, before: Value = 0.0, windows: tuple[int, ...] = ()) -> Batch:
    """``sequences`` prompts of ``length`` new tokens each after ``before`` cached ones."""
    seen = {
        w: (
            sequences * causal_pairs(length, before, w),
            sequences * (length - 1 + tokens_seen(before + 1.0, w)),
            0.0 * sequences,
        )
        for w in windows
    }
    return Batch(
        tokens=sequences * length,
        sequences=sequences,
        prefill_tokens=sequences * length,
        prefill_pairs=sequences * causal_pairs(length, before),
        prefill_context=sequences * (length + before),
        windows=seen,
        sequences_in_prefill=sequences,
    )


def decode(sequences: Value, context: Value, windows: tuple[int, ...] = ()) -> Batch:
    """``sequences`` that each produce one token, attending to ``context`` tokens (itself included)."""
    seen = {w: (0.0 * sequences, 0.0 * sequences, sequences * tokens_seen(context, w)) for w in windows}
    return Batch(
        tokens=sequences,
        sequences=sequences,
        decode_sequences=sequences,
        decode_context=sequences * context,
        windows=seen,
    )


def training(
    sequences: Value, length: Value, mean_square_over_mean: Value | None = None, windows: tuple[int, ...] = ()
) -> Batch:
    """``sequences`` of ``length`` tokens in one micro-batch, each token predicted.

    ``mean_square_over_mean``: E[l^2]/E[l] of the documents packed into a sequence, if attention stays inside them.
    """
    tokens = sequences * length
    document = length if mean_square_over_mean is None else minimum(mean_square_over_mean, length)
    seen = {w: (tokens / document * causal_pairs(document, 0.0, w), tokens, 0.0) for w in windows}
    return Batch(
        tokens=tokens,
        sequences=tokens,
        prefill_tokens=tokens,
        prefill_pairs=tokens / document * causal_pairs(document),
        prefill_context=tokens,
        windows=seen,
        sequences_in_prefill=tokens / document,
    )


def joined(a: Batch, b: Batch) -> Batch:
    """Two groups of sequences in one iteration."""
    keys = set(a.windows) | set(b.windows)

    def plus(x: tuple[Value, Value, Value], y: tuple[Value, Value, Value]) -> tuple[Value, Value, Value]:
        return x[0] + y[0], x[1] + y[1], x[2] + y[2]

    return Batch(
        tokens=a.tokens + b.tokens,
        sequences=a.sequences + b.sequences,
        prefill_tokens=a.prefill_tokens + b.prefill_tokens,
        prefill_pairs=a.prefill_pairs + b.prefill_pairs,
        prefill_context=a.prefill_context + b.prefill_context,
        decode_sequences=a.decode_sequences + b.decode_sequences,
        decode_context=a.decode_context + b.decode_context,
        windows={w: plus(a.seen(w), b.seen(w)) for w in keys},
        sequences_in_prefill=a.sequences_in_prefill + b.sequences_in_prefill,
    )
