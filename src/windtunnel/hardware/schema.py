"""The form of the catalogue's files and of a user's cluster file.

Keys name their unit; everything is per accelerator and direction unless a docstring says otherwise. In a catalogue
file each figure is ``{value: …, source: …}``, where the source is a sentence or a key of the file's ``sources``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from windtunnel.hardware.machine import Topology

Dtype = Literal["fp32", "tf32", "bf16", "fp16", "fp8", "fp4", "int8"]
DTYPES: tuple[Dtype, ...] = ("fp32", "tf32", "bf16", "fp16", "fp8", "fp4", "int8")
"""What a matrix unit may take. Rates are dense, with fp32 accumulation where the hardware has a choice."""

Family = Literal[
    "pascal", "volta", "turing", "ampere", "ada", "hopper", "blackwell", "cdna2", "cdna3",
    "tpu", "gaudi", "ascend", "apple", "tegra", "cpu",
]  # fmt: skip

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]


class Plain(BaseModel):
    """Frozen, and strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Figure(Plain):
    """A figure above zero and where it stands."""

    value: Positive
    source: Text


class FigureOrZero(Plain):
    """A figure that may be zero."""

    value: NonNegative
    source: Text


class Price(Plain):
    """USD an hour for one accelerator with its share of the node, on the ``date`` named."""

    value: Positive
    source: Text
    date: Text


class CatalogueFile(Plain):
    """What every catalogue file has. ``sources``: short names that the figures of the file refer to."""

    name: Text
    sources: dict[str, Text] = {}

    @model_validator(mode="before")
    @classmethod
    def _cite(cls, data: Any) -> Any:
        """Put the full citation in the place of each short name."""
        if not isinstance(data, dict):
            return data
        sources = data.get("sources") or {}
        return {key: value if key == "sources" else _cited(value, sources) for key, value in data.items()}


def _cited(value: Any, sources: dict[str, str]) -> Any:
    if isinstance(value, list):
        return [_cited(item, sources) for item in value]
    if not isinstance(value, dict):
        return value
    cited = {key: _cited(item, sources) for key, item in value.items() if key != "source"}
    if "source" in value:
        source = str(value["source"])
        if source not in sources and " " not in source:
            raise ValueError(f"source {source!r} is neither a sentence nor one of {sorted(sources)}")
        cited["source"] = sources.get(source, source)
    return cited


class AcceleratorFile(CatalogueFile):
    """``accelerators/NAME.yaml``. ``node``: the node it usually sits in. ``hbm_gibyte``: what a process can allocate.

    ``l2_*``: the last cache before memory (Infinity Cache on MI300X, VMEM on TPUs, SRAM on Gaudi, L3 on CPUs).
    ``price_usd_per_hour`` is null where no price is published.
    """

    vendor: Text
    family: Family
    node: Text
    note: str = ""
    peak_tflops: dict[Dtype, Figure]
    vector_tflops: Figure
    hbm_gibyte: Figure
    hbm_gbyte_per_s: Figure
    l2_mibyte: Figure
    l2_gbyte_per_s: Figure
    compute_units: Figure
    kernel_gap_us: FigureOrZero
    tdp_watt: Figure
    idle_watt: FigureOrZero
    price_usd_per_hour: Price | None

    @model_validator(mode="after")
    def _check(self) -> AcceleratorFile:
        if "fp32" not in self.peak_tflops:
            raise ValueError("peak_tflops has no fp32")
        if self.idle_watt.value > self.tdp_watt.value:
            raise ValueError("idle_watt is above tdp_watt")
        if self.compute_units.value != int(self.compute_units.value):
            raise ValueError("compute_units is not a whole number")
        return self


class NodeLevel(Plain):
    """A scale-up level. ``gbyte_per_s``: the sum over an accelerator's links at this level, one direction."""

    name: Text
    domain: Annotated[int, Field(ge=2)]
    topology: Topology
    in_network_reduction: bool
    gbyte_per_s: Figure
    latency_us: FigureOrZero


class NodeFile(CatalogueFile):
    """``nodes/NAME.yaml``. ``size``: accelerators a node. ``dram``, ``nvme``, ``nics`` and power: a whole node's.

    ``fabric``: the network that usually joins such nodes.
    """

    description: Text
    size: Annotated[int, Field(ge=1)]
    fabric: Text
    levels: list[NodeLevel]
    nics_per_node: Figure
    nic_gbit_per_s: Figure
    pcie_gbyte_per_s: Figure
    dram_gbyte: FigureOrZero
    dram_gbyte_per_s: Figure
    nvme_gbyte: FigureOrZero
    nvme_gbyte_per_s: Figure
    node_power_watt: FigureOrZero
    host_relative_speed: Figure

    @model_validator(mode="after")
    def _check(self) -> NodeFile:
        domains = [level.domain for level in self.levels]
        if domains != sorted(set(domains)):
            raise ValueError("levels go from the innermost outward, each with a larger domain")
        return self


class FabricLevel(Plain):
    """A scale-out level: ``nodes`` reach each other over it at the adapters' rate divided by ``oversubscription``."""

    name: Text
    nodes: Annotated[int, Field(ge=2)] | Literal["all"]
    topology: Topology
    in_network_reduction: bool
    oversubscription: Figure
    latency_us: FigureOrZero


class FabricFile(CatalogueFile):
    """``fabrics/NAME.yaml``. ``nics_per_node`` and ``nic_gbit_per_s`` replace the node's where a fabric fixes them."""

    description: Text
    nics_per_node: Figure | None = None
    nic_gbit_per_s: Figure | None = None
    levels: Annotated[list[FabricLevel], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> FabricFile:
        if [level.nodes == "all" for level in self.levels] != [False] * (len(self.levels) - 1) + [True]:
            raise ValueError("the last level, and no other, reaches all nodes")
        if any(level.oversubscription.value < 1 for level in self.levels):
            raise ValueError("oversubscription is at least 1")
        return self


class LevelSpec(Plain):
    """A level as a user writes it, as in :class:`windtunnel.hardware.machine.Level`."""

    name: Text
    resource: Literal["scale_up", "scale_out"]
    domain: Annotated[int, Field(ge=1, le=1_000_000_000)]
    gbyte_per_s: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
    latency_us: Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)]
    topology: Topology = "switch"
    in_network_reduction: bool = False


class ClusterFile(Plain):
    """A user's cluster file.

    ``accelerator``: a catalogue name or alias; ``count``: how many; ``node`` and ``fabric``: catalogue names, by
    default the accelerator's node and the node's fabric; ``set``: the keys of ``--set``; ``levels``: the whole
    interconnect from the innermost level outward, in the place of node and fabric's. For instance::

        accelerator: h100-sxm
        count: 64
        fabric: leaf-spine
        set:
          hbm_gbyte_per_s: 4800
          oversubscription: 2
    """

    accelerator: Text
    count: Annotated[int, Field(strict=True)]
    node: Text | None = None
    fabric: Text | None = None
    set: dict[str, bool | int | float | str] = {}
    levels: Annotated[list[LevelSpec], Field(max_length=16)] | None = None

    @model_validator(mode="after")
    def _check(self) -> ClusterFile:
        domains = [level.domain for level in self.levels or ()]
        if domains != sorted(domains):
            raise ValueError(
                "levels: they go from the innermost outward, none with a smaller domain than the one before"
            )
        if "node" in self.set or "fabric" in self.set:
            raise ValueError("set: node and fabric have keys of their own")
        return self
