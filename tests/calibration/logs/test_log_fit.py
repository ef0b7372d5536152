"""Logs that the simulator itself produced with other constants: the fit finds them, and only those it can."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

import windtunnel as wt
from windtunnel.calibration.logs import LogCalibration, calibrate_from_log
from windtunnel.calibration.logs.constants import Constant
from windtunnel.calibration.logs.fit import Observations, fit
from windtunnel.report.calibration_log import render_log_calibration
from windtunnel.report.requests_table import write_requests

SERVED = {"model": "llama-3.1-8b", "on": "1xl40s", "engine": "vllm"}
TRAINED = {"model": "llama-3.2-1b", "on": "8xh100-sxm", "engine": "megatron", "seq": 2048}


def values(found: LogCalibration) -> dict[str, float]:
    return {c.name: c.value for c in found.constants if not c.kept}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="module")
def serving(folder: Path) -> LogCalibration:
    """Of a run whose engine has 1.4 ms a step, 30 us a sequence and 10 ms a request."""
    own = folder / "true.yaml"
    own.write_text("engine: {vllm: {host_s_per_step: 1.4e-3, host_s_per_sequence: 3.0e-5, first_token_s: 0.01}}\n")
    asked = {"requests": 240, "rate": 4.0, "input_length": "lognormal:mean=600,cv=1", "output_length": "uniform:10,300"}
    run = wt.simulate(**SERVED, **asked, calibration=str(own))
    log = folder / "requests.parquet"
    write_requests(run.outcome, run.workload, str(log))
    return calibrate_from_log(log, SERVED)


@pytest.fixture(scope="module")
def training(folder: Path) -> LogCalibration:
    """Of runs whose host takes 0.7 ms a layer and 60 ms a step."""
    own = folder / "true-train.yaml"
    own.write_text("engine: {megatron: {host_s_per_layer: 0.7e-3, host_s_per_step: 0.06}}\n")
    log = folder / "runs.csv"
    rows = []
    for tp, micro, batch in [(1, 1, 8), (1, 2, 32), (1, 4, 64), (2, 1, 8), (2, 2, 64), (2, 8, 64), (4, 1, 16),
                             (4, 4, 128), (1, 8, 64), (4, 2, 8), (2, 4, 16), (1, 1, 64)]:  # fmt: skip
        plan: dict[str, Any] = {"tp": tp, "micro_batch": micro, "global_batch": batch}
        took = wt.train(**TRAINED, **plan, calibration=str(own)).step_time_s
        rows.append({**plan, "step_time_s": took})
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]))
    table.writeheader()
    table.writerows(rows)
    log.write_text(text.getvalue())
    return calibrate_from_log(log, TRAINED)


def test_a_serving_log_gives_back_the_constants_it_was_made_with(serving: LogCalibration) -> None:
    truth = {"host_s_per_step": 1.4e-3, "host_s_per_sequence": 3e-5, "first_token_s": 0.01}
    found = {c.name: c for c in serving.constants if not c.kept}
    assert set(truth) <= set(found)
    for name, value in truth.items():
        sure = found[name].standard_error
        assert sure is not None
        assert sure < 0.35 * value
        assert abs(found[name].value - value) < 3.5 * sure, name
    assert all(e.held_out is not None and e.held_out["median"] < e.before["median"] / 3 for e in serving.errors)


def test_what_a_log_does_not_tell_is_kept(serving: LogCalibration, training: LogCalibration) -> None:
    memory = next(c for c in serving.constants if c.name == "memory_utilization")  # its cache is never full
    assert (memory.kept, memory.value, memory.standard_error) == (True, memory.shipped, None)
    assert "memory_utilization" not in serving.content["engine"]["vllm"]
    assert all(c.kept != (c.name in values(training)) for c in training.constants)


def test_a_training_log_gives_back_the_constants_it_was_made_with(training: LogCalibration) -> None:
    found = values(training)
    assert found["host_s_per_layer"] == pytest.approx(0.7e-3, rel=0.1)
    assert found["host_s_per_step"] == pytest.approx(0.06, rel=0.1)
    (errors,) = training.errors
    assert errors.held_out is not None
    assert errors.held_out["median"] < errors.before["median"] / 3


def test_the_written_file_predicts_what_was_fitted(training: LogCalibration, folder: Path) -> None:
    file = folder / "own.yaml"
    training.write(file)
    assert yaml.safe_load(file.read_text()) == training.content
    assert file.read_text().startswith("# megatron, fitted on 'runs.csv'")
    plan = {"tp": 2, "micro_batch": 1, "global_batch": 128}
    truth = wt.train(**TRAINED, **plan, calibration=str(folder / "true-train.yaml")).step_time_s
    assert wt.train(**TRAINED, **plan, calibration=str(file)).step_time_s == pytest.approx(truth, rel=0.03)


@pytest.mark.usefixtures("training")
def test_a_users_file_stays_below_what_is_fitted(folder: Path) -> None:
    base = folder / "base.yaml"
    base.write_text("kernels: {gemm: {bf16: {bandwidth: 0.5}}}\nengine: {sglang: {block_size: 8}}\n")
    found = calibrate_from_log(folder / "runs.csv", {**TRAINED, "calibration": str(base)})
    assert found.content["kernels"] == {"gemm": {"bf16": {"bandwidth": 0.5}}}
    assert found.content["engine"]["sglang"] == {"block_size": 8}
    assert found.content["engine"]["megatron"]["host_s_per_step"] > 0.04


def test_one_run_tells_one_constant_at_most_and_says_so(folder: Path) -> None:
    log = folder / "one.csv"
    log.write_text("tp,micro_batch,global_batch,step_time_s\n1,1,8,0.9\n")
    found = calibrate_from_log(log, TRAINED)
    assert len(values(found)) <= 1
    assert found.errors[0].held_out is None
    assert found.to_dict()["better"] is None
    assert any("nothing could be held out" in w for w in found.warnings)


def test_the_report_and_the_json_say_what_is_kept_and_how_sure(serving: LogCalibration) -> None:
    fields = json.loads(json.dumps(serving.to_dict()))
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(render_log_calibration(fields))
    text = console.export_text()
    assert "the log does not identify it" in text
    assert "±" in text
    assert fields["better"] is True


def test_outliers_do_not_move_the_fit_and_bounds_hold() -> None:
    constants = [Constant("a", "", 1.0, 1.0, 0.0, 10.0), Constant("b", "", 1.0, 1.0, 0.0, 3.0)]
    x = np.linspace(1, 2, 60)

    def predict(given: Any) -> Any:
        return given.get("a", 1.0) + given.get("b", 1.0) * x**3

    def fitted(measured: Any) -> Any:
        block = np.arange(60) % 3
        return fit(Observations(["y"] * 60, measured, np.zeros(60), block, predict), constants).values

    truth = 2.0 + 2.5 * x**3
    spoiled = np.where(np.arange(60) % 10 == 4, 3 * truth, truth)
    assert fitted(spoiled) == pytest.approx({"a": 2.0, "b": 2.5}, rel=0.05)
    assert fitted(2.0 + 4.0 * x**3)["b"] == 3.0
