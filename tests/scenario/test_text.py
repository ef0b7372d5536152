"""The small languages of the options."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.errors import ScenarioError
from windtunnel.scenario.text import lengths, named_parameters, number, shown


def test_named_parameters() -> None:
    assert named_parameters("lora", "x") == ("lora", {})
    assert named_parameters("lora:", "x") == ("lora", {})
    assert named_parameters("lora:r=16,targets=all", "x") == ("lora", {"r": "16", "targets": "all"})
    assert named_parameters(" lora : r = 16 , a = b=c ", "x") == ("lora", {"r": "16", "a": "b=c"})


@pytest.mark.parametrize("text", ["n:a", "n:=1", "n:a=", "n:a=1,a=2", "n:a=1, a=2", "n: =1", "a\nb:c"])
def test_parts_that_are_not_key_and_value(text: str) -> None:
    with pytest.raises(ScenarioError, match="accepted: name:key=value") as caught:
        named_parameters(text, "thing")
    assert str(caught.value).startswith("thing ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "-1", "0", "1e19", "0x10", "1,5", "9" * 400])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(ScenarioError, match="is not a number above 0 and at most"):
        number(text, "rank")


def test_numbers() -> None:
    assert number("16", "rank") == 16
    assert number(" 1e3 ", "rank", at_most=1e3) == 1000
    assert number("-3", "rank", above=-4) == -3


@pytest.mark.parametrize(
    ("text", "draw"),
    [
        ("512", lambda rng, n: np.full(n, 512.0)),
        ("uniform:100,900", lambda rng, n: rng.uniform(100, 900, n)),
        ("lognormal:mean=600,cv=1.2", lambda rng, n: np.exp(rng.normal(*_log(600, 1.2), n))),
        ("lognormal:mean=600", lambda rng, n: np.exp(rng.normal(*_log(600, 1.0), n))),
    ],
)
def test_lengths_have_the_moments_of_their_distribution(text, draw) -> None:  # type: ignore[no-untyped-def]
    sample = draw(np.random.default_rng(0), 2_000_000)
    found = lengths(text)
    assert found.mean == pytest.approx(sample.mean(), rel=0.01)
    assert found.cv == pytest.approx(sample.std() / sample.mean(), rel=0.01)
    assert found.mean_square_over_mean == pytest.approx((sample**2).mean() / sample.mean(), rel=0.01)


def _log(mean: float, cv: float) -> tuple[float, float]:
    """Mean and standard deviation of the logarithm."""
    variance = math.log(1 + cv**2)
    return math.log(mean) - variance / 2, math.sqrt(variance)


@given(st.text(max_size=40) | st.from_regex(r"(uniform|lognormal):[0-9a-z=,.\-]{0,20}", fullmatch=True))
def test_any_text_is_a_length_or_one_line(text: str) -> None:
    said = ""
    try:
        found = lengths(text)
        assert found.mean > 0
        assert found.mean_square_over_mean >= found.mean * (1 - 1e-12)
    except ScenarioError as error:
        said = str(error)
    assert "\n" not in said


@given(st.text() | st.lists(st.text()) | st.integers())
def test_a_shown_value_is_short_and_on_one_line(value: object) -> None:
    assert len(shown(value)) <= 80
    assert len(shown(value).splitlines()) == 1


def test_numbers_too_long_to_print_are_shown_all_the_same() -> None:
    assert "digits" in shown(10**5000)
    assert "digits" in shown([10**5000])
