"""A service put together and run: pools, routers, transfers, failures, scaling; or one engine on its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from windtunnel.cost.transfers import Link, between_engines, from_tier
from windtunnel.engine.fleet import Asked, Fleet, calibration_of, runs_alone
from windtunnel.scenario.simulate import Role, SimulateScenario
from windtunnel.serving.deployment.arrivals import picoseconds
from windtunnel.serving.deployment.driver import serve
from windtunnel.serving.deployment.routers import build_router
from windtunnel.serving.deployment.scaling import Scaling, scaling_policy
from windtunnel.serving.deployment.service import EnginePool, Failures, KVTransfer, Lifetime, Record, Service
from windtunnel.serving.memory import kv_bytes
from windtunnel.serving.outcome import PS, Status
from windtunnel.serving.replica import NEVER, Done, Load, Replica
from windtunnel.serving.workload.requests import Ints, Workload

Progress = Callable[[float], None]

RESTART_S = 60.0
"""From a replica's failure until it is back, where --replica-restart-s does not say: an assumption."""

SLICE_S = 0.2
"""Seconds of computing between two looks at the clock and at the keyboard."""


def run_service(
    scenario: SimulateScenario, fleets: Mapping[Role, Sequence[Fleet]], asked: Asked, progress: Progress | None
) -> Record:
    """What becomes of every request.

    Raises:
        ScenarioError: a policy that cannot be loaded or fails, or a time that the clock cannot hold.
    """
    o, workload = scenario.options, asked.workload
    until = NEVER if o.duration is None else round(o.duration * PS)
    (fleet, *_), *_ = fleets.values()
    if fleet.compiled and runs_alone(scenario, workload):
        return _alone(fleet, asked, until, progress)
    service = _service(scenario, fleets, workload, until)

    def told(ended: int, total: int, now: int) -> None:
        if progress is not None:
            progress(max(ended / max(total, 1), now / until if until < NEVER else 0.0))

    record = serve(service, workload, told)
    asked.arrival[:] = record.arrival
    return record


def _alone(fleet: Fleet, asked: Asked, until: int, progress: Progress | None) -> Record:
    """One compiled engine with requests at times of their own: all of them at once, in slices."""
    workload, engine, kept = asked.workload, fleet.replicas[0], fleet.record
    times = picoseconds(workload.arrival_s, "arrival")
    order = np.argsort(times, kind="stable")
    asked.arrival[:] = times
    engine_: Any = engine
    engine_.submit_all(order, times[order])
    events, partial, reached = 100_000, False, False
    try:
        while not reached:
            started = perf_counter()
            reached = engine_.advance_some(until, events)
            took = perf_counter() - started
            events = max(int(events * min(SLICE_S / max(took, 1e-9), 4.0)), 1000)
            if progress is not None:
                done = np.count_nonzero(kept.status)
                progress(done / max(len(workload), 1))
    except KeyboardInterrupt:
        partial = True
    status = kept.status.astype(np.int8)
    open_ = bool(np.any(status == Status.UNFINISHED))
    end = int(engine_.clock) if open_ or partial else _last(kept.finish, times, status, engine_.clock)
    late = (times > end) & (status == Status.UNFINISHED)
    arrival = np.where(late, -1, times)
    asked.arrival[:] = arrival
    life = Lifetime(fleet.role, ((0, end),), ((0, end),))
    none = np.zeros(len(workload), np.int32)
    return Record(
        status=status, arrival=arrival, ended=kept.finish, replica=kept.replica, retries=none,
        transfer=np.zeros(len(workload), np.int64), lifetimes=(life,), end=end,
        in_system=round(engine_.queue_integral * PS), events=int(engine_.tally.events), partial=partial,
    )  # fmt: skip


def _last(finish: Ints, times: Ints, status: NDArray[np.int8], clock: int) -> int:
    """When the last request ended."""
    if bool(np.any(status == Status.TIMED_OUT)):
        return int(clock)
    return max(int(finish.max(initial=0)), int(times.max(initial=0)))


class _Decoding:
    """A decoding engine that is told when the first token of what it is handed was out."""

    def __init__(self, engine: Replica, own: Ints, prefill: Ints) -> None:
        self._engine, self._own, self._prefill = engine, own, prefill

    def submit(self, request: int, time: int, progress: int = 0) -> None:
        self._own[request] = self._prefill[request]
        self._engine.submit(request, time, progress)

    def advance(self, until: int) -> None:
        self._engine.advance(until)

    def bound(self) -> int:
        return self._engine.bound()

    def take_done(self) -> Sequence[Done]:
        return self._engine.take_done()

    def load(self) -> Load:
        return self._engine.load()

    def prefix_tokens(self, request: int) -> int:
        return self._engine.prefix_tokens(request)

    def settle(self) -> None:
        self._engine.settle()

    def stop(self, time: int) -> list[int]:
        return self._engine.stop(time)


