"""A workload from its options: a trace's requests or drawn ones, and when each of them comes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from windtunnel.errors import ScenarioError, unknown
from windtunnel.scenario.text import shown
from windtunnel.scenario.workload import (
    Arrivals,
    Closed,
    FromTrace,
    Renewal,
    Sessions,
    TokenLengths,
    WorkloadSpec,
    arrivals,
    token_lengths,
)
from windtunnel.serving.workload.conversations import BLOCK_TOKENS, closed_loop, conversation, take_turns
from windtunnel.serving.workload.draws import Stream, generator, parametric
from windtunnel.serving.workload.processes import open_times
from windtunnel.serving.workload.published import Statistics, data_file, names, statistics
from windtunnel.serving.workload.reader import read_trace
from windtunnel.serving.workload.requests import Floats, Ints, Workload
from windtunnel.serving.workload.synthetic import DEFAULT_REQUESTS, at_scores, scores, synthesised
from windtunnel.serving.workload.traces import Trace, paced, resized, window

DEFAULT_LENGTHS = "azure-conv-2023"
"""Whose lengths requests have where nothing says how long they are."""

LATEST_S = 9e6
"""Latest arrival that can be simulated: times are counted in picoseconds of 64 bits."""


def build_workload(spec: WorkloadSpec) -> Workload:
    """The requests that ``spec`` asks for.

    Equal options give equal requests. Lengths, arrival times and the rest are drawn from streams of their own: another
    arrival process leaves the lengths as they are, and the first n of N drawn requests are those of a run with n.

    Raises:
        ScenarioError: an option that is not understood, options that do not go together, or a trace that cannot be
            used.
    """
    if spec.rate is not None and not spec.rate > 0:
        raise ScenarioError(f"rate {spec.rate} is not a number of requests a second above 0")
    wanted = None if spec.arrivals is None else arrivals(spec.arrivals)
    if spec.trace is None and (spec.trace_from is not None or spec.trace_to is not None):
        raise ScenarioError("--trace-from and --trace-to cut a trace; give --trace")
    trace = _requests(spec)
    rate = _rate(spec, wanted, trace)
    if wanted is None and trace.arrival_s is None:
        wanted = Arrivals(Renewal("poisson", 1.0))
    return _checked(_timed(spec, wanted, trace, rate))


def _requests(spec: WorkloadSpec) -> Trace:
    """As many requests as asked for: their lengths, and what else a trace says of them."""
    if spec.trace is None:
        n = spec.requests or DEFAULT_REQUESTS
        absent = [name for name, text in (("input", spec.input_length), ("output", spec.output_length)) if text is None]
        inputs, outputs, warnings = _lengths(spec, n, DEFAULT_LENGTHS)
        if absent:
            also = f"{' and '.join(absent)} lengths are not given: drawn from trace:{DEFAULT_LENGTHS}"
            warnings = (also, *warnings)
        return Trace(spec.arrivals or "poisson", None, inputs, outputs, warnings=warnings)
    known = _known(spec.trace, spec.strict)
    if isinstance(known, Statistics):
        trace = synthesised(known, spec.requests, seed=spec.seed, start_s=spec.trace_from, end_s=spec.trace_to)
    else:
        trace = window(known, spec.trace_from, spec.trace_to)
    trace = resized(trace, spec.requests or len(trace))
    if spec.input_length is None and spec.output_length is None:
        return trace
    inputs, outputs, warnings = _lengths(spec, len(trace), None)
    warnings = (*trace.warnings, *warnings)
    if spec.input_length is None:
        return replace(trace, output_tokens=outputs, warnings=warnings)
    if trace.blocks is not None:
        warnings = (*warnings, f"{trace.name}: --input-length replaces its prompts, so what they share is not used")
    outputs = trace.output_tokens if spec.output_length is None else outputs
    return replace(
        trace, input_tokens=inputs, output_tokens=outputs, blocks=None, block_offsets=None, block_tokens=0,
        warnings=warnings,
    )  # fmt: skip


def _known(name: str, strict: bool) -> Trace | Statistics:
    """A trace by name or from its file."""
    if name in names():
        found = statistics(name)
        path = data_file(found)
        return found if path is None else replace(read_trace(path, strict=strict), name=name)
    if "/" not in name and "." not in name and "\0" not in name and not Path(name).exists():
        raise unknown("trace", name, [*names(), "a file"])
    return read_trace(Path(name), strict=strict)


def _lengths(spec: WorkloadSpec, n: int, default: str | None) -> tuple[Ints, Ints, tuple[str, ...]]:
    """([n] input tokens, [n] output tokens, warnings); those of an option that is absent are ``default``'s, or 1.

    Both from one trace: each pair is of one request.
    """
    absent = FromTrace(default) if default else None
    given: list[TokenLengths | None] = [
        absent if text is None else token_lengths(text, what)
        for text, what in ((spec.input_length, "input-length"), (spec.output_length, "output-length"))
    ]
    first, second = given
    if isinstance(first, FromTrace) and first == second:
        return _pairs(first.name, n, spec)
    drawn: list[Ints] = []
    warnings: list[str] = []
    for number, (lengths, stream) in enumerate(zip(given, (Stream.INPUT, Stream.OUTPUT), strict=True)):
        if isinstance(lengths, FromTrace):
            tokens, said = _side(lengths.name, n, spec, stream, number)
            warnings += said
        elif lengths is None:
            tokens = np.ones(n, dtype=np.int64)
        else:
            tokens = parametric(lengths, n, generator(spec.seed, stream))
        drawn.append(tokens)
    return drawn[0], drawn[1], tuple(warnings)


def _side(name: str, n: int, spec: WorkloadSpec, stream: Stream, number: int) -> tuple[Ints, tuple[str, ...]]:
    """([n] input (0) or output (1) tokens of a trace, warnings)."""
    known, rng = _known(name, spec.strict), generator(spec.seed, stream)
    if isinstance(known, Statistics):
        return at_scores((known.input, known.output)[number], rng.standard_normal(n)), (_shipped(name),)
    return (known.input_tokens, known.output_tokens)[number][rng.integers(0, len(known), n)], known.warnings


def _pairs(name: str, n: int, spec: WorkloadSpec) -> tuple[Ints, Ints, tuple[str, ...]]:
    known = _known(name, spec.strict)
    if isinstance(known, Statistics):
        z_in, z_out = scores(n, known.rank_correlation, spec.seed)
        return at_scores(known.input, z_in), at_scores(known.output, z_out), (_shipped(name),)
    rows = generator(spec.seed, Stream.INPUT).integers(0, len(known), n)
    return known.input_tokens[rows], known.output_tokens[rows], known.warnings


def _shipped(name: str) -> str:
    return f"lengths of {name} are drawn after statistics that the package ships"


def _rate(spec: WorkloadSpec, wanted: Arrivals | None, trace: Trace) -> float:
    """Requests a second, where a process needs it: as given, else the trace's own."""
    if wanted is not None and isinstance(wanted.process, Closed):
        if spec.rate is not None:
            raise ScenarioError(
                f"rate {spec.rate:g} does not go with arrivals closed: a closed loop asks as fast as it is answered"
            )
        return math.nan
    if spec.rate is not None:
        return spec.rate
    if wanted is None and trace.arrival_s is not None:
        return math.nan
    if trace.rate is None:
        if spec.trace is None:
            process = f"arrivals {shown(spec.arrivals)} need" if spec.arrivals else "requests need"
            raise ScenarioError(f"{process} a pace: give --rate (requests a second; inf: all at once) or --trace")
        raise ScenarioError(f"{trace.name} has no pace of its own: give --rate (requests a second; inf: all at once)")
    return trace.rate


