"""Services of fake replicas: laws that hold whatever they are made of, and queueing theory."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.errors import ScenarioError
from windtunnel.serving.deployment.driver import serve
from windtunnel.serving.deployment.independent import Independent, independent
from windtunnel.serving.deployment.loop import Loop
from windtunnel.serving.deployment.routers import ROUTERS, LeastRequests, RoundRobin, build_router
from windtunnel.serving.deployment.scaling import Scaling, TargetTracking
from windtunnel.serving.deployment.service import Failures, KVTransfer, Record, Service
from windtunnel.serving.outcome import PS, Status
from windtunnel.serving.workload.requests import NEXT, OPEN, Workload

MS = PS // 1000


@st.composite
def workloads(draw: st.DrawFn, closed: bool = True) -> dict[str, Any]:
    """Keyword arguments of a workload of a few requests, with whole milliseconds of time."""
    n = draw(st.integers(1, 14))
    times = sorted(draw(st.lists(st.integers(0, 3000), min_size=n, max_size=n)))
    after = [OPEN] + [draw(st.sampled_from([OPEN, NEXT, *range(i)])) if closed else OPEN for i in range(1, n)]
    return {
        "arrival_s": [t / 1000 if a == OPEN else 0.0 for t, a in zip(times, after, strict=True)],
        "output": draw(st.lists(st.integers(1, 3), min_size=n, max_size=n)),
        "after": np.array(after),
        "think_s": np.array(draw(st.lists(st.integers(0, 300), min_size=n, max_size=n))) / 1000,
        "session": np.array(draw(st.lists(st.integers(-1, 3), min_size=n, max_size=n))),
    }


@st.composite
def services(draw: st.DrawFn) -> dict[str, Any]:
    """What :func:`build` makes a service of."""
    return {
        "routers": [draw(st.sampled_from(sorted(ROUTERS))) for _ in range(2)],
        "counts": [draw(st.integers(1, 3)) for _ in range(2)],
        "lasts": draw(st.lists(st.integers(1, 900), min_size=1, max_size=5)),
        "servers": draw(st.integers(1, 2)),
        "room": draw(st.sampled_from([None, None, 0, 1, 2])),
        "disaggregated": draw(st.booleans()),
        "shared": draw(st.booleans()),
        "layerwise": draw(st.booleans()),
        "mtbf_s": draw(st.sampled_from([None, 1.0, 3.0])),
        "restart_s": draw(st.sampled_from([0.0, 0.4])),
        "scaled": draw(st.sampled_from([None, "load", "queue"])),
        "weights": draw(st.sampled_from([None, 10.0])),
        "max_retries": draw(st.integers(0, 3)),
        "seed": draw(st.integers(0, 5)),
        "until": draw(st.sampled_from([None, None, 1.5])),
    }


def build(fakes: Any, times: Any, s: dict[str, Any]) -> Service:
    def lasts(request: int, progress: int) -> int:
        return s["lasts"][(request + progress) % len(s["lasts"])] * MS

    pools = []
    for name, router, count in zip(("prefill", "decode"), s["routers"], s["counts"], strict=True):
        pool = fakes.pool(times, build_router(router, s["seed"]), count, lasts, name, s["servers"], s["room"])
        if s["scaled"]:
            scaling = Scaling(
                TargetTracking(s["scaled"], 0.7),
                1,
                count,
                1,
                300 * MS,
                50 * MS,
                1000,
                s["weights"] and 1e4,
                s["servers"],
            )
            pool = replace(pool, scaling=scaling)
        pools.append(pool)
    transfer = KVTransfer(1e4, 0.01, lambda r: 500 + 100 * r, 4, times.start, s["layerwise"], s["shared"])
    return Service(
        pools=tuple(pools) if s["disaggregated"] else (pools[0],),
        transfer=transfer if s["disaggregated"] else None,
        failures=None if s["mtbf_s"] is None else Failures(s["mtbf_s"], s["restart_s"]),
        max_retries=s["max_retries"],
        seed=s["seed"],
        **({} if s["until"] is None else {"until": round(s["until"] * PS)}),
    )


def run(fakes: Any, s: dict[str, Any], w: dict[str, Any]) -> tuple[Record, Any, Workload]:
    workload = fakes.workload(**w)
    times = fakes.Times(len(workload))
    return serve(build(fakes, times, s), workload), times, workload


@settings(max_examples=400)
@given(s=services(), w=workloads())
def test_every_request_ends_once(fakes: Any, s: dict[str, Any], w: dict[str, Any]) -> None:
    record, times, _ = run(fakes, s, w)
    came, ended = record.arrival >= 0, record.ended >= 0
    assert ((record.status == Status.UNFINISHED) == ~ended).all()
    assert came[ended].all()
    assert (record.ended[ended] >= record.arrival[ended]).all()
    assert record.end >= max(record.ended.max(), record.arrival.max())
    if s["until"] is None:
        # Chains start with the end of what they wait for, whatever end that was.
        assert ended.all()
    else:
        assert record.end <= 1.5 * PS
    completed = record.status == Status.COMPLETED
    assert (times.finish[completed] == record.ended[completed]).all()
    assert (times.start[completed] >= record.arrival[completed]).all()
    # Nothing comes before its time or before the end that it waits for.
    after, think = w["after"], np.rint(w["think_s"] * PS).astype(int)
    for i in np.flatnonzero(came):
        if after[i] == OPEN:
            assert record.arrival[i] == round(w["arrival_s"][i] * PS)
        elif after[i] >= 0:
            assert record.arrival[i] == record.ended[after[i]] + think[i]
        else:
            assert (record.ended[ended] + think[i] == record.arrival[i]).any()
    # Attempts: each is finished, rejected or lost; as many are retried as are counted.
    allowed = s["max_retries"]
    assert (record.retries <= allowed).all()
    assert (record.retries[record.status == Status.FAILED] == allowed).all()
    assert s["mtbf_s"] is not None or (record.retries.sum() == record.failures == 0)
    if not s["disaggregated"]:
        assert (record.transfer == 0).all()
        lost = sum(what == "lost" for _, what, _ in times.log)
        assert lost == record.retries.sum() + (record.status == Status.FAILED).sum()
    assert [t for t, _, _ in times.log if t > record.end] == []
    assert record.in_system == sum(
        int((record.ended[i] if ended[i] else record.end) - record.arrival[i]) for i in np.flatnonzero(came)
    )


@settings(max_examples=200)
@given(s=services(), w=workloads())
def test_replicas_are_paid_for_while_up(fakes: Any, s: dict[str, Any], w: dict[str, Any]) -> None:
    record, _, _ = run(fakes, s, w)
    counts = s["counts"] if s["disaggregated"] else s["counts"][:1]
    assert len(record.lifetimes) == sum(counts)
    for life in record.lifetimes:
        for spans in (life.paid, life.up):
            assert all(0 <= a <= b <= record.end for a, b in spans)
            assert all(before[1] <= later[0] for before, later in pairwise(spans))
        assert all(any(p[0] <= a and b <= p[1] for p in life.paid) for a, b in life.up)
        if s["scaled"] is None:
            assert life.paid == ((0, record.end),)
            if s["mtbf_s"] is None:
                assert life.up == life.paid
    if s["scaled"] is None:
        assert record.cold_starts == 0


@settings(max_examples=100)
@given(s=services(), w=workloads())
def test_the_same_again(fakes: Any, s: dict[str, Any], w: dict[str, Any]) -> None:
    one, times, _ = run(fakes, s, w)
    other, again, _ = run(fakes, s, w)
    fakes.same(one, other)
    assert one.events == other.events
    assert times.log == again.log


@settings(max_examples=40)
@given(s=services(), w=workloads())
def test_loose_bounds_change_nothing(fakes: Any, s: dict[str, Any], w: dict[str, Any]) -> None:
    """However little a replica promises, the same happens: here in time units of which a few hundred are a service."""
    s = {**s, "mtbf_s": None, "scaled": None, "until": None, "disaggregated": False}
    records = []

    def lasts(request: int, progress: int) -> int:
        return int(s["lasts"][request % len(s["lasts"])])

    for loose in (False, True):
        workload = fakes.workload(**{**w, "arrival_s": np.array(w["arrival_s"]) / 1e10, "think_s": w["think_s"] / 1e10})
        times = fakes.Times(len(workload))
        router = build_router(s["routers"][0], s["seed"])
        limits = {"servers": s["servers"], "room": s["room"]}
        pool = fakes.pool(times, router, s["counts"][0], lasts, loose=loose, **limits)
        records.append(serve(Service((pool,)), workload))
    fakes.same(*records)


@settings(max_examples=40)
@given(s=services(), w=workloads(closed=False), router=st.sampled_from(["round-robin", "session"]))
def test_both_paths_agree(fakes: Any, s: dict[str, Any], w: dict[str, Any], router: str) -> None:
    s = {**s, "routers": [router] * 2, "disaggregated": False, "mtbf_s": None, "scaled": None}
    workload = fakes.workload(**w)
    one, other = fakes.Times(len(workload)), fakes.Times(len(workload))
    assert independent(build(fakes, one, s), workload)
    fakes.same(Independent(build(fakes, one, s), workload).run(), Loop(build(fakes, other, s), workload).run())
    for name in ("start", "finish"):
        assert (getattr(one, name) == getattr(other, name)).all()


def poisson(fakes: Any, n: int, rate: float, mean_s: float, seed: int = 1) -> tuple[Workload, Any]:
    """A workload with exponential gaps, and exponential service times for it."""
    rng = np.random.default_rng(seed)
    lasts = np.maximum(np.rint(rng.exponential(mean_s * PS, n)), 1).astype(int).tolist()
    return fakes.workload(np.cumsum(rng.exponential(1 / rate, n))), lambda request, progress: lasts[request]


@pytest.mark.parametrize("servers", [1, 3])
def test_mean_waits_are_those_of_queueing_theory(fakes: Any, servers: int) -> None:
    """M/M/1 and M/M/3 at a load of 0.6: Erlang's C formula gives the mean time in the system."""
    workload, lasts = poisson(fakes, 30_000, 0.6 * servers, 1.0)
    times = fakes.Times(len(workload))
    record = serve(Service((fakes.pool(times, RoundRobin(), 1, lasts, servers=servers),)), workload)
    offered = 0.6 * servers
    terms = [offered**k / float(np.prod(range(1, k + 1))) for k in range(servers + 1)]
    waits = terms[-1] / (1 - 0.6)
    expected = waits / (sum(terms[:-1]) + waits) / (servers - offered) + 1.0
    stay = (record.ended - record.arrival) / PS
    assert stay.mean() == pytest.approx(expected, rel=0.05)
    # Little's law, with the time average that the service keeps.
    assert record.in_system / record.end == pytest.approx(stay.mean() * len(workload) / (record.end / PS))


