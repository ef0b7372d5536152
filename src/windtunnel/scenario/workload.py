"""What a serving system is asked: the options of a workload, and the small languages they are written in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from windtunnel.errors import ScenarioError, unknown
from windtunnel.scenario.text import named_parameters, shown

if TYPE_CHECKING:
    from windtunnel.scenario.simulate_options import SimulateOptions

MOST_TOKENS = 10**8
"""Longest prompt or answer that a workload may have."""


@dataclass(frozen=True, slots=True)
class WorkloadSpec:
    """The workload's part of :class:`SimulateOptions`, as the user wrote it."""

    trace: str | None = None
    arrivals: str | None = None
    rate: float | None = None
    requests: int | None = None
    input_length: str | None = None
    output_length: str | None = None
    trace_from: float | None = None
    trace_to: float | None = None
    strict: bool = False
    seed: int = 0


def workload_spec(options: SimulateOptions) -> WorkloadSpec:
    """The workload that ``options`` ask for."""
    return WorkloadSpec(
        options.trace,
        options.arrivals,
        options.rate,
        options.requests,
        options.input_length,
        options.output_length,
        options.trace_from,
        options.trace_to,
        options.strict,
        options.seed,
    )


@dataclass(frozen=True, slots=True)
class Renewal:
    """Independent gaps of one distribution: ``poisson``, ``gamma``, ``weibull`` or ``constant``.

    ``cv``: standard deviation of the gaps over their mean.
    """

    kind: str
    cv: float


@dataclass(frozen=True, slots=True)
class Bursty:
    """Poisson arrivals whose rate is high and low in turns (a Markov-modulated Poisson process of two states).

    ``on_s``, ``off_s``: mean seconds of either state (exponential); ``low``: rate while off over rate while on.
    """

    on_s: float
    off_s: float
    low: float


@dataclass(frozen=True, slots=True)
class Closed:
    """So many users, each asking again a mean of ``think_s`` (exponential) after an answer."""

    concurrency: int
    think_s: float


@dataclass(frozen=True, slots=True)
class Sessions:
    """Conversations that start at random: a geometric number of turns of that mean, the next a mean of ``think_s``
    (exponential) after the last answer."""

    turns: float
    think_s: float


Process = Renewal | Bursty | Closed | Sessions


@dataclass(frozen=True, slots=True)
class Arrivals:
    """How requests come. ``clients``, ``priorities``: how many of either are drawn at random (0: none are)."""

    process: Process
    clients: int = 0
    priorities: int = 0


@dataclass(frozen=True, slots=True)
class _Key:
    """What a parameter may be: a number in [``low``, ``high``]; needed where there is no ``default``."""

    low: float
    high: float
    default: float | None = None
    whole: bool = False


_COMMON = {"clients": _Key(1, 1e6, 0, whole=True), "priorities": _Key(1, 1e3, 0, whole=True)}
_CV = _Key(0.01, 100)
_SECONDS = _Key(1e-3, 1e6)
_THINK = _Key(0, 1e6, 0)
_ARRIVALS: dict[str, dict[str, _Key]] = {
    "poisson": {},
    "constant": {},
    "gamma": {"cv": _CV},
    "weibull": {"cv": _CV},
    "bursty": {"on": _SECONDS, "off": _SECONDS, "low": _Key(0, 1, 0)},
    "closed": {"concurrency": _Key(1, 1e8, whole=True), "think": _THINK},
    "sessions": {"turns": _Key(1, 1e4), "think": _THINK},
}


