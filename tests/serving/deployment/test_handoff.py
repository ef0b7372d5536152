"""KV caches on their way: whole and by layers, on links that are shared."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.serving.deployment.driver import serve
from windtunnel.serving.deployment.handoff import IdleTime
from windtunnel.serving.deployment.routers import LeastRequests, RoundRobin
from windtunnel.serving.deployment.service import Failures, KVTransfer, Record, Service
from windtunnel.serving.outcome import PS, Status

MS = PS // 1000


def disaggregated(
    fakes: Any,
    arrival_s: list[float],
    *,
    prompt: int = 100 * MS,
    answer: int = 200 * MS,
    output: list[int] | None = None,
    counts: tuple[int, int] = (1, 1),
    servers: int = 1,
    failures: Failures | None = None,
    **transfer: Any,
) -> tuple[Record, Any]:
    """Prompts of ``prompt`` ps each, then answers of ``answer``; a KV cache of 1000 bytes in 10 layers."""
    workload = fakes.workload(arrival_s, output)
    times = fakes.Times(len(workload))
    first = fakes.pool(times, LeastRequests(), counts[0], lambda r, p: prompt, "prefill", servers)
    second = fakes.pool(times, RoundRobin(), counts[1], lambda r, p: answer, "decode", 100)
    given = {"bytes_per_s": 1e4, "latency_s": 0.0, "kv_bytes": lambda r: 1000, "layers": 10, **transfer}
    return serve(Service((first, second), KVTransfer(start=times.start, **given), failures), workload), times


def test_a_whole_cache_is_sent_after_the_prompt(fakes: Any) -> None:
    record, times = disaggregated(fakes, [1.0, 1.0], output=[2, 1], layerwise=False, latency_s=0.003)
    assert record.transfer.tolist() == [103 * MS, 0]
    assert record.ended.tolist() == [PS + (100 + 103 + 200) * MS, PS + 200 * MS]  # one token: no decoding
    assert record.replica.tolist() == [1, 0]
    assert times.finish[0] == record.ended[0]
    assert [life.pool for life in record.lifetimes] == ["prefill", "decode"]


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 20))
def test_layers_overlap_as_equal_pieces_do(fakes: Any, compute: int, send: int, layers: int) -> None:
    """Undisturbed, n pieces through two streams: n·a + b, or a + n·b where sending is slower."""
    record, _ = disaggregated(
        fakes,
        [0.0],
        prompt=compute * layers * MS,
        bytes_per_s=1e6 / send,
        layers=layers,
        kv_bytes=lambda r: 1000 * layers,
    )
    ends = max(layers * compute + send, compute + layers * send)
    assert record.transfer[0] / MS == pytest.approx(ends - layers * compute, rel=0.02, abs=0.02 * send)


def test_prompts_that_overlap_share_the_link(fakes: Any) -> None:
    """Four prompts at a time: what they send in all is not sent faster than the link can."""
    arrivals = [0.0] * 4
    for prompt in (100 * MS, 300 * MS, 3000 * MS):
        record, _ = disaggregated(fakes, arrivals, servers=4, prompt=prompt)
        last = prompt + record.transfer.max()
        ready = prompt // 10
        assert last >= max(prompt + 10 * MS, ready + 400 * MS) - 4
        assert last <= max(prompt + 40 * MS, ready + 400 * MS) + 4


@given(st.lists(st.integers(0, 400), min_size=1, max_size=8).map(sorted), st.booleans(), st.integers(50, 500))
def test_no_link_beats_its_bandwidth(fakes: Any, arrivals: list[int], shared: bool, prompt: int) -> None:
    record, times = disaggregated(
        fakes, [t / 1000 for t in arrivals], prompt=prompt * MS, counts=(2, 1), servers=2, shared=shared
    )
    arrived = times.start + prompt * MS + record.transfer
    for sender in ("prefill 0", "prefill 1"):
        mine = np.array([shared or visits[0] == sender for visits in times.visits])
        for opened in times.start[mine]:
            for closed in arrived[mine]:
                inside = mine & (times.start >= opened) & (arrived <= closed)
                assert inside.sum() * 1000 * PS <= 10_000 * (max(closed - opened, 0) + 1)


def test_idle_time_is_used_once() -> None:
    idle = IdleTime(PS)
    idle.idle(0, 100)
    # 60 bytes at 1 byte/ps, made evenly over 100 ps in 10 layers: 54 before the end, in the 90 ps after the first.
    assert idle.send(0, 100, 60, 10) == 54
    assert idle.send(0, 100, 60, 10) == 36
    assert idle.send(0, 100, 60, 10) == 0


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 300), st.integers(1, 12)), max_size=6),
)
def test_credit_never_exceeds_idle_time(gaps: list[tuple[int, int]], prompts: list[tuple[int, int, int]]) -> None:
    idle, now, free = IdleTime(2 * PS), 0, 0
    for busy, quiet in gaps:
        idle.idle(now + busy, now + busy + quiet)
        now, free = now + busy + quiet, free + quiet
    given = 0
    for start, size, layers in prompts:
        if start < now:
            sent = idle.send(start, now, size, layers)
            assert 0 <= sent <= size - Fraction(size, layers)
            given += sent
    assert given <= 2 * free


@pytest.mark.parametrize("shared", [False, True])
def test_what_a_failed_sender_was_sending_starts_anew(fakes: Any, shared: bool) -> None:
    """Transfers of many seconds between replicas that fail every few: nothing is lost for good, or twice."""
    record, times = disaggregated(
        fakes, [0.1 * i for i in range(20)], bytes_per_s=1000, shared=shared, counts=(2, 2), failures=Failures(4.0, 0.5)
    )
    assert set(record.status.tolist()) <= {Status.COMPLETED, Status.FAILED}
    assert record.failures > 0
    assert record.retries.sum() > 0
    completed = record.status == Status.COMPLETED
    assert completed.any()
    finished = [r for _, what, r in times.log if what == "finish"]
    assert all(finished.count(i) >= 2 for i in np.flatnonzero(completed))
