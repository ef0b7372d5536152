"""One measured figure beside its prediction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Residual:
    """``metric`` in SI units. ``group``: source and model, the unit that cross-validation leaves out.

    ``kind``: what decides how sure a prediction is (command, engine, device and its family, experts or none, whether
    the device is calibrated), and what a simpler model would need (precision, the predicted mfu).
    ``interval``: the prediction's own (low, high), if it has one. ``ask``: the request as it can be pasted, for what a
    command answered.
    """

    label: str
    group: str
    metric: str
    measured: float
    predicted: float
    kind: Mapping[str, Any]
    interval: tuple[float, float] | None = None
    remark: str = ""
    ask: str = ""

    @property
    def error(self) -> float:
        """predicted / measured - 1."""
        return self.predicted / self.measured - 1.0

    @property
    def log_ratio(self) -> float:
        """ln(measured / predicted): what has to be added to the logarithm of a prediction."""
        return math.log(self.measured / self.predicted)

    @property
    def covered(self) -> bool | None:
        """Whether the measurement lies in the prediction's interval."""
        return None if self.interval is None else self.interval[0] <= self.measured <= self.interval[1]


@dataclass(frozen=True, slots=True)
class Refused:
    """A row without an answer, and why."""

    label: str
    why: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a row was said to fit in memory, and whether it did; ``over_bytes``: how much was said to be missing."""

    label: str
    group: str
    measured: bool
    predicted: bool
    over_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Answers:
    """All that a data set's rows gave."""

    residuals: tuple[Residual, ...]
    verdicts: tuple[Verdict, ...] = ()
    refused: tuple[Refused, ...] = ()
