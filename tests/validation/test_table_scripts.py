"""The tables of published results are what their programs make of the sources."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from windtunnel.validation.table import FOLDER

SCRIPTS = Path(__file__).parents[2] / "scripts"
MADE = {"train": 13, "serve": 9}
"""Tables by program."""


def made(kind: str, folder: Path, data: Path) -> str:
    command = [sys.executable, str(SCRIPTS / f"validation_tables_{kind}.py"), "--data", str(data), "--out", str(folder)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("kind", MADE)
def test_tables_are_made_from_the_sources(kind: str, tmp_path: Path, measured_data: Path) -> None:
    assert "not available" not in made(kind, tmp_path, measured_data)
    found = sorted(tmp_path.glob("*.csv"))
    assert len(found) == MADE[kind]
    for path in found:
        assert path.read_text() == (FOLDER / path.name).read_text(), path.name


@pytest.mark.parametrize("kind", MADE)
def test_sources_that_are_absent_are_told_and_nothing_is_written(kind: str, tmp_path: Path) -> None:
    told = made(kind, tmp_path / "out", tmp_path / "nothing")
    assert told.count("not available") == MADE[kind]
    assert not list((tmp_path / "out").glob("*"))
