"""The tutorial works as it is written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from windtunnel.cli import main

TUTORIAL = Path(__file__).resolve().parents[1] / "docs" / "tutorial.md"
BLOCKS = re.findall(r"^```(python|sh)\n(.*?)^```", TUTORIAL.read_text(), flags=re.M | re.S)


def test_the_tutorial_has_blocks() -> None:
    assert {kind for kind, _ in BLOCKS} == {"python", "sh"}
    assert len(BLOCKS) > 10


def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    shared: dict[str, object] = {}
    for kind, text in BLOCKS:
        if kind == "python":
            exec(compile(text, str(TUTORIAL), "exec"), shared)
            continue
        for line in filter(None, text.splitlines()):
            name, *arguments = shlex.split(line)
            assert name == "windtunnel"
            assert main(arguments) == 0, line
            assert capsys.readouterr().out, line
    for written in ("step.json", "rates.png"):
        assert (tmp_path / written).stat().st_size > 1000
