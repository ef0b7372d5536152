"""What machines are: accelerators, memories, links, nodes and clusters, as plain data in SI units.

Figures are per accelerator and one direction unless a name says otherwise. Any rate may be a NumPy array, so that
one evaluation prices many machines (all elasticities come from one such call). Figures are peaks: what a calibrated
kernel or collective reaches of them is the business of ``cost/``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Literal

from windtunnel.ops.values import Value

Resource = Literal["tensor", "vector", "hbm", "l2", "scale_up", "scale_out", "pcie", "nvme", "host"]
RESOURCES: tuple[Resource, ...] = ("tensor", "vector", "hbm", "l2", "scale_up", "scale_out", "pcie", "nvme", "host")

Topology = Literal["switch", "mesh", "ring", "torus", "pcie", "fat-tree", "none"]


@dataclass(frozen=True, slots=True)
class Memory:
    """A memory tier: ``capacity_bytes`` and ``bandwidth_bytes_per_s`` (reads and writes together)."""

    capacity_bytes: float
    bandwidth_bytes_per_s: Value


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One device. ``peak_flops``: dense matrix-unit FLOP/s by dtype; ``vector_flops``: fp32 FLOP/s of the rest.

    ``peak_flops`` has a key for each dtype that the hardware computes in, "fp32" always (the vector rate where no
    matrix unit takes it). ``hbm.capacity_bytes`` is what a process can allocate, a little less than on the label.
    ``l2`` is the last cache before memory. ``sources``: figure (as in the catalogue's files) to where it stands.

    ``family`` names the architecture ("hopper", "cdna3", …), whose calibration is used where the device has none.
    ``compute_units``: SMs, CUs, cores. ``kernel_gap_s``: idle time between two dependent kernels in one stream.
    ``power_cap_w``: a limit that an operator has set below ``tdp_w``.
    """

    name: str
    vendor: str
    family: str
    peak_flops: Mapping[str, Value]
    vector_flops: Value
    hbm: Memory
    l2: Memory
    compute_units: int
    kernel_gap_s: float
    tdp_w: float
    idle_w: float
    power_cap_w: float = inf
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def power_w(self) -> float:
        """The most that it may draw."""
        return min(self.tdp_w, self.power_cap_w)


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the interconnect: any ``domain`` accelerators reach each other over it.

    ``resource``: "scale_up" (NVLink, Infinity Fabric, ICI, PCIe peer to peer) or "scale_out" (InfiniBand, Ethernet …).
    ``bandwidth_bytes_per_s``: per accelerator and direction, the sum over its links ("mesh": ``domain`` - 1 peers
    share it, one link each; "torus": its two to six neighbours). ``latency_s``: one message between two neighbours.
    ``in_network_reduction``: the switch can reduce (NVLS, SHARP).
    """

    name: str
    resource: Literal["scale_up", "scale_out"]
    domain: int
    bandwidth_bytes_per_s: Value
    latency_s: float
    topology: Topology = "switch"
    in_network_reduction: bool = False


@dataclass(frozen=True, slots=True)
class Cluster:
    """``count`` accelerators in nodes of ``node_size``, with interconnect ``levels`` from the innermost outward.

    The last level's domain is at least ``count``; a cluster within one node or rack still lists its way out.
    ``count`` need not be a multiple of ``node_size``: the last node is then partly filled and is charged for power
    in proportion. A scale-up ``domain`` may be larger than a node (a rack of trays, a pod of hosts).
    ``pcie_bytes_per_s``: accelerator to host, per accelerator and direction. ``dram``/``nvme``: per whole node, with
    a capacity of 0 where there is none of its own (unified memory, no drive). ``price_usd_per_hour``: for one
    accelerator with its share of the node, NaN if unknown (a cost made from it is NaN, reported as null).
    ``host_relative_speed``: single-thread speed of the host against the machines on which host constants were
    fitted. ``node_power_w``: what a whole node draws beside its accelerators, at load.
    """

    accelerator: Accelerator
    count: int
    node_size: int
    levels: tuple[Level, ...]
    pcie_bytes_per_s: Value
    dram: Memory
    nvme: Memory
    price_usd_per_hour: float
    node: str
    host_relative_speed: Value = 1.0
    node_power_w: float = 0.0
    price_source: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)
    fabric: str = ""

    @property
    def nodes(self) -> int:
        """Nodes in use, the last one perhaps in part."""
        return -(-self.count // self.node_size)
