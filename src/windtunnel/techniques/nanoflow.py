"""NanoFlow: nano-batches whose attention, messages and products run beside each other on one device."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from windtunnel.parallel.overlap import Pieces
from windtunnel.scenario.engines import ServeEngine
from windtunnel.scenario.provenance import assumption, paper
from windtunnel.scenario.technique import About, E, ServeSetting, Technique, parameter


class NanoFlow(Technique):
    """Operators of a layer in streams by the resource that bounds them; batches in pieces that take turns there."""

    name: ClassVar[str] = "nanoflow"
    about: ClassVar[About] = About(
        seed="P001",
        title="NanoFlow: Towards Optimal Large Language Model Serving Throughput",
        source="Zhu et al., OSDI 2025, arXiv 2408.12757",
        summary="Cuts each batch into nano-batches, so that products, attention to the cache and messages of different "
        "nano-batches run side by side on shares of one device; the next batch is made up while one runs.",
        rewrites=("step", "policy"),
        commands=("infer", "simulate"),
        decides=("overlap in the step", "the scheduler"),
        neutral={"nano_batches": 1},
    )

    nano_batches: int = parameter(
        paper(2, "section 4.1.1, the pipelines found begin from two"), "pieces of a batch", ge=1
    )
    dense_batch: int = parameter(
        paper(2048, "section 6: tokens of an iteration, prompts' pieces and decodes"),
        "tokens of an iteration, where the request does not say", ge=1,
    )  # fmt: skip
    memory_share: float = parameter(
        assumption(0.4, "compute units that must load from memory to fill its bandwidth, about two fifths on an A100"),
        "of the compute units, while attention to the cache runs", ge=0, le=1,
    )  # fmt: skip
    network_share: float = parameter(
        assumption(0.2, "channels of a collective library hold 16 to 32 of 108 to 132 units"),
        "of the compute units, while a message is under way", ge=0, le=1,
    )  # fmt: skip
    interference: float = parameter(
        assumption(0.1, "contention in caches and memory, as engine profiles have it for messages behind computing"),
        "0: streams do not disturb each other; 1: as if one after the other", ge=0, le=1,
    )  # fmt: skip

    def engine(self, engine: E) -> E:
        """Decodes and pieces of prompts in batches of one size, made up while the last one runs; attention to prompts
        and to the cache are kernels of their own."""
        if self.nano_batches <= 1 or not isinstance(engine, ServeEngine):
            return engine
        own = {"scheduler": "chunked", "max_batched_tokens": self.dense_batch, "asynchronous": True}
        return engine.model_copy(update={**own, "mixed_attention": 1.0})

    def serve(self, setting: ServeSetting) -> ServeSetting:
        """Every layer in pieces."""
        if self.nano_batches <= 1:
            return setting
        shares = {"compute": 1.0, "memory": self.memory_share, "network": self.network_share}
        pieces = Pieces(self.nano_batches, ("memory", "network"), shares, self.interference)
        return replace(setting, plan=replace(setting.plan, rewrites=(*setting.plan.rewrites, pieces)))
