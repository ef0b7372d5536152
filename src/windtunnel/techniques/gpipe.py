"""GPipe: layers in stages, a mini-batch in micro-batches that stream through them, activations computed again."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np

from windtunnel.scenario.options import TrainOptions
from windtunnel.scenario.provenance import assumption, paper
from windtunnel.scenario.technique import About, O, Technique, TrainSetting, parameter


class GPipe(Technique):
    """All forward, then all backward passes of M micro-batches over K stages: a bubble of (K - 1)/(M + K - 1), M
    micro-batches held at every stage, of which rematerialisation keeps what layers start from (arXiv 1811.06965,
    sections 2.2 and 2.3)."""

    name: ClassVar[str] = "gpipe"
    about: ClassVar[About] = About(
        seed="P014",
        title="GPipe: Efficient Training of Giant Neural Networks using Pipeline Parallelism",
        source="arXiv 1811.06965",
        summary="A model's layers are dealt to stages on separate accelerators; micro-batches stream through them, all "
        "forward and then all backward, and activations are computed again instead of kept.",
        rewrites=("policy",),
        commands=("train",),
        decides=("the pipeline schedule",),
        neutral={"partitions": 1},
    )

    partitions: int | None = parameter(
        assumption(None, "the plan's own pp: the paper uses 2 to 128"),
        "stages; left out: the plan's pp; 1: no pipeline, and nothing is changed",
        ge=1,
        le=1_000_000,
    )
    micro_batches: int | None = parameter(
        assumption(None, "the plan's own micro_batch; section 2.3 finds the bubble negligible from 4 a stage on"),
        "pieces that a mini-batch is cut into on each replica; left out: what micro_batch makes",
        ge=1,
        le=1_000_000,
    )
    rematerialize: bool = parameter(
        paper(True, "section 2.3: only what crosses partitions is kept"), "compute activations again when going back"
    )

    def request(self, options: O) -> O:
        if not isinstance(options, TrainOptions) or self.partitions == 1:
            return options
        if self.partitions is not None:
            options = self.ask(options, pp=self.partitions)
        if self.rematerialize:
            options = self.ask(options, recompute="full")
        return self.ask(options, schedule="gpipe")

    def train(self, setting: TrainSetting) -> TrainSetting:
        if self.partitions == 1 or self.micro_batches is None:
            return setting
        each, rest = divmod(setting.plan.global_batch, setting.plan.layout.dp * self.micro_batches)
        if np.any(rest):
            raise self.refuse(
                f"global_batch={setting.plan.global_batch} cannot be cut into {self.micro_batches} micro-batches on "
                f"each of {setting.plan.layout.dp} replicas"
            )
        return replace(setting, plan=replace(setting.plan, micro_batch=each))
