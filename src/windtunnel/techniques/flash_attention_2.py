"""FlashAttention-2: the second generation of fused attention kernels, in training and serving."""

from __future__ import annotations

from typing import ClassVar, Literal

from windtunnel.scenario.options import TrainOptions
from windtunnel.scenario.provenance import paper
from windtunnel.scenario.technique import About, E, O, Technique, parameter

GENERATIONS = ("eager", "flash1", "flash2", "flash3")


class FlashAttention2(Technique):
    """Fewer operations outside the matrix unit, work shared over sequence blocks and warps (arXiv 2307.08691, section
    3): what it reaches is the calibration of ``flash2`` kernels. An engine that has a later generation keeps it."""

    name: ClassVar[str] = "flash-attention-2"
    about: ClassVar[About] = About(
        seed="P013",
        title="FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning",
        source="arXiv 2307.08691",
        summary="Exact attention that never writes its scores to memory, with work divided over thread blocks and "
        "warps so that the matrix units are busy 50 to 73 % of the time.",
        rewrites=("step",),
        commands=("train", "infer", "simulate"),
        decides=("the attention kernel",),
        neutral={"kernel": "eager"},
    )

    kernel: Literal["eager", "flash1", "flash2"] = parameter(
        paper("flash2", "title"), "generation of the kernel; engines that have it, or a later one, stay as they are"
    )

    def request(self, options: O) -> O:
        if not isinstance(options, TrainOptions) or self.kernel == "eager" or options.flash_attention is None:
            return options
        return self.ask(options, flash_attention=True)

    def engine(self, engine: E) -> E:
        if GENERATIONS.index(engine.attention) >= GENERATIONS.index(self.kernel):
            return engine
        return engine.model_copy(update={"attention": self.kernel})
