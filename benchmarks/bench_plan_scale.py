"""How fast the planner's points move: ``pytest benchmarks/bench_plan_scale.py`` prints the figures.

A chunk is 200,000 points of 14 columns: 7 of random numbers, 5 of small whole numbers in one byte each, a boolean and a
coded text. Target: more than a million points a second into the store.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from windtunnel.planning import fan_out
from windtunnel.planning.points import Column, Found, Text, found
from windtunnel.planning.store import Store

ROWS = 200_000


def points(rows: int, seed: int) -> dict[str, Column]:
    rng = np.random.default_rng(seed)
    table: dict[str, Column] = {f"number{i}": rng.random(rows) for i in range(7)}
    table |= {f"degree{i}": (2 ** rng.integers(0, 6, rows)).astype(np.int8) for i in range(5)}
    names = ("none", "selective", "full")
    return table | {"fits": rng.random(rows) < 0.5, "recompute": Text(rng.integers(0, 3, rows).astype(np.int8), names)}


@pytest.fixture
def opened(tmp_path: Path) -> Any:
    with Store.open(tmp_path / "s.duckdb", "train", {}) as store:
        yield store


def test_start_of_two_workers(benchmark: Any) -> None:
    def nothing(shared: None, chunk: int) -> Any:
        return {}, {}

    benchmark(lambda: list(fan_out.run(nothing, None, range(4), str, workers=2)))


def test_200k_points_from_a_worker(benchmark: Any) -> None:
    """From one of two processes to this one; both share the cores with it."""
    with fan_out.Crew(lambda shared, chunk: (shared, {}), points(ROWS, 0), str, workers=2) as crew:
        list(crew.run(range(2)))
        benchmark.extra_info["chunks"] = 10
        benchmark(lambda: list(crew.run(range(10))))


def test_commit_of_200k_points(benchmark: Any, opened: Store) -> None:
    chunks = iter([found(str(i), points(ROWS, i), {}) for i in range(12)])
    benchmark.pedantic(lambda: opened.commit(next(chunks)), rounds=10, warmup_rounds=1)


def test_commit_of_one_point(benchmark: Any, opened: Store) -> None:
    chunks: Any = (found(str(i), points(1, i), {}) for i in range(10**6))
    benchmark(lambda: opened.commit(next(chunks)))


def test_reading_of_a_million_points(benchmark: Any, opened: Store) -> None:
    for i in range(5):
        opened.commit(found(str(i), points(ROWS, i), {}))
    results: list[Found] = benchmark(lambda: list(opened.found(opened.keys)))
    assert sum(len(result.table["fits"]) for result in results) == 5 * ROWS


def test_opening_of_a_million_points(benchmark: Any, tmp_path: Path) -> None:
    """With every block read and its checksum looked at."""
    path = tmp_path / "s.duckdb"
    with Store.open(path, "train", {}) as store:
        for i in range(5):
            store.commit(found(str(i), points(ROWS, i), {}))
    benchmark.extra_info["megabytes"] = path.stat().st_size / 1e6
    benchmark(lambda: Store.open(path, "train", {}).close())
