"""Ladder Residual: a sub-layer reads the stream without the sum that is still under way."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from windtunnel.parallel.overlap import behind_next
from windtunnel.scenario.provenance import paper
from windtunnel.scenario.technique import About, ServeSetting, Technique, TrainSetting, parameter


class LadderResidual(Technique):
    """Each sub-layer's tensor-parallel messages run beside the next sub-layer's computing."""

    name: ClassVar[str] = "ladder-residual"
    about: ClassVar[About] = About(
        seed="P047",
        title="Ladder-residual: parallelism-aware architecture for accelerating large model inference with "
        "communication overlapping",
        source="Zhang et al., ICML 2025, arXiv 2501.06589",
        summary="Another wiring of the residual stream: a sub-layer's input leaves out the sum over tensor-parallel "
        "ranks that the sub-layer before it has just begun, so that message and computing run side by side. The "
        "network must be trained so, or retrained.",
        rewrites=("step",),
        commands=("train", "infer", "simulate"),
        decides=("overlap in the step",),
        neutral={"layers": 0.0},
    )

    layers: float = parameter(
        paper(1.0, "abstract, applied to all layers; part of them where a trained model is converted"),
        "share of the layers that are wired so", ge=0, le=1,
    )  # fmt: skip

    def train(self, setting: TrainSetting) -> TrainSetting:
        """The forward pass and, by its adjoint, the backward pass."""
        if self.layers == 0:
            return setting
        change = behind_next(setting.engine.interference, self.layers)
        return replace(setting, plan=replace(setting.plan, rewrites=(*setting.plan.rewrites, change)))

    def serve(self, setting: ServeSetting) -> ServeSetting:
        """Iterations of prompts, decodes and both."""
        if self.layers == 0:
            return setting
        change = behind_next(setting.engine.interference, self.layers)
        return replace(setting, plan=replace(setting.plan, rewrites=(*setting.plan.rewrites, change)))
