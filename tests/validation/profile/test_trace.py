from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from windtunnel.errors import ScenarioError
from windtunnel.validation.profile.trace import read_trace


def test_a_kernel_knows_its_operator_and_when_it_was_asked_for(recorder: Any, tmp_path: Path) -> None:
    recorder.step(1, 0, 100)
    recorder.kernel("ampere_bf16_gemm", 50, 10, op="aten::mm", launched=5, dims=[[8, 4], [4, 2]])
    trace = read_trace(recorder.write(tmp_path / "t.json", deviceProperties=[{"name": "NVIDIA H100"}]))
    (kernel,) = trace.work
    assert (trace.on, trace.device, trace.steps[0].name) == ("gpu", "NVIDIA H100", "ProfilerStep#1")
    assert (kernel.ops, kernel.dims) == (("aten::mm",), ((8, 4), (4, 2)))
    assert kernel.start == pytest.approx(50e-6, abs=1e-9)
    assert kernel.issued == pytest.approx(5.2e-6, abs=1e-9)
    assert kernel.seconds == pytest.approx(10e-6)


def test_the_external_id_finds_the_operator_where_the_launch_is_missing(recorder: Any, tmp_path: Path) -> None:
    recorder.kernel("vectorized_elementwise_kernel", 50, 10, op="aten::silu")
    recorder.events = [e for e in recorder.events if e.get("cat") != "cuda_runtime"]
    (kernel,) = read_trace(recorder.write(tmp_path / "t.json")).work
    assert kernel.ops == ("aten::silu",)


def test_without_kernels_operators_count_by_their_own_time(recorder: Any, tmp_path: Path) -> None:
    recorder.event("cpu_op", "aten::linear", 0, 100)
    recorder.event("user_annotation", "mine", 5, 90)
    recorder.event("cpu_op", "aten::mm", 10, 80)
    recorder.event("cpu_op", "aten::mm", 10, 80, tid=2)
    trace = read_trace(recorder.write(tmp_path / "t.json"))
    own = sorted((w.name, round(w.seconds * 1e6, 3)) for w in trace.work)
    assert trace.on == "cpu"
    assert own == [("aten::linear", 20), ("aten::mm", 80), ("aten::mm", 80)]
    assert next(w.ops for w in trace.work if w.ops[0] == "aten::mm" and len(w.ops) > 1) == (
        "aten::mm", "mine", "aten::linear",
    )  # fmt: skip


def test_compressed_and_bare_lists_are_read_alike(recorder: Any, tmp_path: Path) -> None:
    recorder.kernel("gemm", 10, 5, op="aten::mm")
    plain = recorder.write(tmp_path / "t.json")
    packed, bare = tmp_path / "t.json.gz", tmp_path / "bare.json"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    bare.write_text(json.dumps(recorder.events))
    assert read_trace(packed) == read_trace(plain) == read_trace(bare)


def test_one_of_several_devices_is_kept_and_said(recorder: Any, tmp_path: Path) -> None:
    recorder.kernel("gemm", 10, 5)
    recorder.kernel("gemm", 10, 9, device=1)
    trace = read_trace(recorder.write(tmp_path / "t.json", distributedInfo={"rank": 3, "world_size": 8}))
    assert [round(w.seconds * 1e6) for w in trace.work] == [9]
    assert "2 devices" in trace.warnings[0]
    assert (trace.rank, trace.world) == (3, 8)


def test_broken_events_are_left_out_and_said(recorder: Any, tmp_path: Path) -> None:
    recorder.kernel("gemm", 10, 5)
    whole = read_trace(recorder.write(tmp_path / "t.json")).work
    bad: list[Any] = [
        7, None, {"ph": "X"}, {"ph": "X", "cat": "kernel", "name": "x", "ts": "soon", "dur": 1},
        {"ph": "X", "cat": "kernel", "name": "x", "ts": 1, "dur": -4},
        {"ph": "X", "cat": "kernel", "name": 5, "ts": 1, "dur": 4, "args": []},
        {"ph": "X", "cat": "cpu_op", "name": "a", "ts": 1e12, "dur": 4, "args": {"Input Dims": [[1, "x"], 3]}},
    ]  # fmt: skip
    recorder.events += bad
    trace = read_trace(recorder.write(tmp_path / "t.json"))
    assert [w.seconds for w in trace.work] == [w.seconds for w in whole]
    assert trace.warnings == ("3 events without a name, a time or a duration were left out",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be read"),
        (b"not json", "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"\x1f\x8bnot gzip", "cannot be read"),
        (gzip.compress(b'{"traceEvents": []}', mtime=0)[:-4], "cannot be read"),
        (b"[" * 200_000, "cannot be read"),
        (b"3", "no list of traceEvents"),
        (b"{}", "no list of traceEvents"),
        (b'{"traceEvents": {}}', "no list of traceEvents"),
        (b'{"traceEvents": []}', "export it in on_trace_ready"),
    ],
)
def test_what_is_no_trace_is_one_clear_line(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(content)
    with pytest.raises(ScenarioError) as error:
        read_trace(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)
    assert "export_chrome_trace" in str(error.value)
    assert "\n" not in str(error.value)


def test_no_file_is_said(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(ScenarioError, match="no file"):
            read_trace(path)
