"""No plan that meets the SLO is discarded: the bounds against ``simulate``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.engine.fleet import prepare
from windtunnel.engine.simulate import simulate_workload
from windtunnel.planning.serve.bounds import _lines, bounds, floors
from windtunnel.scenario.options import read_options
from windtunnel.scenario.simulate import SimulateScenario, simulate_scenario
from windtunnel.scenario.simulate_options import SimulateOptions
from windtunnel.serving.knots import TOKENS
from windtunnel.serving.outcome import PS
from windtunnel.serving.sizing import Sized
from windtunnel.serving.step_time import StepTimes, Work
from windtunnel.serving.workload.build import build_workload
from windtunnel.serving.workload.requests import Workload

PLANS = (
    {"model": "llama-3.1-8b", "on": "8xl4", "chunk": 512, "max_batch": 16},
    {"model": "llama-3.1-8b", "on": "8xa100-80gb-sxm", "tp": 2, "chunk": 4096},
    {"model": "llama-3.1-8b", "on": "8xl4", "pp": 2, "chunk": 1024},
    {"model": "llama-3.1-8b", "on": "8xh100-sxm", "engine": "sglang"},
    {"model": "llama-3.1-8b", "on": "8xh100-sxm", "scheduler": "static", "max_batch": 32},
    {"model": "mixtral-8x7b", "on": "8xh100-sxm", "tp": 2, "dp": 2, "ep": 4},
    {"model": "gemma-3-27b", "on": "8xh100-sxm", "tp": 2},
    {"model": "llama-3-70b", "on": "16xh100-sxm", "tp": 4, "with": ["nanoflow"]},
    {"model": "llama-3.1-8b", "on": "16xl4", "tp": 4, "pp": 2, "with": ["ladder-residual"]},
)


def made(plan: dict[str, Any], **work: Any) -> tuple[SimulateScenario, Workload, Sized]:
    scenario = simulate_scenario(read_options(SimulateOptions, {**plan, **work}))
    workload = build_workload(scenario.workload)
    prepared = prepare(scenario, workload)
    return scenario, workload, prepared["engine"][0][1]


@settings(max_examples=15)
@given(
    st.sampled_from(PLANS), st.sampled_from([0.5, 5.0, 50.0]), st.integers(1, 2), st.integers(5, 80),
    st.sampled_from([50.0, 90.0, 99.0]), st.integers(0, 99), st.booleans(),
)  # fmt: skip
def test_what_simulate_says_is_no_less(
    plan: dict[str, Any], rate: float, replicas: int, requests: int, percentile: float, seed: int, warm: bool
) -> None:
    work = {
        "rate": rate, "requests": requests, "seed": seed, "replicas": replicas,
        "input_length": "lognormal:mean=900,cv=1.5", "output_length": "exponential:mean=60",
    }  # fmt: skip
    scenario, workload, sized = made(plan, **work)
    warmup = float(np.median(workload.arrival_s)) if warm else 0.0
    result = simulate_workload(scenario, workload)
    assert result.completed == requests
    kept = workload.arrival_s >= warmup
    outcome = result.outcome
    steps = workload.output_tokens - 1
    late = {
        "ttft_s": (outcome.first - outcome.arrival)[kept] / PS,
        "tpot_s": ((outcome.finish - outcome.first)[kept & (steps > 0)] / PS) / steps[kept & (steps > 0)],
        "e2e_s": (outcome.finish - outcome.arrival)[kept] / PS,
    }
    values = {m: float(np.percentile(v, percentile)) for m, v in late.items() if len(v)}
    # Limits that are just met: as many engines as it took are not fewer than the bound.
    for metrics in (("ttft_s",), ("ttft_s", "tpot_s"), ("e2e_s",), ("ttft_s", "tpot_s", "e2e_s")):
        limits = {m: values[m] * (1 + 1e-9) for m in metrics if m in values}
        bound = bounds(sized, workload, limits, percentile, warmup_s=warmup)
        assert all(least <= limits[m] for m, least in bound.least.items())
        assert bound.replicas <= replicas


def test_they_are_near_where_nothing_else_happens() -> None:
    """Requests far apart: what is simulated is what the bounds allow, within a tenth."""
    scenario, workload, sized = made(
        {"model": "llama-3.1-8b", "on": "1xh100-sxm"}, rate=0.05, requests=40, input_length="2000", output_length="100"
    )
    result = simulate_workload(scenario, workload)
    limits = dict.fromkeys(("ttft_s", "tpot_s", "e2e_s"), 1.0)
    least = bounds(sized, workload, limits, 50.0).least
    for metric, bound in least.items():
        assert 0.85 * getattr(result, metric)["p50"] < bound <= getattr(result, metric)["p50"]


def test_a_heavy_load_takes_many_engines() -> None:
    _, workload, sized = made(
        {"model": "llama-3.1-8b", "on": "1xl4"}, rate=100, requests=500, input_length="1000", output_length="100"
    )
    bound = bounds(sized, workload, {"ttft_s": 1.0, "tpot_s": 0.2}, 90.0)
    assert bound.replicas > 10  # an L4 takes some 0.2 s for a prompt
    looser = bounds(sized, workload, {"ttft_s": 100.0, "tpot_s": 0.2}, 90.0)
    assert 1 <= looser.replicas < bound.replicas


@pytest.mark.parametrize("plan", PLANS)
def test_lines_lie_below_the_price_list(plan: dict[str, Any]) -> None:
    _, _, sized = made(plan, rate=1.0, requests=50, input_length="1000", output_length="100")
    f, times = floors(sized.spec.cost), StepTimes(sized.spec.cost)
    for decodes in (1, 2, 3, 7, 16):
        for context in (1, 50, 1000):
            if decodes > sized.spec.most_sequences:
                continue
            work = Work(decodes, [decodes * context for _ in sized.spec.cost.windows])
            whole, turn = (x / PS for x in times.seconds(work))
            assert f.step <= whole
            assert all(a + b * decodes + f.context * decodes * context <= whole for a, b in f.lines)
            assert all(a + b * decodes + f.turn_context * decodes * context <= max(turn, whole) for a, b in f.turns)


@given(st.lists(st.floats(0.1, 10), min_size=200, max_size=200), st.integers(3, 190))
def test_lines_lie_below_any_points(values: list[float], n: int) -> None:
    tokens = TOKENS.points(n).astype(float)
    tokens[0] = 1.0
    seconds = np.array(values[: len(tokens)])
    tokens = tokens[: len(seconds)]
    for a, b in _lines(tokens, seconds):
        assert a >= 0
        assert b >= 0
        assert np.all(a + b * tokens <= seconds)
