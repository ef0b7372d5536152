"""``--replay``: measured against simulated, for logs of every kind and for a simulation's own output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import windtunnel as wt
from windtunnel.cli import main
from windtunnel.errors import Infeasible, ScenarioError
from windtunnel.report.requests_table import requests_frame
from windtunnel.scenario.simulation import SimulateResult
from windtunnel.serving.latency import request_latency_s

SMALL: dict[str, Any] = {"on": "1xa100-80gb-sxm", "loop": "python"}


def run(**options: Any) -> SimulateResult:
    return wt.simulate("llama-3.1-8b", **{**SMALL, **options})


@pytest.fixture(scope="module")
def lived() -> SimulateResult:
    """An overloaded small engine: queues, preemptions, several times of day."""
    lengths = {"input_length": "lognormal:mean=700,cv=1", "output_length": "exponential:mean=80"}
    return run(rate=20, requests=200, kv_blocks=400, **lengths)


@pytest.fixture(scope="module")
def own(lived: SimulateResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``--requests-out`` writes."""
    path = tmp_path_factory.mktemp("log") / "own.parquet"
    requests_frame(lived.outcome, lived.workload).write_parquet(path)
    return path


def test_a_simulation_replays_to_itself(lived: SimulateResult, own: Path) -> None:
    found = run(replay=str(own), kv_blocks=400).replay
    assert found.requests == 200
    assert found.source == "own.parquet"
    for metric in ("ttft_s", "tpot_s", "e2e_s", "queue_s"):
        for error in found.metrics[metric].error_percent.values():
            assert error == pytest.approx(0, abs=1e-6)
    assert found.metrics["output_tokens_per_second"].error_percent["mean"] == pytest.approx(0, abs=1)
    assert sum(w.requests for w in found.windows) == 200
    assert found.metrics["ttft_s"].measured["mean"] == pytest.approx(lived.ttft_s["mean"])


def test_another_engine_is_another_answer(own: Path) -> None:
    result = run(replay=str(own), kv_blocks=800)
    errors = result.replay.metrics["ttft_s"].error_percent
    assert errors["mean"] < -10
    assert result.plan["replay"] == str(own)
    assert "trace" not in result.plan


def vllm_log(result: SimulateResult, **fields: Any) -> dict[str, Any]:
    """What vLLM's benchmark would have written."""
    w, outcome = result.workload, result.outcome
    ttft, tpot = (request_latency_s(outcome, w, m) for m in ("ttft_s", "tpot_s"))
    outputs = w.output_tokens.tolist()
    return {
        "input_lens": w.input_tokens.tolist(), "output_lens": outputs, "ttfts": ttft.tolist(),
        "itls": [[gap] * (n - 1) for gap, n in zip(np.nan_to_num(tpot).tolist(), outputs, strict=True)],
        "errors": [""] * len(w), "duration": result.makespan_s, **fields,
    }  # fmt: skip


def test_a_run_of_a_closed_loop(tmp_path: Path) -> None:
    lived = run(arrivals="closed:concurrency=8", requests=60, input_length="uniform:100,900", output_length="30")
    path = tmp_path / "vllm.json"
    path.write_text(json.dumps(vllm_log(lived, request_rate="inf", max_concurrency=8)))
    result = run(replay=str(path))
    for metric in ("ttft_s", "tpot_s", "e2e_s"):
        assert result.replay.metrics[metric].error_percent["mean"] == pytest.approx(0, abs=1e-3)
    assert result.replay.metrics["itl_s"].error_percent["mean"] == pytest.approx(0, abs=0.2)
    assert result.replay.metrics["requests_per_second"].error_percent["mean"] == pytest.approx(0, abs=1e-6)
    assert any("closed loop of max_concurrency 8" in w for w in result.warnings)
    assert len(result.replay.windows) > 4


def test_what_is_not_looked_at_is_left_out(lived: SimulateResult, own: Path) -> None:
    early = int((lived.outcome.arrival - lived.outcome.arrival[0] < 3 * 10**12).sum())
    warm = run(replay=str(own), kv_blocks=400, warmup=3)
    assert warm.left_out == early
    assert warm.replay.requests == 200 - early
    assert "requests_per_second" not in warm.replay.metrics
    cut = run(replay=str(own), kv_blocks=400, duration=3)
    assert cut.replay.requests == cut.completed < 200
    assert "requests_per_second" not in cut.replay.metrics
    nothing = run(replay=str(own), kv_blocks=400, warmup=1e6)
    assert nothing.replay.requests == 0
    assert nothing.replay.metrics["ttft_s"].error_percent["mean"] is None


def test_a_model_that_does_not_fit(own: Path) -> None:
    with pytest.raises(Infeasible) as caught:
        wt.simulate("llama-3.1-70b", **SMALL, replay=str(own))
    assert caught.value.result.replay is None


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        ({"trace": "azure-conv-2023"}, "trace"), ({"arrivals": "poisson"}, "arrivals"), ({"rate": 3}, "rate"),
        ({"requests": 3}, "requests"), ({"input_length": "5"}, "input-length"),
        ({"output_length": "5", "rate": 2}, "rate, output-length"), ({"trace_from": 1}, "trace-from"),
        ({"trace_to": 1}, "trace-to"),
    ],
)  # fmt: skip
def test_another_workload_beside_it(own: Path, beside: dict[str, Any], named: str) -> None:
    with pytest.raises(ScenarioError, match=f"brings its own requests: leave out {named}$"):
        run(replay=str(own), **beside)


def test_the_command(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "simulate",
        "llama-3.1-8b",
        "--on",
        "1xa100-80gb-sxm",
        "--kv-blocks",
        "400",
        "--loop",
        "python",
        "--replay",
    ]
    assert main([*command, str(own)]) == 0
    assert "Measured against simulated: 200 requests of own.parquet" in capsys.readouterr().out
    assert main([*command, str(own), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["replay"]
    assert found["requests"] == 200
    assert found["metrics"]["ttft_s"]["error_percent"]["mean"] == pytest.approx(0, abs=1e-6)
    assert main([*command, str(tmp_path / "no.csv")]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "does not exist" in told.err


def test_measured_runs_are_met(measured_data: Path) -> None:
    """Bounds are those of the figures in docs/serving-runs.md, with some room."""
    folder = measured_data / "s5_llmservingsim_vllm"
    if not folder.is_dir():
        pytest.skip("the measured data have no s5_llmservingsim_vllm")
    small = run(
        on="1xrtx-4090", replay=str(folder / "requests_RTX4090_Llama-3.1-8B.csv"), chunk=2048, kv_blocks=2589
    ).replay
    large = run(
        on="1xrtx-pro-6000", replay=str(folder / "requests_RTXPRO6000_Llama-3.1-8B.csv"), chunk=2048, max_batch=128
    ).replay
    assert small.requests == large.requests == 300
    for found, ttft, tpot in ((small, 6, 6), (large, 12, 6)):
        assert abs(found.metrics["ttft_s"].error_percent["mean"]) < ttft
        assert abs(found.metrics["tpot_s"].error_percent["mean"]) < tpot
    samples = pl.read_csv(folder / "timeseries_RTX4090_Llama-3.1-8B.csv")
    assert samples["waiting"].max() > 200  # the run is one that queues
