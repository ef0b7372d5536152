"""The store: what is committed is read back as it was; what is not ours or is damaged is refused and left as it was."""

from __future__ import annotations

import itertools
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.errors import ScenarioError
from windtunnel.planning import plan_serve, plan_train, store_file
from windtunnel.planning.points import KEPT, Column, Found, Text, found
from windtunnel.planning.store import Store
from windtunnel.scenario.options import read_options
from windtunnel.scenario.plan_options import PlanServeOptions, PlanTrainOptions

DOCS = Path(__file__).resolve().parents[2] / "docs" / "plan-store.md"


def plain(column: Column) -> Any:
    """What can be compared: NaN is equal to NaN."""
    if isinstance(column, Text):
        return column.codes.dtype, column.codes.tolist(), column.names
    return column.dtype, column.tobytes() if column.dtype.kind == "f" else column.tolist()


def same(a: Found, b: Found) -> bool:
    return (a.key, a.summary) == (b.key, b.summary) and (
        {name: plain(column) for name, column in a.table.items()}
        == {name: plain(column) for name, column in b.table.items()}
    )


def chunk(i: int, rows: int = 50) -> Found:
    rng = np.random.default_rng(i)
    table: dict[str, Column] = {
        "tp": 2 ** rng.integers(0, 4, rows),
        "step_time_s": rng.random(rows),
        "fits": rng.random(rows) < 0.5,
        "recompute": Text(rng.integers(-1, 2, rows).astype(np.int8), ("none", f"it's {i}")),
    }
    return found(f"chunk {i}", table, {"best": i})


@st.composite
def tables(draw: st.DrawFn) -> list[dict[str, Column]]:
    """Some chunks of the same columns."""
    kinds = draw(st.lists(st.sampled_from([*KEPT, "text"]), min_size=1, max_size=4))

    def column(kind: str, rows: int) -> Column:
        if kind == "text":
            names = draw(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), unique=True))
            codes = draw(st.lists(st.integers(-1, len(names) - 1), min_size=rows, max_size=rows))
            return Text(np.array(codes, np.int16), tuple(names))
        if kind == "bool":
            return np.array(draw(st.lists(st.booleans(), min_size=rows, max_size=rows)), bool)
        if kind.startswith("float"):
            numbers = st.just(float("nan")) | st.floats(width=int(kind[5:]), allow_nan=False)
            return np.array(draw(st.lists(numbers, min_size=rows, max_size=rows)), kind)
        info = np.iinfo(kind)
        return np.array(draw(st.lists(st.integers(info.min, info.max), min_size=rows, max_size=rows)), kind)

    sizes = draw(st.lists(st.integers(0, 5), min_size=1, max_size=4))
    return [{f"c{i}": column(kind, rows) for i, kind in enumerate(kinds)} for rows in sizes]


@settings(max_examples=15)
@given(tables())
def test_chunks_are_read_as_they_were_committed(tmp_path_factory: pytest.TempPathFactory, given: Any) -> None:
    path = tmp_path_factory.mktemp("store") / "s.duckdb"
    chunks = {str(i): found(str(i), table, {"i": i}) for i, table in enumerate(given)}
    with Store.open(path, "train", {}) as store:
        for result in chunks.values():
            store.commit(result)
        assert all(same(result, chunks[result.key]) for result in store.found(chunks))
    with Store.open(path, "train", {}) as store:
        results = list(store.found(store.keys))
        assert [result.key for result in results] == list(chunks)
        assert all(same(result, chunks[result.key]) for result in results)


def test_large_questions_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("windtunnel.planning.store.BATCH_ROWS", 120)
    with Store.open(tmp_path / "s.duckdb", "train", {}) as store:
        for i in range(9):
            store.commit(chunk(i))
        wanted = [f"chunk {i}" for i in (0, 2, 3, 4, 8)]
        results = list(store.found(wanted))
    assert [result.key for result in results] == wanted
    assert all(same(result, chunk(int(result.key[6:]))) for result in results)


