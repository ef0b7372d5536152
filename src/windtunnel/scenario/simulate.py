"""A service over time at the front door: model, cluster, engines and deployment, checked against each other."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from windtunnel.errors import ScenarioError, unknown
from windtunnel.hardware import parse_cluster
from windtunnel.hardware.machine import Cluster
from windtunnel.models.network import Network
from windtunnel.scenario.engines import ServeEngine
from windtunnel.scenario.fleet import Autoscale, CacheTier, EngineGroup, autoscale, cache_tiers, fleet
from windtunnel.scenario.options import read_options
from windtunnel.scenario.plan import ServePlan
from windtunnel.scenario.registry import requested, techniques_of
from windtunnel.scenario.serve import serve_layout, served_network, serving_engine, with_precision, with_techniques
from windtunnel.scenario.simulate_options import EVICTIONS, ROUTERS, SCHEDULERS, SimulateOptions
from windtunnel.scenario.technique import ServeSetting
from windtunnel.scenario.text import shown
from windtunnel.scenario.workload import Slo, WorkloadSpec, slo, workload_spec

ALIASES: Mapping[str, str] = {
    "iteration": "orca", "sarathi": "chunked", "vllm-v1": "chunked", "vllm-v0": "vllm", "sglang": "prefill-first",
    "shortest": "sjf", "vtc": "fair", "fcfs": "chunked", "fastgen": "splitfuse",
}  # fmt: skip
"""Other names of schedulers."""

SPLITFUSE_TOKENS = 768
"""Forward size of DeepSpeed-FastGen unless --chunk says otherwise (DeepSpeed-MII, max_ragged_batch_size)."""

WHOLE_PROMPTS = ("static", "orca")
"""Schedulers without a token budget."""

USUAL_ITERATION = 32768
"""Prompt tokens of an iteration that memory is set aside for where the scheduler has no budget, and the most that an
engine's profile sets aside: an assumption, twice the largest budget that engines use by default."""

Role = Literal["engine", "prefill", "decode"]


@dataclass(frozen=True, slots=True, eq=False)
class EngineSetup:
    """``count`` like engines on ``cluster``, which is named ``on``: the service's or a machine of their own
    (``own_machine``). ``scheduler``: a built-in's name or a user's ``module:Class``; ``options``: those of this group,
    its own over the command's."""

    count: int
    options: SimulateOptions
    engine: ServeEngine
    plan: ServePlan
    scheduler: str
    tiers: tuple[CacheTier, ...]
    cluster: Cluster
    on: str
    own_machine: bool = False

    @property
    def accelerators(self) -> int:
        """Of one engine."""
        layout = self.plan.layout
        return int(layout.tp * layout.pp * layout.dp)

    @property
    def own_scheduler(self) -> bool:
        """Whether the scheduler is a user's class."""
        return ":" in self.scheduler

    @property
    def reserve_output(self) -> bool:
        """Whether the cache of a whole answer is taken when its request is admitted."""
        return (self.options.reserve or self.engine.reserve) == "output"


@dataclass(frozen=True, slots=True, eq=False)
class SimulateScenario:
    """Everything that ``simulate`` needs. ``pools``: engines that share a queue's router, by role."""

    options: SimulateOptions
    network: Network
    cluster: Cluster
    pools: Mapping[Role, tuple[EngineSetup, ...]]
    workload: WorkloadSpec
    slo: Slo | None
    autoscale: Autoscale | None
    warnings: tuple[str, ...] = ()
    kind: Literal["simulate"] = "simulate"


def simulate_scenario(options: SimulateOptions) -> SimulateScenario:
    """Read the model and the cluster, lay out every engine, check that the deployment is possible.

    Raises:
        ScenarioError: an unknown name, or options that contradict each other.
    """
    used = techniques_of(options, "simulate")
    options = requested(options, used)
    network = served_network(options, used)
    cluster = parse_cluster(options.on, dict(options.set))
    warnings: list[str] = []
    groups = _groups(options)
    pools = {role: tuple(_setup(g, options, network, cluster, warnings) for g in each) for role, each in groups.items()}
    shared = [s for setups in pools.values() for s in setups if not s.own_machine]
    needed = sum(s.count * s.accelerators for s in shared)
    scaling = autoscale(options.autoscale) if options.autoscale else None
    if scaling is not None:
        needed = _check_scaling(options, pools, scaling)
    if needed > cluster.count:
        there = f"{shown(options.on)} has {cluster.count}"
        raise ScenarioError(f"the service's engines need {needed} accelerators; {there}")
    if shared and needed < cluster.count:
        warnings.append(f"{cluster.count - needed} of {cluster.count} accelerators are not used by the plan")
    if ":" not in options.router and options.router not in ROUTERS:
        raise unknown("router", options.router, (*ROUTERS, "module:Class"))
    if ":" not in options.eviction and options.eviction not in EVICTIONS:
        raise unknown("eviction", options.eviction, (*EVICTIONS, "module:Class"))
    if options.replica_restart_s is not None and options.replica_mtbf_hours is None:
        raise ScenarioError("replica_restart_s says how long a failed replica is away; add replica_mtbf_hours")
    return SimulateScenario(
        options, network, cluster, pools, workload_spec(options), slo(options.slo) if options.slo else None, scaling,
        tuple(dict.fromkeys(warnings)),
    )  # fmt: skip


