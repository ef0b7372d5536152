"""How time passes in an engine: skipping ahead, stopping to look and doing it again change nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.serving.outcome import PS, Status
from windtunnel.serving.replica import NEVER

MS = PS // 1000


@settings(max_examples=110)
@given(st.data())
def test_skipping_ahead_changes_nothing(lab: Any, data: st.DataObject) -> None:
    spec, asks = data.draw(lab.services(lanes=False))
    skipping, oracle = lab.run(spec, asks), lab.run(spec, asks, one_by_one=True)
    assert skipping.same_as(oracle)
    assert skipping.engine.tally.events <= oracle.engine.tally.events
    assert skipping.engine.queue_integral == pytest.approx(oracle.engine.queue_integral, rel=1e-9)


@pytest.mark.parametrize("options", [
    {"model": "llama-3.1-8b", "on": "1xa100-80gb-sxm"},
    {"model": "gemma-2-9b", "on": "1xh100-sxm"},
    {"model": "llama-4-scout", "on": "4xh100-sxm", "tp": 4},
    {"model": "jamba-v0.1", "on": "2xa100-80gb-sxm", "tp": 2},
    {"model": "llama-3.1-8b", "on": "1xh100-sxm", "engine": "sglang"},
])  # fmt: skip
def test_skipping_ahead_changes_nothing_with_real_prices(lab: Any, options: dict[str, Any]) -> None:
    rng = np.random.default_rng(2)
    for rules in ("chunked", "vllm", "static"):
        spec = lab.spec(lab.priced(**options).cost, rules, budget=2048, most_sequences=64, capacity=2000, delayed=True)
        arrival = np.cumsum(rng.exponential(PS / 6, 60)).astype(int).tolist()
        sizes = np.clip(rng.lognormal(5.5, 1, 60), 1, 6000).astype(int).tolist()
        asks = [lab.Ask(t, n, int(rng.integers(1, 300))) for t, n in zip(arrival, sizes, strict=True)]
        skipping, oracle = lab.run(spec, asks), lab.run(spec, asks, one_by_one=True)
        assert skipping.same_as(oracle)
        assert 3 * skipping.engine.tally.events < oracle.engine.tally.events


@settings(max_examples=120)
@given(st.data())
def test_stopping_to_look_changes_nothing(lab: Any, data: st.DataObject) -> None:
    """Requests that are submitted when they come, not beforehand, with time passing in small steps between them; and
    nothing leaves before the engine's own bound."""
    spec, asks = data.draw(lab.services())
    at_once, piecewise = lab.run(spec, asks), lab.start(spec, asks)
    stops = st.lists(st.integers(0, 60 * MS), max_size=3)
    for i, ask in enumerate(asks):
        for step in data.draw(stops):
            look(piecewise, min(piecewise.engine.clock + step, ask.arrival))
        look(piecewise, ask.arrival)
        piecewise.submit(i)
    for step in data.draw(stops):
        look(piecewise, piecewise.engine.clock + step)
    while piecewise.engine.bound() < NEVER:
        look(piecewise, piecewise.engine.bound())
    assert piecewise.same_as(at_once)
    assert piecewise.done == at_once.done


def look(ran: Any, until: int) -> None:
    """Let time pass while no request comes."""
    bound, before = ran.engine.bound(), len(ran.done)
    ran.advance(until)
    assert ran.engine.clock == until
    for done in ran.done[before:]:
        # Who is turned away when it comes leaves before anything can be done about it.
        assert bound - (done.status != Status.COMPLETED) <= done.time <= until


@settings(max_examples=100)
@given(st.data())
def test_the_load_at_any_time_is_that_of_single_steps(lab: Any, data: st.DataObject) -> None:
    spec, asks = data.draw(lab.services(lanes=False))
    skipping, oracle = lab.start(spec, asks), lab.start(spec, asks, one_by_one=True)
    for i, ask in enumerate(asks):
        for ran in (skipping, oracle):
            ran.advance(ask.arrival)
            ran.submit(i)
    for _ in range(data.draw(st.integers(1, 6))):
        until = skipping.engine.clock + data.draw(st.integers(0, 100 * MS))
        ours, theirs = skipping.advance(until).engine.load(), oracle.advance(until).engine.load()
        assert (ours.queued, ours.running) == (theirs.queued, theirs.running)
        assert ours.outstanding_tokens == theirs.outstanding_tokens
        assert 0 <= ours.kv_used <= 1


@settings(max_examples=60)
@given(st.data())
def test_the_same_again_is_the_same(lab: Any, data: st.DataObject) -> None:
    spec, asks = data.draw(lab.services())
    one, other = lab.run(spec, asks), lab.run(spec, asks)
    assert one.same_as(other)
    assert one.done == other.done
    assert one.engine.tally.samples == other.engine.tally.samples
