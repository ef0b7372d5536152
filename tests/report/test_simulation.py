from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from windtunnel.report.bars import sparkline
from windtunnel.report.side_by_side import render_replay, render_variants, variants_to_dict
from windtunnel.report.simulation import COLUMNS, columns
from windtunnel.report.table import point, render_sweep, sweep_to_dict
from windtunnel.report.text import render
from windtunnel.scenario.simulation import SimulateResult
from windtunnel.serving.latency import METRICS, request_latency_s
from windtunnel.serving.replayed import replay_metrics

Show = Callable[..., str]


def test_a_service_says_what_an_operator_looks_for(served: SimulateResult, shown: Show) -> None:
    text = shown(render(served))
    headline = next(line for line in text.splitlines() if "output tokens/s ·" in line)
    assert "TTFT p50" in headline
    assert "p99" in headline
    assert "/Mtok" in headline
    assert "meet ttft ≤ 1.00 s, tpot ≤ 30.0 ms" in text
    assert "memory bandwidth (hbm): 71 % of the engine's critical path" in text
    assert "120 completed" in text
    assert "UNFINISHED" not in text
    assert "preemptions" in text
    assert "note: an invented workload" in text


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_reports_keep_to_the_width(service: Any, served: SimulateResult, shown: Show, width: int) -> None:
    partial = replace(served, partial=True, unfinished=3, rejected=2, rejected_by_reason={"too_long": 2})
    unfit = service.result(None, service.workload(3))
    both = render_variants("scheduler", [("vllm", served), ("orca", partial), ("static", unfit)])
    for shape in (render(served), render(partial), render(unfit), both):
        assert max(len(line) for line in shown(shape, width).splitlines()) <= width


def test_what_went_wrong_is_said(service: Any, served: SimulateResult, shown: Show) -> None:
    result = replace(served, partial=True, unfinished=3, rejected=2, rejected_by_reason={"too_long": 2, "failed": 0})
    text = shown(render(result))
    assert "PARTIAL: interrupted" in text
    assert "3 UNFINISHED" in text
    assert "2 rejected (too long 2)" in text
    unfit = shown(render(service.result(None, service.workload(3))))
    assert "DOES NOT FIT" in unfit
    assert "short by 8.00 GiB a GPU" in unfit
    assert "TTFT" not in unfit


def test_a_report_of_nothing(service: Any, shown: Show) -> None:
    workload = service.workload(3)
    text = shown(render(replace(service.result(None, workload), fits=True)))
    assert "nothing ran" in text


def test_lines_over_time() -> None:
    assert columns([1.0, 2.0], [3.0, 5.0], 4) == pytest.approx([3, 3, 5, 5])
    assert columns([0.0, 4.0], [9.0, 1.0], 2) == pytest.approx([1, 1])
    assert sum(columns([0.3, 0.9, 7.0], [2.0, 2.0, 2.0])) == pytest.approx(2 * COLUMNS)
    assert sparkline([0, 1, 8], "").plain == " ▁█"
    assert sparkline([0, 0], "").plain == "  "


def test_variants_are_columns(service: Any, served: SimulateResult, shown: Show) -> None:
    workload = service.workload()
    slow = service.result(service.outcome(workload, slots=4), workload)
    text = shown(render_variants("max_batch", [(48, served), (4, slow)]))
    lines = {line[:20].strip(): line[20:].split() for line in text.splitlines()}
    assert lines["max_batch"] == ["48", "4"]
    rate = next(line for line in text.splitlines() if line.startswith("output tokens/s "))
    assert [cell.endswith("*") for cell in rate.split()[2:]] == [True, False]
    assert lines["completed"] == ["120", "120"]  # alike: none is the best
    found = variants_to_dict("max_batch", [(48, served), (4, slow)])
    assert found["compare"] == "max_batch"
    assert [run["value"] for run in found["runs"]] == [48, 4]
    assert found["runs"][1]["result"]["completed"] == 120


def test_a_variant_may_not_fit(service: Any, served: SimulateResult, shown: Show) -> None:
    unfit = service.result(None, service.workload())
    text = shown(render_variants("model", [("small", served), ("large", unfit)]))
    assert "large does not fit: short by 8.00 GiB a GPU" in text
    assert "*" not in next(line for line in text.splitlines() if line.startswith("TTFT p50"))


def test_options_that_differ_are_told(served: SimulateResult, shown: Show) -> None:
    other = replace(served, plan={**served.plan, "tp": 2}, on="2xh100-sxm")
    text = shown(render_variants("file", [("a.yaml", served), ("b.yaml", other)]))
    assert any(line.split() == ["tp", "1", "2"] for line in text.splitlines())
    assert any(line.split() == ["on", "1xh100-sxm", "2xh100-sxm"] for line in text.splitlines())


def test_measured_against_simulated(service: Any, shown: Show) -> None:
    workload = service.workload()
    outcome = service.outcome(workload)
    simulated = {m: request_latency_s(outcome, workload, m) for m in METRICS}
    measured = {m: values / 1.25 for m, values in simulated.items() if m != "queue_s"}
    found = replay_metrics("a.json", workload.arrival_s, measured, simulated, {"output_tokens_per_second": (10.0, 9.0)})
    text = shown(render_replay(found))
    assert "120 requests of a.json" in text
    assert text.count("+25.0 %") >= 12
    assert "-10.0 %" in text
    assert max(len(line) for line in text.splitlines()) <= 100
    empty = shown(render_replay(replay_metrics("b.json", np.zeros(0), {}, {})))
    assert "0 requests" in empty


def test_simulated_sweeps(service: Any, served: SimulateResult, shown: Show) -> None:
    part = replace(served, goodput_requests_per_second=0.1, unfinished=7)
    points = [point({"rate": 5.0}, part), point({"rate": 9.0}, served)]
    assert points[1].result is not None
    assert points[1].result.outcome is None  # a sweep does not keep every request
    text = shown(render_sweep(points), 120)
    assert "TTFT p50" in text
    assert "7 unfinished" in text
    assert "* most goodput a GPU; 2 of 2 points fit" in text
    assert [line[0] for line in text.splitlines()[1:3]] == [" ", "*"]
    assert sweep_to_dict(points)["sweep"][0]["point"] == {"rate": 5.0}
    unfit = point({"rate": 1.0}, service.result(None, service.workload()))
    assert "does not fit" in shown(render_sweep([unfit]), 120)
