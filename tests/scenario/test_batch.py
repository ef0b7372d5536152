"""A batch's statistics against counting, pair by pair."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.ops.values import Value
from windtunnel.scenario.batch import Batch, causal_pairs, decode, joined, prefill, tokens_seen, training

lengths, cached, windows = st.integers(0, 60), st.integers(0, 60), st.integers(1, 80)


@given(lengths, cached, windows | st.none())
def test_pairs_equal_counting(new: int, before: int, window: int | None) -> None:
    counted = sum(min(before + i, window or before + i) for i in range(1, new + 1))
    assert causal_pairs(new, before, window) == counted


@given(st.lists(st.tuples(lengths, cached), min_size=1, max_size=5), windows | st.none())
def test_pairs_of_many_equal_pairs_of_each(many: list[tuple[int, int]], window: int | None) -> None:
    new, before = np.array(many, float).T
    assert np.asarray(causal_pairs(new, before, window)).tolist() == [causal_pairs(n, b, window) for n, b in many]


@given(lengths, lengths, cached, windows | st.none())
def test_pieces_of_a_prompt_add_up(a: int, b: int, before: int, window: int | None) -> None:
    pieces = causal_pairs(a, before, window) + causal_pairs(b, before + a, window)
    assert pieces == causal_pairs(a + b, before, window)


@given(st.integers(1, 5), st.integers(1, 40), cached, windows)
def test_a_prompt_through_a_window(sequences: int, length: int, before: int, window: int) -> None:
    batch = prefill(sequences, length, before, (window,))
    pairs, context, decodes = batch.seen(window)
    keys = {max(i - window, 0) + j for i in range(before + 1, before + length + 1) for j in range(min(i, window))}
    assert pairs == sequences * sum(min(before + i, window) for i in range(1, length + 1))
    assert context == sequences * len(keys)
    assert decodes == 0
    assert batch.seen(None) == (batch.prefill_pairs, sequences * (length + before), 0)
    assert batch.tokens == batch.prefill_tokens == sequences * length
    assert batch.sequences == batch.sequences_in_prefill == sequences


@given(st.integers(1, 50), st.integers(1, 100), windows)
def test_decoding_reads_its_context(sequences: int, context: int, window: int) -> None:
    batch = decode(sequences, context, (window,))
    assert batch.seen(None) == (0, 0, sequences * context)
    assert batch.seen(window) == (0, 0, sequences * min(context, window))
    assert batch.tokens == batch.sequences == batch.decode_sequences == sequences
    assert batch.prefill_tokens == batch.sequences_in_prefill == 0


@given(st.integers(1, 4), st.integers(1, 60), windows)
def test_training_predicts_every_token(sequences: int, length: int, window: int) -> None:
    batch = training(sequences, length, None, (window,))
    assert batch.tokens == batch.sequences == batch.prefill_context == sequences * length
    assert batch.sequences_in_prefill == sequences
    assert batch.prefill_pairs == sequences * causal_pairs(length)
    assert batch.seen(window)[0] == pytest.approx(sequences * causal_pairs(length, 0, window))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8))
def test_packed_documents_attend_inside_themselves(documents: list[int]) -> None:
    """E[l^2] / E[l] gives their squares exactly, which is all of the pairs but half a pair a token."""
    length = sum(documents)
    batch = training(1, length, sum(d * d for d in documents) / length)
    assert batch.prefill_pairs == pytest.approx(sum(causal_pairs(d) for d in documents))
    assert batch.prefill_pairs <= causal_pairs(length) * (1 + 1e-12)
    assert batch.tokens == length


def test_documents_are_no_longer_than_the_sequence() -> None:
    assert training(2, 100, 5000.0) == training(2, 100)


batches = st.builds(prefill, st.integers(1, 5), st.integers(1, 40), cached, st.just((8, 16))) | st.builds(
    decode, st.integers(1, 5), st.integers(1, 40), st.just((8, 16))
)


def numbers(batch: Batch) -> list[Value]:
    plain = [getattr(batch, f.name) for f in fields(batch) if f.name not in ("windows", "queries")]
    return plain + [v for w in sorted(batch.windows) for v in batch.windows[w]]


@given(batches, batches)
def test_joined_batches_add_up(a: Batch, b: Batch) -> None:
    both = joined(a, b)
    assert numbers(both) == [x + y for x, y in zip(numbers(a), numbers(b), strict=True)]
    assert numbers(joined(b, a)) == numbers(both)


def test_a_window_that_one_of_two_does_not_state_sees_all_of_it() -> None:
    both = joined(prefill(1, 10), decode(2, 30, (8,)))
    assert both.seen(8) == (55, 10, 16)
    assert both.seen(4) == both.seen(None) == (55, 10, 60)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 20))
def test_chunks_hide_what_lies_before_them(new: int, before: int, chunk: int) -> None:
    """Position i (from 0) attends to the positions of its own chunk up to itself."""
    seen = [i % chunk + 1 for i in range(before, before + new)]
    assert causal_pairs(new, before, -chunk) == sum(seen)
    if new:
        assert tokens_seen(before + new, -chunk) == seen[-1]
        keys = {k for i in range(before, before + new) for k in range(i - i % chunk, i + 1)}
        assert prefill(1.0, new, before, (-chunk,)).windows[-chunk][1] == len(keys)