def _groups(options: SimulateOptions) -> dict[Role, tuple[EngineGroup, ...]]:
    """The engines that are asked for, by role."""
    apart = options.prefill, options.decode
    if any(apart):
        if not all(apart):
            missing = "decode" if options.prefill else "prefill"
            raise ScenarioError(f"a disaggregated service needs both pools; {missing} is missing, such as 2x(tp=4)")
        if options.fleet or options.replicas > 1 or options.autoscale:
            raise ScenarioError(
                "prefill and decode say how many engines there are: leave out replicas, fleet, autoscale"
            )
        assert options.prefill is not None
        assert options.decode is not None
        return {"prefill": fleet(options.prefill, "prefill"), "decode": fleet(options.decode, "decode")}
    if options.fleet:
        if options.replicas > 1 or options.autoscale:
            raise ScenarioError("fleet says how many engines there are: leave out replicas and autoscale")
        return {"engine": fleet(options.fleet)}
    return {"engine": (EngineGroup(options.replicas, {}),)}


def _check_scaling(options: SimulateOptions, pools: Mapping[Role, tuple[EngineSetup, ...]], scaling: Autoscale) -> int:
    """Accelerators that a service needs at its largest."""
    (setup,) = pools["engine"]
    if "replicas" in options.model_fields_set and not scaling.minimum <= options.replicas <= scaling.maximum:
        raise ScenarioError(
            f"replicas={options.replicas}, with which it starts, is not between autoscale's min={scaling.minimum} and "
            f"max={scaling.maximum}"
        )
    return scaling.maximum * setup.accelerators


def _setup(
    group: EngineGroup, options: SimulateOptions, network: Network, cluster: Cluster, warnings: list[str]
) -> EngineSetup:
    own = options
    if group.options:
        asked: dict[str, Any] = options.model_dump(exclude_unset=True, exclude_none=True)
        own = read_options(SimulateOptions, {**asked, **group.options})
    cluster, on = _machine(group, own, cluster)
    # What is all there at time 0 is handed to the engine as a list, as offline benchmarks do: no server is in between.
    used = techniques_of(own, "simulate")
    engine = serving_engine(
        own, cluster, warnings, used, asynchronous=own.async_scheduling, expert_imbalance=own.expert_imbalance,
        first_token_s=0.0 if own.rate is not None and math.isinf(own.rate) else None,
    )  # fmt: skip
    layout = serve_layout(own.model_copy(update={"replicas": 1, "on": on}), network, cluster, [])
    name, linear, experts = with_precision(network, own, engine)
    scheduler = _scheduler(own, engine)
    plan = ServePlan(
        layout=layout,
        linear=linear,
        experts=experts,
        precision=name,
        max_batched_tokens=_budget(own, engine, scheduler, warnings),
        max_sequences=own.max_batch or engine.max_sequences,
        block_size=own.block_size or engine.block_size,
        kv_blocks=own.kv_blocks,
        memory_utilization=own.memory_utilization or engine.memory_utilization,
        max_model_len=own.max_model_len,
    )
    engine, plan = with_techniques(ServeSetting(own, network, cluster, engine, plan), used)
    if plan.offloads or plan.block_batches > 1:
        raise ScenarioError("simulate has no offloading of weights or of the KV cache in use; infer has")
    tiers = cache_tiers(own.cache_tiers) if own.cache_tiers else ()
    if tiers and own.prefix_cache is False:
        raise ScenarioError("cache_tiers keep what a prefix cache evicts; leave out no-prefix-cache")
    return EngineSetup(group.count, own, engine, plan, scheduler, tiers, cluster, on, own_machine=group.on is not None)


_BARE = re.compile(r"[A-Za-z][^/\\]*")


def _machine(group: EngineGroup, own: SimulateOptions, cluster: Cluster) -> tuple[Cluster, str]:
    """(The machine of a group, its name): the service's own, perhaps with other figures, unless the group names one.

    Raises:
        ScenarioError: an unknown machine or figure, or too few accelerators for the group.
    """
    if group.on is None:
        return (parse_cluster(own.on, {**own.set, **group.figures}) if group.figures else cluster), own.on
    needed = group.count * own.tp * own.pp * (own.dp or 1)
    text = group.on
    if _BARE.fullmatch(text) and not text.endswith((".yaml", ".yml", ".json")):
        text = f"{needed}x{text}"
    found = parse_cluster(text, dict(group.figures))
    if found.count < needed:
        raise ScenarioError(f"{group.count} engines need {needed} accelerators; {shown(text)} has {found.count}")
    return found, text


def _scheduler(options: SimulateOptions, engine: ServeEngine) -> str:
    name = options.scheduler or engine.scheduler
    if ":" in name:
        return name
    name = ALIASES.get(name, name)
    if name not in SCHEDULERS:
        raise unknown("scheduler", name, (*SCHEDULERS, "module:Class"))
    return name


def _budget(options: SimulateOptions, engine: ServeEngine, scheduler: str, warnings: list[str]) -> int:
    """Tokens of an iteration."""
    given = [n for n in (options.chunk, options.max_tokens) if n is not None]
    if scheduler in WHOLE_PROMPTS:
        if given:
            warnings.append(f"chunk={given[0]} does nothing: the {scheduler} scheduler runs prompts whole")
        return USUAL_ITERATION
    usual = SPLITFUSE_TOKENS if scheduler == "splitfuse" else min(engine.max_batched_tokens, USUAL_ITERATION)
    return min(given) if given else usual
