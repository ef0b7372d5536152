"""The page on users' own policies works as it is written: modules, commands and error lines."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from windtunnel.cli import main

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "policies.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, flags=re.M | re.S)
MODULES = {re.match(r"# (\w+)\.py\n", text)[1]: text for kind, text in BLOCKS if kind == "python"}  # type: ignore[index]
COMMANDS = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
ERRORS = [line for kind, text in BLOCKS if kind == "text" for line in text.splitlines()]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's modules in the current directory, forgotten again afterwards."""
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


def test_the_examples_are_short() -> None:
    lines = {name: len(text.splitlines()) for name, text in MODULES.items()}
    assert lines["shortest"] < 30
    assert lines["even"] < 20


@pytest.mark.parametrize("command", COMMANDS)
def test_each_policy_runs_beside_the_built_in_ones(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every variant completes every request; the last one is the page's own class."""
    name, *arguments = shlex.split(command)
    assert name == "windtunnel"
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    variants = re.split("[,;]", arguments[-1].partition("=")[2])
    assert variants[-1].partition(":")[0].rpartition("=")[2] in MODULES
    requests = f"{int(arguments[arguments.index('--requests') + 1]):,}"
    (completed,) = re.findall(r"^completed +(.*)$", printed, flags=re.M)
    found = re.findall(r"[\d,]+", completed)
    assert found == [requests] * len(found)
    assert len(found) >= 2


@pytest.mark.parametrize(("command", "said"), list(zip(ERRORS[::2], ERRORS[1::2], strict=True)))
def test_each_mistake_is_told_as_shown(command: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    start, name, *arguments = shlex.split(command)
    assert (start, name) == ("$", "windtunnel")
    assert main(arguments) == 2
    assert capsys.readouterr().err.strip() == said


def test_every_policy_of_the_page_is_used() -> None:
    assert {name for name in MODULES if any(f"{name}:" in command for command in COMMANDS)} == set(MODULES)
    assert len(ERRORS) >= 4
