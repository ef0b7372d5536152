"""Where checkpoints go, what writing and reading one takes, and how often to write one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from windtunnel.errors import ScenarioError, unknown
from windtunnel.training.failures import reliability

GB = 1e9


@dataclass(frozen=True, slots=True)
class StorageTier:
    """A place for checkpoints. Bandwidths in bytes/s: of one node, and of the whole store (``inf``: no limit)."""

    name: str
    read_bytes_per_s_per_node: float
    write_bytes_per_s_per_node: float
    aggregate_read_bytes_per_s: float = math.inf
    aggregate_write_bytes_per_s: float = math.inf
    source: str = ""

    def __post_init__(self) -> None:
        for field in self.__dataclass_fields__:
            if field not in ("name", "source") and not getattr(self, field) > 0:
                raise ScenarioError(f"storage tier {self.name}: {field} = {getattr(self, field)}; it must be above 0")

    def read_s(self, size: float, nodes: int) -> float:
        """Seconds in which ``nodes`` nodes together read ``size`` bytes."""
        return size / min(nodes * self.read_bytes_per_s_per_node, self.aggregate_read_bytes_per_s)

    def write_s(self, size: float, nodes: int) -> float:
        """Seconds in which ``nodes`` nodes together write ``size`` bytes."""
        return size / min(nodes * self.write_bytes_per_s_per_node, self.aggregate_write_bytes_per_s)


def get_tier(name: str) -> StorageTier:
    """A tier of ``reliability.yaml``: dram, nvme, parallel-fs or object-store.

    Raises:
        ScenarioError: unknown name.
    """
    tiers = reliability()["tiers"]
    if name not in tiers:
        raise unknown("checkpoint tier", name, tiers)
    entry = tiers[name]
    return StorageTier(
        name,
        GB * entry["read_gbyte_per_s_per_node"],
        GB * entry["write_gbyte_per_s_per_node"],
        GB * entry.get("aggregate_read_gbyte_per_s", math.inf),
        GB * entry.get("aggregate_write_gbyte_per_s", math.inf),
        entry["source"],
    )


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """How a run saves its state of ``size_bytes`` (all ranks together) to ``tier``.

    ``every_s``: seconds of work between checkpoints, or None for the interval of least total time.
    ``asynchronous``: training stops only for the copy to host memory (``copy_tier``) and goes on while the rest is
    written, ``slowdown`` times slower (0.05: 5 %). A checkpoint counts once it is written; a second is not begun
    before that.
    """

    size_bytes: float
    tier: StorageTier
    every_s: float | None = None
    asynchronous: bool = False
    copy_tier: StorageTier | None = None
    slowdown: float = 0.0

    def __post_init__(self) -> None:
        if not (self.size_bytes >= 0 and math.isfinite(self.size_bytes)):
            raise ScenarioError(f"checkpoint of {self.size_bytes} bytes; a finite number of at least 0 is accepted")
        if self.every_s is not None and not self.every_s > 0:
            raise ScenarioError(f"a checkpoint every {self.every_s} s; seconds above 0 or auto are accepted")
        if not (self.slowdown >= 0 and math.isfinite(self.slowdown)):
            raise ScenarioError(f"checkpoint slowdown {self.slowdown}; at least 0 is accepted")

    def blocked_s(self, nodes: int) -> float:
        """Seconds for which a checkpoint stops training."""
        tier = (self.copy_tier or get_tier("dram")) if self.asynchronous else self.tier
        return tier.write_s(self.size_bytes, nodes)

    def behind_s(self, nodes: int) -> float:
        """Seconds for which a checkpoint is written while training goes on."""
        return self.tier.write_s(self.size_bytes, nodes) if self.asynchronous else 0.0

    def load_s(self, nodes: int) -> float:
        """Seconds of reading a checkpoint back."""
        return self.tier.read_s(self.size_bytes, nodes)


def young_interval_s(checkpoint_s: float, mtbf_s: float) -> float:
    """Seconds of work between checkpoints, √(2δM) (Young, CACM 17(9), 1974)."""
    return math.sqrt(2 * checkpoint_s * mtbf_s)


def daly_interval_s(checkpoint_s: float, mtbf_s: float) -> float:
    """Seconds of work between checkpoints, higher order (Daly, FGCS 22(3), 2006).

    √(2δM)·(1 + √(δ/2M)/3 + (δ/2M)/9) − δ for δ < 2M, else M.
    """
    x = checkpoint_s / (2 * mtbf_s)
    if x >= 1:
        return mtbf_s
    return young_interval_s(checkpoint_s, mtbf_s) * (1 + math.sqrt(x) / 3 + x / 9) - checkpoint_s
