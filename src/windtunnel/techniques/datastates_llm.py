"""DataStates-LLM: checkpoints that leave the devices while forward and backward passes do not change the state."""

from __future__ import annotations

from typing import ClassVar

from windtunnel.scenario.engines import TrainEngine
from windtunnel.scenario.options import TrainOptions
from windtunnel.scenario.provenance import assumption
from windtunnel.scenario.technique import About, E, O, Technique, TrainSetting, parameter


class DataStatesLLM(Technique):
    """Lazy asynchronous multi-level checkpoints: device to host memory behind the next passes, and from there to the
    store behind what follows, by writers in native code that fill it (arXiv 2406.10707, sections 4 and 5). Training
    stops for what of the copy does not fit before the next update; a new checkpoint waits for the last one's host
    memory. It changes runs (``tokens``), not steps."""

    name: ClassVar[str] = "datastates-llm"
    about: ClassVar[About] = About(
        seed="P031",
        title="DataStates-LLM: Lazy Asynchronous Checkpointing for Large Language Models",
        source="arXiv 2406.10707",
        summary="Checkpoints are copied to host memory while forward and backward passes leave the state as it is, "
        "and written to the store in the background.",
        rewrites=("policy",),
        commands=("train",),
        decides=("how checkpoints are written",),
        neutral={"host_cache_gbyte": 0},
    )

    host_cache_gbyte: float = parameter(
        assumption(16.0, "the host_cache_size that the DataStates engine's documentation sets for a rank"),
        "host memory of one accelerator's rank for copies, GB; 0: none, so nothing is written in the background",
        ge=0,
        le=1e6,
    )

    def request(self, options: O) -> O:
        if not isinstance(options, TrainOptions) or self.host_cache_gbyte == 0:
            return options
        return self.ask(options, checkpoint_async=True)

    def engine(self, engine: E) -> E:
        if not isinstance(engine, TrainEngine) or self.host_cache_gbyte == 0:
            return engine
        changes = {
            "lazy_checkpoints": True,
            "checkpoint_writer_bytes_per_s": None,
            "checkpoint_cache_bytes": 1e9 * self.host_cache_gbyte,
        }
        return engine.model_copy(update=changes)

    def train(self, setting: TrainSetting) -> TrainSetting:
        cluster = setting.cluster
        ranks = min(cluster.node_size, int(setting.plan.layout.world))
        if 1e9 * self.host_cache_gbyte * ranks > cluster.dram.capacity_bytes:
            raise self.refuse(
                f"host_cache_gbyte={self.host_cache_gbyte:g} on each of {ranks} ranks is more than the "
                f"{cluster.dram.capacity_bytes / 1e9:g} GB of host memory of a node"
            )
        return setting
