"""Chunks on many processes: the same results for any number, errors as themselves, nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from windtunnel.errors import ScenarioError
from windtunnel.planning import fan_out
from windtunnel.planning.fan_out import Crew, read_workers
from windtunnel.planning.points import Found, Text
from windtunnel.planning.store import Store


def squares() -> Callable[[int, int], Any]:
    """An ``evaluate`` that workers get by value, since they cannot import this file."""

    def evaluate(shared: int, chunk: int) -> Any:
        import os
        import time

        import numpy as np

        from windtunnel.planning.points import Text

        time.sleep(0.002 * (chunk % 3))  # so that chunks overtake each other
        n = np.arange(chunk)
        table = {"x": n * n / shared, "n": n, "even": n % 2 == 0, "text": Text((n % 2).astype(np.int8), ("a", "b"))}
        return table, {"sum": int((n * n).sum()), "process": os.getpid()}

    return evaluate


def plain(found: Found) -> Any:
    """What can be compared."""
    columns = {
        name: (column.codes.dtype, column.values().tolist()) if isinstance(column, Text)
        else (column.dtype, column.tolist())
        for name, column in found.table.items()
    }  # fmt: skip
    return found.key, columns, found.summary["sum"]


@pytest.fixture(scope="module")
def alone() -> list[Any]:
    return [plain(found) for found in fan_out.run(squares(), 3, range(20), str)]


def test_two_processes_give_what_one_gives(alone: list[Any]) -> None:
    told: list[tuple[str, int, int]] = []
    results = list(
        fan_out.run(squares(), 3, range(20), str, workers=2, told=lambda f, n, of: told.append((f.key, n, of)))
    )
    assert sorted(map(plain, results), key=lambda result: int(result[0])) == alone
    assert told == [(found.key, i, 20) for i, found in enumerate(results, 1)]
    processes = {found.summary["process"] for found in results}
    assert os.getpid() not in processes


def test_two_processes_work_at_once(tmp_path: Path) -> None:
    def evaluate(shared: Any, chunk: int) -> Any:
        import time

        (shared / str(chunk)).touch()
        deadline = time.monotonic() + 20
        while not (shared / str(1 - chunk)).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return {}, {"met": (shared / str(1 - chunk)).exists()}

    assert all(found.summary["met"] for found in fan_out.run(evaluate, tmp_path, range(2), str, workers=2))


def test_processes_stay_for_the_next_round_and_end_with_the_crew() -> None:
    with Crew(squares(), 3, str, workers=2) as crew:
        processes = {found.summary["process"] for found in [*crew.run(range(12)), *crew.run(range(12, 24))]}
    assert len(processes) <= 2
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_stored_chunks_are_not_evaluated_again(alone: list[Any], tmp_path: Path) -> None:
    with Store.open(tmp_path / "s.duckdb", "train", {"q": 1}) as store:
        list(fan_out.run(squares(), 3, range(0, 20, 2), str, store=store))

    evaluated = tmp_path / "evaluated"
    body = squares()

    def evaluate(shared: int, chunk: int) -> Any:
        with open(evaluated, "a") as stream:
            stream.write(f"{chunk}\n")
        return body(shared, chunk)

    with Store.open(tmp_path / "s.duckdb", "train", {"q": 1}) as store:
        for _ in range(2):
            results = list(fan_out.run(evaluate, 3, range(20), str, workers=2, store=store))
            assert sorted(map(plain, results), key=lambda result: int(result[0])) == alone
    assert sorted(map(int, evaluated.read_text().split())) == list(range(1, 20, 2))


def test_what_is_shared_is_sent_once_to_each_worker(tmp_path: Path) -> None:
    log = tmp_path / "arrived"

    class Shared:
        def __setstate__(self, state: Any) -> None:
            with open(log, "a") as stream:
                stream.write("arrived\n")

        def __getstate__(self) -> Any:
            return {"something": 1}

    def evaluate(shared: Any, chunk: int) -> Any:
        return {}, {}

    assert len(list(fan_out.run(evaluate, Shared(), range(16), str, workers=2))) == 16
    assert len(log.read_text().split()) <= 2


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("error", [ScenarioError("tp=3 does not divide 8 heads"), ZeroDivisionError("a bug")])
def test_an_error_comes_as_itself(workers: int, error: Exception) -> None:
    def evaluate(shared: int, chunk: int) -> Any:
        if chunk == 3:
            raise error
        return {}, {}

    with pytest.raises(type(error)) as caught:
        list(fan_out.run(evaluate, 0, range(6), str, workers=workers))
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)


def test_a_worker_that_is_killed_is_said_in_one_line() -> None:
    def evaluate(shared: int, chunk: int) -> Any:
        import os
        import signal

        if chunk == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return {}, {}

    with pytest.raises(ScenarioError, match="a worker process was ended from outside") as caught:
        list(fan_out.run(evaluate, 0, range(6), str, workers=2))
    assert "\n" not in str(caught.value)


def test_no_more_than_one_chunk_per_worker_is_evaluated_and_not_committed(tmp_path: Path) -> None:
    log = tmp_path / "begun"

    def evaluate(shared: int, chunk: int) -> Any:
        with open(log, "a") as stream:
            stream.write(f"{chunk}\n")
        return {"x": np.arange(3.0)}, {}

    class Slow(Store):
        def commit(self, chunk: Found) -> None:
            time.sleep(0.02)  # long enough for workers to run ahead, if they could
            assert len(log.read_text().split()) - len(self.keys) <= 2
            super().commit(chunk)

    with Store.open(tmp_path / "s.duckdb", "train", {}) as store:
        store.__class__ = Slow
        assert len(list(fan_out.run(evaluate, 0, range(20), str, workers=2, store=store))) == 20


def test_a_caller_that_has_had_enough_ends_the_processes() -> None:
    def evaluate(shared: int, chunk: int) -> Any:
        import os
        import time

        time.sleep(0.01 if chunk == 0 else 60)
        return {}, {"process": os.getpid()}

    started = time.monotonic()
    results = fan_out.run(evaluate, 0, range(6), str, workers=2)
    process = next(results).summary["process"]
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 20
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_ctrl_c_ends_all_at_once_and_leaves_the_store_whole(tmp_path: Path) -> None:
    script = """
