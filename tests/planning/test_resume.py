"""Killed at any moment and run again, a search ends with the same answer; a kill costs a chunk per worker."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from windtunnel.planning.store import Store

SEARCH = """
import json, sys, time
import numpy as np
from windtunnel.planning import fan_out
from windtunnel.planning.points import Text
from windtunnel.planning.store import Store

store, log, workers = sys.argv[1], sys.argv[2], int(sys.argv[3])

def evaluate(log, chunk):
    time.sleep(0.02)
    rng = np.random.default_rng(chunk)
    rows = 1 + chunk * 37 % 500
    names = ("none", "selective", "full")
    table = {"cost": rng.random(rows), "tp": 2 ** rng.integers(0, 4, rows),
             "recompute": Text(rng.integers(-1, 3, rows).astype(np.int8), names)}
    with open(log, "a") as stream:
        stream.write(f"{chunk}\\n")
    return table, {"best": float(table["cost"].min())}

total = rows = 0
best = None
with Store.open(store, "train", {"question": 1}) as kept:
    for found in fan_out.run(evaluate, log, range(40), str, workers=workers, store=kept):
        cost, recompute = found.table["cost"], found.table["recompute"].values()
        assert cost.min() == found.summary["best"]
        i = int(cost.argmin())
        best = min(best or (9,), (float(cost[i]), int(found.key), i, int(found.table["tp"][i]), str(recompute[i])))
        rows += len(cost)
        total += int((found.table["tp"] * (recompute == "full")).sum())
print(json.dumps([rows, total, best]))
"""


def start(store: Path, log: Path, workers: int) -> subprocess.Popen[str]:
    """A search in a group of processes of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", SEARCH, store, log, str(workers)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> Any:
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    return json.loads(out)


def evaluated(log: Path) -> Counter[str]:
    return Counter(log.read_text().split() if log.exists() else [])


def committed(store: Path) -> frozenset[str]:
    """Read without altering what the kill has left."""
    if not store.exists():
        return frozenset()
    with Store.open(store, "train", {"question": 1}) as kept:
        return kept.keys


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("uninterrupted")
    return finish(start(folder / "s.duckdb", folder / "log", 1))


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_random_moments_it_ends_with_the_same_answer(workers: int, answer: Any, tmp_path: Path) -> None:
    store, log = tmp_path / "s.duckdb", tmp_path / "log"
    rng = random.Random(workers)
    there: frozenset[str] = frozenset()
    before: Counter[str] = Counter()
    kills = 0
    for _ in range(4):
        process = start(store, log, workers)
        time.sleep(rng.uniform(0.25, 0.75))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        now, done = evaluated(log), committed(store)
        assert done >= there, "what was committed is lost"
        assert not [key for key in there if now[key] > before[key]], "what was committed was evaluated again"
        assert len(now.keys() - done) <= workers, "more than a chunk per worker was not committed"
        there, before = done, now
    assert kills == 4
    assert finish(start(store, log, workers)) == answer
    again = sum(evaluated(log).values()) - 40
    assert again <= workers * kills
    assert finish(start(store, log, 3 - workers)) == answer, "with another number of workers, from the store alone"
    assert sum(evaluated(log).values()) == 40 + again


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    process = start(tmp_path / "s.duckdb", tmp_path / "log", 2)
    deadline = time.monotonic() + 20
    while len(evaluated(tmp_path / "log")) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)  # the parent alone
    process.wait()
    os.killpg(process.pid, 0)  # its workers are there
    process.communicate(timeout=10)  # they have the pipes, which end with the last of them
