"""What holds for every workload under every scheduler: every request ends in one state, and tokens, cache and time
are all accounted for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.serving.outcome import PS, Status
from windtunnel.serving.policy import RuleScheduler, Turn
from windtunnel.serving.replica import NEVER
from windtunnel.serving.spec import seen
from windtunnel.serving.tally import COLUMNS

MS = PS // 1000


class Watchful(RuleScheduler):
    """A built-in scheduler that looks the engine over before each decision."""

    def schedule(self, turn: Turn) -> None:
        self._look(turn)
        super().schedule(turn)
        assert turn._free >= 0

    def _look(self, turn: Turn) -> None:
        engine, lane, spec = turn._engine, turn._lane, turn._engine.spec
        assert turn.now == engine.clock
        assert lane.n + len(lane.partial) <= spec.most_sequences
        cached = {number: r.origin + lane.k for number, r in lane.running.items()}
        for view, window in enumerate(spec.cost.windows):
            assert lane.contexts[view] == sum(seen(tokens + 1, window) for tokens in cached.values())
        if spec.slots == 1:
            held = sum(
                r.units if r.reserved or r in each.partial else spec.held(r.origin + each.k)
                for each in engine.lanes
                if each.rank == lane.rank
                for r in [*each.partial, *each.running.values()]
            )
            pool = engine.pools[lane.rank]
            assert pool.used == held <= pool.capacity


def settle(ran: Any) -> None:
    """Nobody is left in an engine, and nothing of theirs."""
    engine = ran.engine
    assert engine.owed == engine.in_system == 0
    for pool in engine.pools:
        assert pool.free == pool.capacity
        assert pool.swap_free == engine.spec.swap_units
    for lane in engine.lanes:
        assert lane.n == lane.live == len(lane.partial) == len(lane.queue) == len(lane.pending) == 0
        assert not any(lane.contexts)
        assert not any(lane.climbs)
        assert not any(any(bucket) for bucket in lane.buckets)
        assert not any(lane.shares.values())
    load = engine.load()
    assert (load.queued, load.running, load.outstanding_tokens, load.kv_used) == (0, 0, 0, 0)
    assert engine.bound() == NEVER


def completed(ran: Any) -> list[int]:
    return [i for i, status in enumerate(ran.record.status) if status == Status.COMPLETED]


@settings(max_examples=110)
@given(st.data())
def test_every_request_ends_once_and_leaves_nothing_behind(lab: Any, data: st.DataObject) -> None:
    spec, asks = data.draw(lab.services())
    ran = lab.run(spec, asks, scheduler=Watchful(spec.rules))
    settle(ran)
    assert Counter(d.request for d in ran.done) == Counter(range(len(asks)))
    assert [d.time for d in ran.done] == sorted(d.time for d in ran.done)
    record = ran.record
    for done in ran.done:
        i, ask, status = done.request, asks[done.request], done.status
        assert status == record.status[i]
        assert record.replica[i] == 0
        times = record.start[i], record.first[i], record.finish[i]
        if status == Status.COMPLETED:
            assert ask.arrival + spec.front_ps <= times[0] < times[1] <= times[2] == done.time
            assert (times[1] == times[2]) == (ask.output_tokens == 1)
        else:
            assert times == (-1, -1, -1)
            assert status in (Status.TOO_LONG, Status.QUEUE_FULL, Status.TIMED_OUT)
            assert record.preempted[i] == 0
        assert (status == Status.TOO_LONG) == spec.too_long(ask.input_tokens, ask.output_tokens)
        if status == Status.TIMED_OUT:
            assert done.time - ask.arrival > spec.timeout_ps
        if status == Status.COMPLETED:
            assert times[0] - ask.arrival - spec.front_ps <= spec.timeout_ps


@settings(max_examples=120)
@given(st.data())
def test_all_tokens_and_all_time_are_accounted_for(lab: Any, data: st.DataObject) -> None:
    spec, asks = data.draw(lab.services())
    ran = lab.run(spec, asks, log_size=1 << 20)
    engine, record, tally = ran.engine, ran.record, ran.engine.tally
    served = completed(ran)
    asked = sum(asks[i].output_tokens for i in served)
    assert engine.completed == len(served)
    assert engine.produced == asked
    assert sum(tally.gaps) == asked - len(served)
    # Little's law: what the loop adds up as time passes is the sum of all stays.
    stays = sum(d.time - asks[d.request].arrival for d in ran.done if d.status in (Status.COMPLETED, Status.TIMED_OUT))
    assert engine.queue_integral == pytest.approx(stays / PS, rel=1e-9, abs=1e-15)
    cells = np.array([tally.cells[k] for k in sorted(tally.cells)], object).reshape(-1, COLUMNS + 3 * len(spec.units))
    count, _, prompt, prompts, decodes, rows = (int(cells[:, c].sum()) for c in range(COLUMNS))
    assert count == tally.iterations
    assert prompts + decodes == tally.batch_sum
    assert tally.batch_max <= spec.most_sequences
    assert sum(step[3] for step in tally.log) == count
    assert sum(step[4] * step[3] for step in tally.log) == prompt
    if not spec.rules.padded:
        assert rows == asked
    if not record.preempted.any():
        assert prompt == sum(asks[i].input_tokens for i in served)
        for view, window in enumerate(spec.cost.windows):
            contexts, pairs, _ = (int(cells[:, COLUMNS + 3 * view + c].sum()) for c in range(3))
            assert pairs == sum(seen(t, window) for i in served for t in range(1, asks[i].input_tokens + 1))
            if not spec.rules.padded:
                assert contexts == sum(
                    seen(asks[i].input_tokens + t, window) for i in served for t in range(1, asks[i].output_tokens)
                )
    else:
        assert prompt >= sum(asks[i].input_tokens for i in served)
    # Iterations of one batch do not overlap, and the engine is busy while there is one.
    for lane in range(spec.slots * spec.ranks):
        spans = [step[1:3] for step in tally.log if step[0] == lane]
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert tally.busy == covered([step[1:3] for step in tally.log])
    assert 0 <= tally.kv_peak <= spec.capacity
    assert all(0 <= blocked <= spec.slots * tally.busy for blocked in tally.blocked)


def covered(spans: Sequence[tuple[int, int]]) -> int:
    """How much time lies in any of the spans."""
    total = until = 0
    for start, end in sorted(spans):
        total += max(end - max(start, until), 0)
        until = max(until, end)
    return total


@settings(max_examples=110)
@given(st.data())
def test_a_failed_engine_gives_back_what_it_held(lab: Any, data: st.DataObject) -> None:
    spec, asks = data.draw(lab.services(rejects=False))
    ran = lab.start(spec, asks)
    for i in range(len(asks)):
        ran.submit(i)
    time = asks[-1].arrival + data.draw(st.integers(0, 300 * MS))
    ran.advance(time)
    ended = {d.request for d in ran.done}
    lost = ran.engine.stop(time)
    assert lost == [i for i in range(len(asks)) if i not in ended]
    settle(ran)
    busy = ran.engine.tally.busy
    assert busy <= time
    for i in lost:
        ran.engine.submit(i, time)
    ran.advance()
    assert {d.request for d in ran.done} == set(range(len(asks)))
    settle(ran)
    assert all(d.time > time for d in ran.done if d.request in lost and d.status == Status.COMPLETED)
    assert (
        not lost
        or spec.too_long(asks[lost[0]].input_tokens, asks[lost[0]].output_tokens)
        or (ran.engine.tally.busy > busy)
    )


@settings(max_examples=110)
@given(st.data())
def test_a_prompt_that_comes_with_its_cache_is_not_computed(lab: Any, data: st.DataObject) -> None:
    """Part of a prompt, or all of it: then the first token was made elsewhere."""
    spec, found = data.draw(lab.services(rejects=False))
    spec = replace(spec, front_ps=0)
    progress = [data.draw(st.sampled_from([0, ask.input_tokens // 2, ask.input_tokens])) for ask in found]
    asks = [
        replace(ask, output_tokens=ask.output_tokens + 1, progress=done)
        for ask, done in zip(found, progress, strict=True)
    ]
    ran = lab.start(spec, asks)
    whole = [i for i, ask in enumerate(asks) if ask.progress == ask.input_tokens]
    for i in range(len(asks)):
        if i in whole:
            ran.record.first[i] = asks[i].arrival
        ran.submit(i)
    ran.advance()
    settle(ran)
    served = completed(ran)
    assert len(served) + sum(d.status == Status.TOO_LONG for d in ran.done) == len(asks)
    assert sum(ran.engine.tally.gaps) == sum(asks[i].output_tokens - 1 for i in served)
    assert ran.engine.produced == sum(asks[i].output_tokens - (i in whole) for i in served)
    if not ran.record.preempted.any():
        prompt = sum(cell[2] for cell in ran.engine.tally.cells.values())
        assert prompt == sum(asks[i].input_tokens - asks[i].progress for i in served)
    for i in served:
        assert asks[i].arrival <= ran.record.start[i] < ran.record.finish[i]
        assert ran.record.first[i] == asks[i].arrival if i in whole else ran.record.first[i] > ran.record.start[i]
