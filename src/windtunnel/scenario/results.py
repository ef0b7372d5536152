"""Answers as data: the fields of the JSON that every command prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """The resource that holds most of the critical path, and how much of it (0 to 1)."""

    resource: str
    share: float


class Answer:
    """What every result can do."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """The JSON object, plain types only; private fields are left out."""
        result: dict[str, Any] = _plain(self)
        return result


PRIVATE = {"json": False}
"""Marks a field that is not part of the JSON."""


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value) if f.metadata.get("json", True)}
    if hasattr(value, "item"):
        return value.item()
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult(Answer):
    """One training step, and the whole run if ``tokens`` were given. Fields as CONTRACT.md gives them."""

    model: str
    on: str
    plan: Mapping[str, Any]
    step_time_s: float
    tokens_per_second: float
    tokens_per_second_per_gpu: float
    samples_per_second: float
    model_tflops_per_gpu: float
    flops_convention: str
    mfu: float | None
    hfu: float | None
    fits: bool
    shortfall_bytes: float
    memory_bytes: Mapping[str, float]
    memory_by_stage: list[Mapping[str, float]]
    time_s: Mapping[str, float]
    bottleneck: Bottleneck
    critical_s: Mapping[str, float]
    elasticity: Mapping[str, float]
    energy_j: float
    cost_usd_per_step: float | None
    interval: Mapping[str, Any] | None
    confidence: str | None = None
    calibrated: bool
    warnings: list[str]
    run: Mapping[str, Any] | None = None

    @property
    def feasible(self) -> bool:
        """Whether it fits and, if a run was asked for, gets anywhere."""
        return self.fits and (self.run is None or bool(self.run["feasible"]))

    explain: Callable[[], str] = field(default=lambda: "", repr=False, compare=False, metadata=PRIVATE)
    timeline: Callable[[], dict[str, Any]] = field(default=dict, repr=False, compare=False, metadata=PRIVATE)
    tree: Any = field(default=None, repr=False, compare=False, metadata=PRIVATE)
    offloaded: Sequence[tuple[str, float, float]] = field(default=(), repr=False, compare=False, metadata=PRIVATE)
    """(what memory, bytes needed of a node's, bytes there) of what takes in state that is kept off the device."""

    @property
    def fits_nodes(self) -> bool:
        """Whether it fits on the devices, and what is kept elsewhere in the nodes."""
        return self.fits and all(needed <= there for _, needed, there in self.offloaded)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase(Answer):
    """Prefill or decode of one engine."""

    bottleneck: Bottleneck
    time_s: Mapping[str, float]
    elasticity: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class InferResult(Answer):
    """A batch that arrives at time 0 and runs to its end. Fields as CONTRACT.md gives them."""

    model: str
    on: str
    plan: Mapping[str, Any]
    ttft_s: float
    tpot_s: float
    e2e_s: float
    output_tokens_per_second: float
    total_tokens_per_second: float
    output_tokens_per_second_per_gpu: float
    fits: bool
    shortfall_bytes: float
    max_batch: int
    kv_capacity_tokens: float
    memory_bytes: Mapping[str, float]
    prefill: Phase
    decode: Phase
    energy_j_per_token: float
    cost_usd_per_million_tokens: float | None
    interval: Mapping[str, Any] | None
    confidence: str | None = None
    calibrated: bool
    warnings: list[str]
    long_context: Mapping[str, Any] | None = None

    @property
    def feasible(self) -> bool:
        """Whether it fits."""
        return self.fits

    explain: Callable[[], str] = field(default=lambda: "", repr=False, compare=False, metadata=PRIVATE)
    tree: Any = field(default=None, repr=False, compare=False, metadata=PRIVATE)
