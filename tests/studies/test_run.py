"""All studies, as ``windtunnel study run --all`` runs them."""

from __future__ import annotations

from typing import Any

import pytest

from windtunnel.errors import ScenarioError
from windtunnel.studies import load_study, run_studies, study_names

SEEDS = {
    "P299", "P068", "P010", "P063", "P001", "P047", "P013", "P012", "P200", "P120", "P242", "P271", "P008", "P014",
    "P034", "P376", "P148", "P007", "P145", "P190", "P020", "P031",
}  # fmt: skip
"""The systems that are covered so far."""


@pytest.fixture(scope="module")
def ran() -> dict[str, Any]:
    return run_studies(study_names())


def test_every_system_has_a_study() -> None:
    assert {load_study(name).seed for name in study_names()} >= SEEDS


def test_most_claims_are_reproduced_and_misses_say_why(ran: dict[str, Any]) -> None:
    rows = [r for r in ran["studies"] if r["seed"] in SEEDS]
    assert sum(r["verdict"] == "reproduced" for r in rows) >= 13
    assert sum(r["verdict"] == "missed" for r in rows) <= 3
    for row in ran["studies"]:
        for claim in (row, *row["also"]):
            assert claim["verdict"] in ("reproduced", None) or claim["why"], (row["name"], claim["metric"])
            assert claim["predicted"] > 0
    assert sum(ran["verdicts"].values()) == len(ran["studies"])


def test_a_study_is_named_or_refused() -> None:
    with pytest.raises(ScenarioError, match="unknown study 'nothing'"):
        run_studies(["nothing"])
    with pytest.raises(ScenarioError, match="workers=0"):
        run_studies([], workers=0)
