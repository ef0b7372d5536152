"""DeepSpeed-Ulysses: sequences in parts; attention's heads and the sequence change places by all-to-all."""

from __future__ import annotations

from typing import ClassVar

from windtunnel.models.network import Attention, LatentAttention
from windtunnel.scenario.options import TrainOptions
from windtunnel.scenario.provenance import assumption
from windtunnel.scenario.technique import About, O, Technique, TrainSetting, parameter


class DeepSpeedUlysses(Technique):
    """Queries, keys and values of a part of the sequence become those of a part of the heads before attention, and its
    output goes back after it: messages of 4·N·h/P a layer, which stay as they are when N and P grow together (arXiv
    2309.14509, section 3.2). It composes with ZeRO over all ranks (``zero=3``, section 3.3)."""

    name: ClassVar[str] = "deepspeed-ulysses"
    about: ClassVar[About] = About(
        seed="P148",
        title="DeepSpeed Ulysses: System Optimizations for Enabling Training of Extreme Long Sequence Transformer "
        "Models",
        source="arXiv 2309.14509",
        summary="Each rank holds a part of every sequence; all-to-all exchanges before and after attention turn that "
        "into a part of the heads, so that messages stay constant when sequence and ranks grow together.",
        rewrites=("policy",),
        commands=("train",),
        decides=("how attention is spread over context-parallel ranks",),
        neutral={"degree": 1},
    )

    degree: int | None = parameter(
        assumption(None, "the plan's own cp: the paper uses as many ranks as a sequence needs"),
        "ranks that share a sequence; left out: the plan's cp",
        ge=1,
        le=1_000_000,
    )

    def request(self, options: O) -> O:
        if not isinstance(options, TrainOptions) or self.degree == 1:
            return options
        if self.degree is not None:
            options = self.ask(options, cp=self.degree)
        return self.ask(options, context_parallel="ulysses")

    def train(self, setting: TrainSetting) -> TrainSetting:
        layout = setting.plan.layout
        if self.degree == 1 or not isinstance(layout.cp, int) or layout.cp == 1:
            return setting
        for block in setting.network.encoder + setting.network.blocks:
            if isinstance(block.mixer, Attention | LatentAttention) and block.mixer.heads % (layout.tp * layout.cp):
                raise self.refuse(
                    f"{block.mixer.heads} attention heads of {setting.network.name} cannot be dealt to "
                    f"tp x cp = {layout.tp} x {layout.cp} ranks; accepted: a product that divides them"
                )
        return setting
