"""Published traces by name: what ships is like the data it was made from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from windtunnel.errors import ScenarioError
from windtunnel.serving.workload.draws import Stream, generator
from windtunnel.serving.workload.published import Statistics, data_file, names, statistics
from windtunnel.serving.workload.reader import read_trace
from windtunnel.serving.workload.requests import Ints
from windtunnel.serving.workload.synthetic import at_scores, scores, synthesised
from windtunnel.serving.workload.traces import Trace

ALIBABA = {"alibaba-m-large", "alibaba-m-mid", "alibaba-m-small", "alibaba-deepseek-r1"}
SHARING = ("mooncake-conversation", "mooncake-synthetic")


def hit_rate(trace: Trace) -> float:
    """Of an unbounded prefix cache, over blocks."""
    assert trace.blocks is not None
    return 1 - (int(trace.blocks.max()) + 1) / len(trace.blocks)


def rank_correlation(a: Ints, b: Ints) -> float:
    import polars as pl

    ranks = [pl.Series(x).rank("average").to_numpy() for x in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def made(known: Statistics, n: int) -> Trace:
    return synthesised(known, n, seed=3)


def test_names() -> None:
    assert set(names()) >= ALIBABA | set(SHARING) | {"azure-conv-2023", "azure-code-2023", "lmsys", "sharegpt"}
    with pytest.raises(ScenarioError, match="did you mean azure-conv-2023"):
        statistics("azure-conv")


@pytest.mark.parametrize("name", names())
def test_sampled_lengths_have_the_means_and_the_correlation_of_the_trace(name: str) -> None:
    known = statistics(name)
    assert known.source
    assert known.licence
    n = 300_000
    z_in, z_out = scores(n, known.rank_correlation, 3)
    inputs, outputs = at_scores(known.input, z_in), at_scores(known.output, z_out)
    assert inputs.mean() == pytest.approx(known.input_mean, rel=0.02)
    assert outputs.mean() == pytest.approx(known.output_mean, rel=0.02)
    assert rank_correlation(inputs, outputs) == pytest.approx(known.rank_correlation, abs=0.02)
    assert min(inputs.min(), outputs.min()) >= 1


@pytest.mark.parametrize("name", [x for x in names() if x not in ALIBABA])
def test_statistics_are_like_the_data(name: str, measured_data: Path) -> None:
    known = statistics(name)
    path = data_file(known)
    assert path is not None
    trace = read_trace(path)
    assert known.requests == len(trace)
    n = 200_000
    z_in, z_out = scores(n, known.rank_correlation, 3)
    for quantiles, z, tokens in ((known.input, z_in, trace.input_tokens), (known.output, z_out, trace.output_tokens)):
        drawn = at_scores(quantiles, z)
        assert drawn.mean() == pytest.approx(tokens.mean(), rel=0.02)
        at = [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99]
        assert np.quantile(drawn, at) == pytest.approx(np.quantile(tokens, at), rel=0.04, abs=2)
    assert rank_correlation(trace.input_tokens, trace.output_tokens) == pytest.approx(known.rank_correlation, abs=0.001)
    if trace.arrival_s is not None:
        again = made(known, len(trace))
        assert again.arrival_s is not None
        assert again.rate == pytest.approx(trace.rate, rel=0.08)  # a few thousand bursty arrivals
        gaps, wanted = np.diff(again.arrival_s), np.diff(trace.arrival_s)
        assert gaps.std() / gaps.mean() == pytest.approx(wanted.std() / wanted.mean(), rel=0.1)
    if trace.blocks is not None:
        assert known.prefixes is not None
        assert hit_rate(trace) == pytest.approx(known.prefixes.hit_rate, abs=0.001)


@pytest.mark.parametrize("name", SHARING)
def test_synthesised_prompts_share_as_much_as_the_trace(name: str) -> None:
    known = statistics(name)
    assert known.prefixes is not None
    assert known.requests is not None
    trace = made(known, known.requests)
    assert hit_rate(trace) == pytest.approx(known.prefixes.hit_rate, abs=0.03)
    assert trace.blocks is not None
    assert trace.block_offsets is not None
    counts = np.diff(trace.block_offsets)
    assert (counts == -(-trace.input_tokens // known.prefixes.block_tokens)).all()
    # Equal numbers are equal prefixes: what stands before a block is always the same.
    before = np.concatenate([[-1], trace.blocks[:-1]])
    before[trace.block_offsets[:-1]] = -1
    pairs = np.unique(np.stack([trace.blocks, before]), axis=1)
    assert pairs.shape[1] == trace.blocks.max() + 1
    fewer = made(known, 500)
    assert fewer.blocks is not None
    assert np.array_equal(fewer.blocks, trace.blocks[: len(fewer.blocks)])


def test_windows_of_a_synthesised_trace() -> None:
    known = statistics("azure-conv-2023")
    trace = synthesised(known, None, seed=0, start_s=600.0, end_s=900.0)
    assert trace.arrival_s is not None
    assert trace.arrival_s[0] >= 0
    assert trace.arrival_s[-1] < 300
    assert len(trace) == pytest.approx(300 * 5, rel=0.15)
    assert len(synthesised(known, 50, seed=0, start_s=600.0)) == 50
    assert len(synthesised(known, None, seed=0, start_s=3000.0, end_s=9e9)) < 3000
    assert len(synthesised(known, None, seed=0, start_s=3000.0)) < 3000
    assert len(synthesised(known, None, seed=0)) == known.requests
    assert len(synthesised(statistics("alibaba-m-mid"), None, seed=0)) == 1000
    assert len(synthesised(statistics("alibaba-m-mid"), None, seed=0, start_s=7200.0)) == 1000
    for name, start, end, why in (
        ("lmsys", 1.0, None, "no arrival times"),
        ("azure-conv-2023", 5000.0, None, "lasts 35"),
        ("azure-conv-2023", 7.0, 7.0, "not before"),
        ("azure-code-2023", 61.0, 62.0, "no request from second 61"),
        ("alibaba-m-mid", 0.0, 1e6, "give --requests"),
    ):
        with pytest.raises(ScenarioError, match=why):
            synthesised(statistics(name), None, seed=0, start_s=start, end_s=end)


def test_streams_are_independent() -> None:
    draws = [generator(5, stream).standard_normal(2000) for stream in Stream]
    correlations = np.corrcoef(draws) - np.eye(len(draws))
    assert abs(correlations).max() < 0.1


def test_statistics_need_neither_polars_nor_scipy() -> None:
    code = (
        "import sys\n"
        "from windtunnel.scenario.workload import WorkloadSpec\n"
        "from windtunnel.serving.workload.build import build_workload\n"
        "build_workload(WorkloadSpec(trace='mooncake-synthetic'))\n"
        "print(sorted({'polars', 'scipy', 'numba'} & set(sys.modules)))"
    )
    environment = {key: value for key, value in os.environ.items() if key != "WINDTUNNEL_DATA"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "[]"
