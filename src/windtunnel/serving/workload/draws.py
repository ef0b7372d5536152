"""Random draws: one stream for each purpose, so that a change in one leaves the others as they are."""

from __future__ import annotations

import math
from enum import IntEnum

import numpy as np

from windtunnel.scenario.workload import MOST_TOKENS, Exponential, Fixed, Lognormal, Uniform
from windtunnel.serving.workload.requests import Floats, Ints


class Stream(IntEnum):
    """What numbers are drawn for."""

    ARRIVALS = 0
    PERIODS = 1
    INPUT = 2
    OUTPUT = 3
    TURNS = 4
    THINK = 5
    CLIENTS = 6
    PRIORITIES = 7
    SHARED = 8
    PARENTS = 9


def generator(seed: int, stream: Stream) -> np.random.Generator:
    """The numbers of ``stream``: equal for equal seeds, and the first n of N draws are those of n draws."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, stream], dtype=np.uint64)))


def parametric(lengths: Fixed | Uniform | Lognormal | Exponential, n: int, rng: np.random.Generator) -> Ints:
    """[n] tokens, at least 1 each. Rounding to whole tokens keeps means but where they are near 1."""
    match lengths:
        case Fixed(tokens):
            return np.full(n, tokens, dtype=np.int64)
        case Uniform(low, high):
            return rng.integers(low, high, n, endpoint=True, dtype=np.int64)
        case Lognormal(mean, cv):
            # With s^2 = ln(1 + cv^2), exp(m + s z) has the mean exp(m + s^2 / 2).
            variance = math.log1p(cv * cv)
            logarithms = rng.standard_normal(n)
            logarithms *= math.sqrt(variance)
            logarithms += math.log(mean) - variance / 2
            return whole(np.exp(np.minimum(logarithms, 50.0, out=logarithms)))
        case Exponential(mean):
            return whole(mean * rng.standard_exponential(n))


def whole(tokens: Floats) -> Ints:
    """``tokens``, which are overwritten, to the nearest whole number that a request may have."""
    np.rint(tokens, out=tokens)
    np.clip(tokens, 1, MOST_TOKENS, out=tokens)
    return tokens.astype(np.int64)
