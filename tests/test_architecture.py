"""The rooms keep their order, and asking for help loads nothing heavy."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "windtunnel"
HEAVY = {"numpy", "pydantic", "yaml"}


def test_files_named_to_contributors_exist() -> None:
    named = set(
        re.findall(r"`((?:src|tests|scripts|docs|benchmarks)/[\w./-]+)`", (ROOT / "CONTRIBUTING.md").read_text())
    )
    placeholders = {name for name in named if re.search(r"[A-Z]{4}", name.rpartition("/")[2])}
    assert len(named - placeholders) > 20
    assert not [name for name in sorted(named - placeholders) if not (ROOT / name).exists()]


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """The contracts of ``root/pyproject.toml``, checked on the package in ``root/src``."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", code, "--no-cache", "--no-logo"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root / "src"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_rooms_know_only_the_rooms_before_them() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def test_contracts_catch_what_they_forbid(tmp_path: Path) -> None:
    """The contracts would be worth nothing if they let these imports through."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    violations = {
        "errors": "from windtunnel.ops import values",
        "ops/values": "from windtunnel.cost import kernels",
        "cost/kernels": "import rich.table",
        "training/step": "from windtunnel.serving import loop",
        "serving/loop": "",
        "techniques/zero": "",
        "engine/train": "from windtunnel.techniques.zero import Zero\nimport typer",
        "attic/old": "",
    }
    package = tmp_path / "src" / "windtunnel"
    for module, code in violations.items():
        file = package / f"{module}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        for folder in {package, file.parent}:
            (folder / "__init__.py").touch()
        file.write_text(code)
    result = lint_imports(tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    for expected in (
        "windtunnel.errors -> windtunnel.ops.values",
        "windtunnel.ops.values -> windtunnel.cost.kernels",
        "windtunnel.cost.kernels -> rich",
        "windtunnel.training.step -> windtunnel.serving.loop",
        "windtunnel.engine.train -> windtunnel.techniques.zero",
        "windtunnel.engine.train -> typer",
        "windtunnel.attic",
    ):
        assert expected in result.stdout


def loaded_after(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after running ``code``."""
    report = "\nimport json, sys\nprint('\\n' + json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    result = subprocess.run(
        [sys.executable, "-c", code + report],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import windtunnel", id="import windtunnel"),
        pytest.param("from windtunnel.cli import main", id="import windtunnel.cli"),
        pytest.param(
            "import sys\n"
            "from windtunnel.cli import main\n"
            "sys.argv = ['windtunnel', '--help']\n"
            "try:\n"
            "    status = main()\n"
            "except SystemExit as stop:\n"
            "    status = stop.code\n"
            "assert status in (0, None), status",
            id="windtunnel --help",
        ),
    ],
)
def test_help_is_light(code: str) -> None:
    """The start of the command line stays quick only while it loads none of the numerical stack."""
    assert not loaded_after(code) & HEAVY
