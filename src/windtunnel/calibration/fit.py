"""Fits a device's kernel constants to measured kernels.

Each entry is fitted by robust least squares on the logarithm of predicted over measured, within physical bounds. A
parameter is fitted only where the rows can tell it: it must move the prices in a way of its own, and there must be a
few shapes for each. The others keep the constants that the device had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from windtunnel.calibration.forms import CHOICES, FREE, SHARE, Entry, Family, families, inherited, predict, rates_of
from windtunnel.calibration.layout import Sample, Table
from windtunnel.calibration.result import FamilyFit, Fitted
from windtunnel.cost.calibration import Calibration, load_calibration
from windtunnel.cost.kernels import Rates
from windtunnel.hardware.machine import Cluster
from windtunnel.ops.values import Array

Mask = NDArray[np.bool_]

SHAPES_A_PARAMETER = 2.5
"""Distinct shapes that each fitted parameter takes at least."""
EFFECT = 0.03
"""Least effect of a fitted parameter: over its range, by itself, on the prices (rms of the logarithm)."""
LOOSE = 0.15
"""A parameter whose standard error is more of its range is not fitted."""
SHAPES_FOR_CHOICES = 12
MOST_ROWS = 6000
"""Rows that an entry is fitted to at most; its errors are over all that were held out."""
HELD_OUT_FROM = 10
"""Shapes from which a fifth is held out; with fewer the error is that of the fitted shapes themselves."""


@dataclass(frozen=True, slots=True)
class _Problem:
    family: Family
    rates: Rates
    cluster: Cluster
    base: Entry
    bounds: Mapping[str, tuple[float, float]]
    train: Mask = field(repr=False)

    def entry(self, names: Sequence[str], x: Array) -> Entry:
        low, high = (np.array([self.bounds[n][i] for n in names]) for i in (0, 1))
        return self.base.model_copy(update=dict(zip(names, (low + x * (high - low)).tolist(), strict=True)))

    def start(self, names: Sequence[str]) -> Array:
        """Where the inherited constants are, a little inside the bounds; at the top for what is off."""
        x = []
        for name in names:
            (low, high), value = self.bounds[name], getattr(self.base, name)
            x.append((value - low) / (high - low) if value > 0 or low == 0 else 1.0)
        inside: Array = np.clip(np.array(x), 0.02, 0.98)
        return inside

    def log_price(self, names: Sequence[str], x: Array) -> Array:
        seconds: Array = predict(self.family, self.entry(names, x), self.rates, self.cluster)
        logs: Array = np.log(seconds[self.train])
        return logs


def fit_table(table: Table, cluster: Cluster, data: str) -> Fitted:
    """Fits every family that a table has rows of, for the accelerator of ``cluster`` (of one)."""
    accelerator = cluster.accelerator
    calibration = load_calibration(accelerator)
    found = families(table.samples, calibration, accelerator)
    fits = tuple(_fit(family, calibration, cluster) for family in found)
    return Fitted(accelerator.name, data, fits, tuple(_warnings(fits)), table.left_out)


def _warnings(fits: Sequence[FamilyFit]) -> list[str]:
    return [
        f"{f.name}: {', '.join(f.at_bound)} ended at the edge of what is physical; the device's figures or the "
        "measured times may be off"
        for f in fits
        if f.at_bound
    ]


def _fit(family: Family, calibration: Calibration, cluster: Cluster) -> FamilyFit:
    measured = np.log(family.seconds)
    groups = _shapes(family.samples)
    held = _held_out(groups, measured)
    shapes, held_shapes = len(set(groups.tolist())), len(set(groups[held].tolist()))
    base = inherited(calibration, family.section, family.key)
    rates = rates_of(cluster, calibration)
    bounds = FREE[family.section]
    train = _thinned(~held)
    problem = _Problem(family, rates, cluster, base, bounds, train)
    names, kept = _identified(problem, shapes - held_shapes)
    offered = {n: tuple(dict.fromkeys((getattr(base, n), *v))) for n, v in CHOICES[family.section].items()}
    choices = offered if shapes >= SHAPES_FOR_CHOICES else {}
    while True:
        problem, x = _best(problem, names, choices, measured[train])
        errors = _standard_errors(problem, names, x, measured[train])
        # The last in the table's order is the least important.
        loose = next((n for n in reversed(names) if errors[n] > LOOSE and len(names) > 1), None)
        if loose is None:
            break
        names.remove(loose)
        kept[loose] = "the rows do not tell its effect from the others'"
    raw = problem.entry(names, x)
    entry = raw.model_copy(update={n: float(f"{getattr(raw, n):.4g}") for n in names})
    logs = np.log(predict(family, entry, rates, cluster)) - measured
    before = np.log(predict(family, base, rates, cluster)) - measured
    judged = held if held.any() else ~held
    off = np.abs(np.expm1(logs[judged]))
    span = {n: bounds[n][1] - bounds[n][0] for n in names}
    kept |= {n: "one of few values; too few shapes to tell them apart" for n in offered if not choices}
    return FamilyFit(
        family.section,
        family.key,
        points=len(measured),
        shapes=shapes,
        held_out=held_shapes,
        values={n: getattr(entry, n) for n in (*names, *choices)},
        error={n: float(f"{errors[n] * span[n]:.2g}") for n in names if np.isfinite(errors[n])},
        kept={**kept, **dict.fromkeys(_others(entry, names, choices, kept), "not fitted")},
        at_bound=tuple(n for n, v in zip(names, x, strict=True) if bounds[n] == SHARE and not 0.001 < v < 0.999),
        median=float(np.median(off)),
        p90=float(np.quantile(off, 0.9)),
        bias=float(np.expm1(np.median(logs[judged]))),
        median_before=float(np.median(np.abs(np.expm1(before[judged])))),
        entry=entry,
    )


def _others(entry: Entry, *known: Any) -> list[str]:
    """Constants of an entry that are neither fitted nor spoken of."""
    said = {name for names in known for name in names}
    return [n for n in type(entry).model_fields if n not in said and n not in ("source", "fit")]


def _shapes(samples: Sequence[Sample]) -> NDArray[np.int64]:
    """A number from 0 on for each row, the same for rows of the same shape."""
    seen: dict[tuple[object, ...], int] = {}
    found = []
    for i, s in enumerate(samples):
        for row in zip(*s.columns.values(), strict=True):
            found.append(seen.setdefault((i, *map(float, row)), len(seen)))
    return np.array(found, np.int64)


def _held_out(groups: NDArray[np.int64], measured: Array) -> Mask:
    """Every fifth shape from the shortest to the longest; none where there are few."""
    numbers = np.unique(groups)
    if len(numbers) < HELD_OUT_FROM:
        return np.zeros(len(groups), bool)
    typical = np.bincount(groups, measured) / np.bincount(groups)
    held: Mask = np.isin(groups, numbers[np.argsort(typical, kind="stable")][2::5])
    return held


def _thinned(rows: Mask) -> Mask:
    """As many of the rows as a fit needs at most, drawn the same each time."""
    chosen = np.flatnonzero(rows)
    if len(chosen) <= MOST_ROWS:
        return rows
    thinned = np.zeros(len(rows), bool)
    thinned[np.random.default_rng(0).choice(chosen, MOST_ROWS, replace=False)] = True
    return thinned


def _identified(problem: _Problem, shapes: int) -> tuple[list[str], dict[str, str]]:
    """(parameters to fit, why the others are not): in the table's order, those that add an effect to those before."""
    names = list(problem.bounds)
    x = problem.start(names)
    middle = problem.log_price(names, x)
    effects = {}
    for i, name in enumerate(names):
        ends = []
        for end in (0.0, 1.0):
            moved = x.copy()
            moved[i] = end
            ends.append(problem.log_price(names, moved) - middle)
        # Both halves of the range: a share of a peak may matter only below where it is.
        effects[name] = np.concatenate(ends)
    most = max(int(shapes / SHAPES_A_PARAMETER), 1)
    chosen: list[str] = []
    kept: dict[str, str] = {}
    for name in names:
        column = effects[name]
        for other in chosen:
            column = column - effects[other] * (effects[other] @ column)
        size = float(np.sqrt(np.mean(column * column)))
        if chosen and size < EFFECT:
            kept[name] = "the rows do not depend on it, or not otherwise than on the others"
        elif len(chosen) == most:
            kept[name] = f"{shapes} shapes are too few for it"
        else:
            chosen.append(name)
            effects[name] = column / max(float(np.linalg.norm(column)), 1e-12)
    return chosen, kept


