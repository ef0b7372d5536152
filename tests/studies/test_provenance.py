"""Every numeric parameter of every study and technique says where it comes from."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from windtunnel.scenario.provenance import Given
from windtunnel.scenario.registry import describe, technique_class, technique_names
from windtunnel.studies import load_study, papers, study_names

SOURCES = {"paper", "catalogue", "calibration", "assumption"}
MACHINE = re.compile(r"\b[0-9]+x[a-z]|[a-z_]=[0-9]")
HARMLESS = {0, 1}
"""Numbers that say nothing of a setup: a first place, a ratio of nothing gained."""


def loose(code: str) -> list[str]:
    """Numbers of a study's code, and texts that ask for some (``8xa100``, ``chunk=512``), outside of a provenance."""
    found: list[str] = []

    def look(node: ast.AST, inside: bool) -> None:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in SOURCES:
                inside = True
            if node.func.id in ("Study", "Claim"):
                # Names, titles and reasons are words.
                for child in [*node.args, *(k.value for k in node.keywords)]:
                    if not isinstance(child, ast.Constant | ast.JoinedStr | ast.BinOp):
                        look(child, inside)
                return
        if isinstance(node, ast.Constant) and not inside:
            number = isinstance(node.value, int | float) and not isinstance(node.value, bool)
            text = isinstance(node.value, str) and MACHINE.search(node.value)
            if (number and node.value not in HARMLESS) or text:
                found.append(f"line {node.lineno}: {node.value!r}")
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return  # a docstring
        for child in ast.iter_child_nodes(node):
            look(child, inside)

    look(ast.parse(code), False)
    return found


@pytest.mark.parametrize("name", study_names())
def test_no_number_of_a_study_lacks_provenance(name: str) -> None:
    path = Path(papers.__path__[0]) / f"{name.replace('-', '_')}.py"
    assert loose(path.read_text()) == []
    study = load_study(name)
    for key, value in study.setup.given.items():
        assert isinstance(value, Given), key
        assert value.provenance in SOURCES, key
        assert len(value.note) > 3, key
    for claim in (study.claim, *study.also):
        assert claim.published.provenance == "paper"


@pytest.mark.parametrize("name", study_names())
def test_a_study_is_named_as_its_file_and_its_technique(name: str) -> None:
    study = load_study(name)
    assert study.name == name
    if study.technique is not None:
        assert technique_class(study.technique).about.seed == study.seed
    assert study.sweep is not None


@pytest.mark.parametrize("name", technique_names())
def test_every_parameter_of_a_technique_has_provenance_and_a_meaning(name: str) -> None:
    found = describe(name)
    for key, parameter in found["parameters"].items():
        assert parameter["provenance"] in SOURCES, key
        assert len(parameter["note"]) > 3, key
        assert len(parameter["meaning"]) > 3, key
    assert found["summary"].endswith(".")
    assert found["source"]


def test_a_number_without_provenance_is_found() -> None:
    """The test above can fail."""
    assert loose("x = run(batch=8)\ny = paper(8, 'table 1')\nz = x * 1 - 0") == ["line 1: 8"]
    assert loose("run(on='8xh100-sxm', techniques=['zero:stage=2'])") == [
        "line 1: '8xh100-sxm'",
        "line 1: 'zero:stage=2'",
    ]
    assert loose('"""A page on 8xh100-sxm."""') == []