def test_a_file_holds_several_questions(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    questions = [("train", {"seq": 1, "tp": 2}), ("train", {"seq": 2}), ("serve", {"seq": 1, "tp": 2})]
    for i, (command, question) in enumerate(questions):
        with Store.open(path, command, question) as store:
            assert not store.keys
            store.commit(chunk(i))
            store.commit(chunk(7, rows=3))
    with Store.open(path, "train", {"tp": 2, "seq": 1}) as store:  # the order of options is none of the question's
        assert store.keys == {"chunk 0", "chunk 7"}
        assert all(same(a, b) for a, b in zip(store.found(store.keys), [chunk(0), chunk(7, rows=3)], strict=True))


def test_a_chunk_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    with Store.open(path, "train", {}) as store:
        store.commit(chunk(0))
        with pytest.raises(ScenarioError, match="holds points of other columns; give another file"):
            store.commit(found("other", {"x": np.zeros(3)}, {}))
        with pytest.raises(ValueError, match="committed already"):
            store.commit(chunk(0))
        store.commit(chunk(1))
    with duckdb.connect(str(path), read_only=True) as con:
        assert con.execute("select count(*), count(distinct chunk) from train_points").fetchone() == (100, 2)
        assert con.execute("select key, rows from chunks").fetchall() == [("chunk 0", 50), ("chunk 1", 50)]


def kept(path: Path) -> None:
    with Store.open(path, "train", {}) as store:
        for i in range(6):
            store.commit(chunk(i, rows=3000))


def killed(path: Path) -> None:
    """A store as a killed process leaves it: with a log beside it."""
    script = """
import os, signal, sys, numpy as np
from windtunnel.planning.points import found
from windtunnel.planning.store import Store
store = Store.open(sys.argv[1], "train", {})
for i in range(6):
    store.commit(found(str(i), {"x": np.random.default_rng(i).random(300)}, {}))
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", script, path], check=False)
    assert Path(f"{path}.wal").stat().st_size > 6 * 300 * 8


def changed(make: Callable[[Path], None], statement: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        make(path)
        with duckdb.connect(str(path)) as con:
            con.execute(statement)

    return write


def cut(path: Path) -> None:
    kept(path)
    os.truncate(path, path.stat().st_size // 2)


def overwritten(path: Path) -> None:
    kept(path)
    with path.open("r+b") as stream:
        stream.seek(path.stat().st_size // 2)
        stream.write(random.Random(0).randbytes(64))


def log_overwritten(path: Path) -> None:
    killed(path)
    with Path(f"{path}.wal").open("r+b") as stream:
        stream.seek(9000)
        stream.write(b"overwritten")


def somebody_elses(path: Path) -> None:
    with duckdb.connect(str(path)) as con:
        con.execute("create table flights (meta integer)")


def sqlite(path: Path) -> None:
    with sqlite3.connect(path) as con:
        con.execute("create table meta (format integer)")


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "format": (changed(kept, "update meta set format = 0"), r"was written by windtunnel \S+ \(format 0\); this is"),
    "version": (changed(kept, "update meta set windtunnel = '0.0.9'"), r"written by windtunnel 0\.0\.9 .* go on with"),
    "version, killed": (changed(killed, "update meta set windtunnel = '0.0.9'"), "written by windtunnel 0.0.9"),
    "points gone": (changed(kept, "delete from train_points where chunk = 2 and tp = 1"), "damaged: 1 chunks"),
    "chunk gone": (changed(kept, "delete from chunks where id in (2, 3)"), "damaged: 2 chunks"),
    "cut": (cut, "is damaged"),
    "overwritten": (overwritten, "is damaged, or of another version of DuckDB; give another file .*checksum"),
    "log overwritten": (log_overwritten, "is damaged, or of another version of DuckDB; give another file .*WAL"),
    "somebody else's": (somebody_elses, "is a DuckDB file that windtunnel did not write"),
    "somebody else's besides": (changed(kept, "create table flights (i int)"), "that windtunnel did not write"),
    "empty": (lambda path: path.write_bytes(b""), "is no DuckDB file"),
    "text": (lambda path: path.write_text("tp,pp\n1,2\n" * 1000), "is no DuckDB file"),
    "parquet": (lambda path: pl.DataFrame({"a": [1]}).write_parquet(path), "is no DuckDB file"),
    "sqlite": (sqlite, "is no DuckDB file"),
}


@pytest.mark.parametrize(("write", "said"), REFUSED.values(), ids=REFUSED)
def test_a_refused_file_is_left_as_it_was(write: Callable[[Path], Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    write(path)
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in tmp_path.iterdir()}
    with pytest.raises(ScenarioError, match=said) as caught:
        Store.open(path, "train", {})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))
    assert {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in tmp_path.iterdir()} == before


def test_damage_anywhere_is_seen_or_does_no_harm(tmp_path: Path) -> None:
    """A byte changed anywhere: the file is refused as it is, or everything in it is read right."""
    path = tmp_path / "s.duckdb"
    kept(path)
    whole = path.read_bytes()
    rng = random.Random(3)
    refused = 0
    for _ in range(25):
        broken = bytearray(whole)
        broken[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(broken)
        try:
            with Store.open(path, "train", {}) as store:
                results = list(store.found(store.keys))
        except ScenarioError:
            refused += 1
            assert path.read_bytes() == broken
        else:
            assert len(results) == 6
            assert all(same(result, chunk(int(result.key[6:]), rows=3000)) for result in results)
    assert refused > 5


def test_a_log_without_its_store_is_refused(tmp_path: Path) -> None:
    killed(tmp_path / "s.duckdb")
    (tmp_path / "s.duckdb").unlink()
    with pytest.raises(ScenarioError, match=r"s\.duckdb\.wal' is the log of a store that is not there"):
        Store.open(tmp_path / "s.duckdb", "train", {})
    assert [file.name for file in tmp_path.iterdir()] == ["s.duckdb.wal"]


def test_a_file_in_use_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    with Store.open(path, "train", {}) as store:
        with pytest.raises(ScenarioError, match=r"s\.duckdb' is open in this process already"):
            Store.open(path, "serve", {})
        script = "import sys; from windtunnel.planning.store import Store; Store.open(sys.argv[1], 'train', {})"
        ran = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False)
        assert re.search(f"s.duckdb' is in use by process {os.getpid()}; wait until it ends", ran.stderr)
        store.commit(chunk(0))
    with Store.open(path, "train", {}) as store:
        assert store.keys == {"chunk 0"}


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("absent/s.duckdb", "cannot write .*absent/s.duckdb': No such file or directory"),
        (".", "cannot write '.*': Is a directory"),
        ("file/s.duckdb", "cannot write .*: No"),
        ("a" * 300, "cannot write '.*': File name too long"),
        ("pipe", "pipe' is no file"),
    ],
)
def test_a_place_where_nothing_can_be_written_is_refused(path: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ScenarioError, match=said):
        Store.open(tmp_path / path, "train", {})
    assert {file.name for file in tmp_path.iterdir()} == {"file", "pipe"}


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_or_file_of_others_is_refused(tmp_path: Path) -> None:
    kept(tmp_path / "s.duckdb")
    (tmp_path / "s.duckdb").chmod(0o400)
    tmp_path.chmod(0o500)
    for name in ("s.duckdb", "new.duckdb"):
        with pytest.raises(ScenarioError, match="Permission denied"):
            Store.open(tmp_path / name, "train", {})
    tmp_path.chmod(0o700)


def test_a_new_store_has_one_file_of_any_name(tmp_path: Path) -> None:
    for name in ("points.csv", "it's", "points.parquet", "s3:points"):
        with Store.open(tmp_path / name, "train", {}) as store:
            store.commit(chunk(0))
    (tmp_path / "link").symlink_to(tmp_path / "behind")
    Store.open(tmp_path / "link", "train", {}).close()
    assert {file.name for file in tmp_path.iterdir()} == {
        "points.csv", "it's", "points.parquet", "s3:points", "link", "behind"
    }  # fmt: skip


def test_the_version_is_the_packages() -> None:
    import windtunnel

    assert store_file.version() == windtunnel.__version__


def test_the_documented_queries_run(tmp_path: Path) -> None:
    """On the store of a real, small search. Every column of its points is explained."""
    text = DOCS.read_text()
    path = str(tmp_path / "plans.duckdb")
    asked = {"model": "llama-3.1-8b", "on": "16xh100-sxm", "global_batch": 16, "tp": "1,2", "cp": "1",
             "recompute": "none", "micro_batch": "1", "virtual_stages": "1", "store": path}  # fmt: skip
    plan_train(read_options(PlanTrainOptions, asked))
    served = {"model": "llama-3.1-8b", "on": "1xh100-sxm", "arrivals": "poisson", "rate": 2, "requests": 50,
              "input_length": "100", "output_length": "10", "slo": "ttft=1", "tp": "1", "chunk": "2048",
              "max_batch": "64", "deployment": "colocated", "store": path}  # fmt: skip
    plan_serve(read_options(PlanServeOptions, served))
    with duckdb.connect(path, read_only=True) as con:
        queries = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
        assert len(queries) >= 3
        for query in queries:
            assert con.execute(query).fetchall()
        explained = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.MULTILINE))
        for table in ("meta", "questions", "chunks", "train_points", "serve_points"):
            columns = [name for name, *_ in con.execute(f"describe {table}").fetchall()]
            assert re.findall(r"`(\w+)`", explained[table]) == columns


def test_ctrl_c_within_a_query_is_ctrl_c(tmp_path: Path) -> None:
    """DuckDB takes the signal and says RuntimeError; what it had begun is rolled back."""
    rows = 200_000
    table = {f"x{i}": np.random.default_rng(i).random(rows) for i in range(8)}
    with Store.open(tmp_path / "s.duckdb", "train", {}) as store:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            for_ever(store, table)
        keys = store.keys
    with Store.open(tmp_path / "s.duckdb", "train", {}) as store:
        assert keys <= store.keys
        assert len(store.keys - keys) <= 1, "one may be committed as the signal comes"
        assert len(list(store.found(store.keys))) == len(store.keys)


def for_ever(store: Store, table: dict[str, Column]) -> None:
    for i in itertools.count():
        store.commit(found(str(i), table, {}))
