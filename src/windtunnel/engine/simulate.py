"""``simulate``: a workload on a service over time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np

from windtunnel.engine.answer import sureness
from windtunnel.engine.fleet import COMPILED_FROM, FAST_FROM, Asked, Fleet, Prepared, calibration_of, make_fleets
from windtunnel.engine.intervals import Kind, sure
from windtunnel.engine.replay import compared, replayed_log
from windtunnel.engine.service import run_service
from windtunnel.engine.work import Ran, physics
from windtunnel.ops.values import Array
from windtunnel.scenario.checks import has_experts
from windtunnel.scenario.simulate import Role, SimulateScenario, simulate_scenario
from windtunnel.scenario.simulate_options import SimulateOptions
from windtunnel.scenario.simulation import SimulateResult
from windtunnel.serving.compiled.build import begin
from windtunnel.serving.deployment.service import Record
from windtunnel.serving.histogram import BINS
from windtunnel.serving.metrics import Physics, Setting, nothing_run, summarise
from windtunnel.serving.outcome import PS, Cells, Iterations, Outcome, Pool, Series
from windtunnel.serving.record import Record as Kept
from windtunnel.serving.tally import BLOCKED, COLUMNS, Tally
from windtunnel.serving.workload.build import build_workload
from windtunnel.serving.workload.requests import Workload

Progress = Callable[[float], None]

LOGGED = 20_000
"""First stretches of iterations of each engine that are kept, for a timeline."""

SAMPLES = 400
"""Points of the series of a whole service."""


def simulate(options: SimulateOptions, *, progress: Progress | None = None) -> SimulateResult:
    """The answer for one request. ``progress`` is told the fraction that is done.

    Raises:
        ScenarioError: the request is wrong. A model that does not fit is an answer with ``fits`` False.
    """
    if options.loop in ("auto", "compiled") and (options.requests is None or options.requests >= COMPILED_FROM):
        begin(quick=options.requests is None or options.requests < FAST_FROM)
    log = replayed_log(options)
    scenario = simulate_scenario(options)
    workload = build_workload(scenario.workload) if log is None else log.workload
    result = simulate_workload(scenario, workload, progress=progress)
    return result if log is None else compared(result, log, options.warmup)


def simulate_workload(
    scenario: SimulateScenario,
    workload: Workload,
    *,
    progress: Progress | None = None,
    prepared: Prepared | None = None,
    logged: int = LOGGED,
) -> SimulateResult:
    """The answer for requests that are there already. ``prepared``: see
    :func:`~windtunnel.engine.fleet.make_fleets`; ``logged``: stretches of iterations kept of each engine."""
    calibrated, doubts = _sureness(scenario)
    asked = Asked(scenario, workload)
    fleets = make_fleets(scenario, asked, logged, prepared)
    setting = _setting(scenario, fleets, calibrated, [*doubts, *_unused(scenario, workload)])
    slo, warmup = scenario.slo, scenario.options.warmup
    if setting.shortfall_bytes > 0:
        nothing = Physics({}, 0.0, None, None)
        return summarise(nothing_run(workload), workload, setting, nothing, slo=slo, warmup_s=warmup)
    started = perf_counter()
    record = run_service(scenario, fleets, asked, progress)
    outcome = _outcome(fleets, record, workload, perf_counter() - started)
    every = [fleet for each in fleets.values() for fleet in each]
    ran = [
        Ran(fleet.setup, pool, fleet.sized.spec.ranks, fleet.price)
        for fleet, pool in zip(every, outcome.pools, strict=True)
    ]
    if scenario.autoscale is not None and record.end:
        paid = sum(pool.accelerator_seconds for pool in outcome.pools)
        setting = replace(setting, accelerators=paid / (record.end / PS))
    work = physics(ran, scenario.network)
    return with_interval(scenario, summarise(outcome, workload, setting, work, slo=slo, warmup_s=warmup))


def _sureness(scenario: SimulateScenario) -> tuple[bool, list[str]]:
    """Whether what matters was fitted on all of the service's devices, and the warnings if not."""
    families = ("gemm", "attention", "attention_decode", "pointwise")
    found = [sureness(calibration_of(s), families) for setups in scenario.pools.values() for s in setups]
    doubts = dict.fromkeys(doubt for _, said in found for doubt in said)
    return all(known for known, _ in found), list(doubts)


def with_interval(scenario: SimulateScenario, result: SimulateResult) -> SimulateResult:
    """The answer with the intervals of its means. Throughput has one where the service sets it, not the arrivals."""
    (setup, *_), *_ = scenario.pools.values()
    values = {metric: getattr(result, metric)["mean"] for metric in ("tpot_s", "ttft_s", "e2e_s")}
    o = scenario.options
    if o.rate == math.inf or str(o.arrivals or "").startswith("closed"):
        values["output_tokens_per_second"] = result.output_tokens_per_second
    family, experts = scenario.cluster.accelerator.family, has_experts(scenario.network)
    known = sure(Kind("simulate", setup.engine.name, family, experts, result.calibrated), values)
    return replace(
        result, interval=known.interval, confidence=known.confidence, warnings=[*result.warnings, *known.warnings]
    )