import sys, time
from windtunnel.planning import fan_out
from windtunnel.planning.store import Store
import numpy as np

def evaluate(shared, chunk):
    time.sleep(0 if chunk < 4 else 60)
    return {"x": np.arange(5.0)}, {}

with Store.open(sys.argv[1], "train", {}) as store:
    for found in fan_out.run(evaluate, 0, range(9), str, workers=2, store=store):
        print(found.key, flush=True)
"""
    path = tmp_path / "s.duckdb"
    process = subprocess.Popen(
        [sys.executable, "-c", script, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout
    printed = {process.stdout.readline().strip() for _ in range(4)}
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to the parent and to the workers
    _, error = process.communicate(timeout=20)  # the workers have the pipes too, which end with the last of them
    assert error.count("Traceback") == 1, error
    assert error.strip().endswith("KeyboardInterrupt")
    with Store.open(path, "train", {}) as store:
        assert store.keys == printed == {"0", "1", "2", "3"}


def test_one_process_needs_no_joblib_and_no_duckdb() -> None:
    script = """
import sys
from windtunnel.planning import fan_out
list(fan_out.run(lambda shared, chunk: ({}, {}), 0, range(3), str))
list(fan_out.run(lambda shared, chunk: ({}, {}), 0, range(1), str, workers=2))
print(sorted({"joblib", "duckdb", "ray", "polars"} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_two_chunks_of_one_key_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="one key"):
        list(fan_out.run(squares(), 3, range(4), lambda chunk: "same"))


def test_ray_is_asked_for_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ScenarioError, match=r'ray is not installed; pip install "windtunnel\[ray\]"'):
        list(fan_out.run(squares(), 3, range(4), str, workers="ray"))


def test_workers_are_read() -> None:
    assert [read_workers(text) for text in ("1", "64", "ray")] == [1, 64, "ray"]
    for text in ("", "0", "-1", "2.0", "5000", "Ray", "٢", "9" * 500):
        with pytest.raises(ScenarioError, match=r"give a number of processes from 1 to 4096, or ray") as caught:
            read_workers(text)
        assert len(str(caught.value)) < 200
