"""Workloads from their options."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from windtunnel.errors import ScenarioError
from windtunnel.scenario.workload import WorkloadSpec
from windtunnel.serving.workload.build import build_workload
from windtunnel.serving.workload.requests import NEXT, OPEN, Workload


@pytest.fixture(autouse=True)
def _shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Named traces from what ships, whether there are data or not."""
    monkeypatch.delenv("WINDTUNNEL_DATA", raising=False)


def build(**options: object) -> Workload:
    return build_workload(WorkloadSpec(**options))  # type: ignore[arg-type]


@pytest.fixture
def trace(tmp_path: Path) -> str:
    path = tmp_path / "some.csv"
    path.write_text(
        "arrival_s,input_tokens,output_tokens,hash_ids,session_id\n"
        "10,600,5,a b,x\n11,700,6,a c,y\n13,800,7,d e,x\n14,512,8,a,\n"
    )
    return str(path)


DRAWN = [
    {"rate": 3.0},
    {"rate": 3.0, "arrivals": "gamma:cv=2,clients=3,priorities=2", "input_length": "lognormal:mean=600,cv=1.2"},
    {
        "rate": 3.0,
        "arrivals": "bursty:on=1,off=2",
        "input_length": "exponential:mean=90",
        "output_length": "uniform:1,9",
    },
    {"arrivals": "closed:concurrency=4,think=2", "input_length": "trace:lmsys", "output_length": "trace:sharegpt"},
    {"rate": 3.0, "arrivals": "sessions:turns=3,think=4,clients=2", "output_length": "8"},
    {"trace": "mooncake-synthetic"},
    {"trace": "alibaba-deepseek-r1", "arrivals": "weibull:cv=2", "rate": 2.0},
]


@pytest.mark.parametrize("options", DRAWN)
def test_a_longer_run_begins_like_a_shorter_one(options: dict[str, object]) -> None:
    many, few = build(requests=700, seed=5, **options), build(requests=90, seed=5, **options)
    assert (len(many), len(few)) == (700, 90)
    for item in fields(Workload):
        a, b = getattr(many, item.name), getattr(few, item.name)
        assert np.array_equal(a[: len(b)], b) if isinstance(b, np.ndarray) else a == b
    other = build(requests=90, seed=6, **options)
    assert not np.array_equal(other.input_tokens, few.input_tokens)


