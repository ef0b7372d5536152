from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from windtunnel.errors import ScenarioError
from windtunnel.report.suggest import Suggestion, suggest
from windtunnel.report.text import render, render_infer, render_train
from windtunnel.report.words import bottleneck, what_ifs

Make = Callable[..., Any]
Show = Callable[..., str]


def test_a_step_says_what_an_engineer_looks_for(make_train: Make, shown: Show) -> None:
    result = make_train()
    text = shown(render_train(result))
    headline = next(line for line in text.splitlines() if "a step" in line)
    assert "MFU 41.7 %" in headline
    assert "tokens/s/GPU" in headline
    assert headline.endswith("fits")
    assert "matrix units (tensor): 62 % of the step's critical path" in text
    assert "matrix units (tensor) 10 % faster → step 6.2 % faster" in text
    assert "no effect: vector, host" in text
    assert "46.0 GiB" in text
    assert "note: seq was not given" in text


def test_exposed_time_is_sorted_and_complete(make_train: Make, shown: Show) -> None:
    result = make_train()
    lines = shown(render_train(result)).splitlines()
    start = lines.index("Exposed time of a step") + 1
    told = [line.split()[0] for line in lines[start : start + len(result.time_s) - 1]]
    expected = sorted(
        (k for k, v in result.time_s.items() if v > 1e-6 * result.step_time_s), key=lambda k: -result.time_s[k]
    )
    assert told[: len(expected)] == expected
    assert any(line.strip().startswith("none:") and "ep_comm" in line for line in lines)


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_reports_keep_to_the_width(make_train: Make, make_infer: Make, shown: Show, width: int) -> None:
    for result in (make_train(), make_train(fits=False, shortfall_bytes=2.0**30), make_infer()):
        assert max(len(line) for line in shown(render(result), width).splitlines()) <= width


def test_a_served_batch(make_infer: Make, shown: Show) -> None:
    text = shown(render_infer(make_infer()))
    assert "TTFT 510 ms · TPOT 21.3 ms" in text
    assert "price unknown" in text
    assert "Prefill" in text
    assert "memory bandwidth (hbm) 10 % faster → decode 8.1 % faster" in text


def test_what_does_not_fit_says_by_how_much(make_train: Make, shown: Show) -> None:
    result = make_train(fits=False, shortfall_bytes=17.3 * 2**30)
    better = Suggestion({"recompute": "full", "dp": None}, make_train(0.5))
    text = shown(render_train(result, [better]))
    assert "DOES NOT FIT" in text
    assert "short by 17.3 GiB a GPU" in text
    assert "fits with recompute=full: " in text
    assert "dp" not in text.split("fits with")[1].split(":")[0]
    assert "more or larger accelerators" in shown(render_train(result, []))


def test_an_interval_and_a_run_are_shown(make_train: Make, shown: Show) -> None:
    run = {"time_to_train_s": 4.4e6, "goodput_fraction": 0.93, "lost_s": {"failures": 1e5}, "energy_j": 3e11,
           "cost_usd": 4.6e5, "gpu_hours": 1.56e5}  # fmt: skip
    text = shown(render_train(make_train(run=run, interval={"step_time_s": {"low": 0.5, "high": 0.75}})))
    assert "80 %: step time 500 ms to 750 ms" in text
    assert "50.9 days" in text
    assert "lost to failures" in text
    assert "$460,000" in text


@pytest.mark.parametrize("missing", [{"mfu": None, "hfu": None}, {"cost_usd_per_step": None}, {"elasticity": {}}])
def test_what_is_not_known_does_not_stop_a_report(make_train: Make, shown: Show, missing: dict[str, Any]) -> None:
    assert "a step" in shown(render_train(make_train(**missing)))


def test_latency_cannot_be_bought() -> None:
    assert "no faster resource" in bottleneck("latency", 0.5, "decode")
    assert what_ifs({"hbm": 0.0, "tensor": 0.0}, "decode") == ["no effect: hbm, tensor"]


def test_suggestions_are_tried_and_ranked(make_train: Make) -> None:
    tried: list[Mapping[str, Any]] = []

    def retry(changes: Mapping[str, Any]) -> Any:
        tried.append(changes)
        if "tp" in changes:
            raise ScenarioError("not on this model")
        return make_train(
            fits="recompute" in changes or changes.get("zero") == 3, tokens_per_second_per_gpu=float(len(tried))
        )

    found = suggest(make_train(fits=False), retry)
    assert [s.text for s in found] == ["zero=3", "recompute=full", "recompute=selective"]
    assert all(s.result.fits for s in found)
    assert len(tried) < 40


def test_suggestions_go_on_to_combinations_and_larger_clusters(make_train: Make, make_infer: Make) -> None:
    for result in (make_train(fits=False), make_infer(fits=False)):
        asked: list[Mapping[str, Any]] = []

        def retry(changes: Mapping[str, Any], result: Any = result, asked: Any = asked) -> Any:
            asked.append(changes)
            return type(result)(**{**{f: getattr(result, f) for f in result.__slots__}, "fits": "on" in changes})

        found = suggest(result, retry)
        assert found
        assert all(int(s.changes["on"].split("x")[0]) > int(result.on.split("x")[0]) for s in found)


def test_nothing_may_fit(make_infer: Make) -> None:
    assert suggest(make_infer(fits=False), lambda changes: make_infer(fits=False)) == []
