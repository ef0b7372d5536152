"""The small languages of a workload."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.errors import ScenarioError
from windtunnel.scenario.simulate_options import SimulateOptions
from windtunnel.scenario.workload import (
    Arrivals,
    Bursty,
    Closed,
    Exponential,
    Fixed,
    FromTrace,
    Lognormal,
    Renewal,
    Sessions,
    Slo,
    Uniform,
    WorkloadSpec,
    arrivals,
    slo,
    token_lengths,
    workload_spec,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("poisson", Arrivals(Renewal("poisson", 1))),
        ("constant", Arrivals(Renewal("constant", 0))),
        (" gamma : cv = 2 ", Arrivals(Renewal("gamma", 2))),
        ("weibull:cv=0.5,priorities=3", Arrivals(Renewal("weibull", 0.5), 0, 3)),
        ("bursty:on=10,off=20", Arrivals(Bursty(10, 20, 0))),
        ("bursty:on=10,off=20,low=0.1", Arrivals(Bursty(10, 20, 0.1))),
        ("closed:concurrency=64", Arrivals(Closed(64, 0))),
        ("closed:concurrency=64,think=1.5,clients=4", Arrivals(Closed(64, 1.5), 4)),
        ("sessions:turns=5,think=30", Arrivals(Sessions(5, 30))),
    ],
)
def test_arrivals(text: str, expected: Arrivals) -> None:
    assert arrivals(text) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("poison", "did you mean poisson"),
        ("", "known: bursty"),
        ("gamma", "needs cv, as in cv=2"),
        ("gamma:cv=0", "not a number from 0.01 to 100"),
        ("gamma:cv=x", "'x' is not a number"),
        ("gamma:cv=nan", "not a number"),
        ("gamma:cvs=2", "did you mean cv"),
        ("gamma:cv=2,cv=2", "new key=value"),
        ("bursty:on=10", "needs off"),
        ("closed:concurrency=0", "whole number"),
        ("closed:concurrency=1.5", "whole number"),
        ("sessions:turns=0.5", "from 1"),
        ("poisson:clients=0", "whole number"),
    ],
)
def test_arrivals_that_are_not_understood(text: str, why: str) -> None:
    with pytest.raises(ScenarioError, match=why):
        arrivals(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("512", Fixed(512)),
        ("1e3", Fixed(1000)),
        ("uniform:100, 900", Uniform(100, 900)),
        ("lognormal:mean=600,cv=1.2", Lognormal(600, 1.2)),
        ("lognormal:mean=600", Lognormal(600, 1)),
        ("exponential:mean=600", Exponential(600)),
        ("trace:azure-conv-2023", FromTrace("azure-conv-2023")),
        ("trace:C:/a,b=1", FromTrace("C:/a,b=1")),
    ],
)
def test_lengths(text: str, expected: object) -> None:
    assert token_lengths(text, "input-length") == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "whole number from 1"),
        ("0", "whole number from 1"),
        ("1.5", "whole number"),
        ("2e8", "from 1 to 1e"),
        ("-1", "whole number"),
        ("many", "unknown input-length 'many'"),
        ("lognornal:mean=3", "did you mean lognormal"),
        ("lognormal", "needs mean"),
        ("uniform:3,2", "first number is the larger"),
        ("uniform:3", "two numbers"),
        ("uniform:1.5,3", "whole number"),
        ("trace:", "names no trace"),
    ],
)
def test_lengths_that_are_not_understood(text: str, why: str) -> None:
    with pytest.raises(ScenarioError, match=why):
        token_lengths(text, "input-length")


def test_slo() -> None:
    assert slo("ttft=1.0,tpot=0.05,e2e=30") == Slo(1.0, 0.05, 30)
    assert slo(" tpot = 0.05 ,") == Slo(None, 0.05, None)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "asks for nothing"),
        ("ttft", "new name=seconds"),
        ("ttft=1,ttft=2", "new name=seconds"),
        ("ttf=1", "did you mean ttft"),
        ("ttft=0", "is not a number"),
        ("ttft=", "'' is not a number"),
        ("e2e=nan", "is not a number"),
    ],
)
def test_slos_that_are_not_understood(text: str, why: str) -> None:
    with pytest.raises(ScenarioError, match=why):
        slo(text)


@given(
    st.text(max_size=40)
    | st.from_regex(r"(gamma|bursty|closed|sessions|uniform|lognormal|ttft)[:=][0-9a-z=,.\-]{0,20}", fullmatch=True)
)
def test_any_text_is_understood_or_one_line(text: str) -> None:
    for parse in (arrivals, slo, lambda x: token_lengths(x, "input-length")):
        said = ""
        try:
            parse(text)
        except ScenarioError as error:
            said = str(error)
        assert "\n" not in said


def test_the_options_of_a_workload_are_taken_over() -> None:
    options = SimulateOptions(
        model="m", on="c", trace="a.csv", arrivals="poisson", rate=2.0, requests=3, input_length="4",
        output_length="5", trace_from=6.0, trace_to=7.0, strict=True, seed=8,
    )  # fmt: skip
    assert workload_spec(options) == WorkloadSpec("a.csv", "poisson", 2.0, 3, "4", "5", 6.0, 7.0, True, 8)
    assert workload_spec(SimulateOptions(model="m", on="c")) == WorkloadSpec()
