"""What a pipeline schedule is given and what it must answer. The schedules themselves live in ``training/``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from windtunnel.ops.values import Value


@dataclass(frozen=True, slots=True)
class StageTimes:
    """``count`` neighbouring pipeline stages with the same times, in seconds for one micro-batch on one stage.

    A stage's times cover all of its virtual chunks together. ``forward``; ``backward``: the input gradient;
    ``weight``: the weight gradient (schedules that do not split the backward pass run the two as one);
    ``send``: handing one micro-batch's activations (or their gradients) over one boundary;
    ``epilogue``: what the stage does once after its last micro-batch (gradient reduction, optimizer);
    ``overlapped``: one forward and one full backward pass run together, for schedules that overlap them (from the
    longer of the two to their sum; None: their sum).
    ``count`` may be zero, so that plans of different depth are priced as one array.
    """

    count: Value
    forward: Value
    backward: Value
    weight: Value
    send: Value = 0.0
    epilogue: Value = 0.0
    overlapped: Value | None = None


class Schedule(Protocol):
    """An order in which stages run the forward and backward passes of micro-batches."""

    @property
    def name(self) -> str:
        """What users call it."""
        ...

    @property
    def overlaps(self) -> bool:
        """Whether a rank holds two stages, one from each end, and runs a forward beside a backward pass (DualPipe)."""
        ...

    def length(self, stages: tuple[StageTimes, ...], micro_batches: Value, virtual_stages: Value) -> Value:
        """Seconds from the first forward pass to the end of the last epilogue. Homogeneous in the times."""
        ...

    def least(self, stages: tuple[StageTimes, ...], micro_batches: Value, virtual_stages: Value) -> Value:
        """Seconds that :meth:`length` is no less than, found in a few operations."""
        ...

    def in_flight(self, stage: Value, stages: Value, micro_batches: Value, virtual_stages: Value) -> Value:
        """Peak number of micro-batches whose whole-stage activations stage ``stage`` (from 0) holds at once."""
        ...