def _timed(spec: WorkloadSpec, wanted: Arrivals | None, trace: Trace, rate: float) -> Workload:
    """The workload of ``trace``'s requests as ``wanted`` says, or at its own times."""
    n, seed = len(trace), spec.seed
    blocks, offsets, block_tokens = trace.blocks, trace.block_offsets, trace.block_tokens
    inputs, session, client, priority = trace.input_tokens, trace.session, trace.client, trace.priority
    warnings = trace.warnings
    after: Ints | None = None
    think: Floats | None = None
    if wanted is None:
        assert trace.arrival_s is not None
        times = trace.arrival_s if spec.rate is None else paced(trace, rate)
    elif isinstance(wanted.process, Closed):
        times = np.zeros(n)
        after, think = closed_loop(wanted.process, n, seed)
    elif isinstance(wanted.process, Sessions):
        if blocks is not None:
            warnings = (*warnings, f"{trace.name}: what its prompts share is not used; conversations share their own")
        turns = take_turns(wanted.process, n, rate, seed)
        times, after, think, session = turns.arrival_s, turns.after, turns.think_s, turns.session
        inputs, blocks, offsets = conversation(turns, inputs, trace.output_tokens)
        block_tokens = BLOCK_TOKENS
    else:
        times = open_times(wanted.process, n, rate, seed)
    if wanted is not None and wanted.clients:
        # A conversation is one client's.
        who = session if isinstance(wanted.process, Sessions) and session is not None else np.arange(n)
        client = generator(seed, Stream.CLIENTS).integers(0, wanted.clients, int(who.max()) + 1, dtype=np.int64)[who]
    if wanted is not None and wanted.priorities:
        priority = generator(seed, Stream.PRIORITIES).integers(0, wanted.priorities, n, dtype=np.int64)
    return Workload(
        name=trace.name,
        arrival_s=times,
        input_tokens=inputs,
        output_tokens=trace.output_tokens,
        after=after,
        think_s=think,
        blocks=blocks,
        block_offsets=offsets,
        block_tokens=block_tokens,
        client=client,
        priority=priority,
        session=session,
        warnings=warnings,
    )


def _checked(workload: Workload) -> Workload:
    last = float(workload.arrival_s.max())
    if not last <= LATEST_S:
        raise ScenarioError(
            f"the last request comes after {last:.4g} s; at most {LATEST_S:g} s can be simulated: "
            "fewer --requests, a higher --rate or an earlier --trace-to"
        )
    return workload
