"""How far a prediction may be off: 80 % intervals from the residuals of measured runs of its class.

``residuals.json`` holds, for each class of runs (command, metric, engine, device family, dense or with experts), the
factors of a prediction between which 80 % of measurements lay, as ``scripts/fit_intervals.py`` found them. A prediction
takes the closest class with enough runs; one for a device without kernel measurements is no surer than such devices
were in measured runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

FILE = Path(__file__).parent / "residuals.json"
ANY = "*"
"""Stands in a class for every command, engine or family."""


@dataclass(frozen=True, slots=True)
class Band:
    """Factors of a prediction; ``rows`` measured figures of ``groups`` models and sources are behind them, whose
    median |predicted/measured - 1| was ``median_ape``. ``about``: the class in words."""

    low: float
    high: float
    rows: int
    groups: int
    median_ape: float
    about: str


@dataclass(frozen=True, slots=True)
class Kind:
    """What decides how sure a prediction is. ``engine``: the profile's name; ``family``: of the device; ``experts``:
    the model has mixtures of experts; ``calibrated``: the device's kernels were measured."""

    command: str
    engine: str
    family: str
    experts: bool
    calibrated: bool


def keys(kind: Kind, metric: str) -> list[str]:
    """The classes that a prediction may belong to, the closest first: those of dense models or of mixtures of experts,
    of which it is known less well what routing costs, before those of both."""
    c, e, base, f = kind.command, kind.engine, kind.engine.partition("@")[0] + "@*", kind.family
    model = "experts" if kind.experts else "dense"
    ways = [
        (c, e, f), (c, e, ANY), (ANY, e, ANY), (c, base, ANY), (ANY, base, ANY), (c, ANY, f), (c, ANY, ANY),
        (ANY, ANY, ANY),
    ]  # fmt: skip
    return list(dict.fromkeys("|".join((metric, m, *way)) for m in (model, ANY) for way in ways))


def uncalibrated_key(kind: Kind, metric: str) -> str:
    """The class of devices without kernel measurements."""
    return f"{metric}|{'experts' if kind.experts else 'dense'}|{kind.command}|uncalibrated"


def choose(find: Callable[[str], Band | None], kind: Kind, metric: str) -> Band | None:
    """The band of the closest class that ``find`` knows."""
    band = next((b for k in keys(kind, metric) if (b := find(k)) is not None), None)
    if kind.calibrated or band is None:
        return band
    wider = find(uncalibrated_key(kind, metric))
    if wider is None:
        return band
    return Band(
        min(band.low, wider.low), max(band.high, wider.high), wider.rows, wider.groups, wider.median_ape, wider.about
    )


@cache
def known_classes() -> Mapping[str, Band]:
    """The shipped classes by key."""
    if not FILE.exists():
        return {}
    data: dict[str, dict[str, Any]] = json.loads(FILE.read_text())
    return {key: Band(**fields) for key, fields in data.items()}


def band(kind: Kind, metric: str) -> Band | None:
    """The factors for one metric of a prediction; None where nothing of the kind was ever measured."""
    return choose(known_classes().get, kind, metric)


@dataclass(frozen=True, slots=True)
class Sure:
    """``interval``: {metric: {low, high}} as every answer has it; ``confidence``: in words, how sure and why."""

    interval: dict[str, dict[str, float]] | None
    confidence: str | None

    @property
    def warnings(self) -> list[str]:
        return [] if self.interval else [NO_INTERVAL]


NO_INTERVAL = "no error interval: nothing of this kind has been measured yet"
NOTHING = Sure(None, None)


def sure(
    kind: Kind,
    values: Mapping[str, float | None],
    rates: Mapping[str, float | None] = MappingProxyType({}),
) -> Sure:
    """Intervals of ``values`` by metric, the main one first, and of ``rates``, which fall as it grows.

    The words are about the main metric; a metric of which nothing was measured has no interval.
    """
    found = {m: band(kind, m) for m in values}
    interval = {
        metric: {"low": value * b.low, "high": value * b.high}
        for metric, value in values.items()
        if value is not None and (b := found[metric]) is not None
    }
    main = found[next(iter(values))]
    if main is None or not interval:
        return NOTHING
    for metric, value in rates.items():
        if value is not None:
            interval[metric] = {"low": value / main.high, "high": value / main.low}
    return Sure(interval, words(main))


def words(found: Band) -> str:
    """How sure a prediction is and why."""
    spread = max(found.high, 1 / found.low) - 1
    how = "sure" if spread < SURE else "fairly sure" if spread < FAIRLY_SURE else "unsure"
    return (
        f"{how}: 80 % of {found.rows:,} measured figures of {found.about} ({found.groups} models and sources) lay "
        f"between {100 * (found.low - 1):+.0f} % and {100 * (found.high - 1):+.0f} % of the prediction, "
        f"which was off by {100 * found.median_ape:.0f} % in the median"
    )


SURE, FAIRLY_SURE = 0.15, 0.35
"""Relative distances of an interval's far end."""
