from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.scenario.simulation import SimulateResult
from windtunnel.scenario.workload import Slo
from windtunnel.serving.histogram import BINS, add_run
from windtunnel.serving.latency import NOTHING, distribution, gap_distribution, request_latency_s
from windtunnel.serving.metrics import SAMPLES
from windtunnel.serving.outcome import PS, Outcome, Pool, Series, Status
from windtunnel.serving.replayed import WINDOWS, replay_metrics
from windtunnel.serving.workload.requests import Workload

LEVELS = (("p50", 50), ("p90", 90), ("p95", 95), ("p99", 99))


def _workload(inputs: list[int], outputs: list[int]) -> Workload:
    return Workload("by hand", np.zeros(len(inputs)), np.array(inputs), np.array(outputs))


def _outcome(service: Any, rows: list[tuple[int, int, int, int, Status]], end: int) -> Outcome:
    """Requests as (arrival, start, first, finish) in seconds with a status."""
    some = service.outcome(service.workload(2))
    columns = [np.array([r[i] * PS if r[i] >= 0 else -1 for r in rows], np.int64) for i in range(4)]
    zeros = np.zeros(len(rows), np.int32)
    return replace(
        some, arrival=columns[0], start=columns[1], first=columns[2], finish=columns[3], end=end * PS,
        status=np.array([r[4] for r in rows], np.int8), preempted=zeros, cached_tokens=zeros.astype(np.int64),
        replica=zeros, retries=zeros,
    )  # fmt: skip


@pytest.fixture
def by_hand(service: Any) -> tuple[Outcome, Workload]:
    """Six requests: three completed, one turned away, one that waited too long, one not done at the end, 20 s."""
    rows = [
        (0, 1, 2, 6, Status.COMPLETED),  # TTFT 2, TPOT 1, E2E 6
        (1, 2, 5, 5, Status.COMPLETED),  # one token: TTFT 4, no TPOT, E2E 4
        (4, 4, 5, 15, Status.COMPLETED),  # TTFT 1, TPOT 5, E2E 11
        (5, -1, -1, -1, Status.TOO_LONG),
        (6, -1, -1, -1, Status.TIMED_OUT),
        (8, 9, 12, -1, Status.UNFINISHED),
    ]
    return _outcome(service, rows, 20), _workload([10, 20, 30, 9, 9, 9], [5, 1, 3, 9, 9, 9])


def test_definitions_by_hand(service: Any, by_hand: tuple[Outcome, Workload]) -> None:
    found: SimulateResult = service.result(*by_hand)
    assert (found.requests, found.completed, found.rejected, found.unfinished) == (6, 3, 2, 1)
    assert found.rejected_by_reason == {"too_long": 1, "queue_full": 0, "timed_out": 1, "failed": 0}
    assert found.makespan_s == 20  # somebody was still there
    assert (found.ttft_s["mean"], found.ttft_s["p50"], found.ttft_s["max"]) == pytest.approx((7 / 3, 2, 4))
    assert (found.tpot_s["mean"], found.tpot_s["p50"], found.tpot_s["p90"]) == pytest.approx((3, 3, 4.6))
    assert (found.e2e_s["mean"], found.queue_s["mean"]) == pytest.approx((7, 2 / 3))
    assert found.requests_per_second == pytest.approx(3 / 20)
    assert found.output_tokens_per_second == pytest.approx(9 / 20)
    assert found.total_tokens_per_second == pytest.approx(69 / 20)
    assert found.cost_usd_per_million_tokens == pytest.approx(found.cost_usd / 9 * 1e6)


@pytest.mark.parametrize(
    ("slo", "good"),
    [
        (None, 3), (Slo(ttft_s=2), 2), (Slo(ttft_s=1.5), 1), (Slo(tpot_s=1), 2), (Slo(ttft_s=4, tpot_s=1, e2e_s=6), 2),
        (Slo(e2e_s=0.1), 0),
    ],
)  # fmt: skip
def test_goodput_meets_every_limit(service: Any, by_hand: tuple[Outcome, Workload], slo: Slo | None, good: int) -> None:
    found = service.result(*by_hand, slo=slo)
    assert found.goodput_requests_per_second == pytest.approx(good / 20)
    assert found.slo_attainment == pytest.approx(good / 6)


def test_the_warm_up_is_left_out(service: Any, by_hand: tuple[Outcome, Workload]) -> None:
    found = service.result(*by_hand, warmup_s=4.0)
    assert (found.requests, found.left_out, found.completed) == (4, 2, 1)
    assert found.ttft_s["max"] == 1
    assert found.requests_per_second == pytest.approx(1 / 16)
    # What is paid for is the whole run's.
    assert found.energy_j_per_token == pytest.approx(found.energy_j / 9)


