"""Where checkpoints go, what writing and reading one takes, and how often to write one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from windtunnel.errors import ScenarioError, unknown
from windtunnel.scenario.text import named_parameters, number
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


BANDWIDTHS = {
    "read_gbyte_per_s_per_node": "read_bytes_per_s_per_node",
    "write_gbyte_per_s_per_node": "write_bytes_per_s_per_node",
    "aggregate_read_gbyte_per_s": "aggregate_read_bytes_per_s",
    "aggregate_write_gbyte_per_s": "aggregate_write_bytes_per_s",
}
"""What a tier states, and its field."""


def get_tier(text: str) -> StorageTier:
    """A tier of ``reliability.yaml``: dram, nvme, parallel-fs or object-store; with figures of one's own as
    ``parallel-fs:aggregate_write_gbyte_per_s=650,write_gbyte_per_s_per_node=25``.

    Raises:
        ScenarioError: unknown name or figure, or one that is not above 0.
    """
    name, given = named_parameters(text, "checkpoint tier")
    tiers = reliability()["tiers"]
    if name not in tiers:
        raise unknown("checkpoint tier", name, tiers)
    entry = dict(tiers[name])
    for key, value in given.items():
        if key not in BANDWIDTHS:
            raise unknown(f"figure of checkpoint tier {name}:", key, BANDWIDTHS)
        entry[key] = number(value, f"checkpoint tier {name}: {key}", at_most=1e9)
    rates = {field: GB * entry.get(key, math.inf) for key, field in BANDWIDTHS.items()}
    return StorageTier(name, **rates, source=entry["source"])


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """How a run saves its state of ``size_bytes`` (all ranks together) to ``tier``.

    ``every_s``: seconds of work between checkpoints, or ``every_steps`` optimizer steps; neither: the interval of least
    total time. ``writing_bytes_per_s``: what all processes that write reach together, however fast the tier is.
    ``asynchronous``: training stops only for the copy to host memory (``copy_tier``) and goes on while the rest is
    written, ``slowdown`` times slower (0.05: 5 %). A checkpoint counts once it is written; a second is not begun
    before that. ``unchanged_s``: seconds after a checkpoint is begun for which the state stays as it is (until the next
    update), so that the copy hides behind them (DataStates-LLM, arXiv 2406.10707, section 4). ``streamed``: pieces are
    written as soon as they are copied; then ``buffer_bytes`` is the host memory for copies, of all nodes together, and
    what goes beyond leaves the devices as fast as it is written.
    """

    size_bytes: float
    tier: StorageTier
    every_s: float | None = None
    asynchronous: bool = False
    copy_tier: StorageTier | None = None
    slowdown: float = 0.0
    every_steps: int | None = None
    writing_bytes_per_s: float = math.inf
    unchanged_s: float = 0.0
    streamed: bool = False
    buffer_bytes: float = math.inf

    def __post_init__(self) -> None:
        if not (self.size_bytes >= 0 and math.isfinite(self.size_bytes)):
            raise ScenarioError(f"checkpoint of {self.size_bytes} bytes; a finite number of at least 0 is accepted")
        if self.every_s is not None and not self.every_s > 0:
            raise ScenarioError(f"a checkpoint every {self.every_s} s; seconds above 0 or auto are accepted")
        if self.every_steps is not None and not self.every_steps >= 1:
            raise ScenarioError(f"a checkpoint every {self.every_steps} steps; at least 1 is accepted")
        if not (self.slowdown >= 0 and math.isfinite(self.slowdown)):
            raise ScenarioError(f"checkpoint slowdown {self.slowdown}; at least 0 is accepted")
        if not self.writing_bytes_per_s > 0:
            raise ScenarioError(f"checkpoints written at {self.writing_bytes_per_s} bytes/s; above 0 is accepted")
        for name in ("unchanged_s", "buffer_bytes"):
            if not getattr(self, name) >= 0:
                raise ScenarioError(f"checkpoint {name} = {getattr(self, name)}; at least 0 is accepted")

    def _write_s(self, size: float, nodes: int) -> float:
        return max(self.tier.write_s(size, nodes), size / self.writing_bytes_per_s)

    def _copy_s(self, nodes: int) -> float:
        """Seconds until the state has left the devices: a buffer of B that empties at w takes min(c·t, B + w·t)."""
        copied = (self.copy_tier or get_tier("dram")).write_s(self.size_bytes, nodes)
        if not self.streamed:
            return copied
        return max(copied, self._write_s(max(self.size_bytes - self.buffer_bytes, 0.0), nodes))

    def blocked_s(self, nodes: int) -> float:
        """Seconds for which a checkpoint stops training."""
        if not self.asynchronous:
            return self._write_s(self.size_bytes, nodes)
        return max(self._copy_s(nodes) - self.unchanged_s, 0.0)

    def behind_s(self, nodes: int) -> float:
        """Seconds for which a checkpoint is copied and written while training goes on."""
        if not self.asynchronous:
            return 0.0
        written, copied = self._write_s(self.size_bytes, nodes), self._copy_s(nodes)
        if self.streamed:
            return max(written, copied) - max(copied - self.unchanged_s, 0.0)
        return written + min(copied, self.unchanged_s)

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
