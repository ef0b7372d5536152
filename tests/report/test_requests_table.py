from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from windtunnel.errors import ScenarioError
from windtunnel.report.requests_table import STATUSES, write_requests
from windtunnel.serving.outcome import PS


def test_a_row_a_request(service: Any, tmp_path: Path) -> None:
    workload = service.workload(50)
    outcome = service.outcome(workload, stop_s=1.0)
    result = service.result(outcome, workload)
    file = tmp_path / "requests.parquet"
    write_requests(outcome, replace(workload, session=np.arange(50) // 5 - 1), file)
    frame = pl.read_parquet(file)
    assert frame.height == 50
    assert frame.columns == [
        "arrival_s", "start_s", "first_token_s", "finish_s", "ttft_s", "tpot_s", "e2e_s", "queue_s", "input_tokens",
        "output_tokens", "status", "preemptions", "cached_tokens", "replica", "session", "client", "retries",
    ]  # fmt: skip
    assert frame["arrival_s"].to_numpy() == pytest.approx(outcome.arrival / PS)
    done = frame.filter(pl.col("status") == "completed")
    assert done.height == result.completed
    assert done["ttft_s"].mean() == pytest.approx(result.ttft_s["mean"])
    assert done["e2e_s"].max() == pytest.approx(result.e2e_s["max"])
    others = frame.filter(pl.col("status") != "completed")
    assert set(others["status"]) == {"unfinished"}
    assert others["e2e_s"].null_count() == others["finish_s"].null_count() == others.height
    assert frame["client"].null_count() == 50
    assert frame["session"].null_count() == 5
    assert not frame.select(pl.col(pl.Float64).is_nan().any()).row(0)[0]
    assert list(tmp_path.iterdir()) == [file]  # nothing temporary is left


def test_statuses_are_words() -> None:
    assert STATUSES == ("unfinished", "completed", "too_long", "queue_full", "timed_out", "failed")


def test_a_file_that_cannot_be_written(service: Any, tmp_path: Path) -> None:
    workload = service.workload(3)
    outcome = service.outcome(workload)
    with pytest.raises(ScenarioError, match="no/such"):
        write_requests(outcome, workload, tmp_path / "no/such/file.parquet")
    if Path("/dev/full").exists():
        with pytest.raises(ScenarioError, match="cannot write '/dev/full'"):
            write_requests(outcome, workload, "/dev/full")
