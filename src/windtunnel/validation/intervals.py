"""Fits the 80 % intervals that every prediction carries, and their coverage on runs that were left out.

A class is a set of measured figures that are alike (``engine.intervals.keys``). Its interval is that of the logarithm
of measured over predicted: the 10 % and 90 % quantiles (a group's weight grows as the root of its rows, so that a
large sweep of one model does not speak for all), spread around the median by the factor that brings the coverage of
groups that were left out to 80 %. A group is the runs of one model in one source: a prediction is nearly always for
another.
"""

from __future__ import annotations

import json
import math
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.engine.intervals import ANY, FILE, Band, Kind, choose, keys, known_classes, uncalibrated_key
from windtunnel.ops.values import Array
from windtunnel.scenario.files import write_file
from windtunnel.validation.residual import Residual

HELD_OUT = Path(__file__).parent / "held_out.json"
COVERAGE = 0.8
FEWEST_ROWS, FEWEST_GROUPS = 8, 4
STRETCHES = (0.6, 4.0)
"""Smallest and largest factor."""

Classes = dict[str, Band]
HeldOut = dict[str, dict[str, tuple[float, float] | None]]
"""By class and group; None where too few runs are left for a class."""


def metric_key(metric: str) -> str:
    """A distribution's mean stands for it: ``ttft_s`` is the interval of ``ttft_s.mean``. A rate is one a GPU, too."""
    return metric.removesuffix(".mean").removesuffix("_per_gpu")


def kind_of(fields: Mapping[str, Any]) -> Kind:
    """What decides on the class, of all that is known of a row."""
    return Kind(*(fields[name] for name in ("command", "engine", "family", "experts", "calibrated")))


def class_keys(residual: Residual) -> list[str]:
    """Every class that a measured figure counts in."""
    kind, metric = kind_of(residual.kind), metric_key(residual.metric)
    found = keys(kind, metric)
    return found if kind.calibrated else [*found, uncalibrated_key(kind, metric)]


def quantiles(values: Array, weights: Array, at: Sequence[float]) -> list[float]:
    """Weighted quantiles, each value in the middle of its weight."""
    order = np.argsort(values)
    mass = np.cumsum(weights[order]) - 0.5 * weights[order]
    return [float(q) for q in np.interp(np.asarray(at) * weights.sum(), mass, values[order])]


def _tenths(groups: Mapping[str, Array]) -> tuple[float, float, float]:
    """The 10 %, 50 % and 90 % quantiles, a group's weight growing as the root of its rows."""
    values = np.concatenate(list(groups.values()))
    weights = np.concatenate([np.full(len(v), len(v) ** -0.5) for v in groups.values()])
    low, middle, high = quantiles(values, weights, (0.1, 0.5, 0.9))
    return low, middle, high


def _ends(groups: Mapping[str, Array], stretch: float) -> tuple[float, float]:
    low, middle, high = _tenths(groups)
    return middle + stretch * (low - middle), middle + stretch * (high - middle)


def _without(groups: Mapping[str, Array], left_out: str) -> dict[str, Array]:
    return {name: values for name, values in groups.items() if name != left_out}


def _stretch(groups: Mapping[str, Array]) -> float:
    """The least factor at which groups are covered by the others' interval in 80 % of their rows."""
    needed = []
    for name, values in groups.items():
        low, middle, high = _tenths(_without(groups, name))
        reach = np.where(values < middle, middle - low, high - middle)
        needed.append(np.abs(values - middle) / np.maximum(reach, 1e-9))
    return float(np.clip(np.quantile(np.concatenate(needed), COVERAGE, method="inverted_cdf"), *STRETCHES))


FOLDS = 10
"""Into which groups are put together where there are more."""


def cross_validated(values: Array, group: Sequence[str]) -> dict[str, tuple[float, float] | None]:
    """By group, the factors (low, high) that the other groups' ``values``, ln(measured/predicted), give it."""
    names = dict.fromkeys(group)
    many = len(names) > FOLDS
    fold = {name: str(zlib.crc32(name.encode()) % FOLDS) if many else name for name in names}
    of_row = np.array([fold[name] for name in group])
    parts = {name: values[of_row == name] for name in dict.fromkeys(fold.values())}
    found: dict[str, tuple[float, float] | None] = {}
    for name in parts:
        rest = _without(parts, name)
        found[name] = _rounded(_ends(rest, _stretch(rest))) if _big_enough(rest) else None
    return {name: found[fold[name]] for name in names}


def _big_enough(groups: Mapping[str, Array]) -> bool:
    return len(groups) >= FEWEST_GROUPS and sum(len(v) for v in groups.values()) >= FEWEST_ROWS


def _about(key: str) -> str:
    _, model, *parts = key.split("|")
    what = {"dense": "dense models", "experts": "models with experts", ANY: "all models"}[model]
    if parts[-1] == "uncalibrated":
        return f"{parts[0]}, {what} on devices without kernel measurements"
    command, engine, family = (p if p != ANY else "" for p in parts)
    where = f" on {family}" if family else ""
    who = f"every {engine[:-2]}" if engine.endswith("@*") else engine or "all engines"
    return f"{command or 'all commands'} with {who}, {what}{where}"


def fit_classes(residuals: Iterable[Residual]) -> tuple[Classes, HeldOut]:
    """(interval by class, by class and group the interval that the class has without that group)."""
    members: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for r in residuals:
        for key in class_keys(r):
            members[key][r.group].append(r.log_ratio)
    classes: Classes = {}
    held: HeldOut = {}
    for key, found in sorted(members.items()):
        groups = {name: np.array(values) for name, values in found.items()}
        if not _big_enough(groups):
            continue
        stretch = _stretch(groups)
        low, high = (math.exp(x) for x in _ends(groups, stretch))
        every = np.concatenate(list(groups.values()))
        ape = float(np.median(np.abs(np.exp(-every) - 1)))
        classes[key] = Band(round(low, 4), round(high, 4), len(every), len(groups), round(ape, 4), _about(key))
        held[key] = {
            name: _rounded(_ends(rest, stretch)) if _big_enough(rest := _without(groups, name)) else None
            for name in groups
        }
    return classes, held


def _rounded(ends: tuple[float, float]) -> tuple[float, float]:
    return round(math.exp(ends[0]), 4), round(math.exp(ends[1]), 4)


def write_classes(classes: Classes, held: HeldOut) -> None:
    """Write both files that the package ships."""
    write_file(FILE, _lines({key: asdict(band) for key, band in classes.items()}))
    write_file(HELD_OUT, _lines(held))


def _lines(data: Mapping[str, Any]) -> str:
    """JSON with a line for each entry, so that a change is readable."""
    return "{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in data.items()) + "\n}\n"


@cache
def _held_out() -> HeldOut:
    if not HELD_OUT.exists():
        return {}
    found: HeldOut = json.loads(HELD_OUT.read_text())
    return found


def held_out_band(kind: Mapping[str, Any], metric: str, group: str) -> Band | None:
    """The factors that a prediction would have had, had ``group`` not been measured."""

    def find(key: str) -> Band | None:
        found, without = known_classes().get(key), _held_out().get(key, {})
        if found is None or group not in without:
            return found
        ends = without[group]
        return None if ends is None else replace(found, low=ends[0], high=ends[1])

    return choose(find, kind_of(kind), metric_key(metric))
