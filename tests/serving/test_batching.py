"""Iterations laid out in stretches, against an engine that runs them one at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.scenario.batch import causal_pairs
from windtunnel.serving.batching import Rows, as_batch, lay_out

SCHEDULERS = ("static", "iteration", "prefill-first", "chunked")


@dataclass(eq=False)
class Request:
    done: int = 0
    produced: int = 0


@dataclass
class Step:
    """One iteration: pieces of prompts as (cached before, new), contexts of decodes, and who got which token."""

    pieces: list[tuple[int, int]] = field(default_factory=list)
    contexts: list[int] = field(default_factory=list)
    first: int = 0
    last: int = 0


def one_at_a_time(
    requests: int, input_tokens: int, output_tokens: int, scheduler: str, budget: int, slots: int
) -> list[Step]:
    """The same policies, request by request and iteration by iteration."""
    waiting = [Request() for _ in range(requests)]
    admitted: list[Request] = []
    steps: list[Step] = []
    while waiting or admitted:
        step = Step()
        decoding = [r for r in admitted if r.produced]
        free = slots - len(admitted)
        closed = scheduler == "static" and decoding
        newcomers = [] if closed else [r for r in admitted if not r.produced] + waiting[: max(free, 0)]
        if scheduler in ("static", "prefill-first") and newcomers:
            decoding = []
        left = input_tokens * slots if scheduler in ("static", "iteration") else max(budget - len(decoding), 1)
        finishing = []
        for r in newcomers:
            piece = min(left, input_tokens - r.done)
            if piece == 0:
                break
            step.pieces.append((r.done, piece))
            r.done += piece
            left -= piece
            if r in waiting:
                waiting.remove(r)
                admitted.append(r)
            if r.done == input_tokens:
                finishing.append(r)
        for r in decoding:
            step.contexts.append(input_tokens + r.produced)
        for r in decoding + finishing:
            r.produced += 1
            step.first += r.produced == 1
            step.last += r.produced == output_tokens
        admitted = [r for r in admitted if r.produced < output_tokens]
        steps.append(step)
    return steps


loads = st.fixed_dictionaries(
    {
        "requests": st.integers(1, 14),
        "input_tokens": st.integers(1, 40),
        "output_tokens": st.integers(1, 12),
        "scheduler": st.sampled_from(SCHEDULERS),
        "budget": st.integers(1, 90),
        "slots": st.integers(1, 16),
    }
)


@settings(max_examples=250)
@given(loads)
def test_stretches_equal_one_iteration_at_a_time(load: dict[str, Any]) -> None:
    rows = lay_out(**load)
    steps = one_at_a_time(**load)
    assert rows.steps.sum() == len(steps)
    start = 0
    for i, count in enumerate(rows.steps.astype(int)):
        stretch = steps[start : start + count]
        start += count
        for step in stretch:
            assert sum(n for _, n in step.pieces) == rows.prefill[i]
            assert len(step.pieces) == rows.prompts[i]
            assert sum(causal_pairs(n, before) for before, n in step.pieces) == rows.pairs[i]
            assert sum(before + n for before, n in step.pieces) == rows.prefill_context[i]
            assert len(step.contexts) == rows.decodes[i]
            assert step.first == rows.first[i]
        assert sum(sum(s.contexts) for s in stretch) == count * rows.context[i]
        assert [s.last for s in stretch] == [0] * (count - 1) + [rows.last[i]]
        assert rows.finished_prompts[i] == rows.first[i]


@settings(max_examples=250)
@given(loads)
def test_tokens_are_conserved(load: dict[str, Any]) -> None:
    rows = lay_out(**load)
    requests, length, output = load["requests"], load["input_tokens"], load["output_tokens"]
    assert rows.first.sum() == rows.last.sum() == rows.finished_prompts.sum() == requests
    assert rows.prefill.sum() == requests * length
    assert (rows.steps * rows.decodes).sum() == requests * (output - 1)
    assert rows.pairs.sum() == requests * causal_pairs(length)
    # Token k of an output attends to the prompt and the k tokens before the one it makes.
    assert (rows.steps * rows.context).sum() == requests * sum(length + k for k in range(1, output))
    for column in rows.__dataclass_fields__:
        assert (getattr(rows, column) >= 0).all()
    assert (rows.steps >= 1).all()


@settings(max_examples=250)
@given(loads)
def test_budget_and_slots_are_respected(load: dict[str, Any]) -> None:
    rows = lay_out(**load)
    budget, slots = load["budget"], load["slots"]
    assert (rows.decodes <= slots).all()
    admitted = np.cumsum(rows.first) - np.cumsum(rows.last)
    assert (admitted <= slots).all()
    if load["scheduler"] == "chunked":
        # A token of a prompt goes on although decodes fill the budget.
        assert (rows.prefill + rows.decodes <= np.maximum(budget, rows.decodes + (rows.prefill > 0))).all()
    if load["scheduler"] == "prefill-first":
        assert (rows.prefill <= budget).all()
        assert ((rows.prefill == 0) | (rows.decodes == 0)).all()
    if load["scheduler"] == "static":
        assert ((rows.prefill == 0) | (admitted - rows.first + rows.last == 0)).all()
    if load["scheduler"] == "iteration":
        assert (rows.prefill % load["input_tokens"] == 0).all()


def test_a_batch_that_fits_is_one_prompt_row_and_one_stretch() -> None:
    rows = lay_out(8, 100, 50, scheduler="static", budget=1, slots=8)
    assert rows.steps.tolist() == [1, 49]
    assert rows.context.tolist() == [0, 8 * (100 + 25)]
    assert rows.last.tolist() == [0, 8]


def test_long_outputs_take_rows_only_where_something_changes() -> None:
    rows = lay_out(32, 1000, 100_000, scheduler="chunked", budget=512, slots=16)
    assert len(rows.steps) < 200


@settings(max_examples=200)
@given(loads, st.integers(1, 50))
def test_windows_cut_prompts_exactly_and_decodes_at_most(load: dict[str, Any], window: int) -> None:
    rows = lay_out(**load)
    batch = as_batch(rows, load["input_tokens"], (window,))
    pairs, keys, context = batch.windows[window]
    steps, start = one_at_a_time(**load), 0
    for i, count in enumerate(rows.steps.astype(int)):
        stretch = steps[start : start + count]
        start += count
        pieces = stretch[0].pieces
        assert pairs[i] == sum(min(before + t, window) for before, n in pieces for t in range(1, n + 1))
        assert keys[i] == sum(n + min(before, window - 1) for before, n in pieces)
        exact = sum(min(c, window) for s in stretch for c in s.contexts) / count
        assert exact <= context[i] * (1 + 1e-12)
        assert context[i] <= min(rows.context[i], rows.decodes[i] * window) * (1 + 1e-12)


def test_a_window_wider_than_everything_changes_nothing() -> None:
    rows = lay_out(10, 37, 9, scheduler="chunked", budget=50, slots=4)
    batch = as_batch(rows, 37, (1000,))
    for seen, whole in zip(batch.seen(1000), batch.seen(None), strict=True):
        assert seen == pytest.approx(whole)


def test_rows_become_batches() -> None:
    rows: Rows = lay_out(3, 10, 4, scheduler="chunked", budget=12, slots=3)
    batch = as_batch(rows, 10, ())
    assert (batch.tokens == rows.prefill + rows.decodes).all()
    assert (batch.sequences == rows.finished_prompts + rows.decodes).all()
    assert (batch.sequences_in_prefill == rows.prompts).all()
