"""Workloads and latencies from results as vLLM's and SGLang's serving benchmarks write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from windtunnel.calibration.logs import calibrate_from_log, recognise
from windtunnel.calibration.logs.serving_logs import read_requests, read_serving_runs
from windtunnel.errors import ScenarioError

GIVEN = {"model": "llama-3.1-8b", "on": "1xh100-sxm"}

VLLM: dict[str, Any] = {
    "date": "20250501-101010", "endpoint_type": "vllm", "label": None, "model_id": "meta-llama/Llama-3.1-8B",
    "tokenizer_id": "meta-llama/Llama-3.1-8B", "num_prompts": 4, "request_rate": "inf", "burstiness": 1.0,
    "max_concurrency": 2, "duration": 2.5, "completed": 4, "total_input_tokens": 800, "total_output_tokens": 200,
    "request_throughput": 1.6, "request_goodput": None, "output_throughput": 80.0, "total_token_throughput": 400.0,
    "mean_ttft_ms": 40.0, "median_ttft_ms": 39.0, "std_ttft_ms": 2.0, "p99_ttft_ms": 45.0,
    "mean_tpot_ms": 7.0, "median_tpot_ms": 7.0, "std_tpot_ms": 0.1, "p99_tpot_ms": 7.5,
    "mean_itl_ms": 7.0, "median_itl_ms": 7.0, "std_itl_ms": 0.1, "p99_itl_ms": 7.9,
}  # fmt: skip
DETAILS = {
    "input_lens": [200] * 4, "output_lens": [3] * 4, "ttfts": [0.04, 0.041, 0.042, 0.039],
    "itls": [[0.007, 0.007]] * 4, "generated_texts": [""] * 4, "errors": [""] * 4,
}  # fmt: skip
SGLANG: dict[str, Any] = {
    "tag": None, "backend": "sglang", "dataset_name": "random", "request_rate": 4.0, "max_concurrency": None,
    "random_input_len": 1000, "random_output_len": 100, "random_range_ratio": 0.5, "duration": 25.0, "completed": 100,
    "total_input_tokens": 75000, "total_output_tokens": 7500, "request_throughput": 4.0, "output_throughput": 300.0,
    "mean_e2e_latency_ms": 900.0, "median_e2e_latency_ms": 890.0, "mean_ttft_ms": 60.0, "median_ttft_ms": 55.0,
    "p99_ttft_ms": 120.0, "mean_tpot_ms": 9.0, "median_tpot_ms": 9.0, "p99_tpot_ms": 12.0, "concurrency": 3.6,
}  # fmt: skip


def test_the_aggregate_figures_of_vllm_stand_for_a_run_of_mean_lengths(tmp_path: Path) -> None:
    path = tmp_path / "vllm.json"
    path.write_text(json.dumps(VLLM, indent=1))
    assert recognise(path) == "serving run"
    (run,) = read_serving_runs(path, GIVEN)
    assert run.options.arrivals == "closed:concurrency=2"
    assert run.workload.input_tokens.tolist() == [200] * 4
    assert run.workload.output_tokens.tolist() == [50] * 4
    assert run.figures["ttft_s", "mean"] == pytest.approx(0.040)
    assert run.figures["tpot_s", "p99"] == pytest.approx(0.0075)
    assert run.figures["output_tokens_per_second", "mean"] == 80.0


def test_single_requests_of_vllm_are_used_where_they_are(tmp_path: Path) -> None:
    path = tmp_path / "vllm.json"
    path.write_text(json.dumps(VLLM | DETAILS))
    (run,) = read_serving_runs(path, GIVEN)
    assert run.log is not None
    assert run.log.measured["ttft_s"].tolist() == DETAILS["ttfts"]


def test_every_line_of_sglang_is_a_run(tmp_path: Path) -> None:
    path = tmp_path / "sglang.jsonl"
    path.write_text("".join(json.dumps(SGLANG | {"request_rate": r}) + "\n" for r in (2.0, 4.0)))
    assert recognise(path) == "serving run"
    slow, fast = read_serving_runs(path, GIVEN | {"engine": "sglang"})
    assert (slow.options.rate, fast.options.rate) == (2.0, 4.0)
    assert slow.options.input_length == "uniform:500,1000"
    assert 500 <= slow.workload.input_tokens.min() <= slow.workload.input_tokens.max() <= 1000
    assert slow.figures["e2e_s", "mean"] == pytest.approx(0.9)
    assert np.array_equal(slow.workload.input_tokens, fast.workload.input_tokens)


def test_a_table_has_a_row_a_request(tmp_path: Path) -> None:
    path = tmp_path / "requests.csv"
    path.write_text("arrival_s,input_tokens,output_tokens,ttft_ms\n0,100,10,50\n1,200,20,60\n")
    assert recognise(path) == "requests"
    (run,) = read_requests(path, GIVEN)
    assert run.log is not None
    assert run.log.measured["ttft_s"].tolist() == pytest.approx([0.05, 0.06])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"completed": 0}, "does not say completed"),
        ({"request_rate": "fast"}, "request_rate 'fast' is no number above 0"),
        ({"request_rate": -1}, "request_rate -1 is no number above 0"),
        ({k: None for k in VLLM if k.endswith("_ms") or k == "output_throughput"}, "has no latency or throughput"),
    ],
)
def test_a_malformed_result_is_one_line(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = tmp_path / "vllm.json"
    path.write_text(json.dumps(VLLM | change))
    with pytest.raises(ScenarioError, match=said) as error:
        calibrate_from_log(path, GIVEN)
    assert "\n" not in str(error.value)


def test_half_a_file_and_another_workload_are_told(tmp_path: Path) -> None:
    path = tmp_path / "vllm.json"
    path.write_text(json.dumps(VLLM)[:-20])
    with pytest.raises(ScenarioError, match="no JSON object and no JSON lines"):
        calibrate_from_log(path, GIVEN)
    path.write_text(json.dumps(VLLM))
    with pytest.raises(ScenarioError, match="brings its own requests: leave out rate"):
        calibrate_from_log(path, GIVEN | {"rate": 3})
