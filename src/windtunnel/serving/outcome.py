"""What happened: the event loop's record of a simulation, before anybody has made a metric of it.

Times are whole picoseconds from the start (1 s = 10^12), so that sums are exact and two loops can be compared to the
last bit; -1 stands for "never".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PS = 10**12
"""Picoseconds of a second."""


class Status(IntEnum):
    """The one state that a request ends in."""

    UNFINISHED = 0
    COMPLETED = 1
    TOO_LONG = 2
    """Rejected: longer than the KV cache or the longest context holds."""
    QUEUE_FULL = 3
    """Rejected: the queue was full when it came."""
    TIMED_OUT = 4
    """Rejected: it waited longer than it may."""
    FAILED = 5
    """Its replica failed, and it had been tried as often as allowed."""


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Iterations of one kind of engine gathered into C like groups: how many, and the sums of their statistics.

    ``count`` [C] iterations; ``sums`` [C] each: ``seconds`` (of the device's issue interval), ``tokens``,
    ``sequences`` (rows sampled), ``prefill_tokens``, ``prefill_sequences``, ``decode_sequences``, and for each window
    ``pairs.w``, ``context.w``, ``decode_context.w`` (w = 0: the whole context).
    """

    count: Floats
    sums: Mapping[str, Floats]


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """One kind of engine in the service. ``name``: "engine", "prefill", "decode" or a number.

    ``accelerator_seconds``: what is paid for (replicas that are up or starting, times their accelerators);
    ``busy_s``: engine seconds with an iteration under way; ``up_s``: engine seconds that were up.
    ``blocked_s``: engine seconds in which the head of the queue waited, by reason (``kv_cache``, ``max_batch``,
    ``budget``, ``gate``). ``kv_peak``: largest used fraction of one replica's cache; ``kv_mean``: its time average.
    """

    name: str
    replicas: int
    accelerators: int
    cells: Cells
    kv_capacity_tokens: float
    kv_peak: float
    kv_mean: float
    busy_s: float
    up_s: float
    accelerator_seconds: float
    blocked_s: Mapping[str, float]
    iterations: int
    batch_sum: float
    batch_max: int


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Samples over time, T of them: ``t_s``, and sums over replicas of what holds at that time: ``waiting`` and
    ``running`` requests, ``kv_fraction`` (mean over replicas), ``output_tokens`` and ``completed`` so far."""

    t_s: Floats
    waiting: Floats
    running: Floats
    kv_fraction: Floats
    output_tokens: Floats
    completed: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Iterations:
    """The first R stretches of like iterations, for a timeline: on which replica (and lane of it) each ran, from when
    to when (ps), how many ``steps``, with how many prompt tokens, decodes and context tokens at its start."""

    replica: Ints
    lane: Ints
    start: Ints
    end: Ints
    steps: Ints
    prefill_tokens: Ints
    decodes: Ints
    context: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """A whole simulation of N requests.

    ``arrival``, ``start`` (first work on it), ``first`` (first token out), ``finish`` (last token out) [N] in
    picoseconds; ``status`` [N]; ``preempted`` [N] how often; ``cached_tokens`` [N] of its prompt found in a cache;
    ``replica`` [N] where it ended, -1 nowhere; ``retries`` [N]. ``itl``: counts of gaps between tokens by bin
    (:mod:`windtunnel.serving.histogram`). ``hits``: prompt tokens looked up in the prefix cache and those found.
    ``end``: when the clock stopped. ``partial``: it was interrupted. ``transfers_s``: seconds of KV transfers, by
    request mean. ``events``: decisions taken by the loop; ``wall_s``: seconds that it took, with ``compiled`` saying
    by which loop.
    """

    arrival: Ints
    start: Ints
    first: Ints
    finish: Ints
    status: NDArray[np.int8]
    preempted: NDArray[np.int32]
    cached_tokens: Ints
    replica: NDArray[np.int32]
    retries: NDArray[np.int32]
    itl: Ints
    pools: tuple[Pool, ...]
    series: Series
    end: int
    events: int
    wall_s: float
    compiled: bool
    partial: bool = False
    prompt_tokens_looked_up: int = 0
    prompt_tokens_found: int = 0
    transfer_mean_s: float = 0.0
    iterations: Iterations | None = None
    queue_integral_s: float = 0.0
    """Request seconds in the system (arrival to end), added up by the loop as time passed (Little's law)."""
    failures: int = 0
    cold_starts: int = 0
    notes: tuple[str, ...] = field(default=())
