"""How fast the event loops are: ``python benchmarks/bench_loop.py`` prints a table, ``pytest benchmarks/bench_loop.py``
keeps the compiled loop's figures; none is asserted on.

One engine (llama-3.1-8b on an A100 80 GB, chunked prefill, first come first served), lengths as in the Azure
conversation trace of 2023 (means 1155 and 211; arXiv 2311.18677, table 2), Poisson arrivals at a share of what the
engine serves when all requests wait from the start. Targets: 50 to 150 ns an event, a million requests a second.
"""

from __future__ import annotations

from functools import cache
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import pytest

from windtunnel.cost import load_calibration, make_pricer
from windtunnel.cost.runtime import runtime_of
from windtunnel.scenario.options import InferOptions, read_options
from windtunnel.scenario.serve import infer_scenario
from windtunnel.serving.compiled.replica import Asked, CompiledEngine
from windtunnel.serving.engine import PythonEngine
from windtunnel.serving.record import Record
from windtunnel.serving.replica import NEVER
from windtunnel.serving.request import Request
from windtunnel.serving.rules import RULES
from windtunnel.serving.spec import NO_LIMIT, EngineSpec
from windtunnel.serving.step_cost import compile_step

LOADS = (0.05, 0.3, 0.85)
PLACES, BUDGET, BLOCK = 256, 2048, 16


class Run(NamedTuple):
    """``makespan_s`` on the simulated clock; ``wall_s`` of the loop alone."""

    wall_s: float
    events: int
    requests: int
    makespan_s: float


@cache
def spec() -> EngineSpec:
    scenario = infer_scenario(read_options(InferOptions, {"model": "llama-3.1-8b", "on": "1xa100-80gb-sxm"}))
    price = make_pricer(
        scenario.cluster, runtime_of(scenario.engine), load_calibration(scenario.cluster.accelerator, None)
    )
    cost = compile_step(
        scenario.network, scenario.plan, scenario.engine, price, most_tokens=BUDGET + PLACES, most_prompt_tokens=BUDGET,
        most_sequences=PLACES, most_context=2_000_000, longest=131_072,
    )  # fmt: skip
    return EngineSpec(
        cost=cost, rules=RULES["chunked"], budget=BUDGET, most_sequences=PLACES, slots=1, ranks=1, block=BLOCK,
        units=(1,), stops=(NO_LIMIT,), state_units=0, capacity=30_000, watermark=300,
    )  # fmt: skip


def requests(n: int, rate: float) -> tuple[Any, Any, Any]:
    """(arrivals in ps, prompt and answer tokens); all at once where ``rate`` is 0."""
    rng = np.random.default_rng(0)

    def lengths(mean: float, median: float) -> Any:
        sigma = np.sqrt(2 * np.log(mean / median))
        return np.maximum(rng.lognormal(np.log(median), sigma, n).astype(np.int64), 1)

    gaps = rng.exponential(1 / rate, n) if rate else np.zeros(n)
    return (np.cumsum(gaps) * 1e12).astype(np.int64), lengths(1155, 1020), lengths(211, 129)


def compiled(n: int, rate: float) -> Run:
    arrival, inputs, outputs = requests(n, rate)
    asked = Asked(inputs, outputs, None, None)
    engine = CompiledEngine(spec(), arrival, asked, keep_done=False)
    engine.submit_all(np.arange(n), arrival)
    started = perf_counter()
    engine.advance(NEVER)
    wall = perf_counter() - started
    return Run(wall, engine.tally.events, n, int(asked.rows["finish"].max()) / 1e12)


def python(n: int, rate: float) -> Run:
    arrival, inputs, outputs = (each.tolist() for each in requests(n, rate))
    record = Record.of(n)

    def make(number: int, time: int, progress: int) -> Request:
        return Request(number, time, inputs[number], outputs[number], progress=progress)

    engine = PythonEngine(spec(), record, make)
    for number, time in enumerate(arrival):
        engine.submit(number, time)
    started = perf_counter()
    engine.advance(NEVER)
    return Run(perf_counter() - started, engine.tally.events, n, int(record.finish.max()) / 1e12)


@cache
def capacity() -> float:
    """Requests a second of an engine that never waits for any."""
    return 20_000 / compiled(20_000, 0.0).makespan_s


@pytest.mark.parametrize("load", LOADS)
def test_compiled_loop(benchmark: Any, load: float) -> None:
    rate = load * capacity()
    run = benchmark.pedantic(compiled, (200_000, rate), rounds=3, warmup_rounds=1)
    benchmark.extra_info.update(run._asdict())


def main() -> None:
    print(f"{capacity():.2f} requests/s on the simulated clock when all wait")
    print(f"{'loop':10}{'load':>6}{'requests':>10}{'events each':>13}{'ns an event':>13}{'requests/s':>12}")
    for load in LOADS:
        for loop, n in ((compiled, 300_000), (python, 3_000)):
            runs = [loop(n, load * capacity()) for _ in range(3 if loop is compiled else 1)]
            wall_s, events, _, _ = min(runs)
            each, ns = events / n, wall_s / events * 1e9
            print(f"{loop.__name__:10}{load:6.2f}{n:10,}{each:13.2f}{ns:13.1f}{n / wall_s:12,.0f}")


if __name__ == "__main__":
    main()
