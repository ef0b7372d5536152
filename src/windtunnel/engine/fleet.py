"""The engines of a service, made ready: price lists, caches, policies, and which loop runs each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.cost import load_calibration, make_pricer
from windtunnel.cost.calibration import Calibration
from windtunnel.cost.channel import Channel
from windtunnel.cost.runtime import runtime_of
from windtunnel.cost.transfers import from_store, from_tier
from windtunnel.errors import ScenarioError
from windtunnel.ops.fold import Pricer
from windtunnel.scenario.checks import has_experts
from windtunnel.scenario.simulate import EngineSetup, Role, SimulateScenario
from windtunnel.serving.compiled.build import available
from windtunnel.serving.deployment.policies import load_policies
from windtunnel.serving.engine import MakeRequest, PythonEngine
from windtunnel.serving.policy import Scheduler
from windtunnel.serving.prefix_cache import PrefixCache, Tier, eviction
from windtunnel.serving.record import Record
from windtunnel.serving.replica import Replica
from windtunnel.serving.request import Request
from windtunnel.serving.rules import RULES, Rules
from windtunnel.serving.sizing import SWAP_BYTES, WATERMARK, Settings, Sized, price_list, size_engine
from windtunnel.serving.spec import NO_LIMIT, EngineSpec
from windtunnel.serving.step_cost import StepCost
from windtunnel.serving.workload.requests import Floats, Ints, Workload

COMPILED_FROM = 3000
"""Requests from which on the compiled loop is worth building where it is not there yet."""

FAST_FROM = 100_000
"""Requests from which on it is worth building well."""

PREDICTIONS = 64
"""Number of the random stream that predicted lengths are drawn from (those of workloads are below)."""


@dataclass(frozen=True, slots=True, eq=False)
class Fleet:
    """Like engines of one role. ``replicas``: all of them; ``record``: where they write."""

    role: Role
    setup: EngineSetup
    sized: Sized
    price: Pricer
    replicas: tuple[Replica, ...]
    record: Record
    compiled: bool


class Asked:
    """The workload as engines take it in: whole numbers, and plain lists for the loop in Python."""

    def __init__(self, scenario: SimulateScenario, workload: Workload) -> None:
        self.workload = workload
        self.client: Ints | None = None
        if workload.client is not None:
            self.client = np.unique(workload.client, return_inverse=True)[1].astype(np.int64)
        o = scenario.options
        self.predicted = predicted_lengths(workload.output_tokens, o.prediction_error, o.seed)
        self.arrival = np.full(len(workload), -1, np.int64)

    def key(self, rules: Rules) -> Ints | None:
        """What queues of such an order are sorted by."""
        if rules.order == "shortest":
            return self.predicted
        return self.workload.priority if rules.order == "priority" else None

    def maker(self, prompts_only: bool) -> MakeRequest:
        """Requests for the loop in Python."""
        w = self.workload
        prompts = w.input_tokens.tolist()
        outputs = [1] * len(w) if prompts_only else w.output_tokens.tolist()
        clients = None if self.client is None else self.client.tolist()
        priorities = None if w.priority is None else w.priority.tolist()
        predicted = self.predicted.tolist()
        blocks: Ints | None = w.blocks
        offsets = None if w.block_offsets is None else w.block_offsets.tolist()

        def make(number: int, arrival: int, progress: int) -> Request:
            known: Sequence[int] = ()
            if blocks is not None and offsets is not None:
                known = blocks[offsets[number] : offsets[number + 1]].tolist()
            return Request(
                number, arrival, prompts[number], outputs[number],
                client=0 if clients is None else clients[number],
                priority=0 if priorities is None else priorities[number],
                predicted=predicted[number], progress=progress, blocks=known,
            )  # fmt: skip

        return make


def predicted_lengths(output_tokens: Ints, cv: float, seed: int) -> Ints:
    """What a predictor of output lengths says: the truth times a lognormal factor of mean 1."""
    if cv <= 0:
        return output_tokens
    draws = np.random.Generator(np.random.Philox(key=np.array([seed, PREDICTIONS], np.uint64)))
    sigma = np.sqrt(np.log1p(cv * cv))
    factor: Floats = np.exp(sigma * draws.standard_normal(len(output_tokens)) - sigma * sigma / 2)
    return np.maximum(np.rint(output_tokens * factor), 1).astype(np.int64)


Prepared = Mapping[Role, Sequence[tuple[Pricer, Sized]]]
"""The engines of each pool, priced and sized: what takes a workload's lengths and no arrival times or counts."""


