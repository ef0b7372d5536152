"""Which replica a request goes to."""

from __future__ import annotations

import operator
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from windtunnel.errors import ScenarioError, unknown
from windtunnel.scenario.simulate_options import ROUTERS
from windtunnel.scenario.text import shown
from windtunnel.serving.deployment.draws import bits
from windtunnel.serving.deployment.policies import load_policy
from windtunnel.serving.replica import Load


@dataclass(frozen=True, slots=True)
class Request:
    """What a router knows of a request (not how long its answer will be). ``number``: its row in the workload;
    ``session``, ``client``: -1 where there is none."""

    number: int
    time_s: float
    input_tokens: int
    session: int = -1
    client: int = -1


class Candidate(Protocol):
    """A replica that takes requests, as it is when the request arrives. ``index``: its number in its pool."""

    @property
    def index(self) -> int: ...

    @property
    def load(self) -> Load: ...

    def prefix_tokens(self, request: Request) -> int:
        """Tokens of the request's prompt that lie in this replica's prefix cache."""


class Router(Protocol):
    """A router that states ``needs_state = False`` never looks at ``load`` or ``prefix_tokens``: where nothing else
    binds replicas together they are then run one by one, which is much quicker."""

    def choose(self, request: Request, replicas: Sequence[Candidate]) -> int:
        """The ``index`` of one of ``replicas`` (not empty, in order of their indices)."""


ROUTER_METHODS = ("choose",)


class RoundRobin:
    """Each in turn."""

    needs_state = False

    def __init__(self) -> None:
        self._count = -1

    def choose(self, request: Request, replicas: Sequence[Candidate]) -> int:
        self._count += 1
        return replicas[self._count % len(replicas)].index


class LeastRequests:
    """Fewest requests, waiting and running; among equals the first."""

    needs_state = True

    def choose(self, request: Request, replicas: Sequence[Candidate]) -> int:
        return min(replicas, key=_requests).index


class LeastLoaded:
    """Fewest tokens still to be done, of prompts and answers; among equals the first."""

    needs_state = True

    def choose(self, request: Request, replicas: Sequence[Candidate]) -> int:
        return min(replicas, key=lambda r: r.load.outstanding_tokens).index


class LeastKV:
    """Emptiest KV cache; among equals fewest requests, then the first."""

    needs_state = True

    def choose(self, request: Request, replicas: Sequence[Candidate]) -> int:
        return min(replicas, key=lambda r: (r.load.kv_used, _requests(r))).index


class PowerOfTwo:
    """The one of two random replicas that has fewer requests (Mitzenmacher, The power of two choices in randomized
    load balancing, IEEE TPDS 2001)."""

    needs_state = True

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def choose(self, request: Request, replicas: Sequence[Candidate]) -> int:
        first = bits(self._seed, request.number, 0) % len(replicas)
        other = bits(self._seed, request.number, 1) % max(len(replicas) - 1, 1)
        pair = sorted({first, other + (other >= first) if len(replicas) > 1 else first})
        return min((replicas[i] for i in pair), key=_requests).index


@dataclass(frozen=True, slots=True)
class PrefixAware:
    """The longest cached prefix, unless that replica is too busy; then, or where nothing is cached, fewest requests.

    Too busy: more than ``factor`` times the requests of the least busy replica and at least ``slack`` more. SGLang's
    cache-aware router gives caches up in the same case (its balance-rel-threshold and balance-abs-threshold), though
    it compares the busiest replica of all and guesses what is cached from the requests it has seen.
    """

    factor: float = 1.5
    slack: int = 32
    needs_state: bool = True

    def choose(self, request: Request, replicas: Sequence[Candidate]) -> int:
        loads = [_requests(r) for r in replicas]
        cached = [r.prefix_tokens(request) for r in replicas]
        least = min(range(len(replicas)), key=lambda i: (loads[i], -cached[i]))
        best = min(range(len(replicas)), key=lambda i: (-cached[i], loads[i]))
        busy = loads[best] > self.factor * loads[least] and loads[best] >= loads[least] + self.slack
        return replicas[least if busy else best].index


class Session:
    """A session stays with one replica, by the highest of hashes of both (Thaler & Ravishankar, Using name-based
    mappings to increase hit rates, IEEE/ACM ToN 1998): when one goes, only its sessions move. Requests without a
    session go to each in turn."""

    needs_state = False

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._others = RoundRobin()

    def choose(self, request: Request, replicas: Sequence[Candidate]) -> int:
        if request.session < 0:
            return self._others.choose(request, replicas)
        return max(replicas, key=lambda r: bits(self._seed, request.session, r.index)).index


def _requests(replica: Candidate) -> int:
    load = replica.load
    return load.queued + load.running


_BUILT_IN: dict[str, Callable[[int], Router]] = {
    "round-robin": lambda seed: RoundRobin(),
    "least-requests": lambda seed: LeastRequests(),
    "least-loaded": lambda seed: LeastLoaded(),
    "least-kv": lambda seed: LeastKV(),
    "power-of-two": PowerOfTwo,
    "prefix-aware": lambda seed: PrefixAware(),
    "session": Session,
}


def build_router(text: str, seed: int = 0) -> Router:
    """The built-in router of that name, or a user's ``module:Class``.

    Raises:
        ScenarioError: an unknown name, or a class that cannot be used (:func:`~.policies.load_policy`).
    """
    if text in _BUILT_IN:
        return _BUILT_IN[text](seed)
    if ":" in text:
        router: Router = load_policy(text, "router", ROUTER_METHODS)
        return router
    raise unknown("router", text, ROUTERS)


def needs_state(router: Router) -> bool:
    """Whether the router may look at the replicas' state (a user's may, unless it says otherwise)."""
    return bool(getattr(router, "needs_state", True))


def routed(router: Router, request: Request, replicas: Sequence[Candidate]) -> int:
    """The router's choice; a lone replica is nobody's choice.

    Raises:
        ScenarioError: it chose none of them.
    """
    if len(replicas) == 1:
        return replicas[0].index
    chosen = router.choose(request, replicas)
    try:
        index = operator.index(chosen)
        at = bisect_left(replicas, index, key=lambda r: r.index)
        if replicas[at].index == index:
            return index
    except (TypeError, IndexError):
        pass
    indices = [r.index for r in replicas]
    told = ", ".join(map(str, indices[:20])) + (", …" if len(indices) > 20 else "")
    raise ScenarioError(f"the router chose {shown(chosen)} for request {request.number}; accepted: {told}")