def _best(
    problem: _Problem, names: Sequence[str], choices: Mapping[str, Sequence[Any]], measured: Array
) -> tuple[_Problem, Array]:
    """The fit of ``names`` under the best of the ``choices``."""
    best: tuple[float, _Problem, Array] | None = None
    for picked in product(*choices.values()):
        base = problem.base.model_copy(update=dict(zip(choices, picked, strict=True)))
        trial = replace(problem, base=base)
        cost, x = _solve(trial, names, measured)
        if best is None or cost < best[0]:
            best = (cost, trial, x)
    assert best is not None
    return best[1], best[2]


def _solve(problem: _Problem, names: Sequence[str], measured: Array) -> tuple[float, Array]:
    from scipy.optimize import least_squares

    def residual(x: Array) -> Array:
        return problem.log_price(names, x) - measured

    best: Any = None
    # From the inherited constants and from the middle: with few rows there are false valleys.
    for x0 in (problem.start(names), np.full(len(names), 0.4)):
        found = least_squares(residual, x0, bounds=(0, 1), loss="soft_l1", f_scale=0.1, diff_step=1e-4, max_nfev=80)
        if best is None or found.cost < best.cost:
            best = found
    return float(best.cost), np.asarray(best.x)


def _standard_errors(problem: _Problem, names: Sequence[str], x: Array, measured: Array) -> dict[str, float]:
    """By parameter, as a part of its range: from the slope of the prices at the fit and the rows' scatter about it.
    Infinite where a parameter moves nothing; no number (NaN) where there are no rows to spare."""
    middle = problem.log_price(names, x)
    free = len(measured) - len(names)
    if free <= 0:
        return dict.fromkeys(names, float("nan"))
    columns = []
    for i in range(len(names)):
        moved = x.copy()
        moved[i] += 1e-3 if x[i] < 0.5 else -1e-3
        columns.append((problem.log_price(names, moved) - middle) / (moved[i] - x[i]))
    slope = np.stack(columns, axis=1)
    # At least a per cent: clocks and machines are not steadier.
    off = middle - measured
    scatter = max(1.4826 * float(np.median(np.abs(off - np.median(off)))), 0.01)
    curvature = slope.T @ slope
    size = np.sqrt(np.diag(curvature))
    still = size < 1e-9
    size[still] = 1.0
    # In units of each one's own slope, so that a weak parameter is not taken for none; a little more than singular.
    alike = curvature / np.outer(size, size) + 1e-9 * np.eye(len(names))
    alike[still, still] = 1.0
    spread = np.sqrt(np.diag(np.linalg.inv(alike)) * len(measured) / free) * scatter / size
    return {n: float("inf") if still[i] else float(spread[i]) for i, n in enumerate(names)}
