"""What ``plan serve`` is asked, read and checked: machines, workload, limits, and what is fixed for every plan."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from windtunnel.errors import ScenarioError
from windtunnel.hardware import parse_cluster
from windtunnel.hardware.machine import Cluster
from windtunnel.models.network import Network
from windtunnel.scenario.options import read_options
from windtunnel.scenario.plan_options import PlanServeOptions
from windtunnel.scenario.registry import techniques_of
from windtunnel.scenario.serve import served_network
from windtunnel.scenario.simulate import simulate_scenario
from windtunnel.scenario.simulate_options import SimulateOptions
from windtunnel.scenario.text import shown
from windtunnel.scenario.workload import slo, workload_spec
from windtunnel.serving.workload.build import build_workload
from windtunnel.serving.workload.requests import Workload

SEARCHED = ("tp", "pp", "dp", "ep", "replicas", "engine", "precision", "kv_precision", "chunk", "max_batch")
"""Options of ``simulate`` that a plan decides, beside the cluster and the pools."""

ASIDE = ("deployment", "percentile", "objective", "budget", "top", "workers", "store", "export", "tries")
"""Options that ``simulate`` does not have."""

_FOUND = ("fleet", "prefill", "decode", "autoscale", "replay")
"""Options of ``simulate`` that leave nothing to find."""

POOLS = "the pools"
"""What techniques decide that leave no pools to find."""

NOMINAL_RATE = 1.0
"""Requests a second from which the highest rate is looked for where none is given."""

_COUNTED = re.compile(r"\s*([0-9][0-9_]*)\s*[xX×*]\s*(\S.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, eq=False)
class Machine:
    """A cluster as it was named: the most that a plan may use."""

    on: str
    cluster: Cluster

    def holding(self, accelerators: int) -> str:
        """So many accelerators of the cluster, as ``--on`` takes it; a cluster file stays as it is."""
        counted = _COUNTED.fullmatch(self.on)
        return f"{accelerators}x{counted[2]}" if counted else self.on

    def cost_usd_per_hour(self, accelerators: int) -> float | None:
        """Of that many accelerators; None where no price is known."""
        price = self.cluster.price_usd_per_hour
        return None if price is None or not price > 0 else float(price) * accelerators


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """``fixed``: options of ``simulate`` that hold for every plan. ``limits``: seconds by metric. ``percentile``: of
    each metric that is held to its limit. ``rate``: requests a second; inf: all at once; None: a closed loop.
    ``narrowed``: the values that some options may take alone."""

    asked: PlanServeOptions
    fixed: Mapping[str, Any]
    machines: tuple[Machine, ...]
    network: Network
    limits: Mapping[str, float]
    workload: Workload
    rate: float | None
    narrowed: Mapping[str, tuple[Any, ...]]

    @property
    def percentile(self) -> float:
        return self.asked.percentile

    @property
    def objective(self) -> str:
        return self.asked.objective

    def options(self, plan: Mapping[str, Any], rate: float | None = None) -> SimulateOptions:
        """Those of ``simulate`` that run ``plan``, at the rate that was asked for or another one."""
        other = {} if rate is None else {"rate": rate}
        return read_options(SimulateOptions, {**self.fixed, **plan, **other})

    def at_rate(self, rate: float) -> Workload:
        """The same requests, ``rate`` a second."""
        plain = self.workload.after is None and not str(self.asked.arrivals or "").startswith("bursty")
        if plain and self.rate is not None and math.isfinite(self.rate):
            return replace(self.workload, arrival_s=self.workload.arrival_s * (self.rate / rate))
        return self.exactly(rate)

    def exactly(self, rate: float) -> Workload:
        """The requests as ``simulate`` draws them at that rate, to the last bit of their times."""
        return build_workload(replace(workload_spec(self.options({"on": self.machines[0].on})), rate=rate))


def read_question(options: PlanServeOptions, narrowed: Mapping[str, tuple[Any, ...]] | None = None) -> Question:
    """Read the model, the clusters and the workload.

    Raises:
        ScenarioError: an unknown name, a workload or an SLO that is missing or not understood, or options that leave
            nothing to find.
    """
    for name in _FOUND:
        if getattr(options, name) is not None:
            raise ScenarioError(
                f"{name}={shown(getattr(options, name))}: plan serve finds the engines itself; accepted: simulate with "
                f"{name}, or plan serve with deployment=colocated or disaggregated"
            )
    if options.slo is None and options.objective != "latency":
        raise ScenarioError(f"objective={options.objective} needs an --slo, such as ttft=1.0,tpot=0.05")
    limits: dict[str, float] = {}
    if options.slo is not None:
        asked = slo(options.slo)
        given = {"ttft_s": asked.ttft_s, "tpot_s": asked.tpot_s, "e2e_s": asked.e2e_s}
        limits = {metric: limit for metric, limit in given.items() if limit is not None}
    used = techniques_of(options, "simulate")
    for technique in used:
        if POOLS in technique.about.decides:
            raise ScenarioError(
                f"{technique.name} decides {POOLS}, which plan serve finds itself; accepted: deployment=disaggregated"
            )
    network = served_network(options, used)
    machines = tuple(Machine(on, parse_cluster(on, dict(options.set))) for on in dict.fromkeys(options.on))
    fixed = {
        name: value
        for name, value in options.model_dump(exclude_unset=True, exclude_none=True).items()
        if name not in SEARCHED and name not in ASIDE and name != "on"
    }
    highest = options.objective == "throughput"
    if highest and options.rate is not None and math.isinf(options.rate):
        raise ScenarioError("rate=inf: objective=throughput finds the highest rate; leave out --rate")
    closed = str(options.arrivals or "").startswith("closed")
    if highest and closed:
        raise ScenarioError(f"arrivals={shown(options.arrivals)}: a closed loop has no rate for objective=throughput")
    probe = read_options(SimulateOptions, {**fixed, "on": machines[0].on})
    simulate_scenario(probe)
    spec = workload_spec(probe)
    if highest and options.rate is None and options.trace is None:
        spec = replace(spec, rate=NOMINAL_RATE)
    workload = build_workload(spec)
    rate = None if closed else _rate(spec.rate, workload)
    return Question(options, fixed, machines, network, limits, workload, rate, narrowed or {})


def _rate(given: float | None, workload: Workload) -> float:
    """Requests a second: as given, else gaps over the time from the first request to the last."""
    if given is not None:
        return given
    span = float(workload.arrival_s[-1] - workload.arrival_s[0])
    return (len(workload) - 1) / span if span > 0 else math.inf


def beginning(workload: Workload, requests: int) -> Workload:
    """The first requests of a workload."""
    if requests >= len(workload):
        return workload

    def cut(values: Any) -> Any:
        return None if values is None else values[:requests]

    offsets = None if workload.block_offsets is None else workload.block_offsets[: requests + 1]
    blocks = workload.blocks if workload.blocks is None or offsets is None else workload.blocks[: offsets[-1]]
    return replace(
        workload,
        arrival_s=workload.arrival_s[:requests],
        input_tokens=workload.input_tokens[:requests],
        output_tokens=workload.output_tokens[:requests],
        after=cut(workload.after),
        think_s=cut(workload.think_s),
        blocks=blocks,
        block_offsets=offsets,
        client=cut(workload.client),
        priority=cut(workload.priority),
        session=cut(workload.session),
    )
