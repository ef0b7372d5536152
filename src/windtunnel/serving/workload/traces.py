"""A trace as plain arrays, and what is done to a whole one: a window cut out, repeated, scaled in time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from windtunnel.errors import ScenarioError
from windtunnel.serving.workload.requests import Floats, Ints

MOST_BLOCKS = 2 * 10**8
"""Most hashed blocks that a workload may have: 1.6 GB of them."""


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """``N`` requests of a file, or made after its statistics; fields as in ``Workload``, times from the first one.

    ``arrival_s``: None where only lengths are known. ``rows``: data rows of the file, of which ``left_out`` were not
    usable.
    """

    name: str
    arrival_s: Floats | None
    input_tokens: Ints
    output_tokens: Ints
    blocks: Ints | None = None
    block_offsets: Ints | None = None
    block_tokens: int = 0
    client: Ints | None = None
    priority: Ints | None = None
    session: Ints | None = None
    rows: int = 0
    left_out: int = 0
    warnings: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.input_tokens)

    @property
    def rate(self) -> float | None:
        """Mean requests per second: gaps over the time from the first to the last; None where that is no time."""
        if self.arrival_s is None or len(self) < 2 or not self.arrival_s[-1] > self.arrival_s[0]:
            return None
        return float((len(self) - 1) / (self.arrival_s[-1] - self.arrival_s[0]))


def select(trace: Trace, rows: NDArray[np.int64]) -> Trace:
    """The requests of those numbers."""
    blocks, offsets = trace.blocks, trace.block_offsets
    if blocks is not None and offsets is not None:
        blocks, offsets = select_blocks(blocks, offsets, rows)
    return replace(
        trace,
        arrival_s=None if trace.arrival_s is None else trace.arrival_s[rows],
        input_tokens=trace.input_tokens[rows],
        output_tokens=trace.output_tokens[rows],
        blocks=blocks,
        block_offsets=offsets,
        client=None if trace.client is None else trace.client[rows],
        priority=None if trace.priority is None else trace.priority[rows],
        session=None if trace.session is None else trace.session[rows],
    )


def select_blocks(blocks: Ints, offsets: Ints, rows: NDArray[np.int64]) -> tuple[Ints, Ints]:
    """(blocks, offsets) of the requests of those numbers."""
    counts = np.diff(offsets)[rows]
    total = int(counts.sum())
    if total > MOST_BLOCKS:
        raise ScenarioError(f"the workload has {total:,} hashed blocks; at most {MOST_BLOCKS:,} are followed")
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return blocks[np.arange(total) + np.repeat(offsets[rows] - ends[:-1], counts)], ends


def window(trace: Trace, start_s: float | None, end_s: float | None) -> Trace:
    """The requests of [``start_s``, ``end_s``), whose times then count from ``start_s``.

    Raises:
        ScenarioError: the trace has no times, or no request in the window.
    """
    if start_s is None and end_s is None:
        return trace
    if trace.arrival_s is None:
        raise ScenarioError(f"{trace.name} has no arrival times: --trace-from and --trace-to cannot cut it")
    start, end = start_s or 0.0, np.inf if end_s is None else end_s
    if not start < end:
        raise ScenarioError(f"trace-from {start:g} is not before trace-to {end:g}")
    inside = np.flatnonzero((trace.arrival_s >= start) & (trace.arrival_s < end))
    if not len(inside):
        raise ScenarioError(
            f"{trace.name} has no request from second {start:g} to {end:g}; "
            f"its last comes at {trace.arrival_s[-1]:.6g} s"
        )
    found = select(trace, inside)
    assert found.arrival_s is not None
    return replace(found, arrival_s=found.arrival_s - start)


def resized(trace: Trace, n: int) -> Trace:
    """The first ``n`` requests, the trace repeated as often as that takes.

    A copy begins one mean gap after the last request of the copy before it, so that the mean rate stays. Its prompts
    and sessions are others than those before: a repetition finds no more in a cache than the trace itself.
    """
    size = len(trace)
    if n <= size:
        return trace if n == size else select(trace, np.arange(n, dtype=np.int64))
    rows = np.arange(n, dtype=np.int64) % size
    copy = np.arange(n, dtype=np.int64) // size
    found = select(trace, rows)
    arrival, blocks, session = found.arrival_s, found.blocks, found.session
    if arrival is not None and trace.rate is not None and trace.arrival_s is not None:
        arrival = arrival + copy * (trace.arrival_s[-1] - trace.arrival_s[0] + 1 / trace.rate)
    if blocks is not None and found.block_offsets is not None and len(blocks):
        blocks = blocks + np.repeat(copy, np.diff(found.block_offsets)) * (int(blocks.max()) + 1)
    if session is not None and len(session):
        session = np.where(session < 0, session, session + copy * (int(session.max()) + 1))
    return replace(found, arrival_s=arrival, blocks=blocks, session=session)


def paced(trace: Trace, rate: float) -> Floats:
    """[N] arrival times of the trace stretched to a mean of ``rate`` requests per second, bursts and all; infinite: 0.

    Raises:
        ScenarioError: all its requests come at once, so that no factor makes them come at that rate.
    """
    assert trace.arrival_s is not None
    if np.isinf(rate) or len(trace) < 2:
        return np.zeros(len(trace))
    if trace.rate is None:
        raise ScenarioError(
            f"all requests of {trace.name} come at once: --rate cannot stretch it; add --arrivals poisson"
        )
    start = trace.arrival_s[0]
    times: Floats = (trace.arrival_s - start) * (trace.rate / rate)
    return times
