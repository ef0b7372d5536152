"""Routers, one choice at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from windtunnel.errors import ScenarioError
from windtunnel.serving.deployment.driver import serve
from windtunnel.serving.deployment.routers import (
    ROUTERS,
    Candidate,
    Request,
    build_router,
    needs_state,
    routed,
)
from windtunnel.serving.deployment.service import Service
from windtunnel.serving.replica import Load


@dataclass(frozen=True)
class Seen:
    index: int
    load: Load
    cached: int = 0

    def prefix_tokens(self, request: Request) -> int:
        return self.cached


def seen(
    requests: Sequence[int], tokens: Sequence[int] = (), kv: Sequence[float] = (), cached: Sequence[int] = ()
) -> Any:
    n = len(requests)
    rows = zip(requests, tokens or [0] * n, kv or [0.0] * n, cached or [0] * n, strict=True)
    return [Seen(i, Load(r // 2, r - r // 2, t, k), c) for i, (r, t, k, c) in enumerate(rows)]


def choices(name: str, replicas: Sequence[Candidate], n: int = 1, **fields: int) -> list[int]:
    router = build_router(name, 7)
    return [routed(router, Request(i, 0.0, 100, **fields), replicas) for i in range(n)]


def test_round_robin_takes_each_in_turn() -> None:
    assert choices("round-robin", seen([9, 9, 9]), 5) == [0, 1, 2, 0, 1]


def test_the_least_of_each_kind() -> None:
    replicas = seen([3, 2, 4], tokens=[10, 20, 5], kv=[0.1, 0.5, 0.1])
    assert choices("least-requests", replicas) == [1]
    assert choices("least-loaded", replicas) == [2]
    assert choices("least-kv", replicas) == [0]
    assert choices("least-requests", seen([3, 2, 2])) == [1]


def test_two_choices_are_random_and_the_better_wins() -> None:
    counts = Counter(choices("power-of-two", seen([0, 1, 2, 3]), 6000))
    for index, expected in enumerate([3 / 6, 2 / 6, 1 / 6, 0]):
        assert counts[index] / 6000 == pytest.approx(expected, abs=0.02)
    assert choices("power-of-two", seen([0, 1, 2]), 50) == choices("power-of-two", seen([0, 1, 2]), 50)


def test_prefixes_are_followed_until_their_replica_is_too_busy() -> None:
    assert choices("prefix-aware", seen([40, 30, 5], cached=[64, 128, 0])) == [1]
    assert choices("prefix-aware", seen([40, 60, 5], cached=[64, 128, 0])) == [2]
    assert choices("prefix-aware", seen([400, 420, 390], cached=[64, 128, 0])) == [1]  # busy, but all are
    assert choices("prefix-aware", seen([4, 3, 5])) == [1]
    assert choices("prefix-aware", seen([4, 3, 3], cached=[0, 0, 16])) == [2]


def test_sessions_stay() -> None:
    four = seen([0] * 4)
    homes = {s: choices("session", four, 1, session=s)[0] for s in range(400)}
    assert all(choices("session", four, 3, session=s) == [home] * 3 for s, home in homes.items())
    assert all(n == pytest.approx(100, abs=35) for n in Counter(homes.values()).values())
    without = [four[0], four[2], four[3]]
    for s, home in homes.items():
        now = choices("session", without, 1, session=s)[0]
        assert now == home or home == 1
    assert choices("session", four, 5) == [0, 1, 2, 3, 0]


def test_names() -> None:
    for name in ROUTERS:
        assert choices(name, seen([1])) == [0]
    assert [name for name in ROUTERS if not needs_state(build_router(name))] == ["round-robin", "session"]
    with pytest.raises(ScenarioError, match="did you mean least-loaded"):
        build_router("least-load")


@pytest.mark.parametrize("choice", [None, 7, -1, "0", 0.0, []])
def test_a_choice_must_be_a_candidate(choice: Any) -> None:
    class Wrong:
        def choose(self, request: Request, replicas: Sequence[Candidate]) -> int:
            return choice  # type: ignore[no-any-return]

    with pytest.raises(ScenarioError, match=r"the router chose .* for request 3; accepted: 0, 1"):
        routed(Wrong(), Request(3, 0.0, 1), seen([0, 0]))


@pytest.mark.parametrize("what", ["load", "prefix_tokens"])
def test_a_router_that_does_not_look_cannot(fakes: Any, what: str) -> None:
    class Peeks:
        needs_state = False

        def choose(self, request: Request, replicas: Sequence[Candidate]) -> int:
            return replicas[0].load.queued if what == "load" else replicas[0].prefix_tokens(request)

    pool = fakes.pool(fakes.Times(1), Peeks(), 2, lambda r, p: 1)
    with pytest.raises(ScenarioError, match=f"needs_state = False but asks for a replica's {what}"):
        serve(Service((pool,)), fakes.workload([0.0]))
