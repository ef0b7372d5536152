"""Traces from files: every layout, compression, and what becomes of malformed rows."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.errors import ScenarioError
from windtunnel.serving.workload.reader import read_trace
from windtunnel.serving.workload.traces import Trace


def read(folder: Path, text: str | bytes, *, name: str = "trace.csv", strict: bool = False) -> Trace:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_trace(path, strict=strict)


def said(folder: Path, text: str | bytes, *, strict: bool = False) -> str:
    """The one line of the error."""
    with pytest.raises(ScenarioError) as caught:
        read(folder, text, strict=strict)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
)
AZURE_2024 = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10T00:00:00.5+00:00,374,44\n2024-05-10T00:00:04.814579Z,396,109\n"
)
BURST = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,1087,230,1317,Conversation log\n"
)
MOONCAKE = (
    '{"timestamp": 0, "input_length": 600, "output_length": 52, "hash_ids": [46, 47]}\n'
    '{"timestamp": 3000, "input_length": 1030, "output_length": 26, "hash_ids": [46, 47, 99]}\n'
)
MOONCAKE_CSV = "timestamp_ms,input_length,output_length,hash_ids_512tok_blocks\n0,600,52,46 47\n3000,1030,26,46 47 99\n"


@pytest.mark.parametrize(
    ("text", "times", "inputs", "outputs"),
    [
        (AZURE, [0, 4.314579], [374, 396], [44, 109]),
        (AZURE_2024, [0, 4.314579], [374, 396], [44, 109]),
        ("arrival_s,context_tokens,generated_tokens\n0.0,374,44\n4.3146,396,109\n", [0, 4.3146], [374, 396], [44, 109]),
        ("time,isl,osl\n2024-01-01 02:00:00+02:00,2,5\n2024-01-01 00:00:07,3,7\n", [0, 7], [2, 3], [5, 7]),
        (BURST, [0, 40], [472, 1087], [18, 230]),
        (MOONCAKE, [0, 3], [600, 1030], [52, 26]),
        (MOONCAKE_CSV, [0, 3], [600, 1030], [52, 26]),
        ("start_offset_s,context_tokens,generated_tokens\n3.5,304,8\n4.5,497,17\n", [0, 1], [304, 497], [8, 17]),
        ("request_id,arrival_s,input_tokens,output_tokens,a_ms\na,0.0,2,5,9\nb,1.5,3,7,9\n", [0, 1.5], [2, 3], [5, 7]),
        ("arrived_at,num_prefill_tokens,num_decode_tokens\n1,2,5\n3,3,7\n", [0, 2], [2, 3], [5, 7]),
        ('{"arrival_time_ns": 1e9, "input_toks": 2, "output_toks": 5}\n', [0], [2], [5]),
        ("Time (ms);Prompt Tokens;Completion Tokens\n0;2;5\n1500;3;7\n", [0, 1.5], [2, 3], [5, 7]),
        ("\ufefftime_us\tisl\tosl\r\n0\t2\t5\r\n\r\n1500\t3\t7", [0, 1.5e-3], [2, 3], [5, 7]),
        ('"arrival_s","input_tokens","output_tokens"\n"0","2","5"\n1,"3",7\n', [0, 1], [2, 3], [5, 7]),
        ('arrival_s,prompt,input_tokens,output_tokens\n0,"a, ""b""",2,5\n1,c,3,7\n', [0, 1], [2, 3], [5, 7]),
    ],
)  # fmt: skip
def test_layouts(tmp_path: Path, text: str, times: list[float], inputs: list[int], outputs: list[int]) -> None:
    for kind, data in (("", text.encode()), (".gz", gzip.compress(text.encode()))):
        trace = read(tmp_path, data, name=f"any{kind}", strict=True)
        assert trace.arrival_s == pytest.approx(times, abs=1e-9)
        assert trace.input_tokens.tolist() == inputs
        assert trace.output_tokens.tolist() == outputs
        assert not trace.warnings
        assert (trace.rows, trace.left_out) == (len(inputs), 0)


def zstd(data: bytes) -> bytes:
    """A frame of one block that is not compressed (RFC 8878): its size in one byte."""
    block = (len(data) << 3 | 1).to_bytes(3, "little")
    return b"\x28\xb5\x2f\xfd\x20" + bytes([len(data)]) + block + data


def test_zstd(tmp_path: Path) -> None:
    for text in (AZURE, MOONCAKE):
        trace = read(tmp_path, zstd(text.encode()), strict=True)
        assert len(trace) == 2


