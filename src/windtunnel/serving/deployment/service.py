"""What a service is made of, and what is known of it afterwards. Times are whole picoseconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from windtunnel.errors import ScenarioError
from windtunnel.serving.deployment.routers import Router
from windtunnel.serving.deployment.scaling import Scaling
from windtunnel.serving.replica import NEVER, Replica

Ints = NDArray[np.int64]

Progress = Callable[[int, int, int], None]
"""Told (requests ended, requests, time in ps) now and then."""


@dataclass(frozen=True, slots=True, eq=False)
class EnginePool:
    """Engines that do the same work, like or unlike each other. With ``scaling``, ``replicas`` are as many as there may
    ever be; the first ``scaling.initial`` are up at the start."""

    name: str
    replicas: tuple[Replica, ...]
    router: Router
    scaling: Scaling | None = None


@dataclass(frozen=True, slots=True, eq=False)
class KVTransfer:
    """How the KV cache of a prompt gets from the pool that computed it to the one that decodes.

    ``kv_bytes``: of a request's prompt. The link of ``bytes_per_s`` belongs to each prefill replica, or to all of them
    together (``shared``). ``layerwise``: layers are sent as they are computed, so that little is left when the prompt
    is done (:mod:`~windtunnel.serving.deployment.handoff`). ``start`` [N]: where the prefill replicas write when they
    began with a request.
    """

    bytes_per_s: float
    latency_s: float
    kv_bytes: Callable[[int], int]
    layers: int
    start: Ints
    layerwise: bool = True
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Failures:
    """Each replica fails after exponential times with mean ``mtbf_s`` of being up, and is back ``restart_s`` later.

    Raises:
        ScenarioError: a mean time below a second: a service does nothing but fail.
    """

    mtbf_s: float
    restart_s: float

    def __post_init__(self) -> None:
        if self.mtbf_s < 1:
            raise ScenarioError(f"replicas that fail every {self.mtbf_s:g} s on average; at least 1 s is accepted")


@dataclass(frozen=True, slots=True, eq=False)
class Service:
    """One pool, or with ``transfer`` two: prompts run in the first, whose replicas end every request with its first
    token, and the rest in the second.

    ``max_retries``: how often a request is sent again after its replica has failed; ``until``: when the clock stops at
    the latest.
    """

    pools: tuple[EnginePool, ...]
    transfer: KVTransfer | None = None
    failures: Failures | None = None
    max_retries: int = 3
    seed: int = 0
    until: int = NEVER


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A replica's times, as (from, to): ``paid`` for (starting and restarting, too), and ``up``."""

    pool: str
    paid: tuple[tuple[int, int], ...]
    up: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """What the service knows of its N requests; -1: never, nowhere.

    ``status`` [N] (:class:`~windtunnel.serving.outcome.Status`); ``arrival`` and ``ended`` [N]: when it came, and when
    it was completed, rejected or given up; ``replica`` [N]: the last to hold it, counted through the pools;
    ``retries`` [N]; ``transfer`` [N]: time that its KV cache was on its way after its prompt was
    done, over all attempts.

    Start, first token and finish are in the arrays that the replicas write. A request that is retried is written anew
    by its new attempt; one that goes from prefill to decode has its start and first token from the first and its
    finish from the second, so before it ends its finish is the prefill replica's: ``status`` says whether it counts.

    ``lifetimes``: of each replica; ``end``: when the clock stopped; ``in_system``: sum over requests of their time from
    arrival to end. ``partial``: it was interrupted.
    """

    status: NDArray[np.int8]
    arrival: Ints
    ended: Ints
    replica: NDArray[np.int32]
    retries: NDArray[np.int32]
    transfer: Ints
    lifetimes: tuple[Lifetime, ...]
    end: int
    in_system: int
    events: int
    failures: int = 0
    cold_starts: int = 0
    partial: bool = False
