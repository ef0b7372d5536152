"""Small languages of the options: ``name:key=value,…`` and length distributions."""

from __future__ import annotations

import math
from dataclasses import dataclass

from windtunnel.errors import ScenarioError


def named_parameters(text: str, what: str) -> tuple[str, dict[str, str]]:
    """``"lora:r=16,targets=all"`` → ("lora", {"r": "16", "targets": "all"}).

    Raises:
        ScenarioError: a part without ``=``, or a key given twice.
    """
    name, _, rest = text.partition(":")
    parameters: dict[str, str] = {}
    for part in filter(None, rest.split(",")):
        key, _, value = (x.strip() for x in part.partition("="))
        if not key or not value or key in parameters:
            raise ScenarioError(
                f"{what} {shown(text)}: {shown(part)} is not a new key=value; accepted: name:key=value,key=value"
            )
        parameters[key] = value
    return name.strip(), parameters


def shown(value: object) -> str:
    """A value as an error quotes it: on one line, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # whole numbers beyond Python's limit of digits
        text = "a number of thousands of digits"
    return text if len(text) <= 80 else text[:77] + "..."


def number(text: str, what: str, *, above: float = 0.0, at_most: float = 1e18) -> float:
    """A finite number in (above, at_most].

    Raises:
        ScenarioError: anything else.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and above < value <= at_most):
        raise ScenarioError(f"{what} {shown(text)} is not a number above {above:g} and at most {at_most:g}")
    return value


@dataclass(frozen=True, slots=True)
class Lengths:
    """A distribution of lengths in tokens by its first two moments."""

    mean: float
    cv: float
    text: str

    @property
    def mean_square_over_mean(self) -> float:
        """E[l^2] / E[l]: the length of the document that a random token is in."""
        return self.mean * (1 + self.cv**2)


def lengths(text: str) -> Lengths:
    """``"512"``, ``"uniform:100,900"`` or ``"lognormal:mean=600,cv=1.2"``.

    Raises:
        ScenarioError: another form, or a figure that is not positive.
    """
    name, _, rest = str(text).partition(":")
    if not rest:
        return Lengths(number(name, "length", at_most=1e9), 0.0, str(text))
    if name == "uniform":
        ends = [number(x, f"length {shown(text)}: bound", at_most=1e9) for x in rest.split(",")]
        if len(ends) == 2 and ends[0] <= ends[1]:
            a, b = ends
            mean = (a + b) / 2
            return Lengths(mean, (b - a) / math.sqrt(12) / mean, text)
    if name == "lognormal":
        _, given = named_parameters(text, "length")
        if set(given) <= {"mean", "cv"} and "mean" in given:
            mean = number(given["mean"], f"length {shown(text)}: mean", at_most=1e9)
            return Lengths(mean, number(given.get("cv", "1"), f"length {shown(text)}: cv", at_most=1e3), text)
    raise ScenarioError(
        f"length {shown(text)} is not understood; accepted: 512, uniform:100,900, lognormal:mean=600,cv=1.2"
    )
