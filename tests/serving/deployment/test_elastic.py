"""Replicas that fail and replicas that come and go."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from windtunnel.errors import ScenarioError
from windtunnel.scenario.fleet import autoscale
from windtunnel.serving.deployment.driver import serve
from windtunnel.serving.deployment.routers import LeastRequests
from windtunnel.serving.deployment.scaling import PoolState, Scaling, ScalingPolicy, TargetTracking, scaling_policy
from windtunnel.serving.deployment.service import Failures, Record, Service
from windtunnel.serving.outcome import PS, Status
from windtunnel.serving.replica import Load


def run(
    fakes: Any, arrival_s: Any, count: int = 2, lasts: int = PS, scaling: Scaling | None = None, **service: Any
) -> Record:
    workload = fakes.workload(arrival_s)
    pool = fakes.pool(fakes.Times(len(workload)), LeastRequests(), count, lambda r, p: lasts, servers=2)
    return serve(Service((replace(pool, scaling=scaling),), **service), workload)


def seconds(spans: tuple[tuple[int, int], ...]) -> float:
    return sum(b - a for a, b in spans) / PS


def test_failures_come_at_their_rate(fakes: Any) -> None:
    record = run(fakes, np.arange(0, 20_000, 5.0), 4, failures=Failures(100.0, 25.0), seed=3)
    up = sum(seconds(life.up) for life in record.lifetimes)
    assert up / record.failures == pytest.approx(100, rel=0.1)
    assert up / (4 * record.end / PS) == pytest.approx(100 / 125, rel=0.05)
    assert (record.status == Status.COMPLETED).all()


def test_failures_hit_the_same_replicas_whatever_else_happens(fakes: Any) -> None:
    one = run(fakes, np.arange(0, 300, 1.0), failures=Failures(50.0, 5.0), seed=3)
    other = run(fakes, np.arange(0, 300, 0.5), failures=Failures(50.0, 5.0), seed=3)
    for a, b in zip(one.lifetimes, other.lifetimes, strict=True):
        assert a.up[:-1] == b.up[: len(a.up) - 1]
        assert len(a.up) > 1
    assert run(fakes, np.arange(0, 300, 1.0), failures=Failures(50.0, 5.0), seed=4).lifetimes != one.lifetimes


def test_without_retries_what_fails_has_failed(fakes: Any) -> None:
    record = run(fakes, np.arange(0, 100, 0.5), failures=Failures(10.0, 1.0), max_retries=0)
    assert (record.status == Status.FAILED).sum() > 0
    assert record.retries.sum() == 0


def test_requests_wait_while_no_replica_is_up(fakes: Any) -> None:
    record = run(fakes, np.arange(0, 200, 1.0), 1, lasts=PS // 10, failures=Failures(20.0, 30.0), max_retries=9)
    assert (record.status == Status.COMPLETED).all()
    down = [(a[1], b[0]) for a, b in zip(record.lifetimes[0].up, record.lifetimes[0].up[1:], strict=False)]
    assert all(b - a == 30 * PS for a, b in down)
    inside = [i for i, t in enumerate(record.arrival) if any(a < t < b for a, b in down)]
    assert inside
    assert all(any(record.arrival[i] < b <= record.ended[i] for _, b in down) for i in inside)


def test_too_frequent_failures_are_refused() -> None:
    with pytest.raises(ScenarioError, match="at least 1 s"):
        Failures(0.5, 0.0)


def burst(fakes: Any, policy: ScalingPolicy | None = None, **more: Any) -> Record:
    """Quiet, then a minute of 6 requests/s that last 1 s each, two at a time on a replica, then quiet."""
    arrivals = np.concatenate([np.arange(0, 60, 2.0), np.arange(60, 120, 1 / 6), np.arange(120, 300, 2.0)])
    scaling = Scaling(policy or TargetTracking("load", 0.7), 1, 6, 1, 5 * PS, max_batch=2)
    return run(fakes, arrivals, 6, scaling=replace(scaling, **more))


def test_a_pool_follows_its_load(fakes: Any) -> None:
    record = burst(fakes)
    assert (record.status == Status.COMPLETED).all()
    used = [seconds(life.paid) for life in record.lifetimes]
    assert record.cold_starts >= 3
    assert seconds(record.lifetimes[0].paid) == record.end / PS
    assert record.end / PS < sum(used) < 3 * record.end / PS
    for life in record.lifetimes[1:]:
        assert all(a >= 55 * PS and b <= 200 * PS for a, b in life.paid)


def test_cold_starts_take_their_time(fakes: Any) -> None:
    """100 bytes of weights at 10 bytes/s, shared by those that start together, and 3 s to boot."""
    record = burst(fakes, boot=3 * PS, weights_bytes=100, bytes_per_s=10.0)
    first = min(life.paid[0][0] for life in record.lifetimes[1:])
    together = [life for life in record.lifetimes[1:] if life.paid[0][0] == first]
    for life in together:
        assert life.up[0][0] - first == (10 * len(together) + 3) * PS
    assert all(
        up[0] - paid[0] >= 13 * PS for life in record.lifetimes[1:] for paid, up in zip(life.paid, life.up, strict=True)
    )
    quick = burst(fakes)
    assert (quick.ended - quick.arrival).mean() < (record.ended - record.arrival).mean()


def test_a_drained_replica_ends_what_it_has(fakes: Any) -> None:
    """Long requests survive the scaling down around them."""
    scaling = Scaling(TargetTracking("load", 0.7), 1, 4, 4, 2 * PS, max_batch=2)
    record = run(fakes, [0.0, 0.1, 0.2, 0.3], 4, lasts=20 * PS, scaling=scaling)
    assert (record.status == Status.COMPLETED).all()
    assert record.replica.tolist() == [0, 1, 2, 3]
    assert record.retries.sum() == 0


class Said:
    """A policy that says what it is told to."""

    def __init__(self, what: Any) -> None:
        self.what, self.seen = what, list[PoolState]()

    def desired(self, state: PoolState) -> int:
        self.seen.append(state)
        return self.what  # type: ignore[no-any-return]


def test_a_users_policy_is_kept_within_limits(fakes: Any) -> None:
    policy = Said(1000)
    record = burst(fakes, policy)
    assert record.cold_starts == 5
    assert [s.time_s for s in policy.seen[:3]] == [5.0, 10.0, 15.0]
    assert [len(s.loads) for s in policy.seen[:2]] == [1, 6]
    assert burst(fakes, Said(-3)).cold_starts == 0
    with pytest.raises(ScenarioError, match="wants 'many' replicas; a whole number"):
        burst(fakes, Said("many"))


@pytest.mark.parametrize(
    ("metric", "target", "wanted"),
    [("load", 0.5, 3), ("load", 0.25, 6), ("kv", 0.5, 2), ("queue", 1.0, 4), ("queue", 3.0, 2)],
)
def test_target_tracking(metric: Any, target: float, wanted: int) -> None:
    loads = [Load(4, 2, 0, 0.25), Load(0, 6, 0, 0.75)]
    assert TargetTracking(metric, target).desired(PoolState(0.0, loads, 2, 0, 8)) == wanted
    assert TargetTracking(metric, target).desired(PoolState(0.0, [], 3, 0, 8)) == 3


def test_policies_that_were_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert scaling_policy(autoscale("max=4,metric=kv,target=0.5")) == TargetTracking("kv", 0.5)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wt_two.py").write_text("class Two:\n    def desired(self, state): return 2\n")
    assert scaling_policy(autoscale("max=4,policy=wt_two:Two")).desired(PoolState(0.0, [], 1, 0, 1)) == 2
