"""The planning page's Python runs as it is written, and its commands, and the README's, ask for what there is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import windtunnel.planning
from windtunnel.cli import main
from windtunnel.scenario.plans import PlanResult

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "planning.md").read_text()
BLOCKS = re.findall(r"^```(python|sh)\n(.*?)^```", PAGE + (ROOT / "README.md").read_text(), flags=re.M | re.S)
LINES = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines() if "windtunnel plan" in line]


def test_the_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (text,) = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.M | re.S)
    exec(compile(text, "planning.md", "exec"), {})
    assert "windtunnel train llama-3.1-8b" in capsys.readouterr().out


def test_there_are_commands() -> None:
    assert len(LINES) > 5


@pytest.mark.parametrize("line", LINES)
def test_the_commands_are_understood(
    line: str, train_plans: PlanResult, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("plan_train", "plan_serve"):
        monkeypatch.setattr(windtunnel.planning, name, lambda options, **_: train_plans, raising=False)
    name, *arguments = shlex.split(line, comments=True)
    assert name == "windtunnel"
    assert main(arguments) == 0, capsys.readouterr().err
