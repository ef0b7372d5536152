"""What of an engine changes the price of a single operator."""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.scenario.engines import ServeEngine, TrainEngine


@dataclass(frozen=True, slots=True)
class Runtime:
    """How an engine runs kernels and collectives.

    ``attention``: the kernel generation, a key of the calibration's attention table ("flash1", "flash2", …);
    ``all_reduce``: "nccl", or "custom" for the one-shot and two-shot kernels of serving engines inside a node;
    ``graphs``: kernels are replayed from a captured graph, so gaps between them are the device's smallest;
    ``sustained``: the machine runs at full power for hours (training), where clocks settle lower than in a benchmark;
    ``hierarchical``: collectives over nodes may run level by level (Horovod's hierarchical all-reduce) besides in one
    ring or tree; ``in_network``: collectives may use the switches' own reduction (NVLS, SHARP) where the fabric has it.
    """

    attention: str = "flash2"
    all_reduce: str = "nccl"
    graphs: bool = False
    sustained: bool = False
    in_network: bool = True
    hierarchical: bool = False


def runtime_of(engine: TrainEngine | ServeEngine) -> Runtime:
    """How a training framework or a serving engine runs kernels. What unfused attention leaves of attention kernels is
    priced as the fused ones."""
    return Runtime(
        engine.attention if engine.attention != "eager" else "flash2",
        engine.all_reduce,
        engine.graphs,
        sustained=isinstance(engine, TrainEngine),
        in_network=engine.in_network,
        hierarchical=engine.hierarchical,
    )
