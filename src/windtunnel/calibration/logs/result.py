"""What was fitted to a log, how sure it is, and the calibration file that holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from windtunnel.scenario.files import write_file


@dataclass(frozen=True, slots=True)
class FittedConstant:
    """``value`` with its standard error; a constant that the log cannot identify is ``kept`` at its shipped value.

    ``prior``: the width around the shipped value within which it was taken to lie; ``uncertain``: its standard error
    over that, when it was last fitted (0: the log alone decides, 1: the log says nothing). ``at_bound``: it stopped at
    the end of what is physical.
    """

    name: str
    about: str
    shipped: float
    value: float
    standard_error: float | None
    prior: float
    uncertain: float
    kept: bool
    at_bound: bool


@dataclass(frozen=True, slots=True)
class LogError:
    """Median and 90th percentile of |predicted / measured - 1| of one metric's ``observations``, and the median of
    predicted / measured - 1 (``bias``): with the constants as they were, fitted on everything, and on parts of the log
    that were held out from the fit (None where there is nothing to hold out)."""

    metric: str
    observations: int
    before: Mapping[str, float]
    after: Mapping[str, float]
    held_out: Mapping[str, float] | None


def better(errors: Sequence[LogError]) -> bool | None:
    """Whether the parts held out are predicted better than before, by the mean of the metrics' medians; None where
    nothing was held out."""
    pairs = [(e.held_out["median"], e.before["median"]) for e in errors if e.held_out is not None]
    return sum(a for a, _ in pairs) < sum(b for _, b in pairs) if pairs else None


@dataclass(frozen=True, slots=True)
class LogCalibration:
    """The answer of ``calibrate --from`` for a log. ``content``: the calibration file, as data; ``runs``: of the log,
    and ``used`` of them."""

    log: str
    kind: str
    engine: str
    runs: int
    used: int
    folds: int
    constants: Sequence[FittedConstant]
    errors: Sequence[LogError]
    content: Mapping[str, Any]
    warnings: Sequence[str] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {**asdict(self), "better": better(self.errors)}

    def write(self, path: str | Path) -> None:
        """Write the file for ``--calibration``, with what is known of each constant as comments.

        Raises:
            ScenarioError: it cannot be written.
        """
        said = [f"# {self.engine}, fitted on {self.log!r} ({self.kind}, {self.used} of {self.runs} runs)"]
        for c in self.constants:
            if c.kept:
                said.append(f"# {c.name}: kept {c.value:.4g}, the log does not identify it")
            else:
                said.append(f"# {c.name}: {c.value:.4g} +- {c.standard_error:.2g} (before {c.shipped:.4g})")
        for e in self.errors:
            held = "nothing held out" if e.held_out is None else f"{e.held_out['median']:.1%} on held-out parts"
            said.append(f"# {e.metric}: median error {e.before['median']:.1%} before, {held}")
        text = "\n".join("".join(ch if ch.isprintable() else "?" for ch in line) for line in said)
        write_file(path, text + "\n" + yaml.safe_dump(dict(self.content), sort_keys=False, width=120))