@pytest.mark.parametrize("options", DRAWN)
def test_a_workload_keeps_its_promises(options: dict[str, object]) -> None:
    made = build(requests=300, **options)
    n = len(made)
    assert min(made.input_tokens.min(), made.output_tokens.min()) >= 1
    opens = np.ones(n, dtype=bool) if made.after is None else made.after == OPEN
    assert (np.diff(made.arrival_s[opens]) >= 0).all()
    assert (made.arrival_s >= 0).all()
    assert not made.arrival_s[~opens].any()
    for item in fields(Workload):
        found = getattr(made, item.name)
        if isinstance(found, np.ndarray) and item.name not in ("blocks", "block_offsets"):
            assert found.shape == (n,)
            assert found.dtype == (np.float64 if item.name.endswith("_s") else np.int64)
    if made.blocks is not None:
        assert made.block_offsets is not None
        assert (np.diff(made.block_offsets) >= -(-made.input_tokens // made.block_tokens)).all()
        assert set(np.unique(made.blocks)) == set(range(int(made.blocks.max()) + 1))


def test_other_arrivals_leave_the_lengths() -> None:
    first, second = build(rate=3.0, requests=50), build(arrivals="gamma:cv=3", rate=9.0, requests=50)
    assert np.array_equal(first.input_tokens, second.input_tokens)
    assert np.array_equal(first.output_tokens, second.output_tokens)


@pytest.mark.parametrize(
    ("text", "mean", "std"),
    [
        ("512", 512, 0),
        ("uniform:100,900", 500, 801 / math.sqrt(12)),
        ("lognormal:mean=600,cv=1.2", 600, 720),
        ("exponential:mean=600", 600, 600),
    ],
)
def test_lengths_have_their_moments(text: str, mean: float, std: float) -> None:
    for name in ("input", "output"):
        made = build(rate=1.0, requests=200_000, **{f"{name}_length": text})
        tokens = made.input_tokens if name == "input" else made.output_tokens
        assert tokens.mean() == pytest.approx(mean, rel=0.01)
        assert tokens.std() == pytest.approx(std, rel=0.03)
    assert build(rate=1.0, requests=9, input_length="uniform:7,7").input_tokens.tolist() == [7] * 9


def test_a_trace_as_it_is(trace: str) -> None:
    made = build(trace=trace)
    assert made.arrival_s.tolist() == [0, 1, 3, 4]
    assert made.name == "some.csv"
    assert made.session is not None
    assert made.session.tolist() == [0, 1, 0, -1]
    assert made.blocks is not None
    assert made.blocks.tolist() == [0, 1, 0, 2, 3, 4, 0]
    assert made.block_tokens == 512
    assert not made.closed


def test_a_shorter_trace_is_repeated_with_other_prompts(trace: str) -> None:
    made = build(trace=trace, requests=10)
    # One mean gap of 4/3 s between the copies.
    assert made.arrival_s == pytest.approx([0, 1, 3, 4, 16 / 3, 19 / 3, 25 / 3, 28 / 3, 32 / 3, 35 / 3])
    assert made.input_tokens.tolist() == [600, 700, 800, 512] * 2 + [600, 700]
    assert made.blocks is not None
    assert made.block_offsets is not None
    first, second = made.blocks[:7], made.blocks[7:14]
    assert not set(first) & set(second)
    assert (second - first == 5).all()
    assert made.session is not None
    assert made.session.tolist() == [0, 1, 0, -1, 2, 3, 2, -1, 4, 5]
    assert build(trace=trace, requests=2).arrival_s.tolist() == [0, 1]


@pytest.mark.parametrize("n", [2, 3, 4, 9])
def test_a_rate_scales_a_trace_exactly(trace: str, n: int) -> None:
    plain, made = build(trace=trace, requests=n), build(trace=trace, requests=n, rate=50.0)
    assert (n - 1) / made.arrival_s[-1] == pytest.approx(50, rel=1e-12)
    factor = plain.arrival_s[-1] / made.arrival_s[-1]
    assert made.arrival_s * factor == pytest.approx(plain.arrival_s, rel=1e-12)
    assert not build(trace=trace, rate=math.inf).arrival_s.any()


def test_a_window_of_a_trace(trace: str) -> None:
    made = build(trace=trace, trace_from=1.0, trace_to=4.0)
    assert made.arrival_s.tolist() == [0, 2]
    assert made.input_tokens.tolist() == [700, 800]
    assert made.blocks is not None
    with pytest.raises(ScenarioError, match="no request from second 20"):
        build(trace=trace, trace_from=20.0)
    with pytest.raises(ScenarioError, match="not before"):
        build(trace=trace, trace_from=2.0, trace_to=1.0)


def test_a_trace_with_other_arrivals_or_lengths(trace: str) -> None:
    made = build(trace=trace, arrivals="constant", rate=2.0)
    assert made.arrival_s.tolist() == [0, 0.5, 1, 1.5]
    assert made.input_tokens.tolist() == [600, 700, 800, 512]
    assert build(trace=trace, arrivals="constant").arrival_s == pytest.approx(np.arange(4) * 4 / 3)  # at its own rate
    made = build(trace=trace, output_length="9")
    assert made.output_tokens.tolist() == [9] * 4
    assert made.blocks is not None
    made = build(trace=trace, input_length="9")
    assert made.input_tokens.tolist() == [9] * 4
    assert made.output_tokens.tolist() == [5, 6, 7, 8]
    assert made.blocks is None
    assert "what they share is not used" in made.warnings[-1]
    made = build(trace=trace, arrivals="closed:concurrency=2")
    assert made.after is not None
    assert made.after.tolist() == [OPEN, OPEN, NEXT, NEXT]
    made = build(trace=trace, arrivals="sessions:turns=2", rate=1.0)
    assert made.block_tokens == 64
    assert "conversations share their own" in made.warnings[-1]


def test_lengths_of_a_file_keep_their_pairs(trace: str) -> None:
    made = build(rate=1.0, requests=200, input_length=f"trace:{trace}", output_length=f"trace:{trace}")
    pairs = set(zip(made.input_tokens.tolist(), made.output_tokens.tolist(), strict=True))
    assert pairs == {(600, 5), (700, 6), (800, 7), (512, 8)}
    made = build(rate=1.0, requests=200, input_length=f"trace:{trace}", output_length="trace:lmsys")
    assert set(made.input_tokens.tolist()) == {600, 700, 800, 512}


def test_clients_and_priorities() -> None:
    made = build(arrivals="poisson:clients=4,priorities=2", rate=1.0, requests=4000)
    assert made.client is not None
    assert made.priority is not None
    assert np.bincount(made.client) == pytest.approx([1000] * 4, rel=0.1)
    assert np.bincount(made.priority) == pytest.approx([2000] * 2, rel=0.1)
    made = build(arrivals="sessions:turns=4,clients=3", rate=1.0, requests=400)
    assert made.client is not None
    assert made.session is not None
    for session in range(20):
        assert len(set(made.client[made.session == session])) == 1


def test_what_was_assumed_is_said(trace: str) -> None:
    assert any("drawn from trace:azure-conv-2023" in x for x in build(rate=1.0).warnings)
    assert any("output lengths are not given" in x for x in build(rate=1.0, input_length="5").warnings)
    assert not build(rate=1.0, input_length="5", output_length="5").warnings
    assert any("synthesised" in x for x in build(trace="azure-code-2023", requests=5).warnings)
    assert len(build(rate=1.0)) == 1000


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "give --rate .* or --trace"),
        ({"arrivals": "gamma:cv=2"}, "'gamma:cv=2' need a pace"),
        ({"arrivals": "closed:concurrency=3", "rate": 2.0}, "does not go with arrivals closed"),
        ({"rate": 1e-6}, "at most 9e\\+06 s can be simulated"),
        ({"rate": -1.0}, "rate -1.0 is not"),
        ({"rate": 1e-3, "requests": 100, "arrivals": "bursty:on=0.001,off=0.001"}, "longer periods"),
        ({"rate": math.nan}, "rate nan is not"),
        ({"rate": 1.0, "trace_from": 3.0}, "give --trace"),
        ({"trace": "lmsys"}, "no pace of its own"),
        ({"trace": "lmsys", "rate": 1.0, "trace_to": 3.0}, "no arrival times"),
        ({"trace": "azure"}, "unknown trace 'azure'"),
        ({"trace": "./azure"}, "does not exist"),
        ({"trace": ""}, "unknown trace|is a folder"),
        ({"trace": "a\0b"}, "does not exist|cannot be read"),
        ({"rate": 1.0, "input_length": "trace:none"}, "unknown trace 'none'"),
        ({"rate": 1.0, "input_length": "few"}, "unknown input-length 'few'"),
        ({"rate": 1.0, "arrivals": "sometimes"}, "unknown arrivals"),
    ],
)  # fmt: skip
def test_options_that_do_not_work(options: dict[str, object], why: str) -> None:
    with pytest.raises(ScenarioError, match=why) as caught:
        build(**options)
    assert len(str(caught.value).splitlines()) == 1


