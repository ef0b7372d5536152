"""All studies, as ``windtunnel study run --all`` runs them."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from windtunnel.errors import ScenarioError
from windtunnel.studies import load_study, run_studies, study_names

ROOT = Path(__file__).resolve().parents[2]
AGAIN = "run: python scripts/technique_pages.py --no-sweeps"

SEEDS = {
    "P299", "P068", "P010", "P063", "P001", "P047", "P013", "P012", "P200", "P120", "P242", "P271", "P008", "P014",
    "P034", "P376", "P148", "P007", "P145", "P190", "P020", "P031",
}  # fmt: skip
"""The systems that are covered so far."""


def pages_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("technique_pages", ROOT / "scripts" / "technique_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_system_has_a_study() -> None:
    assert {load_study(name).seed for name in study_names()} >= SEEDS


def test_all_studies_and_their_pages() -> None:
    """In one test, since running all of them takes longest."""
    ran = run_studies(study_names())
    check_claims(ran)
    check_pages(ran)


def check_claims(ran: dict[str, Any]) -> None:
    """Most are reproduced, and what is not says why."""
    rows = [r for r in ran["studies"] if r["seed"] in SEEDS]
    assert sum(r["verdict"] == "reproduced" for r in rows) >= 13
    assert sum(r["verdict"] == "missed" for r in rows) <= 3
    for row in ran["studies"]:
        for claim in (row, *row["also"]):
            assert claim["verdict"] in ("reproduced", None) or claim["why"], (row["name"], claim["metric"])
            assert math.isfinite(claim["predicted"])
    assert sum(ran["verdicts"].values()) == len(ran["studies"])


def check_pages(ran: dict[str, Any]) -> None:
    """The pages say what the code says now; their sweeps alone are as they were when they were drawn."""
    module = pages_module()
    pages = module.pages(ran)
    for path, text in pages.items():
        written = (ROOT / "docs" / path).read_text()
        assert module.without_sweep(written).rstrip() == text.rstrip(), f"docs/{path} is out of date; {AGAIN}"
    kept = {f"techniques/{p.name}" for p in (ROOT / "docs" / "techniques").glob("*.md")}
    assert kept == {p for p in pages if p.startswith("techniques/")}


@pytest.mark.parametrize("name", study_names())
def test_every_study_has_its_sweep_drawn(name: str) -> None:
    sweep = load_study(name).sweep
    assert sweep is not None
    assert sweep.variable.replace("|", "\\|") in (ROOT / "docs" / "techniques" / f"{name}.md").read_text()
    assert (ROOT / "docs" / "images" / "techniques" / f"{name}.svg").stat().st_size > 1000


def test_a_study_is_named_or_refused() -> None:
    with pytest.raises(ScenarioError, match="unknown study 'nothing'"):
        run_studies(["nothing"])
    with pytest.raises(ScenarioError, match="workers=0"):
        run_studies([], workers=0)