def _service(
    scenario: SimulateScenario, fleets: Mapping[Role, Sequence[Fleet]], workload: Workload, until: int
) -> Service:
    o = scenario.options
    pools = []
    for role, each in fleets.items():
        replicas: tuple[Replica, ...] = tuple(r for fleet in each for r in fleet.replicas)
        if role == "decode":
            first = fleets["prefill"][0].record.first
            replicas = tuple(_Decoding(r, fleet.record.first, first) for fleet in each for r in fleet.replicas)
        pools.append(EnginePool(role, replicas, build_router(o.router, o.seed), _scaling(scenario, each[0])))
    failures = None
    if o.replica_mtbf_hours is not None:
        restart = RESTART_S if o.replica_restart_s is None else o.replica_restart_s
        failures = Failures(o.replica_mtbf_hours * 3600, restart)
    transfer = _transfer(scenario, fleets, workload) if "prefill" in fleets else None
    return Service(tuple(pools), transfer, failures, o.max_retries, o.seed, until)


def _scaling(scenario: SimulateScenario, fleet: Fleet) -> Scaling | None:
    asked = scenario.autoscale
    if asked is None:
        return None
    o = scenario.options
    given = "replicas" in o.model_fields_set
    rate = None
    if asked.source is not None:
        copies = calibration_of(fleet.setup).copies
        rate = from_tier(asked.source, fleet.setup.cluster, copies, fleet.price).bytes_per_s
    return Scaling(
        policy=scaling_policy(asked), minimum=asked.minimum, maximum=asked.maximum,
        initial=o.replicas if given else asked.minimum, interval=round(asked.interval_s * PS),
        boot=round(asked.delay_s * PS), weights_bytes=int(fleet.sized.memory.weights), bytes_per_s=rate,
        max_batch=fleet.setup.plan.max_sequences,
    )  # fmt: skip


def _accelerators(fleets: Sequence[Fleet]) -> int:
    return sum(len(fleet.replicas) // fleet.sized.copies * fleet.setup.accelerators for fleet in fleets)


def _beside(fleets: Mapping[Role, Sequence[Fleet]]) -> int:
    """Ranks from an accelerator that prefills to the one that decodes: a stage of each engine has a place in one node
    if both fit, else they are in different nodes."""
    stages = [fleet.setup.accelerators // int(fleet.setup.plan.layout.pp) for each in fleets.values() for fleet in each]
    node = fleets["prefill"][0].setup.cluster.node_size
    return stages[0] if sum(stages[:1]) + max(stages[1:]) <= node else node


@dataclass(frozen=True, slots=True, eq=False)
class _Prompts:
    """Bytes of the KV cache of each prompt."""

    bytes_: Ints

    def __call__(self, request: int) -> int:
        return int(self.bytes_[request])


def _transfer(scenario: SimulateScenario, fleets: Mapping[Role, Sequence[Fleet]], workload: Workload) -> KVTransfer:
    """Each prefill engine's link to the decoding ones: as many accelerators' wires as the smaller of the two has.

    Decoding engines lie behind all of those that prefill; ``beside`` them, each has one next to it, its stages in the
    same nodes. On machines of other kinds they are reached over the network, at the rate of the slower wire.
    """
    first = fleets["prefill"][0]
    plan = first.setup.plan
    whole = replace(plan, layout=replace(plan.layout, tp=1))
    size = kv_bytes(scenario.network.blocks, whole, workload.input_tokens.astype(float))
    smallest = min(fleet.setup.accelerators for each in fleets.values() for fleet in each)
    every = [fleet for each in fleets.values() for fleet in each]
    if any(fleet.setup.own_machine for fleet in every):
        wires = [between_engines(fleet.price, fleet.setup.cluster.node_size) for fleet in every]
        wire = Link(min(w.bytes_per_s for w in wires), max(w.latency_s for w in wires))
    elif scenario.options.kv_placement == "beside":
        wire = between_engines(first.price, _beside(fleets))
    else:
        wire = between_engines(first.price, _accelerators(fleets["prefill"]))
    return KVTransfer(
        bytes_per_s=wire.bytes_per_s * smallest, latency_s=wire.latency_s,
        kv_bytes=_Prompts(np.broadcast_to(np.asarray(size, float), (len(workload),)).astype(np.int64)),
        layers=scenario.network.layers, start=first.record.start,
        layerwise=scenario.options.kv_transfer == "layerwise",
    )  # fmt: skip
