from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.report import units


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (units.number, 339870.4, "339,870"),
        (units.number, 9.996, "10.0"),
        (units.number, 0.0031234, "0.00312"),
        (units.number, 0, "0"),
        (units.seconds, 12.345, "12.3 s"),
        (units.seconds, 0.99996, "1.00 s"),
        (units.seconds, 0.4123, "412 ms"),
        (units.seconds, 35.2e-6, "35.2 µs"),
        (units.seconds, -0.0021, "-2.10 ms"),
        (units.duration, 4.4e6, "50.9 days"),
        (units.duration, 7200, "2.00 h"),
        (units.duration, 90, "90.0 s"),
        (units.size, 61.2 * 2**30, "61.2 GiB"),
        (units.size, 320 * 1024, "320 KiB"),
        (units.size, 100, "100 B"),
        (units.percent, 0.7117, "71.2 %"),
        (units.dollars, 5.117, "$5.12"),
        (units.dollars, 0.003117, "$0.00312"),
        (units.dollars, 12345, "$12,345"),
        (units.energy, 7.1e5, "710 kJ"),
        (units.energy, 3.6e12, "1,000 MWh"),
        (units.count, 70.56e9, "70.6 B"),
        (units.count, 999_885_952, "1.00 B"),
        (units.count, 12, "12"),
    ],
)
def test_numbers_as_people_read_them(function: object, value: float, text: str) -> None:
    assert function(value) == text  # type: ignore[operator]


EVERY = [
    units.number, units.seconds, units.duration, units.size, units.percent, units.dollars, units.energy, units.count,
]  # fmt: skip


@pytest.mark.parametrize("function", EVERY)
@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_is_not_known_is_a_dash(function: object, value: float | None) -> None:
    assert function(value) == units.MISSING  # type: ignore[operator]


@given(st.floats(1e-9, 1e15))
def test_three_figures_are_right(value: float) -> None:
    assert float(units.number(value).replace(",", "")) == pytest.approx(value, rel=5.001e-3)


def test_options_are_written_as_a_user_would() -> None:
    values = (None, True, 2, 2.0, "bf16", [], ["zero", "galore:rank=8"])
    assert [units.option(v) for v in values] == ["–", "yes", "2", "2", "bf16", "none", "zero+galore:rank=8"]
