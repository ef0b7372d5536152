"""ZeRO: optimizer state, gradients and weights sharded over data-parallel ranks; kept activations over tensor's."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from windtunnel.scenario.engines import TrainEngine
from windtunnel.scenario.options import TrainOptions
from windtunnel.scenario.provenance import paper
from windtunnel.scenario.technique import About, E, O, Technique, TrainSetting, parameter


class Zero(Technique):
    """Stages of arXiv 1910.02054, section 5: 1 shards the optimizer's state, 2 gradients, too, which leave bucket by
    bucket behind the backward pass, 3 weights, too, at 1.5 times the messages. ``partition_activations`` is section
    6.1 (Pa): with full recomputation a tensor-parallel rank keeps its share of what it starts from."""

    name: ClassVar[str] = "zero"
    about: ClassVar[About] = About(
        seed="P376",
        title="ZeRO: Memory Optimizations Toward Training Trillion Parameter Models",
        source="arXiv 1910.02054",
        summary="Nothing of the training state is held twice: each data-parallel rank keeps and updates its part, and "
        "each tensor-parallel rank its part of kept activations.",
        rewrites=("step", "policy"),
        commands=("train",),
        decides=("sharding of the training state",),
        neutral={"stage": 0, "partition_activations": False},
    )

    stage: int = parameter(
        paper(2, "section 8: the implementation that is evaluated has Pos+g"),
        "1 optimizer state, 2 also gradients, 3 also weights; 0: as the engine has it",
        ge=0,
        le=3,
    )
    partition_activations: bool = parameter(
        paper(True, "sections 6.1 and 8: ZeRO-R's Pa"), "keep a tensor-parallel rank's share of layer inputs alone"
    )

    def request(self, options: O) -> O:
        if not isinstance(options, TrainOptions) or self.stage == 0:
            return options
        return self.ask(options, zero=self.stage)

    def engine(self, engine: E) -> E:
        if not isinstance(engine, TrainEngine) or self.stage < 2:
            return engine
        return engine.model_copy(update={"overlap_gradients": True})

    def train(self, setting: TrainSetting) -> TrainSetting:
        if not self.partition_activations or setting.plan.recompute != "full":
            return setting
        return replace(setting, plan=replace(setting.plan, partition_activations=True))
