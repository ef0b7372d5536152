"""Verdicts, and what a study says of its figures."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.scenario.provenance import assumption, paper
from windtunnel.studies.study import Claim, Setup, Study, outcome, swept, verdict
from windtunnel.studies.study import Sweep as StudySweep


def claim(published: object, kind: str = "ratio", predicted: float = 1.0) -> Claim:
    return Claim("a metric", paper(published, "abstract"), kind, lambda: predicted)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("published", "predicted", "expected"),
    [
        (2.0, 2.0, "reproduced"),
        (2.0, 2**0.75, "reproduced"),
        (2.0, 2**0.74, "direction"),
        (2.0, 2**1.25, "reproduced"),
        (2.0, 2**1.26, "direction"),
        (2.0, 2**0.1, "direction"),
        (2.0, 2**0.09, "missed"),
        (2.0, 0.9, "missed"),
        (0.5, 0.5, "reproduced"),
        (0.5, 0.9, "direction"),
        (0.5, 1.1, "missed"),
        ((2.3, 3.6), 3.0, "reproduced"),
        ((2.3, 3.6), 2.0, "reproduced"),
        ((2.3, 3.6), 1.2, "direction"),
        (None, 3.0, None),
        (2.0, 0.0, "missed"),
    ],
)
def test_a_ratio_is_judged_by_its_logarithm(published: object, predicted: float, expected: str | None) -> None:
    assert verdict(claim(published), predicted) == expected


@pytest.mark.parametrize(
    ("published", "predicted", "expected"),
    [
        (100.0, 125.0, "reproduced"),
        (100.0, 74.0, "missed"),
        ((50.0, 73.0), 60.0, "reproduced"),
        (0.52, 0.45, "reproduced"),
    ],
)
def test_an_absolute_quantity_is_judged_by_a_quarter(published: object, predicted: float, expected: str) -> None:
    assert verdict(claim(published, "absolute"), predicted) == expected


@given(ratio=st.floats(1.01, 100), share=st.floats(0.76, 1.24))
def test_a_ratio_and_its_inverse_are_judged_alike(ratio: float, share: float) -> None:
    predicted = math.exp(share * math.log(ratio))
    assert verdict(claim(ratio), predicted) == verdict(claim(1 / ratio), 1 / predicted) == "reproduced"


@given(published=st.floats(0.01, 100), predicted=st.floats(0.001, 1000))
def test_a_range_of_one_value_is_that_value(published: float, predicted: float) -> None:
    assert verdict(claim((published, published)), predicted) == verdict(claim(published), predicted)


def test_a_figure_without_provenance_is_refused() -> None:
    with pytest.raises(TypeError, match="batch=8: say where it comes from"):
        Setup(batch=8)  # type: ignore[arg-type]


def study() -> Study:
    setup = Setup(batch=paper(8, "table 1"), seq=assumption(2048, "the model's own"))
    sweep = StudySweep("batch", paper((1.0, 2.0), "figure 2"), lambda v: 1 + v, "speed-up")
    return Study(
        "toy", "P000", "A toy", None, setup, False, claim(2.0, predicted=1.9), (claim(10.0, "absolute", 2.0),), sweep
    )


def test_an_outcome_has_the_fields_that_are_promised() -> None:
    found = outcome(study())
    assert {k: found[k] for k in ("name", "seed", "published", "predicted", "ratio", "verdict", "setup_stated")} == {
        "name": "toy", "seed": "P000", "published": 2.0, "predicted": 1.9, "ratio": 0.95, "verdict": "reproduced",
        "setup_stated": False,
    }  # fmt: skip
    assert found["assumptions"] == ["seq = 2048: the model's own"]
    assert found["also"][0]["verdict"] == "missed"
    assert study().setup.batch == 8


def test_a_sweep_is_what_it_gains_at_each_value() -> None:
    assert swept(study())["gain"] == [2.0, 3.0]
