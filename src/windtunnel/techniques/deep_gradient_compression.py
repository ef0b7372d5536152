"""Deep Gradient Compression: of the gradients only the largest are exchanged."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from windtunnel.scenario.plan import Compression
from windtunnel.scenario.provenance import assumption, paper
from windtunnel.scenario.technique import About, Technique, TrainSetting, parameter


class DeepGradientCompression(Technique):
    """Every rank sends its largest gradients with their places; what it does not send adds to its next ones."""

    name: ClassVar[str] = "deep-gradient-compression"
    about: ClassVar[About] = About(
        seed="P145",
        title="Deep Gradient Compression: Reducing the Communication Bandwidth for Distributed Training",
        source="arXiv 1712.01887",
        summary="A thousandth of the gradients, the largest, is exchanged with its places; the rest is kept and added "
        "to the next steps' gradients, momentum corrected. All ranks gather what all have chosen, so that the traffic "
        "grows with their number.",
        rewrites=("step",),
        commands=("train",),
        decides=("how gradients are exchanged",),
        neutral={"density": 1},
    )

    density: float = parameter(
        paper(0.001, "abstract: 99.9 % of the gradient exchange is redundant"),
        "share of the gradients that is exchanged (1: all, as without compression)",
        gt=0,
        le=1,
    )
    value_bits: float = parameter(
        paper(32.0, "the compression ratio counts 32-bit gradient values"), "bits of a value", gt=0
    )
    index_bits: float = parameter(
        paper(16.0, "the compression ratio counts 16-bit run lengths of zeros"),
        "bits that say where a value belongs",
        ge=0,
    )
    buffer_bytes: float = parameter(
        paper(8.0, "momentum correction: a velocity u and accumulated gradients v on every rank, in fp32"),
        "bytes kept for each parameter",
        ge=0,
    )
    select_bytes: float = parameter(
        assumption(32.0, "its steps: g, u, v read and u, v written, v compared again, u and v masked, 4 B each"),
        "bytes that choosing moves in device memory for each parameter",
        ge=0,
    )
    warmup: float = parameter(
        assumption(0.0, "a few first epochs become sparser step by step; a step after them is what is asked for"),
        "share of the steps that exchange whole gradients",
        ge=0,
        le=1,
    )
    nodes: bool = parameter(
        assumption(
            True, "accelerators of a node first add up over its own links, as the paper's training nodes of four"
        ),
        "only what leaves a node is compressed",
    )

    def train(self, setting: TrainSetting) -> TrainSetting:
        if self.density == 1:
            return setting
        how = Compression(
            value_bits=self.value_bits,
            index_bits=self.index_bits,
            density=self.density,
            exchange="gather",
            node=setting.cluster.node_size if self.nodes else 1,
            select_bytes=self.select_bytes,
            buffer_bytes=self.buffer_bytes,
            warmup=self.warmup,
        )
        return replace(setting, plan=replace(setting.plan, compression=how))
