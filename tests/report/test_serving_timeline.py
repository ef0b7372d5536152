from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from windtunnel.errors import ScenarioError
from windtunnel.report import serving_timeline as module
from windtunnel.report.serving_timeline import SERVICE, serving_timeline
from windtunnel.serving.outcome import Status


def _events(trace: dict[str, Any], phase: str) -> list[dict[str, Any]]:
    return [e for e in trace["traceEvents"] if e["ph"] == phase]


def test_iterations_and_requests(service: Any) -> None:
    workload = service.workload(60)
    outcome = service.outcome(workload)
    trace = serving_timeline(outcome, workload)
    assert json.loads(json.dumps(trace, allow_nan=False)) == trace
    drawn = _events(trace, "X")
    assert len(drawn) == len(outcome.iterations.start)
    assert {e["pid"] for e in drawn} == {1}
    assert any(e["name"].startswith("prefill ") and " + decode " in e["name"] for e in drawn)
    assert all(a["ts"] + a["dur"] <= b["ts"] + 1e-2 for a, b in pairwise(drawn))
    assert trace["otherData"]["shown"] == "everything"
    named = {(e["pid"], e["tid"]) for e in _events(trace, "M") if e["name"] == "thread_name"}
    assert {(e["pid"], e["tid"]) for e in drawn} <= named
    assert {e["name"] for e in _events(trace, "C")} == {"queue", "running", "KV cache (%)"}


def test_a_request_is_its_phases(service: Any) -> None:
    workload = service.workload(40)
    outcome = service.outcome(workload)
    spans = defaultdict(list)
    for e in serving_timeline(outcome, workload)["traceEvents"]:
        if e["ph"] in "be":
            assert e["pid"] == SERVICE
            spans[e["id"], e["name"]].append(e["ts"])
    for i in range(40):
        first, last = spans[i, f"request {i}"]
        assert (first, last) == pytest.approx((outcome.arrival[i] / 1e6, outcome.finish[i] / 1e6), abs=1e-3)
        assert all(len(spans[i, phase]) in (0, 2) for phase in ("queue", "prefill", "decode"))
        inside = sum(spans[i, p][1] - spans[i, p][0] for p in ("queue", "prefill", "decode") if spans[i, p])
        assert inside == pytest.approx(last - first, abs=1e-2)


def test_merged_iterations_say_so(service: Any) -> None:
    workload = service.workload(10)
    outcome = service.outcome(workload)
    rows = replace(outcome.iterations, steps=outcome.iterations.steps * 12, lane=outcome.iterations.lane + 1)
    trace = serving_timeline(replace(outcome, iterations=rows), workload)
    assert all(e["name"].startswith("12 x ") for e in _events(trace, "X"))
    assert "lane 1" in [e["args"].get("name") for e in _events(trace, "M")]


def test_a_long_run_is_cut_and_says_so(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    workload = service.workload(80)
    outcome = service.outcome(workload)
    monkeypatch.setattr(module, "MOST_SPANS", 50)
    monkeypatch.setattr(module, "MOST_REQUESTS", 5)
    trace = serving_timeline(outcome, workload)
    drawn = _events(trace, "X")
    assert len(drawn) == 50
    assert len({e["id"] for e in _events(trace, "b")}) == 5
    horizon = max(e["ts"] + e["dur"] for e in drawn)
    assert all(e["ts"] <= horizon + 1e-2 for e in trace["traceEvents"] if "ts" in e)
    assert "left out" in trace["otherData"]["shown"]
    assert "5 of the" in trace["otherData"]["shown"]
    assert len(_events(trace, "b")) == len(_events(trace, "e"))


def test_requests_without_an_end(service: Any) -> None:
    workload = service.workload(60)
    outcome = service.outcome(workload, stop_s=1.0)
    assert (outcome.status == Status.UNFINISHED).any()
    status = outcome.status.copy()
    status[-1] = Status.TOO_LONG
    arrival = outcome.arrival.copy()
    arrival[-2] = -1
    trace = serving_timeline(replace(outcome, status=status, arrival=arrival), workload)
    assert len(_events(trace, "b")) == len(_events(trace, "e"))
    assert 58 not in {e["id"] for e in _events(trace, "b")}


def test_no_record_no_timeline(service: Any) -> None:
    workload = service.workload(2)
    outcome = service.outcome(workload)
    nothing = type(outcome.iterations)(*(np.zeros(0, np.int64) for _ in range(8)))
    for rows in (None, nothing):
        with pytest.raises(ScenarioError, match="no iteration"):
            serving_timeline(replace(outcome, iterations=rows), workload)
