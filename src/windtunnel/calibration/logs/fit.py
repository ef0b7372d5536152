"""Fits few constants to a log, and tells which of them the log says anything about.

Bayesian least squares on the logarithm of predicted over measured: Huber's loss, and a normal prior of stated width
around each shipped value (ridge). A constant is identified where its standard error is at most half of its prior's; the
others keep their shipped values and the rest is fitted again without them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from windtunnel.calibration.logs.constants import Constant

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Predict = Callable[[Mapping[str, float]], Floats]

NARROWED = 0.5
"""Largest standard error of an identified constant over its prior's."""
FLOOR = 0.01
"""Least relative error of an observation: below that models and machines are not repeatable."""
FEW = 0.05
"""That of logs with hardly more observations than constants, whose residuals say nothing of their error."""
HUBER = 1.5
"""Residuals in standard deviations from which on they count linearly."""
STEP = 1.0
"""Of finite differences, in prior widths: at smaller ones, iterations that begin a little earlier or later move
latencies as much as the constants do, and every constant seems to be known."""
SMALL = 0.05
"""A step, in prior widths, that ends the descent."""
LOST = 3.0
"""Logarithmic error of what is measured and not predicted (a request that is never answered)."""
ITERATIONS = 20
REWEIGHTED = 10


@dataclass(frozen=True, slots=True, eq=False)
class Observations:
    """``measured`` [N] positive; ``noise`` [N] its own relative standard error; ``block`` [N]: observations that go
    together when parts of the log are held out; ``predict``: [N] from values of the constants, NaN where there is
    none."""

    metrics: Sequence[str]
    measured: Floats
    noise: Floats
    block: NDArray[np.int64]
    predict: Predict

    def errors(self, predicted: Floats) -> Floats:
        """[N] ln(predicted / measured)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.log(predicted / self.measured)
        return np.where(np.isfinite(found), found, LOST)


@dataclass(slots=True)
class _Model:
    """Predictions in units of prior widths, each asked for once."""

    log: Observations
    constants: Sequence[Constant]
    known: dict[tuple[float, ...], Floats] = field(default_factory=dict)

    def values(self, u: Floats) -> dict[str, float]:
        return {c.name: c.shipped + c.width * float(x) for c, x in zip(self.constants, u, strict=True)}

    def bounds(self) -> tuple[Floats, Floats]:
        low = np.array([(c.low - c.shipped) / c.width for c in self.constants])
        return low, np.array([(c.high - c.shipped) / c.width for c in self.constants])

    def errors(self, u: Floats) -> Floats:
        key = tuple(np.round(u, 9).tolist())
        if key not in self.known:
            moved = {k: v for (k, v), x in zip(self.values(u).items(), key, strict=True) if x}
            self.known[key] = self.log.errors(self.log.predict(moved))
        return self.known[key]

    def jacobian(self, u: Floats, free: Sequence[int]) -> Floats:
        columns = []
        for i in free:
            moved = u.copy()
            moved[i] += STEP if u[i] + STEP <= self.bounds()[1][i] else -STEP
            columns.append((self.errors(moved) - self.errors(u)) / (moved[i] - u[i]))
        return np.array(columns, dtype=np.float64).reshape(len(free), len(self.log.measured)).T


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """``values``: of the identified constants; ``parts``: their values with each block of the observations held out
    (empty for a log of one block); ``deviation`` [constants] in prior widths: of the log and the prior together, not
    below the spread of ``parts`` by the jackknife; that of the last fit in which the constant was free."""

    values: Mapping[str, float]
    parts: Mapping[int, Mapping[str, float]]
    deviation: Floats


def fit(log: Observations, constants: Sequence[Constant], use: Mask | None = None) -> Fitted:
    """The identified constants, fitted on the observations ``use`` [N] (all by default)."""
    model = _Model(log, constants)
    chosen = np.ones(len(log.measured), np.bool_) if use is None else use
    blocks = sorted(set(log.block[chosen].tolist()))
    free = tuple(range(len(constants)))
    u, deviation = np.zeros(len(constants)), np.ones(len(constants))
    jacobian = model.jacobian(u, free)
    while True:
        u, jacobian = _descended(model, u, free, jacobian, chosen)
        parts = {}
        if len(blocks) > 1:
            parts = {b: _straight(model, u, free, jacobian, chosen & (log.block != b)) for b in blocks}
        at = list(free)
        deviation[at] = _deviations(model, u, jacobian, chosen)
        if parts:
            # Delete-a-block jackknife: residuals of one block are alike, which the curvature alone does not see.
            moved = np.array(list(parts.values()))
            square = (len(moved) - 1) * ((moved - moved.mean(axis=0)) ** 2).mean(axis=0)
            deviation[at] = np.maximum(deviation, np.sqrt(square))[at]
        worst = max(free, key=lambda i: deviation[i], default=None)
        if worst is None or deviation[worst] <= NARROWED:
            names = [c.name for c in constants]
            named = {b: model.values(each) for b, each in parts.items()}
            return Fitted(
                {names[i]: model.values(u)[names[i]] for i in free},
                {b: {names[i]: each[names[i]] for i in free} for b, each in named.items()},
                deviation,
            )
        jacobian = np.delete(jacobian, free.index(worst), axis=1)
        free = tuple(i for i in free if i != worst)
        u = u.copy()
        u[worst] = 0.0


def _descended(model: _Model, u: Floats, free: Sequence[int], jacobian: Floats, use: Mask) -> tuple[Floats, Floats]:
    """(the maximum of the posterior, derivatives there or next to it). ``jacobian``: from near ``u``; it is made anew
    only where it leads nowhere or far, since each column is a prediction of the whole log."""
    fresh = False
    for _ in range(ITERATIONS if free else 0):
        step = _straight(model, u, free, jacobian, use) - u
        spread = _spread(model.log, model.errors(u), use, len(free))[use]
        before = _loss(model.errors(u)[use], spread, u)
        tried = (u + part * step for part in (1.0, 0.5, 0.25, 0.125, 0.0625))
        moved = next((t for t in tried if _loss(model.errors(t)[use], spread, t) < before), u)
        small = float(np.abs(moved - u).max()) < SMALL
        u = moved
        if small and fresh:
            break
        jacobian, fresh = model.jacobian(u, free), True
    return u, jacobian


def _straight(model: _Model, u: Floats, free: Sequence[int], jacobian: Floats, use: Mask) -> Floats:
    """The maximum of the posterior of the observations ``use`` were predictions straight lines from ``u``, by least
    squares with weights made anew; bounds hold."""
    low, high = model.bounds()
    at, j = list(free), jacobian[use]
    found = u.copy()
    for _ in range(REWEIGHTED if at else 0):
        errors = model.errors(u) + jacobian @ (found - u)[at]
        weights = _weights(errors, _spread(model.log, errors, use, len(at)))[use]
        curvature = j.T @ (weights[:, None] * j) + np.eye(len(at))
        gradient = j.T @ (weights * errors[use]) + found[at]
        found[at] += _bounded(curvature, gradient, low[at] - found[at], high[at] - found[at])
    return found


def _spread(log: Observations, errors: Floats, use: Mask, constants: int, *, fitted: bool = False) -> Floats:
    """[N] standard deviations: what residuals of each metric show, besides the measurement's own. While fitting, what
    all of a metric's have in common is not noise, but what there is to be fitted; once ``fitted``, it is."""
    common = np.empty(len(errors))
    metrics = np.array(log.metrics)
    for metric in set(log.metrics):
        rows = metrics == metric
        found = errors[use & rows]
        if not len(found):
            common[rows] = 1.0
            continue
        middle = 0.0 if fitted else float(np.median(found))
        common[rows] = max(1.4826 * float(np.median(np.abs(found - middle))), FLOOR)
        if len(found) < 2 * constants + 2:
            common[rows] = np.maximum(common[rows], FEW)
    spread: Floats = np.sqrt(common**2 + log.noise**2)
    return spread


