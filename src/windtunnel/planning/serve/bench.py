"""Where plans are simulated: price lists and caches of an engine are made once and used for all its trials."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from windtunnel.engine.fleet import Prepared, prepare, price_list_of
from windtunnel.engine.simulate import simulate_workload
from windtunnel.ops.fold import Pricer
from windtunnel.planning.serve.bounds import Bounds, bounds
from windtunnel.planning.serve.question import Question, beginning
from windtunnel.planning.serve.space import Design, Engine
from windtunnel.planning.serve.trial import Verdict, judge
from windtunnel.scenario.simulate import Role, simulate_scenario
from windtunnel.scenario.simulation import SimulateResult
from windtunnel.serving.sizing import Sized
from windtunnel.serving.step_cost import StepCost

KEPT = 24
"""Engines whose price lists are kept: a few megabytes each."""


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A simulation of ``counts`` engines with the first ``requests``, ``rate`` a second."""

    design: Design
    counts: tuple[int, ...]
    requests: int
    rate: float | None
    result: SimulateResult
    verdict: Verdict


class Bench:
    """Simulates designs of one question. Every trial sees the same requests: only what is compared differs.

    ``settings``: (chunk, max_batch) that are tried with each engine.
    """

    def __init__(self, question: Question, settings: Mapping[str, Sequence[tuple[int | None, int | None]]]) -> None:
        self.question = question
        self.settings = settings
        self.trials: list[Trial] = []
        self._costs: OrderedDict[tuple[int, Role, tuple[Any, ...]], StepCost] = OrderedDict()
        self._prepared: OrderedDict[tuple[int, Role, Engine], Sequence[tuple[Pricer, Sized]]] = OrderedDict()

    def prepared(self, design: Design) -> Prepared:
        """Its engines on the whole workload.

        Raises:
            ScenarioError: a number format or a kernel that the machine has no price for.
        """
        roles: tuple[Role, ...] = ("prefill", "decode") if design.apart else ("engine",)
        keys = [(design.machine, role, engine) for role, engine in zip(roles, design.engines, strict=True)]
        known = {key[1]: self._prepared[key] for key in keys if key in self._prepared}
        if len(known) < len(keys):
            q = self.question
            # On the whole cluster, so that links between engines are those of many nodes.
            plan = {**design.plan(q.machines[design.machine], [1] * len(keys)), "on": q.machines[design.machine].on}
            scenario = simulate_scenario(q.options(plan))
            missing = [(n, role) for n, (_, role, _) in enumerate(keys) if role not in known]
            costs = {role: self._cost(design, n, role) for n, role in missing}
            known = dict(prepare(scenario, q.workload, known, costs))
        for key in keys:
            self._prepared[key] = known[key[1]]
            self._prepared.move_to_end(key)
        while len(self._prepared) > KEPT:
            self._prepared.popitem(last=False)
        return known

    def _cost(self, design: Design, number: int, role: Role) -> StepCost:
        """One price list for all settings of a layout: making it takes longer than a short simulation. ``number``: of
        the engine in the design."""
        q, engine = self.question, design.engines[number]
        key = (design.machine, role, engine.layout)
        if key not in self._costs:
            machine = q.machines[design.machine]
            scenarios = []
            for chunk, max_batch in self.settings[engine.engine]:
                engines = list(design.engines)
                engines[number] = replace(engine, chunk=chunk, max_batch=max_batch)
                plan = Design(design.machine, tuple(engines)).plan(machine, [1] * len(engines))
                scenarios.append(simulate_scenario(q.options({**plan, "on": machine.on})))
            self._costs[key] = price_list_of(role, scenarios, q.workload)
            if len(self._costs) > KEPT:
                self._costs.popitem(last=False)
        self._costs.move_to_end(key)
        return self._costs[key]

    def fits(self, design: Design) -> bool:
        return all(size.shortfall_bytes <= 0 for each in self.prepared(design).values() for _, size in each)

    def bounds(self, design: Design) -> Bounds:
        """Of a design with one kind of engine."""
        q = self.question
        ((_, sized),) = self.prepared(design)["engine"]
        cached = bool(q.asked.prefix_cache or q.asked.cache_tiers)
        return bounds(sized, q.workload, q.limits, q.percentile, prefix_cache=cached, warmup_s=q.asked.warmup)

    def run(
        self, design: Design, counts: Sequence[int], requests: int | None = None, rate: float | None = None, *,
        prompts_only: bool = False,
    ) -> Trial:  # fmt: skip
        """``rate``: other than the one that is asked for. ``prompts_only``: answers are one token long."""
        q = self.question
        machine = q.machines[design.machine]
        workload = q.workload if rate is None else q.at_rate(rate)
        whole = requests is None or requests >= len(workload)
        if requests is not None:
            workload = beginning(workload, requests)
        if prompts_only:
            workload = replace(workload, output_tokens=np.ones_like(workload.output_tokens))
        scenario = simulate_scenario(q.options(design.plan(machine, counts), rate))
        result = simulate_workload(scenario, workload, prepared=self.prepared(design))
        return self._kept(design, counts, rate, result, not whole)

    def exactly(self, design: Design, counts: Sequence[int], rate: float | None = None) -> Trial:
        """As ``simulate`` answers it, to the last bit."""
        q = self.question
        machine = q.machines[design.machine]
        scenario = simulate_scenario(q.options(design.plan(machine, counts), rate))
        workload = q.workload if rate is None else q.exactly(rate)
        # How nodes are joined may depend on how many there are: such an engine is priced anew.
        within = all(e.accelerators <= machine.cluster.node_size for e in design.engines) and not design.apart
        result = simulate_workload(scenario, workload, prepared=self.prepared(design) if within else None)
        return self._kept(design, counts, rate, result, False)

    def _kept(
        self, design: Design, counts: Sequence[int], rate: float | None, result: SimulateResult, halves: bool
    ) -> Trial:
        if result.partial:  # the event loop has taken the interrupt for itself
            raise KeyboardInterrupt
        q = self.question
        verdict = judge(q, result, halves=halves)
        n = len(result.workload)
        trial = Trial(design, tuple(counts), n, q.rate if rate is None else rate, result, verdict)
        self.trials.append(trial)
        return trial


def room(question: Question, machine: int) -> int:
    """Accelerators that a plan may use, by the cluster and the budget."""
    cluster, budget = question.machines[machine].cluster, question.asked.budget
    price = question.machines[machine].cost_usd_per_hour(1)
    if budget is None or price is None:
        return cluster.count
    return min(cluster.count, int(budget * (1 + 1e-12) / price))
