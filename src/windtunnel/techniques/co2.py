"""CO2: local steps whose exchange runs behind the next ones."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from windtunnel.scenario.plan import LocalSteps
from windtunnel.scenario.provenance import assumption, paper
from windtunnel.scenario.technique import About, Technique, TrainSetting, parameter


class CO2(Technique):
    """Workers take ``period`` steps on their own; the sum of what changed travels behind the next ``period``."""

    name: ClassVar[str] = "co2"
    about: ClassVar[About] = About(
        seed="P007",
        title="CO2: Efficient Distributed Training with Full Communication-Computation Overlap",
        source="arXiv 2401.16265",
        summary="Data-parallel workers train on their own for some steps and exchange what changed while they take the "
        "next ones, one period stale: communication hides behind as many steps as it needs.",
        rewrites=("step", "policy"),
        commands=("train",),
        decides=("how gradients are exchanged",),
        neutral={"period": 1, "asynchronous": False},
    )

    period: int = parameter(
        assumption(12, "the paper trains with 1 to some dozens of local steps; a middle value of its range"),
        "steps between exchanges",
        ge=1,
    )
    asynchronous: bool = parameter(
        paper(True, "abstract: asynchronous communication"), "the exchange runs behind the next period's steps"
    )
    worker: int = parameter(
        assumption(0, "each data-parallel rank by itself; under ZeRO those of a node, which share its state"),
        "neighbouring accelerators that stay in step (0: one where nothing is sharded, else those of a node)",
        ge=0,
    )
    buffer_bytes: float = parameter(
        assumption(
            12.0, "an asynchronous outer update needs its last iterate, a momentum and what is on its way, in fp32"
        ),
        "bytes kept for each parameter beside the optimizer's state",
        ge=0,
    )

    def train(self, setting: TrainSetting) -> TrainSetting:
        plan = setting.plan
        if self.period == 1 and not self.asynchronous:
            return setting
        if plan.layout.ep > 1:
            raise self.refuse(f"experts on ep={plan.layout.ep} ranks need all of them at every step; accepted: ep=1")
        local = LocalSteps(
            period=self.period,
            behind=self.period if self.asynchronous else 0,
            worker=self.worker or 1,
            sharing=self.worker or setting.cluster.node_size,
            wire_bytes=setting.engine.reduce_bytes,
            buffer_bytes=self.buffer_bytes,
        )
        return replace(setting, plan=replace(plan, local=local))