def _weights(errors: Floats, spread: Floats) -> Floats:
    """[N] of least squares that make Huber's loss."""
    scaled = np.abs(errors) / spread
    weights: Floats = np.minimum(1.0, HUBER / np.maximum(scaled, 1e-12)) / spread**2
    return weights


def _loss(errors: Floats, spread: Floats, u: Floats) -> float:
    scaled = np.abs(errors) / spread
    each = np.where(scaled <= HUBER, scaled**2 / 2, HUBER * (scaled - HUBER / 2))
    return float(each.sum() + u @ u / 2)


def _deviations(model: _Model, u: Floats, jacobian: Floats, use: Mask) -> Floats:
    """[free] of the posterior at ``u``, in prior widths."""
    errors = model.errors(u)
    weights = _weights(errors, _spread(model.log, errors, use, jacobian.shape[1], fitted=True))[use, None]
    curvature = jacobian[use].T @ (weights * jacobian[use]) + np.eye(jacobian.shape[1])
    found: Floats = np.sqrt(np.diag(np.linalg.inv(curvature)))
    return found


def _bounded(curvature: Floats, gradient: Floats, low: Floats, high: Floats) -> Floats:
    """The step to the minimum of a quadratic; what would leave [low, high] stops there and the rest adapts."""
    step = np.zeros(len(gradient))
    held = np.zeros(len(gradient), np.bool_)
    while not held.all():
        rest = ~held
        pull = gradient[rest] + curvature[np.ix_(rest, held)] @ step[held]
        step[rest] = -np.linalg.solve(curvature[np.ix_(rest, rest)], pull)
        out = rest & ((step < low) | (step > high))
        step = np.clip(step, low, high)
        if not out.any():
            break
        held |= out
    return step
