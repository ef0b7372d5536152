"""Result files of benchmarks: every format, arrivals that are not in them, and what becomes of failed requests."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from windtunnel.errors import ScenarioError
from windtunnel.serving.workload.logged import Log
from windtunnel.serving.workload.logs import read_log
from windtunnel.serving.workload.requests import NEXT, OPEN

RUN: dict[str, Any] = {
    "backend": "vllm",
    "num_prompts": 4,
    "request_rate": "inf",
    "burstiness": 1.0,
    "max_concurrency": None,
    "duration": 3.0,
    "completed": 3,
    "input_lens": [10, 20, 30, 40],
    "output_lens": [3, 1, 0, 2],
    "ttfts": [0.5, 0.25, 0.0, 0.75],
    "itls": [[0.1, 0.3], [], [], [0.2]],
    "generated_texts": ["a", "b", "", "d"],
    "errors": ["", "", "Connection refused", ""],
}


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Log]:
    def read(content: Any, name: str = "log.json", **options: Any) -> Log:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_log(path, **options)

    return read


def said(read: Callable[..., Log], content: Any, **options: Any) -> str:
    """The one line of the error."""
    with pytest.raises(ScenarioError) as caught:
        read(content, **options)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def attempt(read: Callable[..., Log], content: Any) -> Log | str:
    """The log, or what is said of it."""
    try:
        return read(content)
    except ScenarioError as error:
        return str(error)


def test_a_run_of_vllm(read: Callable[..., Log]) -> None:
    log = read({**RUN, "start_times": [100.5, 100.0, 100.6, 102.0]})
    w = log.workload
    assert w.name == "log.json"
    assert w.arrival_s.tolist() == [0.0, 0.5, 2.0]
    assert w.input_tokens.tolist() == [20, 10, 40]
    assert w.output_tokens.tolist() == [1, 3, 2]
    assert w.after is None
    assert log.measured["ttft_s"].tolist() == [0.25, 0.5, 0.75]
    assert log.measured["e2e_s"] == pytest.approx([0.25, 0.9, 0.95])
    assert log.measured["tpot_s"] == pytest.approx([np.nan, 0.2, 0.2], nan_ok=True)
    assert log.gaps_s is not None
    assert sorted(log.gaps_s.tolist()) == [0.1, 0.2, 0.3]
    assert log.duration_s == 3.0
    assert len(w.warnings) == 1
    assert "1 of 4 requests left out: failed" in w.warnings[0]


@pytest.mark.parametrize("write", [
    lambda run: json.dumps(run, indent=2), lambda run: "\n " + json.dumps(run) + "\n",
    lambda run: gzip.compress(json.dumps(run).encode()), lambda run: b"\xef\xbb\xbf" + json.dumps(run).encode(),
])  # fmt: skip
def test_a_run_however_it_is_written(read: Callable[..., Log], write: Callable[[Any], Any]) -> None:
    assert len(read(write({**RUN, "start_times": [1, 2, 3, 4]})).workload) == 3


def test_arrivals_that_are_not_there(read: Callable[..., Log]) -> None:
    at_once = read(RUN).workload
    assert at_once.arrival_s.tolist() == [0, 0, 0]
    assert "no arrival times; rebuilt: all at once, request_rate inf" in at_once.warnings[1]
    poisson = read({**RUN, "request_rate": 2.0}).workload
    assert poisson.arrival_s[0] == 0
    assert np.all(np.diff(poisson.arrival_s) > 0)
    assert "Poisson at request_rate 2 with seed 0" in poisson.warnings[1]
    assert read({**RUN, "request_rate": 2.0}).workload.arrival_s.tolist() == poisson.arrival_s.tolist()
    assert read({**RUN, "request_rate": 2.0}, seed=1).workload.arrival_s.tolist() != poisson.arrival_s.tolist()
    assert "gamma (burstiness 0.5)" in read({**RUN, "request_rate": 2.0, "burstiness": 0.5}).workload.warnings[1]
    closed = read({**RUN, "max_concurrency": 2}).workload
    assert closed.after is not None
    assert closed.after.tolist() == [OPEN, OPEN, NEXT]
    assert closed.input_tokens.tolist() == [10, 20, 40]
    assert "closed loop of max_concurrency 2" in closed.warnings[1]
    assert read({**RUN, "max_concurrency": 64}).workload.after is None


def test_the_limit_that_made_the_pace(read: Callable[..., Log]) -> None:
    """2.1 request seconds of 3: a limit of 0.7 requests under way would have been reached, one of 64 not."""
    assert "Poisson" in read({**RUN, "request_rate": 2.0, "max_concurrency": 64}).workload.warnings[1]
    busy = read({**RUN, "request_rate": 2.0, "max_concurrency": 2, "duration": 1.0}).workload
    assert "closed loop" in busy.warnings[1]


def test_runs_of_sglang(read: Callable[..., Log]) -> None:
    """A line a run; several tokens in a message."""
    run = {**RUN, "backend": "sglang", "request_rate": float("inf"), "max_concurrency": 2, "output_lens": [9, 1, 0, 4]}
    log = read(json.dumps({**run, "ttfts": []}) + "\n" + json.dumps(run) + "\n")
    assert log.measured["tpot_s"] == pytest.approx([0.4 / 8, np.nan, 0.2 / 3], nan_ok=True)
    assert log.gaps_s is None
    assert any("3 messages bring 11 tokens" in x for x in log.workload.warnings)
    assert any("holds 2 runs; the last is replayed" in x for x in log.workload.warnings)


def test_without_gaps_only_first_tokens_are_known(read: Callable[..., Log]) -> None:
    log = read({k: v for k, v in RUN.items() if k not in ("itls", "errors")})
    assert list(log.measured) == ["ttft_s"]
    assert log.gaps_s is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"ttfts": None}, "ttfts None is no list"),
        ({"ttfts": [1]}, "ttfts has 1 entries, input_lens 4"),
        ({"ttfts": ["a", 1, 2, 3]}, r"ttfts\[0\] 'a' is no number"),
        ({"ttfts": [0, 0, 0, 0], "itls": []}, "no measured latency"),
        ({"ttfts": [1e308, 1, 1, 1]}, r"ttfts\[0\] 1e\+308 is no time"),
        ({"output_lens": [1]}, "output_lens has 1 entries"),
        ({"output_lens": [0, 0, 0, 0]}, "no answered request of 4"),
        ({"output_lens": [1.5, 1, 1, 1]}, r"output_lens\[0\] 1.5 is no whole number"),
        ({"input_lens": [10**400, 1, 1, 1]}, "too large"),
        ({"input_lens": [-1, 1, 1, 1]}, r"input_lens\[0\] -1"),
        ({"itls": [[1]]}, "itls is not a list of 4 lists"),
        ({"itls": [[-1.0], [], [], []]}, r"itls\[0\] holds what is no time"),
        ({"itls": [[True], [], [], []]}, r"itls\[0\]\[0\] True is no number"),
        ({"request_rate": "fast"}, "request_rate 'fast' is no number above 0"),
        ({"request_rate": 0}, "request_rate 0"),
        ({"request_rate": 1e-9}, "can be simulated"),
        ({"start_times": [1, None, 2, 3]}, "start_times holds what is no time"),
        ({"start_times": [1, 2]}, "start_times has 2 entries"),
    ],
)
def test_malformed_runs(read: Callable[..., Log], change: dict[str, Any], expected: str) -> None:
    assert re.search(expected, said(read, {**RUN, **change}))


def test_a_run_without_its_requests_says_how_to_keep_them(read: Callable[..., Log]) -> None:
    summary = {k: v for k, v in RUN.items() if not isinstance(v, list)}
    assert "--save-detailed (vLLM) or --output-details (SGLang)" in said(read, summary)
    assert "--save-detailed" in said(read, json.dumps({"mean_ttft_ms": 3}, indent=1))


TABLE = (
    "request_id,arrival_s,input_tokens,output_tokens,queue_ms,ttft_ms,decode_ms,tpot_ms\n"
    "b,3.5,5,2,1,50,10,10\na,2.5,7,1,0.5,40,0,0\nc,2.75,9,3,,,,\n"
)


def test_a_table(read: Callable[..., Log]) -> None:
    log = read(TABLE, "log.csv")
    assert log.workload.arrival_s.tolist() == [0, 0.25, 1.0]
    assert log.workload.input_tokens.tolist() == [7, 9, 5]
    assert log.measured["ttft_s"] == pytest.approx([0.04, np.nan, 0.05], nan_ok=True)
    assert log.measured["queue_s"] == pytest.approx([0.0005, np.nan, 0.001], nan_ok=True)
    assert log.measured["e2e_s"] == pytest.approx([0.04, np.nan, 0.06], nan_ok=True)
    assert log.measured["tpot_s"] == pytest.approx([np.nan, np.nan, 0.01], nan_ok=True)
    assert log.duration_s is None  # the end of one request is not known
    assert log.workload.warnings == ()


@pytest.mark.parametrize(
    ("text", "ttft", "e2e"),
    [
        ("arrival_s,isl,osl,ttft_s,e2e_s\n0,2,5,0.5,1\n", 0.5, 1.0),
        ("arrival_ms;prompt_len;output_len;TTFT (ms);E2EL (ms)\n7;2;5;500;1000\n", 0.5, 1.0),
        ("arrival_time_s,prompt_tokens,completion_tokens,time_to_first_token_us,latency_us\n7,2,5,5e5,1e6\n", 0.5, 1.0),
        ("start_time_s\tinput_len\toutput_len\tfirst_token_time_s\tend_time_s\n7\t2\t5\t7.5\t8\n", 0.5, 1.0),
        ('{"arrival_s": 1, "input_len": 2, "output_len": 5, "ttft_ms": 500, "decode_ms": 500}\n', 0.5, 1.0),
        ("timestamp,input_tokens,output_tokens,ttft\n9,2,5,0.5\n", 0.5, None),
    ],
)
def test_names_of_columns(read: Callable[..., Log], text: str, ttft: float, e2e: float | None) -> None:
    log = read(text, "log.txt")
    assert log.measured["ttft_s"][0] == pytest.approx(ttft)
    if e2e is None:
        assert "'timestamp', 'ttft' state no unit; read as seconds" in log.workload.warnings[0]
    else:
        assert log.measured["e2e_s"][0] == pytest.approx(e2e)
        assert log.measured["tpot_s"][0] == pytest.approx((e2e - ttft) / 4)
        assert log.duration_s == pytest.approx(e2e)
        assert log.workload.warnings == ()


def test_failed_and_malformed_rows_are_counted(read: Callable[..., Log]) -> None:
    text = (
        "arrival_s,input_tokens,output_tokens,ttft_ms,status,error,success\n"
        "0,5,2,50,completed,,true\n1,5,2,50,timed_out,,true\n2,5,2,50,500,,true\n3,5,2,50,ok,boom,true\n"
        "4,5,2,50,ok,,False\n5,5,0,50,ok,,true\n6,5,2,soon,ok,,true\n7,5,2,-1,ok,,true\n8,5,x,1,ok,,true\nx,5,2,1,ok,,1\n9\n"
    )
    log = read(text, "log.csv")
    assert len(log.workload) == 1
    warned = " ".join(log.workload.warnings)
    for expected in (
        "4 rows left out: failed requests (line 3, 4, 5, …)", "1 row left out: output tokens 0 (failed requests)",
        "'ttft_ms' that is no number (line 8)", "a ttft outside of 0 to 1e+09 s (line 9)",
        "output tokens that are no whole number of at least 1 (line 10)", "an arrival time that is no number (line 11)",
        "not the 7 fields of the header (line 12)",
    ):  # fmt: skip
        assert expected in warned
    assert "line 12: not the 7 fields" in said(read, text, name="log.csv", strict=True)
    strict = read("\n".join(text.splitlines()[:7]), "log.csv", strict=True)  # failed requests are no malformed rows
    assert len(strict.workload) == 1


def test_a_parquet_table(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    frame = {"arrival_s": [1.0, 2.0], "input_tokens": [3, 4], "output_tokens": [5, 6], "ttft_s": [0.5, None]}
    pl.DataFrame(frame).write_parquet(path)
    assert read_log(path).measured["ttft_s"] == pytest.approx([0.5, np.nan], nan_ok=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("[1, 2]", "holds a JSON list; accepted: vLLM's"),
        ("{", "is no JSON"),
        ("{]\n{", "is no JSON"),
        (json.dumps(RUN) + "\n[", "its last line is no JSON object"),
        ("arrival_s,input_tokens,output_tokens\n0,1,1\n", "has no measured latency"),
        ("input_tokens,output_tokens,ttft_ms\n1,1,1\n", "has no column of arrival times"),
        ("arrival_s,ttft_ms\n1,1\n", "has no column of input tokens"),
        ("arrival_s,input_tokens,output_tokens,ttft_ms\n", "has no usable row"),
        (
            "arrival_s,input_tokens,output_tokens,ttft_ms\n0,1,0,1\n",
            "has no usable row: 1 row left out: output tokens 0",
        ),
        ("arrival_s,input_tokens,output_tokens,ttft_ms\n0,1,1,1\n1e9,1,1,1\n", "at most 9e+06 s can be simulated"),
    ],
)
def test_what_is_no_log(read: Callable[..., Log], text: str, expected: str) -> None:
    found = said(read, text)
    assert found.startswith("replay ")
    assert expected in found


def test_what_is_no_file(tmp_path: Path) -> None:
    for path, expected in (
        (tmp_path, "is no file"),
        (tmp_path / "x", "does not exist"),
        (tmp_path / "a\0b", "cannot be read|does not exist"),
        (tmp_path / ("x" * 5000), "cannot be read"),
    ):
        with pytest.raises(ScenarioError, match=expected):
            read_log(path)
    broken = tmp_path / "x.gz"
    broken.write_bytes(b"\x1f\x8b123")
    with pytest.raises(ScenarioError, match="cannot be read"):
        read_log(broken)


ANY: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=3), x, max_size=2),
    max_leaves=8,
)


@given(changes=st.dictionaries(st.sampled_from([*RUN, "start_times"]), ANY, max_size=3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
def test_a_wrong_run_is_one_line_or_a_log(read: Callable[..., Log], changes: dict[str, Any]) -> None:
    log = attempt(read, {**RUN, **changes})
    if isinstance(log, str):
        assert len(log.splitlines()) == 1
        return
    assert len(log.workload) >= 1
    assert np.all(np.diff(log.workload.arrival_s) >= 0)
    assert all(len(values) == len(log.workload) for values in log.measured.values())


CELL = st.sampled_from(["", "0", "1", "2.5", "-1", "1e999", "nan", "x", '"', "2024-01-01", "ok", "failed"])


@given(rows=st.lists(st.lists(CELL, min_size=4, max_size=6), max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_a_wrong_table_is_one_line_or_a_log(read: Callable[..., Log], rows: list[list[str]]) -> None:
    head = ["arrival_s", "input_tokens", "output_tokens", "ttft_ms", "status"]
    log = attempt(read, "\n".join(",".join(r) for r in [head, *rows]))
    if isinstance(log, str):
        assert len(log.splitlines()) == 1
        return
    assert all(len(values) == len(log.workload) >= 1 for values in log.measured.values())


def test_the_published_runs(measured_data: Path) -> None:
    folder = measured_data / "s5_llmservingsim_vllm"
    if not folder.is_dir():
        pytest.skip("the measured data have no s5_llmservingsim_vllm")
    for path in sorted(folder.glob("requests_*.csv")):
        log = read_log(path)
        assert len(log.workload) == 300
        assert set(log.measured) == {"ttft_s", "tpot_s", "e2e_s", "queue_s"}
        assert log.workload.warnings == ()
        assert log.duration_s is not None
        stated = pl.read_csv(path).sort("arrival_s")["tpot_ms"].to_numpy() / 1e3
        assert log.measured["tpot_s"] == pytest.approx(stated, rel=1e-3)