def test_the_makespan_ends_with_the_last_request(service: Any, by_hand: tuple[Outcome, Workload]) -> None:
    outcome, workload = by_hand
    rows = slice(0, 4)
    names = ["arrival", "start", "first", "finish", "status", "preempted", "cached_tokens", "replica", "retries"]
    few = replace(outcome, **{name: getattr(outcome, name)[rows] for name in names})
    short = Workload("", workload.arrival_s[rows], workload.input_tokens[rows], workload.output_tokens[rows])
    assert service.result(few, short).makespan_s == 15


def test_what_never_arrived_is_not_counted_against_the_service(service: Any) -> None:
    rows = [(0, 0, 1, 2, Status.COMPLETED), (-1, -1, -1, -1, Status.UNFINISHED), (30, -1, -1, -1, Status.UNFINISHED)]
    found = service.result(_outcome(service, rows, 10), _workload([1] * 3, [2] * 3))
    assert (found.requests, found.arrived, found.unfinished, found.slo_attainment) == (3, 1, 2, 1.0)


def test_nothing_completed_is_null(service: Any) -> None:
    workload = service.workload(5)
    rows = [(0, -1, -1, -1, Status.TOO_LONG)] * 5
    answers = [service.result(_outcome(service, rows, 0), workload), service.result(None, workload)]
    for found in answers:
        text = json.dumps(found.to_dict(), allow_nan=False)
        assert found.ttft_s == found.tpot_s == NOTHING
        assert (found.completed, found.output_tokens_per_second, found.energy_j_per_token) == (0, 0, None)
        assert "NaN" not in text
    assert answers[1].fits is False
    assert answers[1].unfinished == 5


def test_the_answer_is_plain_json(service: Any, served: SimulateResult) -> None:
    fields = json.loads(json.dumps(served.to_dict(), allow_nan=False))
    for key in ("requests", "completed", "rejected", "unfinished", "makespan_s", "ttft_s", "tpot_s", "itl_s", "e2e_s",
                "queue_s", "requests_per_second", "output_tokens_per_second", "goodput_requests_per_second",
                "slo_attainment", "batch", "kv_cache", "preemptions", "utilization", "energy_j", "cost_usd",
                "bottleneck", "simulator", "interval", "warnings"):  # fmt: skip
        assert key in fields
    for metric in ("ttft_s", "tpot_s", "itl_s", "e2e_s", "queue_s"):
        assert list(fields[metric]) == ["mean", "p50", "p90", "p95", "p99", "max"]
    assert set(fields["simulator"]) >= {"wall_s", "events", "requests_per_second"}
    assert "outcome" not in fields
    assert len(fields["series"]["t_s"]) <= SAMPLES
    assert fields["warnings"] == ["an invented workload", "no error interval yet"]


@given(n=st.integers(1, 60), rate=st.floats(1, 60), slots=st.integers(1, 40), seed=st.integers(0, 9))
def test_littles_law(service: Any, n: int, rate: float, slots: int, seed: int) -> None:
    """INV: mean number in the system = throughput x mean time in it, as the loop adds both up apart from each other."""
    workload = service.workload(n, rate, seed)
    outcome = service.outcome(workload, slots=slots)
    found = service.result(outcome, workload)
    assert found.completed == n
    inside = found.requests_per_second * found.e2e_s["mean"]
    assert inside * found.makespan_s == pytest.approx(outcome.queue_integral_s, rel=1e-9)


@given(n=st.integers(1, 60), seed=st.integers(0, 9), stop=st.floats(0.1, 4), warmup=st.floats(0, 3))
def test_every_request_is_counted_once(service: Any, n: int, seed: int, stop: float, warmup: float) -> None:
    workload = service.workload(n, 30, seed)
    found = service.result(service.outcome(workload, stop_s=stop), workload, warmup_s=warmup, slo=Slo(ttft_s=0.1))
    assert found.requests == found.completed + found.rejected + found.unfinished
    assert found.requests + found.left_out == n
    assert found.goodput_requests_per_second <= found.requests_per_second
    assert found.slo_attainment is None or 0 <= found.slo_attainment <= 1
    for metric in ("ttft_s", "tpot_s", "itl_s", "e2e_s", "queue_s"):
        values = list(getattr(found, metric).values())
        if None not in values:
            assert values[1:] == sorted(values[1:])
            assert 0 <= values[0] <= values[-1]
    json.dumps(found.to_dict(), allow_nan=False)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_percentiles_are_linear(values: list[float]) -> None:
    found = distribution(np.array(values))
    for key, level in LEVELS:
        assert found[key] == pytest.approx(np.percentile(values, level, method="linear"), rel=1e-12, abs=1e-12)


