"""What a fit found, and the file for ``--calibration`` that holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from windtunnel.calibration.forms import Entry
from windtunnel.scenario.files import write_file


@dataclass(frozen=True, slots=True)
class FamilyFit:
    """One fitted entry. ``values``: fitted constants and chosen ones; ``error``: their standard errors; ``kept``:
    what stayed as it was, by reason; ``at_bound``: fitted to the edge of what is physical.

    ``median``, ``p90``, ``bias`` (median of predicted over measured less 1) are over ``held_out`` shapes, or over the
    fitted ones where that is 0.
    """

    section: str
    key: str
    points: int
    shapes: int
    held_out: int
    values: Mapping[str, Any]
    error: Mapping[str, float]
    kept: Mapping[str, str]
    at_bound: tuple[str, ...]
    median: float
    p90: float
    bias: float
    median_before: float
    entry: Entry

    @property
    def name(self) -> str:
        return f"{self.section}.{self.key}" if self.key else self.section

    def to_dict(self) -> dict[str, Any]:
        return {
            "family": self.section,
            "key": self.key,
            "points": self.points,
            "shapes": self.shapes,
            "held_out_shapes": self.held_out,
            "parameters": dict(self.values),
            "standard_error": dict(self.error),
            "inherited": dict(self.kept),
            "at_bound": list(self.at_bound),
            "median_error": self.median,
            "p90_error": self.p90,
            "bias": self.bias,
            "median_error_before": self.median_before,
        }


@dataclass(frozen=True, slots=True)
class Fitted:
    """All that was fitted for ``device``; ``data`` names the measurements."""

    device: str
    data: str
    families: tuple[FamilyFit, ...]
    warnings: tuple[str, ...] = ()
    left_out: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {
            "device": self.device,
            "data": self.data,
            "families": [f.to_dict() for f in self.families],
            "rows_of_other_devices": self.left_out,
            "warnings": list(self.warnings),
        }


def calibration_data(fitted: Fitted) -> dict[str, Any]:
    """The contents of a calibration file: the fitted entries in full, for this device alone."""
    sections: dict[str, Any] = {}
    for f in fitted.families:
        constants = f.entry.model_dump(mode="json", exclude={"source", "fit"})
        record = {
            "device": fitted.device,
            "data": fitted.data,
            "points": f.points,
            "median": round(f.median, 4),
            "p90": round(f.p90, 4),
        }
        source = f"windtunnel calibrate on {fitted.data}; fitted: {', '.join(f.values) or 'nothing'}"
        entry = {**constants, "source": source, "fit": record}
        if f.key:
            sections.setdefault(f.section, {})[f.key] = entry
        else:
            sections[f.section] = entry
    return {"devices": {fitted.device: sections}}


def write_calibration(fitted: Fitted, path: str) -> None:
    """Write the file that ``--calibration`` takes; it appears as a whole.

    Raises:
        ScenarioError: the file cannot be written.
    """
    about = f"# Kernel constants of {fitted.device}, fitted by windtunnel calibrate. Use with --calibration.\n"
    write_file(path, about + yaml.safe_dump(calibration_data(fitted), sort_keys=False, width=120))
