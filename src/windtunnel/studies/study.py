"""A study: a paper's claim, the setup in which it was measured, and what is predicted there.

Every figure of a setup has a provenance. The headline claim decides the verdict; further claims stand beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from windtunnel.scenario.provenance import Given, plain

Verdict = Literal["reproduced", "direction", "missed"]
Published = float | tuple[float, float] | None

NEAR = 0.25
"""How far a prediction may be off to count as reproduced: of ln(ratio), or of an absolute quantity."""
SOME = 0.1
"""Least share of ln(ratio) that a prediction must have to count as the right direction."""
HAIR = 1e-9
"""Of rounding, at these limits."""


class Setup:
    """The figures of a study by name: ``SETUP.batch`` is the plain value, ``SETUP.given["batch"]`` has its provenance.

    Raises:
        TypeError: a figure without provenance.
    """

    def __init__(self, **given: Given[Any]) -> None:
        for name, value in given.items():
            if not isinstance(value, Given):
                raise TypeError(f"{name}={value!r}: say where it comes from: paper, catalogue, calibration, assumption")
        self.given: Mapping[str, Given[Any]] = dict(given)

    def __getattr__(self, name: str) -> Any:
        try:
            return plain(self.__dict__["given"][name])
        except KeyError:
            raise AttributeError(name) from None


@dataclass(frozen=True, slots=True)
class Claim:
    """``metric``: what is compared, in words. ``published``: the figure, or its range, or None where the paper gives no
    number. ``kind``: a ratio of two runs, or an absolute quantity. ``predict`` gives ours; a claim "up to" is compared
    with the largest over the range that the paper swept. ``why``: the reason found where they differ."""

    metric: str
    published: Given[Published]
    kind: Literal["ratio", "absolute"]
    predict: Callable[[], float]
    why: str = ""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Where a technique helps and where it stops: ``gain(value)`` (1: none) over the variable that decides."""

    variable: str
    values: Given[tuple[float, ...]]
    gain: Callable[[float], float]
    metric: str
    logarithmic: bool = True


@dataclass(frozen=True, slots=True)
class Study:
    """One paper. ``technique``: its name in the registry, or None for an analysis that is a report of its own.
    ``setup_stated``: whether the abstract or the paper states the setup well enough to repeat it."""

    name: str
    seed: str
    title: str
    technique: str | None
    setup: Setup
    setup_stated: bool
    claim: Claim
    also: tuple[Claim, ...] = ()
    sweep: Sweep | None = None

    @property
    def assumptions(self) -> list[str]:
        """What was assumed, in words."""
        found = [(k, g) for k, g in self.setup.given.items() if g.provenance == "assumption"]
        return [f"{k} = {plain(g)}: {g.note}" for k, g in found]


def verdict(claim: Claim, predicted: float) -> Verdict | None:
    """How a prediction compares; None where nothing was published.

    A ratio r is reproduced if ln(predicted)/ln(r) is in [0.75, 1.25] or the prediction lies in the published range, and
    has the right direction from 0.1 on; an absolute quantity is reproduced within 25 %. Of a range, the nearer end
    counts.
    """
    published = plain(claim.published)
    if published is None:
        return None
    ends = published if isinstance(published, tuple) else (published, published)
    if ends[0] <= predicted <= ends[1]:
        return "reproduced"
    if claim.kind == "absolute":
        near = any(abs(predicted / end - 1) <= NEAR for end in ends)
        return "reproduced" if near else "missed"
    if predicted <= 0:
        return "missed"
    shares = [math.log(predicted) / math.log(end) for end in ends if end > 0 and end != 1]
    if any(1 - NEAR - HAIR <= s <= 1 + NEAR + HAIR for s in shares):
        return "reproduced"
    return "direction" if shares and max(shares) >= SOME - HAIR else "missed"


def outcome(study: Study) -> dict[str, Any]:
    """The study, run: the fields of ``windtunnel study run --json``."""
    headline, *others = (_row(claim) for claim in (study.claim, *study.also))
    return {
        "name": study.name,
        "seed": study.seed,
        "title": study.title,
        "technique": study.technique,
        **headline,
        "setup_stated": study.setup_stated,
        "assumptions": study.assumptions,
        "also": others,
    }


def _row(claim: Claim) -> dict[str, Any]:
    predicted = float(claim.predict())
    published = plain(claim.published)
    middle = published
    if isinstance(published, tuple):
        low, high = published
        middle = min(max(predicted, low), high)
    return {
        "metric": claim.metric,
        "kind": claim.kind,
        "published": list(published) if isinstance(published, tuple) else published,
        "published_in": claim.published.note,
        "predicted": predicted,
        "ratio": None if not middle else predicted / middle,
        "verdict": verdict(claim, predicted),
        "why": claim.why,
    }


def listed(study: Study) -> dict[str, Any]:
    """A study as a list names it: nothing is run."""
    published = plain(study.claim.published)
    return {
        "name": study.name,
        "seed": study.seed,
        "title": study.title,
        "technique": study.technique,
        "metric": study.claim.metric,
        "published": list(published) if isinstance(published, tuple) else published,
        "setup_stated": study.setup_stated,
        "setup": {
            name: {"value": plain(g), "provenance": g.provenance, "note": g.note}
            for name, g in study.setup.given.items()
        },
    }


def swept(study: Study) -> dict[str, Any]:
    """The study's sweep, run: ``gain`` at each ``value`` of ``variable``."""
    sweep = study.sweep
    assert sweep is not None
    values = plain(sweep.values)
    return {
        "name": study.name,
        "title": study.title,
        "variable": sweep.variable,
        "metric": sweep.metric,
        "logarithmic": sweep.logarithmic,
        "values": list(values),
        "gain": [float(sweep.gain(value)) for value in values],
    }
