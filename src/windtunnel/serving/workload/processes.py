"""Arrival times: processes by their formulas, and the course of a rate over time."""

from __future__ import annotations

import math

import numpy as np

from windtunnel.errors import ScenarioError
from windtunnel.scenario.workload import Bursty, Renewal
from windtunnel.serving.workload.draws import Stream, generator
from windtunnel.serving.workload.published import Rhythm
from windtunnel.serving.workload.requests import Floats

MOST_CYCLES = 2**24
"""Most busy periods of a workload, to bound memory."""


def unit_gaps(process: Renewal, n: int, rng: np.random.Generator) -> Floats:
    """[n] gaps of mean 1."""
    match process.kind:
        case "constant":
            return np.ones(n)
        case "gamma":
            shape = process.cv**-2
            return rng.standard_gamma(shape, n) / shape
        case "weibull":
            shape = weibull_shape(process.cv)
            return rng.weibull(shape, n) / math.exp(math.lgamma(1 + 1 / shape))
        case _:
            return rng.standard_exponential(n)


def weibull_shape(cv: float) -> float:
    """The shape k of a Weibull distribution with that coefficient of variation: cv^2 = G(1+2/k) / G(1+1/k)^2 - 1.

    By bisection: cv falls as k grows.
    """
    low, high = 1e-2, 1e4
    for _ in range(100):
        middle = math.sqrt(low * high)
        if math.lgamma(1 + 2 / middle) - 2 * math.lgamma(1 + 1 / middle) > math.log1p(cv * cv):
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)


def open_times(process: Renewal | Bursty, n: int, rate: float, seed: int) -> Floats:
    """[n] arrival times in seconds at a mean of ``rate`` a second (infinite: all at 0).

    A constant process begins at 0, the others with a random gap. A bursty one begins with a busy period.
    """
    if math.isinf(rate):
        return np.zeros(n)
    rng = generator(seed, Stream.ARRIVALS)
    if isinstance(process, Renewal):
        times = np.cumsum(unit_gaps(process, n, rng)) / rate
        return times - times[:1] if process.kind == "constant" else times
    return _bursty(process, np.cumsum(rng.standard_exponential(n)), rate, seed)


def _bursty(process: Bursty, counts: Floats, rate: float, seed: int) -> Floats:
    """When the expected number of arrivals reaches each of ``counts``.

    While on, the rate is rate · (on + off) / (on + low · off).
    """
    busy = rate * (process.on_s + process.off_s) / (process.on_s + process.low * process.off_s)
    if counts[-1] / rate > MOST_CYCLES * (process.on_s + process.off_s):
        raise ScenarioError(
            f"arrivals bursty: {len(counts):,} requests at {rate:g} a second take over {MOST_CYCLES:,} periods of "
            f"{process.on_s + process.off_s:g} s; accepted: longer periods, fewer requests or a higher rate"
        )
    cycles = 16
    while True:
        # Drawn anew from the start, so that more cycles begin with the same ones.
        lasting = generator(seed, Stream.PERIODS).standard_exponential((cycles, 2)) * (process.on_s, process.off_s)
        expected = np.concatenate([[0.0], np.cumsum(lasting * (busy, busy * process.low))])
        if expected[-1] > counts[-1]:
            break
        cycles *= 2
    edges = np.concatenate([[0.0], np.cumsum(lasting)])
    return inverted(counts, expected, edges)


def inverted(counts: Floats, expected: Floats, edges: Floats) -> Floats:
    """When the expected number of arrivals, ``expected`` at the times ``edges`` and linear between, is ``counts``.

    Turns a process of rate 1 into one whose rate follows any course (a change of time). Where nothing is expected for
    a while, the time after it counts.
    """
    # Of points with equal abscissas interp takes the last.
    return np.interp(counts, expected, edges)


def rhythmic(rhythm: Rhythm, n: int, start_s: float, seed: int) -> Floats:
    """[n] arrival times, from ``start_s`` of the profile on and as often over as it takes: gamma gaps of the trace's cv
    in the expected number of arrivals, which follows the profile."""
    counts = np.cumsum(unit_gaps(Renewal("gamma", rhythm.cv), n, generator(seed, Stream.ARRIVALS)))
    edges = np.arange(len(rhythm.profile) + 1, dtype=np.float64) * rhythm.window_s
    per_window = rhythm.profile * (rhythm.rate * rhythm.window_s / rhythm.profile.mean())
    expected: Floats = np.concatenate([[0.0], np.cumsum(per_window)])
    turns, begun = divmod(start_s, edges[-1])
    counts += turns * expected[-1] + np.interp(begun, edges, expected)
    rounds = np.floor(counts / expected[-1])
    times: Floats = rounds * edges[-1] + inverted(counts - rounds * expected[-1], expected, edges)
    if rhythm.tick_s:
        times = np.maximum(np.floor(times / rhythm.tick_s) * rhythm.tick_s, start_s)
    return times


def expected_between(rhythm: Rhythm, start_s: float, end_s: float) -> float:
    """Requests of the trace from one second of it to another, on average."""
    edges = np.arange(len(rhythm.profile) + 1) * rhythm.window_s
    share = np.concatenate([[0.0], np.cumsum(rhythm.profile)]) / rhythm.profile.sum()
    whole, rest = np.divmod([start_s, end_s], edges[-1])
    begun = whole + np.interp(rest, edges, share)
    return float((begun[1] - begun[0]) * rhythm.rate * edges[-1])
