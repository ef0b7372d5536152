"""Published measurements of kernels and collectives beside the prices of the package."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from windtunnel.calibration.published import Measured, operators
from windtunnel.cost.calibration import load_calibration
from windtunnel.cost.collectives import load_collective_constants
from windtunnel.cost.pricing import make_pricer
from windtunnel.ops.build import COLLECTIVES
from windtunnel.ops.values import Array
from windtunnel.validation.intervals import cross_validated
from windtunnel.validation.residual import Answers, Residual


def price(measured: Measured) -> Array:
    """Seconds [rows] that the package gives these runs."""
    pricer = make_pricer(measured.cluster, measured.runtime)
    total: Array = np.zeros(len(measured))
    for op in operators(measured):
        total = total + pricer(op).seconds
    return total


def answer_measured(measured: Iterable[Measured]) -> Answers:
    """A residual for each row; its metric is the family, its interval that of the family's other groups."""
    families: dict[str, list[Measured]] = defaultdict(list)
    for m in measured:
        families[m.family].append(m)
    return Answers(tuple(r for same in families.values() for r in _family(same)))


def _family(same: Sequence[Measured]) -> Iterable[Residual]:
    predicted = np.concatenate([price(m) for m in same])
    seconds = np.concatenate([m.seconds for m in same])
    group = [g for m in same for g in m.group]
    band = cross_validated(np.log(seconds / predicted), group)
    interval = {g: None if b is None else (b[0], b[1]) for g, b in band.items()}
    rows = zip(group, seconds.tolist(), predicted.tolist(), strict=True)
    labels = (label for m in same for label in m.labels())
    kinds = (kind for m in same for kind in [_kind(m)] * len(m))
    for (g, was, is_), label, kind in zip(rows, labels, kinds, strict=True):
        ends = interval[g]
        yield Residual(
            label, g, same[0].family, was, is_, kind, None if ends is None else (is_ * ends[0], is_ * ends[1])
        )


def _kind(m: Measured) -> dict[str, object]:
    a = m.cluster.accelerator
    if m.kernel in COLLECTIVES:
        fitted = load_collective_constants(a.name, a.family).name != "generic"
    else:
        fitted = load_calibration(a).calibrated[m.family.partition(".")[0]]
    return {
        "command": "kernel", "engine": m.family, "device": a.name, "family": a.family, "calibrated": fitted,
        "precision": m.dtype, "mfu": None,
    }  # fmt: skip


FAMILY_ROWS = 300


def family_medians(measured: Iterable[Measured]) -> dict[str, float]:
    """Median |predicted/measured - 1| by family, over about ``FAMILY_ROWS`` rows spread evenly over each table."""
    errors: dict[str, list[Array]] = defaultdict(list)
    for m in measured:
        sample = m.take(np.unique(np.linspace(0, len(m) - 1, min(len(m), FAMILY_ROWS)).astype(int)))
        errors[m.family].append(np.abs(price(sample) / sample.seconds - 1.0))
    return {family: float(np.median(np.concatenate(found))) for family, found in errors.items()}