def test_routers_that_look_wait_less(fakes: Any) -> None:
    workload, lasts = poisson(fakes, 6000, 3.2, 1.0)
    waits = {}
    for name in ("round-robin", "power-of-two", "least-requests"):
        times = fakes.Times(len(workload))
        record = serve(Service((fakes.pool(times, build_router(name), 4, lasts),)), workload)
        waits[name] = float((times.start - record.arrival).mean())
    assert waits["least-requests"] < waits["power-of-two"] < waits["round-robin"]


def test_a_closed_loop_keeps_its_number(fakes: Any) -> None:
    n, users = 400, 5
    after = np.array([OPEN] * users + [NEXT] * (n - users))
    workload = fakes.workload([0.0] * n, after=after, think_s=np.zeros(n))
    times = fakes.Times(n)
    pool = fakes.pool(times, LeastRequests(), 2, lambda r, p: (1 + r % 7) * MS)
    record = serve(Service((pool,)), workload)
    assert (record.status == Status.COMPLETED).all()
    for time in record.arrival[users:]:
        assert ((record.arrival <= time) & (record.ended > time)).sum() == users


def test_first_come_first_served(fakes: Any) -> None:
    workload, lasts = poisson(fakes, 300, 0.9, 1.0)
    times = fakes.Times(len(workload))
    serve(Service((fakes.pool(times, LeastRequests(), 1, lasts),)), workload)
    assert (np.diff(times.start) >= 0).all()


