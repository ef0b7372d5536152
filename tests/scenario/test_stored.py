"""How long a context's cache takes to come from a store."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.scenario.stored import StoredContext


def test_a_plain_store_takes_what_the_link_takes() -> None:
    assert StoredContext(1e9).fetch_s(5e9, 1000) == 5.0
    assert StoredContext(1e9, ratio=4).fetch_s(5e9, 1000) == 1.25


@given(st.floats(1e6, 1e12), st.floats(1, 20), st.floats(1e6, 1e12), st.integers(1, 20_000), st.integers(1, 5000))
def test_pieces_flow_through_link_and_decoder(
    rate: float, ratio: float, decoder: float, tokens: int, piece: int
) -> None:
    """The steps one by one: a piece is sent after the one before it, and restored after that one has been."""
    size = 1000.0 * tokens
    store = StoredContext(rate, ratio=ratio, decode_bytes_per_s=decoder, piece_tokens=piece)
    n = math.ceil(tokens / piece)
    sent = restored = 0.0
    for _ in range(n):
        sent += size / n / ratio / rate
        restored = max(restored, sent) + size / n / decoder
    found = store.fetch_s(size, tokens)
    assert found == pytest.approx(restored)
    assert found >= max(size / ratio / rate, size / decoder) * (1 - 1e-9)


def test_a_token_is_left_to_compute() -> None:
    assert StoredContext(1e9).split(100) == (99, 1)
    assert StoredContext(1e9, share=0.5).split(101) == (50, 51)
    assert StoredContext(1e9).split(1) == (0, 1)
