from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from windtunnel.errors import ScenarioError
from windtunnel.ops.fold import Evaluation
from windtunnel.ops.tree import Flow, Pipeline, Repeat
from windtunnel.report.timeline import step_timeline
from windtunnel.training.layout import layout, makespan


def _drawn(trace: dict[str, Any]) -> list[dict[str, Any]]:
    return [e for e in trace["traceEvents"] if e["ph"] == "X"]


def _passes(trace: dict[str, Any]) -> list[dict[str, Any]]:
    return [e for e in _drawn(trace) if e["tid"] == 0]


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "zero-bubble"])
def test_passes_are_those_of_the_schedule(evaluation: Evaluation, schedule: str) -> None:
    pipeline = evaluation.tree
    assert isinstance(pipeline, Pipeline)
    trace = step_timeline(evaluation, pipeline, schedule)
    times = pipeline.stage_times([evaluation.cost(c) for c in pipeline.children])
    each = [[float(getattr(t, f)) for t in times for _ in range(int(t.count))]
            for f in ("forward", "backward", "weight", "send", "epilogue")]  # fmt: skip
    slots = layout(schedule, *each[:4], 4)
    assert len([e for e in _passes(trace) if e["name"] != "epilogue"]) == len(slots)
    last = max(e["ts"] + e["dur"] for e in _passes(trace))
    assert last == pytest.approx(1e6 * makespan(slots, each[4]), rel=1e-6)
    names = {e["name"] for e in _passes(trace) if e["pid"] == 1}
    assert {"F0", "B3", "epilogue"} <= names
    assert ("W2" in names) == (schedule == "zero-bubble")


def test_passes_of_a_stage_do_not_overlap(evaluation: Evaluation) -> None:
    assert isinstance(evaluation.tree, Pipeline)
    rows = defaultdict(list)
    for e in _passes(step_timeline(evaluation, evaluation.tree, "1f1b")):
        rows[e["pid"]].append((e["ts"], e["ts"] + e["dur"]))
    assert sorted(rows) == [0, 1, 2]
    for spans in rows.values():
        assert all(end <= start + 1e-3 for (_, end), (start, _) in pairwise(sorted(spans)))


def test_operators_fill_the_first_pass(evaluation: Evaluation) -> None:
    assert isinstance(evaluation.tree, Pipeline)
    drawn = _drawn(step_timeline(evaluation, evaluation.tree, "gpipe"))
    first = next(e for e in drawn if e["pid"] == 0 and e["name"] == "F0")
    inside = [e for e in drawn if e["pid"] == 0 and e["tid"] == 1 and e["ts"] + e["dur"] <= first["dur"] + 1e-3]
    assert [e["name"] for e in inside] == ["norm", "attn.qkv", "tp.reduce", "mlp.up", "7 x layer"]
    assert sum(e["dur"] for e in inside) == pytest.approx(first["dur"], rel=1e-6)


def test_every_row_has_a_name(evaluation: Evaluation) -> None:
    assert isinstance(evaluation.tree, Pipeline)
    trace = step_timeline(evaluation, evaluation.tree, "1f1b")
    named = {(e["pid"], e["tid"]) for e in trace["traceEvents"] if e["name"] == "thread_name"}
    assert {(e["pid"], e["tid"]) for e in _drawn(trace)} <= named
    stages = [e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name"]
    assert stages == ["stage 0", "stage 1", "stage 2"]
    assert json.loads(json.dumps(trace, allow_nan=False)) == trace


def test_overlapped_work_has_a_row_of_its_own(toy: SimpleNamespace) -> None:
    gather = toy.op("dp.gather", 1e-3, kind="all_gather", category="dp_comm", resource="scale_out")
    flow = Flow(8, (gather, Repeat(1 / 8, toy.layer())), ("dp", "compute"), 0.0, 1)
    evaluation = Evaluation(Pipeline((toy.stage(1, flow),), 1, toy.schedule), toy.price)
    assert isinstance(evaluation.tree, Pipeline)
    trace = step_timeline(evaluation, evaluation.tree, "1f1b")
    rows = {e["tid"]: e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"}
    assert rows == {0: "passes", 1: "operators", 2: "dp"}
    gathers = [e for e in _drawn(trace) if "dp.gather" in e["name"]]
    assert {e["tid"] for e in gathers} == {2}
    first = next(e for e in _drawn(trace) if e["tid"] == 1)
    assert first["ts"] == pytest.approx(1e3)  # the first weights have to be there


def test_chunks_of_an_interleaved_schedule(toy: SimpleNamespace) -> None:
    work = toy.layer()
    pipeline = Pipeline((toy.stage(2, work),), 4, toy.schedule, 2)
    trace = step_timeline(Evaluation(pipeline, toy.price), pipeline, "interleaved")
    passes = _passes(trace)
    assert len(passes) == 2 * 2 * 2 * 4  # stages, chunks, directions, micro-batches
    assert {"F0.0", "F0.1"} <= {e["name"] for e in passes}
    for e in _drawn(trace):  # a chunk's operators do not run on into what follows
        if e["tid"] == 1:
            own = [p for p in passes if p["pid"] == e["pid"] and p["ts"] - 1e-3 <= e["ts"] < p["ts"] + p["dur"]]
            assert own
            assert e["ts"] + e["dur"] <= own[-1]["ts"] + own[-1]["dur"] + 1e-3


def test_a_timeline_that_nothing_could_open_is_refused(toy: SimpleNamespace) -> None:
    pipeline = toy.pipeline(micro_batches=200_000)
    with pytest.raises(ScenarioError, match="200000 micro-batches"):
        step_timeline(Evaluation(pipeline, toy.price), pipeline, "1f1b")


def test_an_unknown_schedule_is_refused(evaluation: Evaluation) -> None:
    assert isinstance(evaluation.tree, Pipeline)
    with pytest.raises(ScenarioError, match="unknown schedule"):
        step_timeline(evaluation, evaluation.tree, "1f2b")