def _unused(scenario: SimulateScenario, workload: Workload) -> list[str]:
    if scenario.options.prefix_cache and workload.blocks is None:
        return [f"the requests of {workload.name} do not say what they share: the prefix cache finds nothing"]
    return []


def _setting(
    scenario: SimulateScenario, fleets: Mapping[Role, Sequence[Fleet]], calibrated: bool, warnings: Sequence[str]
) -> Setting:
    every = [fleet for each in fleets.values() for fleet in each]
    worst = max(every, key=lambda fleet: fleet.sized.shortfall_bytes)
    memory = worst.sized.memory
    pool = worst.sized.spec.capacity
    return Setting(
        model=scenario.network.name,
        on=scenario.options.on,
        plan=_plan(scenario),
        seed=scenario.options.seed,
        accelerators=sum(len(f.replicas) // f.sized.copies * f.setup.accelerators for f in every),
        memory_bytes={
            "weights": memory.weights,
            "kv_cache": float(pool),
            "activations": memory.activations,
            "total": memory.weights + pool + memory.activations,
            "capacity": memory.capacity,
        },
        shortfall_bytes=worst.sized.shortfall_bytes,
        calibrated=calibrated,
        warnings=[*scenario.warnings, *warnings],
    )


def _plan(scenario: SimulateScenario) -> dict[str, Any]:
    """The options that reproduce the deployment, defaults filled in (of the first pool's first engines)."""
    o = scenario.options
    (setup, *_), *_ = scenario.pools.values()
    p, layout = setup.plan, setup.plan.layout
    fields: dict[str, Any] = {
        "tp": layout.tp, "pp": layout.pp, "dp": layout.dp, "ep": layout.ep, "replicas": o.replicas,
        "fleet": o.fleet, "prefill": o.prefill, "decode": o.decode, "precision": p.precision,
        "kv_precision": p.linear.kv, "engine": setup.engine.name, "scheduler": setup.scheduler,
        "router": o.router, "kv_blocks": p.kv_blocks, "block_size": p.block_size,
        "memory_utilization": p.memory_utilization, "max_model_len": p.max_model_len, "chunk": p.max_batched_tokens,
        "max_batch": p.max_sequences, "autoscale": o.autoscale, "slo": o.slo,
        "preemption": o.preemption if o.preemption != "recompute" else None,
        "reserve": "output" if setup.reserve_output else None, "prefix_cache": o.prefix_cache,
        "cache_tiers": o.cache_tiers, "trace": o.trace, "arrivals": o.arrivals,
        "rate": o.rate, "replay": o.replay, "kv_placement": o.kv_placement if o.kv_placement != "behind" else None,
    }  # fmt: skip
    fields["with"] = list(o.techniques) or None
    return {k: v for k, v in fields.items() if v is not None}


def _outcome(fleets: Mapping[Role, Sequence[Fleet]], record: Record, workload: Workload, wall_s: float) -> Outcome:
    first, last = (list(fleets.values())[i][0].record for i in (0, -1))
    pools, tallies, lives = [], [], iter(record.lifetimes)
    itl = np.zeros(BINS, np.int64)
    for role, each in fleets.items():
        for number, fleet in enumerate(each):
            for replica in fleet.replicas:
                replica.settle()
            own: list[Tally] = [replica.tally for replica in fleet.replicas]  # type: ignore[attr-defined]
            name = role if len(each) == 1 else f"{role} {number + 1}"
            pools.append(_pool(name, fleet, own, [next(lives) for _ in fleet.replicas], record.end))
            tallies += [(t, fleet) for t in own]
            for replica, tally in zip(fleet.replicas, own, strict=True):
                itl += np.asarray(getattr(replica, "gaps", tally.gaps), np.int64)
    apart = first is not last
    finish = np.where(last.finish >= 0, last.finish, first.finish) if apart else last.finish
    transfers = record.transfer[record.transfer > 0]
    return Outcome(
        arrival=record.arrival,
        start=first.start,
        first=first.first,
        finish=finish,
        status=record.status,
        preempted=_both(first, last, "preempted"),
        cached_tokens=first.cached_tokens,
        replica=record.replica,
        retries=record.retries,
        itl=itl,
        pools=tuple(pools),
        series=_series(tallies, record.end),
        end=record.end,
        events=sum(t.events for t, _ in tallies),
        wall_s=wall_s,
        compiled=all(fleet.compiled for _, fleet in tallies),
        partial=record.partial,
        prompt_tokens_looked_up=sum(t.looked_up for t, _ in tallies),
        prompt_tokens_found=sum(t.found for t, _ in tallies),
        transfer_mean_s=float(transfers.mean()) / PS if transfers.size else 0.0,
        iterations=_iterations(tallies),
        queue_integral_s=record.in_system / PS,
        failures=record.failures,
        cold_starts=record.cold_starts,
        notes=tuple(note for each in fleets.values() for fleet in each for r in fleet.replicas for note in _notes(r)),
    )


def _notes(replica: Any) -> tuple[str, ...]:
    """What a loop that runs users' policies has to say of the end."""
    return tuple(getattr(replica, "notes", ()))


def _both(first: Kept, last: Kept, name: str) -> Any:
    one = getattr(first, name)
    return one if first is last else one + getattr(last, name)


def _pool(name: str, fleet: Fleet, tallies: Sequence[Tally], lives: Sequence[Any], end: int) -> Pool:
    spec, setup = fleet.sized.spec, fleet.setup
    copies = fleet.sized.copies
    # Attention-data-parallel ranks that do not wait for each other are replicas of their own here.
    accelerators = setup.accelerators // copies

    def length(spans: Sequence[tuple[int, int]]) -> float:
        return sum(b - a for a, b in spans) / PS

    up = sum(length(life.up) for life in lives)
    paid = sum(length(life.paid) for life in lives)
    integral = sum(t.kv_integral for t in tallies) / PS
    room = spec.capacity * spec.ranks
    return Pool(
        name=name,
        replicas=len(tallies),
        accelerators=accelerators,
        cells=_cells(tallies, spec.cost.windows),
        kv_capacity_tokens=fleet.sized.kv_capacity_tokens / copies,
        kv_peak=max(t.kv_peak for t in tallies) / spec.capacity if spec.capacity else 0.0,
        kv_mean=integral / (room * up) if room and up > 0 else 0.0,
        busy_s=sum(t.busy for t in tallies) / PS,
        up_s=up,
        accelerator_seconds=paid * accelerators,
        blocked_s={name: sum(t.blocked[i] for t in tallies) / PS for i, name in enumerate(BLOCKED)},
        iterations=sum(t.iterations for t in tallies),
        batch_sum=sum(t.batch_sum for t in tallies),
        batch_max=max(t.batch_max for t in tallies),
    )


def _cells(tallies: Sequence[Tally], windows: Sequence[int]) -> Cells:
    """All engines' iterations, gathered."""
    rows: dict[int, Array] = {}
    for tally in tallies:
        for where, cell in tally.cells.items():
            known = rows.get(where)
            values = np.asarray(cell, float)
            rows[where] = values if known is None else known + values
    names = ("seconds", "prefill_tokens", "prefill_sequences", "decode_sequences", "sequences")
    if not rows:
        return Cells(np.zeros(0), {})
    table = np.array([rows[k] for k in sorted(rows)])
    sums = {name: table[:, 1 + i] for i, name in enumerate(names)}
    sums["seconds"] = sums["seconds"] / PS
    sums["tokens"] = sums["prefill_tokens"] + sums["decode_sequences"]
    for i, w in enumerate(windows):
        for j, name in enumerate(("decode_context", "pairs", "context")):
            sums[f"{name}.{w}"] = table[:, COLUMNS + 3 * i + j]
    return Cells(table[:, 0], sums)


def _series(tallies: Sequence[tuple[Tally, Fleet]], end: int) -> Series:
    """The sum of all engines' samples at the same times: each counts as it was at its last one."""
    times = np.linspace(0, end, SAMPLES)
    total = np.zeros((6, SAMPLES))
    for tally, fleet in tallies:
        if not tally.samples:
            continue
        rows = np.concatenate([np.zeros((1, 6)), np.asarray(tally.samples, float)])  # it begins empty
        at = np.searchsorted(rows[:, 0], times, side="right") - 1
        state = rows[at].T.copy()
        state[3] /= max(fleet.sized.spec.capacity * fleet.sized.spec.ranks, 1)
        # Tokens and ends come between samples: a straight line is nearer than the last value.
        for column in (4, 5):
            state[column] = np.interp(times, rows[:, 0], rows[:, column])
        total += state
    return Series(
        t_s=times / PS, waiting=total[1], running=total[2], kv_fraction=total[3] / max(len(tallies), 1),
        output_tokens=total[4], completed=total[5],
    )  # fmt: skip


def _iterations(tallies: Sequence[tuple[Tally, Fleet]]) -> Iterations | None:
    logs = [
        np.column_stack([np.full(len(t.log), i), np.asarray(t.log, np.int64).reshape(-1, 7)])
        for i, (t, _) in enumerate(tallies)
        if t.log
    ]
    if not logs:
        return None
    rows = np.concatenate(logs)
    rows = rows[np.argsort(rows[:, 2], kind="stable")][:LOGGED]
    return Iterations(*(np.ascontiguousarray(rows[:, i]) for i in range(8)))