PROCESSES = st.sampled_from(
    [
        "poisson", "constant", "gamma:cv=100", "gamma:cv=0.01", "weibull:cv=100,clients=3", "weibull:cv=0.01",
        "bursty:on=0.001,off=1e6", "bursty:on=1e6,off=0.001,low=1", "closed:concurrency=2,think=1e6",
        "sessions:turns=10000", "sessions:turns=1,think=1e6", "sessions:turns=2,think=3,clients=2,priorities=2",
    ]
)  # fmt: skip
LENGTHS = st.sampled_from(
    ["1", "1e8", "uniform:1,1e8", "lognormal:mean=1e8,cv=1000", "exponential:mean=1", "trace:alibaba-m-mid"]
)


@given(
    trace=st.none() | st.sampled_from(["mooncake-synthetic", "lmsys", "azure-code-2023", "alibaba-m-mid"]),
    arrivals=st.none() | PROCESSES,
    rate=st.none() | st.sampled_from([1e-300, 1e-3, 1.0, 1e6, 1e300, math.inf]),
    requests=st.integers(1, 60),
    input_length=st.none() | LENGTHS,
    output_length=st.none() | LENGTHS,
    trace_from=st.none() | st.sampled_from([0.0, 100.0, 1e12]),
    trace_to=st.none() | st.sampled_from([1e-9, 200.0, 1e12]),
    seed=st.sampled_from([0, 2**63 - 1]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_options_are_a_workload_or_one_line(**options: object) -> None:
    said = ""
    try:
        made = build(**options)
        assert len(made) == options["requests"]
        assert np.isfinite(made.arrival_s).all()
        assert made.input_tokens.min() >= 1
    except ScenarioError as error:
        said = str(error)
    assert len(said.splitlines()) <= 1


def test_requests_that_all_come_at_once_have_no_rate(tmp_path: Path) -> None:
    path = tmp_path / "at-once.csv"
    path.write_text("arrival_s,input_tokens,output_tokens\n5,1,1\n5,1,1\n")
    assert not build(trace=str(path), requests=7).arrival_s.any()
    assert not build(trace=str(path), requests=1, rate=3.0).arrival_s.any()
    with pytest.raises(ScenarioError, match="come at once"):
        build(trace=str(path), rate=3.0)


def test_a_named_trace_is_read_where_there_are_data(measured_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINDTUNNEL_DATA", str(measured_data))
    made = build(trace="mooncake-conversation")
    assert len(made) == 12031
    assert not made.warnings
    assert made.name == "mooncake-conversation"
