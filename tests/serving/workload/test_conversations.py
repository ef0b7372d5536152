"""Closed loops and conversations."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.scenario.workload import Closed, Sessions
from windtunnel.serving.workload.conversations import BLOCK_TOKENS, Turns, closed_loop, conversation, take_turns
from windtunnel.serving.workload.requests import NEXT, OPEN


def test_a_closed_loop() -> None:
    after, think = closed_loop(Closed(3, 2.0), 100_000, 0)
    assert (after[:3] == OPEN).all()
    assert (after[3:] == NEXT).all()
    assert (think[:3] == 0).all()
    assert think[3:].mean() == pytest.approx(2, rel=0.02)
    after, think = closed_loop(Closed(5, 0.0), 3, 0)
    assert (after == OPEN).all()
    assert not think.any()


def test_conversations_have_their_means() -> None:
    turns = take_turns(Sessions(5, 30), 200_000, 10.0, 2)
    first = turns.after == OPEN
    assert first.mean() == pytest.approx(1 / 5, rel=0.05)
    assert turns.think_s[~first].mean() == pytest.approx(30, rel=0.02)
    starts = turns.arrival_s[first]
    assert len(starts) / starts[-1] == pytest.approx(10 / 5, rel=0.02)


@given(
    st.integers(1, 60),
    st.floats(1, 8),
    st.sampled_from([0.0, 5.0]),
    st.sampled_from([2.0, math.inf]),
    st.integers(0, 9),
)
def test_turns_follow_turns(n: int, mean: float, think: float, rate: float, seed: int) -> None:
    process = Sessions(mean, think)
    turns = take_turns(process, n, rate, seed)
    assert len(turns.session) == n
    first = turns.after == OPEN
    at = np.arange(n)
    assert (turns.after < at).all()
    assert (turns.session[~first] == turns.session[turns.after[~first]]).all()
    assert len(np.unique(turns.after[~first])) == (~first).sum()  # an answer has one next turn
    assert len(np.unique(turns.session[first])) == first.sum() == turns.session.max() + 1
    assert (np.diff(turns.arrival_s[first]) >= 0).all()
    assert not turns.arrival_s[~first].any()
    assert not turns.think_s[first].any()
    more = take_turns(process, 3 * n + 5, rate, seed)
    for name in Turns.__slots__:
        assert np.array_equal(getattr(more, name)[:n], getattr(turns, name))


@given(st.integers(1, 40), st.integers(0, 5), st.data())
def test_a_prompt_is_the_conversation_so_far(n: int, seed: int, data: st.DataObject) -> None:
    turns = take_turns(Sessions(3, 1), n, 5.0, seed)
    tokens = st.lists(st.integers(1, 300), min_size=n, max_size=n)
    new, output = np.array(data.draw(tokens)), np.array(data.draw(tokens))
    inputs, blocks, offsets = conversation(turns, new, output)
    rows = [blocks[a:b].tolist() for a, b in pairwise(offsets)]
    seen: set[int] = set()
    for i, before in enumerate(turns.after):
        assert len(rows[i]) == -(-(inputs[i] + output[i]) // BLOCK_TOKENS)
        shared = 0
        if before == OPEN:
            assert inputs[i] == new[i]
        else:
            said = inputs[before] + output[before]
            assert inputs[i] == said + new[i]
            shared = said // BLOCK_TOKENS
            assert rows[i][:shared] == rows[before][:shared]
        assert not seen & set(rows[i][shared:])
        seen |= set(rows[i])
    assert seen == set(range(len(seen)))