@pytest.mark.parametrize("router", ["round-robin", "least-loaded"])
def test_an_interruption_keeps_what_is_known(fakes: Any, router: str) -> None:
    workload, lasts = poisson(fakes, 5000, 1.5, 1.0)
    times = fakes.Times(len(workload))
    told = []

    def progress(done: int, total: int, time: int) -> None:
        told.append((done, total, time))
        if done > 500:
            raise KeyboardInterrupt

    record = serve(Service((fakes.pool(times, build_router(router), 2, lasts),)), workload, progress)
    assert record.partial
    assert 500 < (record.status == Status.COMPLETED).sum() < 5000
    assert record.end == told[-1][2]
    assert (record.arrival <= record.end).all()
    assert told == sorted(told)


def test_nothing_comes_of_nothing(fakes: Any) -> None:
    workload = fakes.workload([])
    for router in ("round-robin", "least-loaded"):
        record = serve(Service((fakes.pool(fakes.Times(0), build_router(router), 2, lambda r, p: 1),)), workload)
        assert (record.end, record.in_system, len(record.status)) == (0, 0, 0)


@pytest.mark.parametrize("time", [-1.0, float("nan"), float("inf"), 1e7])
def test_times_beyond_the_clock_are_refused(fakes: Any, time: float) -> None:
    pool = fakes.pool(fakes.Times(1), RoundRobin(), 1, lambda r, p: 1)
    with pytest.raises(ScenarioError, match="arrival of request 1 is"):
        serve(Service((pool,)), fakes.workload([0.0, time]))
