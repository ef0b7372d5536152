"""A simulated service as a Chrome trace, which Perfetto (ui.perfetto.dev) and chrome://tracing show.

One process a replica with a row for each of its lanes: iterations named by what they hold (``prefill 2048 + decode
57``; ``12 x decode 40`` is twelve like iterations drawn as one). Requests are asynchronous spans (queue, prefill,
decode), counters tell the queue, the batch and the KV cache. Layout: "Trace Event Format", Chromium project; times in
microseconds. The trace goes as far as the record of iterations does, and holds at most ``MOST_SPANS`` of them and
``MOST_REQUESTS`` requests; ``otherData`` says what was left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from windtunnel.errors import ScenarioError
from windtunnel.serving.outcome import PS, Iterations, Outcome, Status
from windtunnel.serving.workload.requests import Workload

MOST_SPANS = 100_000
MOST_REQUESTS = 10_000
MOST_SAMPLES = 5_000

SERVICE = 0
"""The process of requests and counters; replica r is process r + 1."""

Event = dict[str, Any]


def serving_timeline(outcome: Outcome, workload: Workload) -> dict[str, Any]:
    """The trace as a JSON-ready mapping.

    Raises:
        ScenarioError: the simulation kept no record of iterations.
    """
    rows = outcome.iterations
    if rows is None or not len(rows.start):
        raise ScenarioError("--timeline: no iteration was recorded; there is nothing to draw")
    spans = min(len(rows.start), MOST_SPANS)
    horizon = int(rows.end[:spans].max())
    whole = spans == len(rows.start) and horizon >= int(outcome.finish.max(initial=0))
    seen = np.flatnonzero((outcome.arrival >= 0) & (outcome.arrival <= horizon))
    shown = seen[:MOST_REQUESTS]
    events = [*_names(rows, spans), *_iterations(rows, spans), *_counters(outcome, horizon)]
    for i in shown.tolist():
        events += _request(outcome, workload, i, horizon)
    said = [] if whole else [f"iterations after {_us(horizon) / 1e6:g} s are left out"]
    if len(shown) < len(seen):
        said.append(f"{len(shown):,} of the {len(seen):,} requests until then are shown")
    other = {"shown": "; ".join(said) or "everything"}
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": other}


def _names(rows: Iterations, spans: int) -> Iterator[Event]:
    lanes = sorted(set(zip(rows.replica[:spans].tolist(), rows.lane[:spans].tolist(), strict=True)))
    yield _meta("process_name", SERVICE, 0, name="service")
    for replica in sorted({r for r, _ in lanes}):
        yield _meta("process_name", replica + 1, 0, name=f"replica {replica}")
        yield _meta("process_sort_index", replica + 1, 0, sort_index=replica + 1)
    for replica, lane in lanes:
        yield _meta("thread_name", replica + 1, lane, name=f"lane {lane}" if lane else "iterations")


def _meta(what: str, pid: int, tid: int, **args: Any) -> Event:
    return {"name": what, "ph": "M", "pid": pid, "tid": tid, "args": args}


def _iterations(rows: Iterations, spans: int) -> Iterator[Event]:
    columns = (
        rows.replica, rows.lane, rows.start, rows.end, rows.steps, rows.prefill_tokens, rows.decodes, rows.context,
    )  # fmt: skip
    for replica, lane, start, end, steps, prefill, decodes, context in zip(
        *(c[:spans].tolist() for c in columns), strict=True
    ):
        parts = [f"{kind} {n}" for kind, n in (("prefill", prefill), ("decode", decodes)) if n]
        name = " + ".join(parts) or "empty"
        yield {
            "name": f"{steps} x {name}" if steps > 1 else name,
            "cat": "mixed" if len(parts) > 1 else name.partition(" ")[0],
            "ph": "X", "ts": _us(start), "dur": _us(end - start), "pid": replica + 1, "tid": lane,
            "args": {"iterations": steps, "prefill_tokens": prefill, "decodes": decodes, "context_tokens": context},
        }  # fmt: skip


def _counters(outcome: Outcome, horizon: int) -> Iterator[Event]:
    s = outcome.series
    inside = np.flatnonzero(s.t_s * PS <= horizon)
    at = inside[:: max(-(-len(inside) // MOST_SAMPLES), 1)]
    for name, column in (("queue", s.waiting), ("running", s.running), ("KV cache (%)", 100 * s.kv_fraction)):
        for t, value in zip(s.t_s[at].tolist(), column[at].tolist(), strict=True):
            counted = {name: round(value, 3)}
            yield {"name": name, "ph": "C", "ts": round(1e6 * t, 3), "pid": SERVICE, "args": counted}


def _request(outcome: Outcome, workload: Workload, i: int, horizon: int) -> Iterator[Event]:
    """A span from arrival to end, and inside it those of its phases; what lies beyond the horizon is cut."""
    times = [int(t[i]) for t in (outcome.arrival, outcome.start, outcome.first, outcome.finish)]
    ends = [t if 0 <= t <= horizon else horizon for t in times[1:]]
    done = Status(int(outcome.status[i]))
    if done in (Status.TOO_LONG, Status.QUEUE_FULL):
        ends = [times[0]] * 3
    args = {
        "input_tokens": int(workload.input_tokens[i]), "output_tokens": int(workload.output_tokens[i]),
        "status": done.name.lower(), "replica": int(outcome.replica[i]), "preemptions": int(outcome.preempted[i]),
        "cached_tokens": int(outcome.cached_tokens[i]),
    }  # fmt: skip
    yield _span("b", f"request {i}", i, times[0], **args)
    begin = times[0]
    for name, end, reached in zip(("queue", "prefill", "decode"), ends, times[1:], strict=True):
        if end > begin:
            yield _span("b", name, i, begin)
            yield _span("e", name, i, end)
        begin = end
        if reached < 0 or reached > horizon:
            break
    yield _span("e", f"request {i}", i, begin)


def _span(phase: str, name: str, i: int, time: int, **args: Any) -> Event:
    event = {"name": name, "cat": "request", "ph": phase, "id": i, "ts": _us(time), "pid": SERVICE, "tid": 0}
    return {**event, "args": args} if args else event


def _us(time: int) -> float:
    """Microseconds of picoseconds, to the nanosecond."""
    return round(time / 1e6, 3)