@given(st.lists(st.tuples(st.integers(1, 10**13), st.integers(1, 50)), min_size=1, max_size=30))
def test_gaps_keep_to_their_bins(gaps: list[tuple[int, int]]) -> None:
    """A histogram's percentiles are those of the values themselves, within 0.1 %."""
    counts = np.zeros(BINS, np.int64)
    for value, times in gaps:
        add_run(counts, value, 0, times, 1)
    every = np.repeat([v / PS for v, _ in gaps], [t for _, t in gaps])
    found = gap_distribution(counts)
    for key, level in LEVELS:
        assert found[key] == pytest.approx(float(np.percentile(every, level)), rel=1e-3)
    assert found["mean"] == pytest.approx(float(every.mean()), rel=1e-3)
    assert found["max"] == pytest.approx(float(every.max()), rel=1e-3)


def test_latencies_of_every_request(service: Any, by_hand: tuple[Outcome, Workload]) -> None:
    found = request_latency_s(*by_hand, "tpot_s")
    assert found.tolist() == pytest.approx([1, np.nan, 5, np.nan, np.nan, np.nan], nan_ok=True)


def test_limits_name_what_holds_the_service_back(service: Any) -> None:
    workload = service.workload(150, 60)
    found = service.result(service.outcome(workload, slots=8), workload)
    assert found.limits[0]["reason"] == "max_batch"
    assert found.limits[0]["fraction"] > 0.5
    scarce = service.result(service.outcome(workload, kv_tokens=9000), workload)
    assert scarce.limits[0]["reason"] == "kv_cache"
    assert "KV cache" in scarce.limits[0]["text"]
    calm = service.workload(40, 1.0)
    idle = service.result(service.outcome(calm), calm)
    assert idle.limits[0]["reason"] == "idle"
    assert idle.limits[0]["fraction"] == pytest.approx(1 - idle.pools[0]["busy_fraction"])


def test_pools_add_up(service: Any) -> None:
    workload = service.workload(30)
    outcome = service.outcome(workload)
    one: Pool = outcome.pools[0]
    other = replace(one, name="decode", replicas=3, iterations=2 * one.iterations, batch_max=99, kv_peak=0.97)
    found = service.result(replace(outcome, pools=(one, other)), workload)
    assert found.batch == {"mean": pytest.approx(2 * one.batch_sum / (3 * one.iterations)), "max": 99}
    assert found.kv_cache["capacity_tokens"] == 4 * one.kv_capacity_tokens
    assert found.kv_cache["peak_fraction"] == 0.97
    assert [p["name"] for p in found.pools] == ["engine", "decode"]


def test_a_series_is_thinned(service: Any, by_hand: tuple[Outcome, Workload]) -> None:
    t = np.linspace(0, 10, 5000)
    flat = np.ones(5000)
    outcome = replace(by_hand[0], series=Series(t, flat, flat, flat / 2, 40 * t, flat))
    series = service.result(outcome, by_hand[1]).series
    assert {len(column) for column in series.values()} == {SAMPLES}
    assert series["output_tokens_per_second"][1:] == pytest.approx([40] * (SAMPLES - 1))
    assert (series["t_s"][0], series["t_s"][-1]) == (0, 10)
    assert series["output_tokens_per_second"][0] == 0


def test_measured_and_simulated_are_compared_where_both_are_known() -> None:
    arrival = np.arange(100.0)
    simulated = {"ttft_s": np.full(100, 1.1), "tpot_s": np.full(100, 0.02)}
    measured = {"ttft_s": np.where(arrival < 50, 1.0, np.nan), "e2e_s": np.ones(100)}
    found = replay_metrics("bench.json", arrival, measured, simulated, {"requests_per_second": (4.0, 3.0)})
    assert found.requests == 50
    assert set(found.metrics) == {"ttft_s", "requests_per_second"}
    assert found.metrics["ttft_s"].error_percent["p99"] == pytest.approx(10)
    assert found.metrics["requests_per_second"].error_percent == {"mean": -25}
    assert sum(w.requests for w in found.windows) == 50
    assert len(found.windows) <= WINDOWS
    nothing = replay_metrics("empty", arrival[:0], {}, {})
    assert (nothing.requests, nothing.windows) == (0, ())
