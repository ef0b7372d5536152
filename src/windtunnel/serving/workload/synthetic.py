"""A published trace made after its statistics: lengths, arrival times and shared prefixes like those of the trace."""

from __future__ import annotations

import math

import numpy as np

from windtunnel.errors import ScenarioError
from windtunnel.serving.workload.blocks import like, normal_correlation
from windtunnel.serving.workload.draws import Stream, generator, whole
from windtunnel.serving.workload.processes import expected_between, rhythmic
from windtunnel.serving.workload.published import LENGTH_SCORES, Statistics
from windtunnel.serving.workload.requests import Floats, Ints
from windtunnel.serving.workload.traces import Trace

DEFAULT_REQUESTS = 1000
"""Requests of a workload where nothing says how many."""

MOST_REQUESTS = 10**8


def scores(n: int, correlation: float, seed: int) -> tuple[Floats, Floats]:
    """([n], [n]) normal scores of input and output lengths with that rank correlation (a Gaussian copula)."""
    r = normal_correlation(correlation)
    first = generator(seed, Stream.INPUT).standard_normal(n)
    second = generator(seed, Stream.OUTPUT).standard_normal(n)
    second *= math.sqrt(1 - r * r)
    second += r * first
    return first, second


def at_scores(quantiles: Floats, found: Floats) -> Ints:
    """[n] tokens: the quantiles at those normal scores."""
    return whole(np.interp(found, LENGTH_SCORES, quantiles))


def synthesised(
    known: Statistics, n: int | None, *, seed: int, start_s: float | None = None, end_s: float | None = None
) -> Trace:
    """``n`` requests after the statistics of a trace (None: as many as it had, or 1,000 where that is not published).

    From second ``start_s`` of it on, whose time is then 0, and up to ``end_s``; with neither, its course goes on from
    the start when it is over.

    Raises:
        ScenarioError: a window of a trace without times, or in which it has no request.
    """
    windowed = start_s is not None or end_s is not None
    start = start_s or 0.0
    if windowed and known.rhythm is None:
        raise ScenarioError(f"{known.name} has no arrival times: --trace-from and --trace-to cannot cut it")
    if end_s is not None and not start < end_s:
        raise ScenarioError(f"trace-from {start:g} is not before trace-to {end_s:g}")
    if known.rhythm is not None and known.requests is not None and windowed:
        lasts = known.rhythm.window_s * len(known.rhythm.profile)
        if start >= lasts:
            raise ScenarioError(f"{known.name} has no request after second {start:g}; it lasts {lasts:g} s")
        end_s = None if end_s is None else min(end_s, lasts)
    if n is None:
        n = _count(known, start, end_s) if windowed else known.requests or DEFAULT_REQUESTS
    z_in, z_out = scores(n, known.rank_correlation, seed)
    inputs, outputs = at_scores(known.input, z_in), at_scores(known.output, z_out)
    arrival = None if known.rhythm is None else rhythmic(known.rhythm, n, start, seed)
    if arrival is not None and end_s is not None:
        n = int(np.searchsorted(arrival, end_s))
        if not n:
            raise ScenarioError(f"{known.name} has no request from second {start:g} to {end_s:g}")
        arrival, inputs, outputs, z_in = arrival[:n], inputs[:n], outputs[:n], z_in[:n]
    blocks, offsets = (None, None) if known.prefixes is None else like(known.prefixes, inputs, z_in, seed)
    return Trace(
        name=known.name,
        arrival_s=None if arrival is None else arrival - start,
        input_tokens=inputs,
        output_tokens=outputs,
        blocks=blocks,
        block_offsets=offsets,
        block_tokens=0 if known.prefixes is None else known.prefixes.block_tokens,
        warnings=(f"trace {known.name} is synthesised after statistics that the package ships",),
    )


def _count(known: Statistics, start_s: float, end_s: float | None) -> int:
    """Requests of a window: to the end of the trace where none is given."""
    assert known.rhythm is not None
    end = end_s if end_s is not None else known.rhythm.window_s * len(known.rhythm.profile)
    if end_s is None and known.requests is None:
        return DEFAULT_REQUESTS
    count = round(expected_between(known.rhythm, start_s, end))
    if count > MOST_REQUESTS:
        raise ScenarioError(f"{known.name} has {count:,} requests in that window; give --requests")
    return max(count, 1)