def prepare(
    scenario: SimulateScenario,
    workload: Workload,
    known: Prepared | None = None,
    costs: Mapping[Role, StepCost] | None = None,
) -> Prepared:
    """Price lists and caches of the service's engines, for this workload. ``known``: pools that are ready; ``costs``:
    price lists that are (:func:`price_list_of`), of pools with one kind of engine.

    Raises:
        ScenarioError: a kernel or a number format that the machine has no price for.
    """
    ready, priced = known or {}, costs or {}
    return {
        role: ready[role]
        if role in ready
        else [_sized(scenario, role, setup, workload, priced.get(role)) for setup in setups]
        for role, setups in scenario.pools.items()
    }


def calibration_of(setup: EngineSetup) -> Calibration:
    """The constants of an engine's machine."""
    return load_calibration(setup.cluster.accelerator, setup.options.calibration)


def price_list_of(role: Role, scenarios: Sequence[SimulateScenario], workload: Workload) -> StepCost:
    """One price list for the engines of a pool in scenarios that differ in the tokens and sequences of an iteration
    alone.

    Raises:
        ScenarioError: a kernel or a number format that the machine has no price for.
    """
    setups = [scenario.pools[role][0] for scenario in scenarios]
    first, cluster = setups[0], setups[0].cluster
    price = make_pricer(cluster, runtime_of(first.engine), calibration_of(first))
    settings = _settings(first, _rules(first), workload, role)
    plans = [setup.plan for setup in setups]
    return price_list(scenarios[0].network, cluster, first.engine, plans, price, workload, settings)


def make_fleets(
    scenario: SimulateScenario, asked: Asked, log_size: int, prepared: Prepared | None = None
) -> dict[Role, list[Fleet]]:
    """Every engine of the service, numbered through the pools. ``prepared``: of such a scenario with other counts of
    engines, or requests of these lengths at other times.

    Raises:
        ScenarioError: a policy that cannot be loaded, or a loop that cannot run it.
    """
    found: dict[Role, list[Fleet]] = {}
    index = 0
    known = prepare(scenario, asked.workload) if prepared is None else prepared
    for role, setups in scenario.pools.items():
        sized = known[role]
        compiled = _is_compiled(scenario, setups, sized, len(asked.workload))
        rows = _Rows(scenario, asked, role, setups, compiled)
        found[role] = []
        for setup, (price, size) in zip(setups, sized, strict=True):
            count = setup.count if scenario.autoscale is None else scenario.autoscale.maximum
            numbers = range(index, index + count * size.copies)
            index = numbers.stop
            replicas = rows.engines(setup, size.spec, price, numbers, log_size)
            found[role].append(Fleet(role, setup, size, price, replicas, rows.record, compiled))
    return found


def _sized(
    scenario: SimulateScenario, role: Role, setup: EngineSetup, workload: Workload, cost: StepCost | None = None
) -> tuple[Pricer, Sized]:
    cluster, calibration = setup.cluster, calibration_of(setup)
    price = make_pricer(cluster, runtime_of(setup.engine), calibration)
    settings = _settings(setup, _rules(setup), workload, role)
    per_byte = 1.0 / (calibration.copies.pcie * float(cluster.pcie_bytes_per_s))
    network, engine = scenario.network, setup.engine
    return price, size_engine(network, cluster, engine, setup.plan, price, workload, settings, per_byte, cost)


def _rules(setup: EngineSetup) -> Rules:
    return RULES["chunked" if setup.own_scheduler else setup.scheduler]


def _is_compiled(
    scenario: SimulateScenario, setups: Sequence[EngineSetup], sized: Sequence[tuple[Pricer, Sized]], requests: int
) -> bool:
    """Whether the engines of a role run in the compiled loop: all of them, since they write to one record."""
    loop = scenario.options.loop
    if loop not in ("auto", "compiled"):
        return False
    sorted_by = {size.spec.rules.order for _, size in sized} & {"priority", "shortest"}
    plain = not any(setup.own_scheduler for setup in setups) and not any(s.spec.prefix_tokens for _, s in sized)
    if not plain or len(sorted_by) > 1:
        if loop == "compiled":
            raise ScenarioError(
                "loop=compiled runs built-in schedulers, of one sorted order, without a prefix cache; accepted: auto"
            )
        return False
    return _can_compile(loop, requests)