def test_parquet(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "timestamp_ms": [0, 3000],
            "input_length": [600, 1030],
            "output_length": [52, 26],
            "hash_ids": [[46, 47], [46, 47, 99]],
            "noise": [{"a": 1}, {"a": 2}],
        }
    )
    frame.write_parquet(tmp_path / "a.parquet")
    found = read_trace(tmp_path / "a.parquet", strict=True)
    assert found.arrival_s == pytest.approx([0, 3])
    assert found.blocks is not None
    assert found.blocks.tolist() == [0, 1, 0, 1, 2]
    stamped = pl.DataFrame({"time": ["2024-01-01 00:00:00", "2024-01-01 00:01:00"], "isl": [1, None], "osl": [2, 3]})
    stamped.with_columns(pl.col("time").str.to_datetime()).write_parquet(tmp_path / "b.parquet")
    found = read_trace(tmp_path / "b.parquet")
    assert found.left_out == 1
    assert "row 2" in found.warnings[0]


def test_blocks_sessions_clients_and_priorities_are_carried(tmp_path: Path) -> None:
    trace = read(
        tmp_path,
        "arrival_s,input_tokens,output_tokens,hash_ids_16,session_id,user_id,priority\n"
        "0,33,1,a b c,s1,joe,2\n1,40,1,a b,,ann,\n2,10,1,,s1,joe,-1\n",
    )
    assert trace.block_tokens == 16
    assert trace.blocks is not None
    assert trace.block_offsets is not None
    assert trace.block_offsets.tolist() == [0, 3, 6, 7]
    # Blocks that the trace does not name are shared with nobody.
    assert trace.blocks.tolist() == [0, 1, 2, 0, 1, 3, 4]
    assert trace.session is not None
    assert trace.session.tolist() == [0, -1, 0]
    assert trace.client is not None
    assert trace.client.tolist() == [0, 1, 0]
    assert trace.priority is not None
    assert trace.priority.tolist() == [2, 0, -1]


def test_a_bare_time_column_is_seconds_and_says_so(tmp_path: Path) -> None:
    trace = read(tmp_path, "timestamp,input_tokens,output_tokens\n0,1,1\n2,1,1\n")
    assert trace.arrival_s == pytest.approx([0, 2])
    assert "read as seconds" in trace.warnings[0]
    # Mooncake's layout counts milliseconds; without its hashes that is a guess.
    trace = read(tmp_path, "timestamp,input_length,output_length\n0,1,1\n2000,1,1\n")
    assert trace.arrival_s == pytest.approx([0, 2])
    assert "read as ms" in trace.warnings[0]


BAD_ROWS = {
    "1,5": "fields of the header",
    "1,5,6,7": "fields of the header",
    '1,"5,6': "fields of the header",
    ",5,6": "no arrival time",
    "x,5,6": "no number of seconds",
    "nan,5,6": "no number of seconds",
    "inf,5,6": "outside",
    "-1,5,6": "outside",
    "2e12,5,6": "outside",
    "1,,6": "no input tokens",
    "1,many,6": "input tokens that are no number",
    "1,nan,6": "input tokens that are no number",
    "1,-5,6": "input tokens that are not a whole number",
    "1,inf,6": "input tokens that are not a whole number",
    "1,5.5,6": "input tokens that are not a whole number",
    "1,2e8,6": "input tokens that are not a whole number",
    "1,0,6": "input tokens 0",
    "1,5,0": "failed requests",
    "1,5,\x00": "output tokens",
}


@pytest.mark.parametrize(("row", "why"), BAD_ROWS.items())
def test_a_malformed_row_is_left_out_and_counted(tmp_path: Path, row: str, why: str) -> None:
    text = f"arrival_s,input_tokens,output_tokens\n0,1,2\n\n{row}\n7,3,4\n"
    trace = read(tmp_path, text)
    assert trace.input_tokens.tolist() == [1, 3]
    assert (trace.rows, trace.left_out) == (3, 1)
    (warning,) = trace.warnings
    assert why in warning
    assert "1 row left out" in warning
    assert warning.endswith("(line 4)")
    strict = said(tmp_path, text, strict=True)
    assert why in strict
    assert "line 4" in strict


def test_broken_text_and_json_cost_their_row(tmp_path: Path) -> None:
    trace = read(tmp_path, b"arrival_s,input_tokens,output_tokens\n0,1,2\n1,\xff\xfe,3\n2,5,6\n")
    assert trace.input_tokens.tolist() == [1, 5]
    good = '{"arrival_s": 1, "input_tokens": 5, "output_tokens": 6}'
    rows = [good, "{", "[1]", '{"arrival_s": 1}', good.replace("5", '"5"'), good.replace("5", "true"), "7", good]
    trace = read(tmp_path, "\n".join(rows))
    assert len(trace) == 3
    assert trace.rows == 8
    assert any("3 rows left out: not a JSON object (lines 2, 3, 7)" in x for x in trace.warnings)
    assert "line 2" in said(tmp_path, "\n".join(rows), strict=True)
    assert read(tmp_path, good + '\n{"a": "\\ud800"}\n' + "[" * 100_000).left_out == 2


