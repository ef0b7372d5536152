"""Processes on nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from windtunnel.hardware import parse_cluster

RANK = "NODE_RANK=${NODE_RANK:-${SLURM_NODEID:-0}}"
"""Which of the nodes this is: said by the user or by Slurm, else the only one."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """``count`` nodes with ``each`` processes, one for an accelerator."""

    count: int
    each: int


def node_size(asked: Mapping[str, Any]) -> int:
    """Accelerators of a node of the cluster.

    Raises:
        ScenarioError: the cluster cannot be read.
    """
    return int(parse_cluster(str(asked["on"]), dict(asked.get("set") or {})).node_size)


def spread(world: int, size: int) -> Nodes:
    """``world`` ranks on the fewest nodes of at most ``size`` that all have the same number."""
    each = next(n for n in range(min(size, world), 0, -1) if world % n == 0)
    return Nodes(world // each, each)