def arrivals(text: str) -> Arrivals:
    """``poisson``, ``gamma:cv=2``, ``weibull:cv=2``, ``constant``, ``bursty:on=10,off=20,low=0.1``,
    ``closed:concurrency=64,think=0``, ``sessions:turns=5,think=30``; with each of them ``clients=4`` and
    ``priorities=2``.

    Raises:
        ScenarioError: an unknown process or parameter, one that is missing, or a figure that is not accepted.
    """
    kind, given = named_parameters(text, "arrivals")
    if kind not in _ARRIVALS:
        raise unknown("arrivals", kind, _ARRIVALS)
    figures = _figures(given, _ARRIVALS[kind] | _COMMON, f"arrivals {kind}")
    process: Process
    match kind:
        case "bursty":
            process = Bursty(figures["on"], figures["off"], figures["low"])
        case "closed":
            process = Closed(int(figures["concurrency"]), figures["think"])
        case "sessions":
            process = Sessions(figures["turns"], figures["think"])
        case _:
            process = Renewal(kind, figures.get("cv", 0.0 if kind == "constant" else 1.0))
    return Arrivals(process, int(figures["clients"]), int(figures["priorities"]))


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always so many tokens."""

    tokens: int


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every whole number of tokens from ``low`` to ``high``, both included, is as likely."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Lognormal:
    """A lognormal distribution of that mean and coefficient of variation."""

    mean: float
    cv: float


@dataclass(frozen=True, slots=True)
class Exponential:
    """An exponential distribution of that mean."""

    mean: float


@dataclass(frozen=True, slots=True)
class FromTrace:
    """As long as the requests of a trace, drawn at random. ``name``: a named trace or a file."""

    name: str


TokenLengths = Fixed | Uniform | Lognormal | Exponential | FromTrace

_TOKENS = _Key(1, MOST_TOKENS)
_LENGTHS: dict[str, dict[str, _Key]] = {
    "lognormal": {"mean": _TOKENS, "cv": _Key(0.001, 1000, 1.0)},
    "exponential": {"mean": _TOKENS},
}
LENGTHS_ACCEPTED = "512, uniform:100,900, lognormal:mean=600,cv=1.2, exponential:mean=600, trace:NAME"


def token_lengths(text: str, what: str) -> TokenLengths:
    """``512``, ``uniform:100,900``, ``lognormal:mean=600,cv=1.2``, ``exponential:mean=600`` or ``trace:NAME``.

    ``what`` names the option in an error.

    Raises:
        ScenarioError: another form, an unknown distribution, or a figure that is not accepted.
    """
    name, colon, rest = (x.strip() for x in text.partition(":"))
    if not colon and (name[:1].isdigit() or name[:1] in ("-", "+", ".", "")):
        return Fixed(_tokens(name, what))
    if name == "trace":
        if not rest:
            raise ScenarioError(f"{what} {shown(text)} names no trace; accepted: {LENGTHS_ACCEPTED}")
        return FromTrace(rest)
    if name == "uniform":
        ends = rest.split(",")
        if len(ends) != 2:
            raise ScenarioError(f"{what} {shown(text)} is not two numbers; accepted: uniform:100,900")
        low, high = (_tokens(x, f"{what} {shown(text)}:") for x in ends)
        if low > high:
            raise ScenarioError(f"{what} {shown(text)}: the first number is the larger one; accepted: uniform:100,900")
        return Uniform(low, high)
    if name not in _LENGTHS:
        raise unknown(what, name, [*_LENGTHS, "uniform", "trace", "a number of tokens"])
    _, given = named_parameters(text, what)
    figures = _figures(given, _LENGTHS[name], f"{what} {name}")
    return Lognormal(figures["mean"], figures["cv"]) if name == "lognormal" else Exponential(figures["mean"])


@dataclass(frozen=True, slots=True)
class Slo:
    """What a good request meets, each in seconds; None where nothing is asked."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None


def slo(text: str) -> Slo:
    """``"ttft=1.0,tpot=0.05,e2e=30"``: any of the three, at least one.

    Raises:
        ScenarioError: another form or name, a name given twice, or a figure that is not positive.
    """
    given: dict[str, str] = {}
    for part in filter(None, (x.strip() for x in text.split(","))):
        key, equals, value = (x.strip() for x in part.partition("="))
        if not equals or not key or key in given:
            raise ScenarioError(
                f"slo {shown(text)}: {shown(part)} is not a new name=seconds; accepted: {_SLO_ACCEPTED}"
            )
        given[key] = value
    if not given:
        raise ScenarioError(f"slo {shown(text)} asks for nothing; accepted: {_SLO_ACCEPTED}")
    found = {f"{key}_s": value for key, value in _figures(given, _SLO, "slo").items() if key in given}
    return Slo(**found)


_SLO = {name: _Key(1e-9, 1e9, 0) for name in ("ttft", "tpot", "e2e")}
_SLO_ACCEPTED = "ttft=1.0,tpot=0.05,e2e=30"


def _figures(given: dict[str, str], keys: dict[str, _Key], what: str) -> dict[str, float]:
    """The value of every key, given or by default."""
    for name in given:
        if name not in keys:
            raise unknown(f"parameter of {what}", name, keys)
    found: dict[str, float] = {}
    for name, key in keys.items():
        if name in given:
            found[name] = _figure(given[name], f"{what}: {name}", key)
        elif key.default is None:
            raise ScenarioError(f"{what} needs {name}, as in {name}={_EXAMPLES[name]}")
        else:
            found[name] = key.default
    return found


_EXAMPLES = {"cv": "2", "on": "10", "off": "20", "concurrency": "64", "turns": "5", "mean": "600"}


def _figure(text: str, what: str, key: _Key) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not key.low <= value <= key.high or (key.whole and value != int(value)):
        kind = "whole number" if key.whole else "number"
        raise ScenarioError(f"{what} {shown(text)} is not a {kind} from {key.low:g} to {key.high:g}")
    return value


def _tokens(text: str, what: str) -> int:
    return int(_figure(text, what, _Key(1, MOST_TOKENS, whole=True)))