class _Rows:
    """What the engines of a role share: the requests as they take them in, and the record that they write to."""

    def __init__(
        self, scenario: SimulateScenario, asked: Asked, role: Role, setups: Sequence[EngineSetup], compiled: bool
    ) -> None:
        self.scenario, self.asked, self.compiled = scenario, asked, compiled
        w = asked.workload
        self.prompts_only = role == "prefill"
        if not compiled:
            self.record = Record.of(len(w))
            self.make = asked.maker(self.prompts_only)
            return
        from windtunnel.serving.compiled.replica import Asked as Rows

        outputs = np.ones_like(w.output_tokens) if self.prompts_only else w.output_tokens
        orders = [RULES[setup.scheduler] for setup in setups]
        key = next((k for k in map(asked.key, orders) if k is not None), None)
        self.rows = Rows(w.input_tokens, outputs, asked.client, key)
        self.record = self.rows.record(asked.arrival)

    def engines(
        self, setup: EngineSetup, spec: EngineSpec, price: Pricer, numbers: range, log_size: int
    ) -> tuple[Replica, ...]:
        """Like engines of these numbers."""
        if self.compiled:
            from windtunnel.serving.compiled.replica import CompiledEngine

            alone = runs_alone(self.scenario, self.asked.workload)
            return tuple(
                CompiledEngine(spec, self.asked.arrival, self.rows, index=i, log_size=log_size, keep_done=not alone)
                for i in numbers
            )
        own = setup.scheduler if setup.own_scheduler else None
        schedulers = load_policies(own, "scheduler", ("schedule",)) if own else None
        caches = None
        if spec.prefix_tokens:
            caches = _caches(setup, spec, price)
        naive = self.scenario.options.loop == "naive"
        return tuple(_python(spec, self.record, self.make, i, schedulers, caches, naive, log_size) for i in numbers)


def runs_alone(scenario: SimulateScenario, workload: Workload) -> bool:
    """Whether there is one engine, and nothing happens but that requests come at times of their own."""
    setups = [setup for each in scenario.pools.values() for setup in each]
    copies = 1 if has_experts(scenario.network) else int(setups[0].plan.layout.dp)
    single = len(setups) == 1 and setups[0].count * copies == 1
    bound = scenario.options.replica_mtbf_hours is not None or scenario.autoscale is not None
    return single and not bound and not workload.closed


def _settings(setup: EngineSetup, rules: Rules, workload: Workload, role: Role) -> Settings:
    o = setup.options
    prefix = bool(o.prefix_cache if o.prefix_cache is not None else setup.tiers) and workload.blocks is not None
    return Settings(
        rules=rules,
        reserve_output=setup.reserve_output or rules.padded,
        watermark=WATERMARK if o.watermark is None else o.watermark,
        swap_bytes=_swap_bytes(setup),
        max_queue=NO_LIMIT if o.max_queue is None else o.max_queue,
        timeout_s=o.timeout,
        prefix_tokens=workload.block_tokens if prefix and role != "decode" else 0,
        prompts_only=role == "prefill",
    )


def _swap_bytes(setup: EngineSetup) -> float:
    """Host memory of one accelerator for swapped requests."""
    o = setup.options
    if o.preemption != "swap":
        return 0.0
    layout = setup.plan.layout
    return SWAP_BYTES if o.swap_gbyte is None else o.swap_gbyte * 1e9 / int(layout.tp * layout.pp)


def _can_compile(loop: str, requests: int) -> bool:
    if available(compile=loop == "compiled" or requests >= COMPILED_FROM, quick=requests < FAST_FROM):
        return True
    if loop == "compiled":
        raise ScenarioError("loop=compiled needs a C compiler (cc, gcc, clang, or pip install 'windtunnel[compiler]')")
    return False


def _python(
    spec: EngineSpec, record: Record, make: MakeRequest, index: int, schedulers: Callable[[], Scheduler] | None,
    caches: Callable[[], PrefixCache] | None, one_by_one: bool, log_size: int,
) -> Replica:  # fmt: skip
    own: dict[str, Any] = {}
    if schedulers is not None:
        own["scheduler"] = schedulers()
    if caches is not None:
        own["make_cache"] = caches
    return PythonEngine(spec, record, make, index=index, one_by_one=one_by_one, log_size=log_size, **own)


def _caches(setup: EngineSetup, spec: EngineSpec, price: Pricer) -> Callable[[], PrefixCache]:
    """Prefix caches, each with tiers of its own below."""
    policies = eviction(setup.options.eviction)
    copies = calibration_of(setup).copies
    rates = {t.name: from_tier(t.name, setup.cluster, copies, price) for t in setup.tiers}
    ratios = dict.fromkeys(rates, 1.0)
    stored = setup.plan.stored
    if stored is not None and "remote" in rates:
        # All ranks of the engine draw their parts from the store at once.
        share = stored.bytes_per_s / setup.accelerators
        rates["remote"] = from_store(rates["remote"], share, stored.ratio, stored.decode_bytes_per_s)
        ratios["remote"] = stored.ratio

    def make() -> PrefixCache:
        # A block lies on all ranks of the engine: they move their parts side by side, each over its own link.
        tiers = [
            Tier(
                t.name,
                t.capacity_bytes // setup.accelerators,
                Channel(*rates[t.name]),
                ratios[t.name],
                optional=t.name == "remote" and stored is not None and stored.text,
            )
            for t in setup.tiers
        ]
        return PrefixCache(policies, tiers, spec.prefix_units)

    return make