def test_rows_out_of_order_are_sorted_and_counted(tmp_path: Path) -> None:
    text = "arrival_s,input_tokens,output_tokens\n3,1,1\n1,2,1\n5,3,1\n4,4,1\n5,5,1\n"
    trace = read(tmp_path, text)
    assert trace.input_tokens.tolist() == [2, 1, 4, 3, 5]
    assert trace.arrival_s is not None
    assert trace.arrival_s.tolist() == [0, 2, 3, 4, 4]
    assert trace.left_out == 0
    assert "2 rows out of order" in trace.warnings[0]
    assert "lines 3, 5" in trace.warnings[0]
    assert "line 3: earlier" in said(tmp_path, text, strict=True)


def test_files_that_are_no_traces(tmp_path: Path) -> None:
    assert "is empty" in said(tmp_path, "")
    assert "is empty" in said(tmp_path, "\n \n")
    assert "is empty" in said(tmp_path, gzip.compress(b""))
    assert "no usable row of 0" in said(tmp_path, "input_tokens,output_tokens\n")
    assert "no usable row of 2: 2 with" in said(tmp_path, "input_tokens,output_tokens\n0,1\n0,1\n")
    unknown = said(tmp_path, "when,input_tokens,reply\n1,2,3\n")
    assert "no column of output tokens (output_tokens, " in unknown
    assert "'when', 'input_tokens', 'reply'" in unknown
    damaged = gzip.compress(AZURE.encode() * 100)
    for data in (
        damaged[:40] + b"zz" + damaged[42:],
        damaged[:-9],
        b"\x28\xb5\x2f\xfdjunk",
        b"PAR1junkPAR1",
    ):
        assert "cannot be read as" in said(tmp_path, data)
    said(tmp_path, bytes(range(256)) * 10)
    for path, why in (
        (tmp_path, "is a folder"),
        (tmp_path / "none.csv", "does not exist"),
        (Path("/dev/null"), "plain"),
    ):
        with pytest.raises(ScenarioError, match=why):
            read_trace(path)
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(ScenarioError):
            read_trace(tmp_path / name)


FIELDS = st.sampled_from(
    ["0", "1", "7", "12.5", "-3", "", " ", "nan", "inf", "1e9", "x", '"', '"a,b"', "é", "\ufeff", "1e999"]
)


@given(st.lists(st.lists(FIELDS, min_size=1, max_size=5).map(",".join), max_size=12), st.booleans())
def test_any_rows_are_good_or_counted(tmp_path_factory: pytest.TempPathFactory, rows: list[str], quoted: bool) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    rows = ["0,1,1", *rows]
    head = "arrival_s,input_tokens,output_tokens"
    trace = read(folder, "\n".join([f'"{head}"'.replace(",", '","') if quoted else head, *rows]))
    assert trace.rows == sum(1 for row in rows if row.strip())
    assert len(trace) + trace.left_out == trace.rows
    assert len(trace) >= 1
    assert trace.arrival_s is not None
    assert (np.diff(trace.arrival_s) >= 0).all()
    assert trace.input_tokens.min() >= 1


VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.lists(st.integers(), max_size=3)
)


@given(
    st.lists(
        st.dictionaries(st.sampled_from(["timestamp", "input_length", "output_length", "hash_ids", "é"]), VALUES)
        | VALUES,
        max_size=8,
    )
)
def test_any_json_is_good_or_counted(tmp_path_factory: pytest.TempPathFactory, rows: list[object]) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    good = {"timestamp": 0, "input_length": 1, "output_length": 2, "hash_ids": [3]}
    trace = read(folder, "\n".join(json.dumps(row) for row in [good, *rows]))
    assert trace.rows == 1 + len(rows)
    assert 1 <= len(trace) == trace.rows - trace.left_out
    assert trace.block_offsets is not None
    assert (np.diff(trace.block_offsets) >= -(-trace.input_tokens // 512)).all()


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x1f\x8b", b"PAR1", b"{", b"isl,osl\n", b"\x28\xb5\x2f\xfd"]))
def test_any_bytes_are_a_trace_or_one_line(tmp_path_factory: pytest.TempPathFactory, data: bytes, start: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "junk"
    path.write_bytes(start + data)
    said = ""
    try:
        trace = read_trace(path)
        assert len(trace) == trace.rows - trace.left_out
    except ScenarioError as error:
        said = str(error)
    assert len(said.splitlines()) <= 1


@pytest.mark.parametrize(
    ("file", "rows", "rate"),
    [
        ("r1_azure_llm_2023/conv.csv", 19366, 5.53),
        ("r2_mooncake/conversation_trace.csv", 12031, 3.401),
        ("r3_length_samples/arxiv_summarization.csv", 20000, None),
        ("r3_length_samples/lmsys.csv", 20000, None),
        ("s3_apex_plus/trace_llama_lmsys_025.csv", 1024, 0.2437),
        ("s5_llmservingsim_vllm/requests_RTX4090_Llama-3.1-8B.csv", 300, 10.27),
    ],
)
def test_real_files(measured_data: Path, file: str, rows: int, rate: float | None) -> None:
    trace = read_trace(measured_data / file, strict=True)
    assert len(trace) == trace.rows == rows
    assert trace.rate == (None if rate is None else pytest.approx(rate, rel=1e-3))
    assert not trace.warnings
