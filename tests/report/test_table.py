from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from windtunnel.errors import ScenarioError
from windtunnel.report.plain import to_json
from windtunnel.report.plot import plot_sweep
from windtunnel.report.table import Point, point, render_sweep, sweep_to_dict

Make = Callable[..., Any]


@pytest.fixture
def points(make_train: Make) -> list[Point]:
    return [
        point({"tp": 1, "seq": 128}, make_train(2.0, fits=False, shortfall_bytes=2.0**30)),
        point({"tp": 2, "seq": 128}, make_train(1.5)),
        point({"tp": 4, "seq": 128}, make_train(1.0)),
        Point({"tp": 3, "seq": 128}, None, "tp=3 does not divide the 8 attention heads", 2),
    ]


def test_a_row_a_point(points: list[Point], shown: Callable[..., str]) -> None:
    lines = shown(render_sweep(points), 140).splitlines()
    assert len([line for line in lines if " 128 " in line]) == 4
    assert "does not fit: short by 1.00 GiB a GPU" in lines[1]
    assert lines[4].rstrip().endswith("wrong (1)")
    assert "(1) tp=3 does not divide the 8 attention heads" in lines
    assert [line.startswith("*") for line in lines[1:5]] == [False, False, True, False]
    assert "2 of 4 points fit" in lines[-1]


def test_a_sweep_as_json(points: list[Point]) -> None:
    rows = json.loads(to_json(sweep_to_dict(points)))["sweep"]
    assert [row["point"]["tp"] for row in rows] == [1, 2, 4, 3]
    assert rows[0]["fits"] is False
    assert rows[0]["error"].startswith("does not fit")
    assert rows[2]["error"] is None
    assert rows[2]["step_time_s"] > 0
    assert rows[3] == {"point": {"tp": 3, "seq": 128}, "error": "tp=3 does not divide the 8 attention heads"}


def test_served_sweeps(make_infer: Make, shown: Callable[..., str]) -> None:
    text = shown(render_sweep([point({"batch": b}, make_infer(b)) for b in (1, 2)]))
    assert "TPOT" in text
    assert "$/Mtok" in text


def test_json_has_no_number_that_is_none() -> None:
    value = {
        "a": math.nan,
        "b": [math.inf, np.float64(1.5)],
        "c": np.array([1.0, np.nan]),
        "d": (True, None),
        "e": np.int64(3),
    }
    assert json.loads(to_json(value)) == {"a": None, "b": [None, 1.5], "c": [1.0, None], "d": [True, None], "e": 3}


def test_a_plot_says_what_it_needs(points: list[Point], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ScenarioError, match=r"pip install 'windtunnel\[plot\]'"):
        plot_sweep(points, tmp_path / "a.png")


def test_a_plot_needs_a_known_suffix(points: list[Point], tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"\.svg"):
        plot_sweep(points, tmp_path / "a.bmp")


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="the plot extra is not installed")
@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF"),
                                            ("a.html", b"<!DOCTYPE html>")])  # fmt: skip
def test_a_plot_is_drawn(points: list[Point], make_infer: Make, tmp_path: Path, name: str, start: bytes) -> None:
    file = tmp_path / name
    plot_sweep(points, file)
    assert file.read_bytes().startswith(start)
    if name == "a.svg":  # text is drawn as paths, each with its words in a comment
        assert "<!-- does not fit -->" in file.read_text()
    plot_sweep(points[:1], file)
    words = [point({"engine": e, "batch": b}, make_infer()) for e in ("vllm", "sglang") for b in (1, 8)]
    plot_sweep(words, file)
    assert file.stat().st_size > 1000
    with pytest.raises(ScenarioError, match="nothing to draw"):
        plot_sweep(points[3:], file)
