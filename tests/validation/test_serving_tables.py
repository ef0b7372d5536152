"""The tables of published serving results are what their program makes of the sources."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from windtunnel.validation.table import FOLDER

SCRIPT = Path(__file__).parents[2] / "scripts" / "validation_tables_serve.py"
DATA = os.environ.get("WINDTUNNEL_DATA")


def made(folder: Path, data: str) -> str:
    command = [sys.executable, str(SCRIPT), "--data", data, "--out", str(folder)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.skipif(DATA is None, reason="the measured data are not available (WINDTUNNEL_DATA)")
def test_tables_are_made_from_the_sources(tmp_path: Path) -> None:
    assert DATA is not None
    told = made(tmp_path, DATA)
    assert "not available" not in told
    for path in sorted(tmp_path.glob("*.csv")):
        assert path.read_text() == (FOLDER / path.name).read_text(), path.name
    assert len(list(tmp_path.glob("*.csv"))) == 9


def test_sources_that_are_absent_are_told_and_nothing_is_written(tmp_path: Path) -> None:
    told = made(tmp_path / "out", str(tmp_path / "nothing"))
    assert told.count("not available") == 9
    assert not list((tmp_path / "out").iterdir())
