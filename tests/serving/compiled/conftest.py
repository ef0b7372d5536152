"""The plain-Python loop and the compiled one on the same requests, and what must be equal between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Any

import numpy as np
import pytest

from windtunnel.cost import load_calibration, make_pricer
from windtunnel.cost.runtime import runtime_of
from windtunnel.scenario.options import InferOptions, read_options
from windtunnel.scenario.serve import infer_scenario
from windtunnel.serving.compiled import build
from windtunnel.serving.compiled.replica import Asked, CompiledEngine
from windtunnel.serving.engine import PythonEngine
from windtunnel.serving.record import Record
from windtunnel.serving.request import Request
from windtunnel.serving.rules import RULES
from windtunnel.serving.spec import NO_LIMIT, EngineSpec
from windtunnel.serving.step_cost import StepCost, compile_step

LOG = 100_000


@pytest.fixture(scope="session")
def compiled_loop() -> None:
    """Skips where there is no compiler."""
    built = build.build()
    if built.path is None:
        pytest.skip(built.reason)


@pytest.fixture(scope="session")
def price_list() -> Callable[..., StepCost]:
    """(model, machine, options of ``infer``) to prices of iterations of up to 20,000 tokens of 64 sequences."""

    @cache
    def make(model: str = "llama-3.1-8b", on: str = "1xa100-80gb-sxm", **options: Any) -> StepCost:
        scenario = infer_scenario(read_options(InferOptions, {"model": model, "on": on, **options}))
        calibration = load_calibration(scenario.cluster.accelerator, None)
        price = make_pricer(scenario.cluster, runtime_of(scenario.engine), calibration)
        return compile_step(
            scenario.network, scenario.plan, scenario.engine, price, most_tokens=20_064, most_prompt_tokens=20_000,
            most_sequences=64, most_context=4_000_000, longest=32_768,
        )  # fmt: skip

    return make


def make_spec(cost: StepCost, rules: str = "chunked", **changes: Any) -> EngineSpec:
    """An engine with a cache of 20,000 blocks of 16 tokens, 1 unit each."""
    views = len(cost.windows)
    plain = EngineSpec(
        cost=cost, rules=RULES[rules], budget=512, most_sequences=64, slots=1, ranks=1, block=16, units=(1,) * views,
        stops=tuple(NO_LIMIT if w == 0 else w - 1 if w > 0 else -w for w in cost.windows), state_units=0,
        capacity=20_000 * views,
    )  # fmt: skip
    return replace(plain, **changes)


@dataclass(frozen=True)
class Load:
    """Requests: arrivals in picoseconds, lengths, who asks, how urgently, what is predicted, what comes along."""

    arrival: list[int]
    inputs: list[int]
    outputs: list[int]
    client: list[int]
    priority: list[int]
    predicted: list[int]
    progress: list[int]

    @staticmethod
    def random(seed: int, n: int, rate: float, inputs: float, outputs: float, along: float = 0.0) -> Load:
        """Lognormal prompts, exponential answers, Poisson arrivals (all at once where ``rate`` is 0), some of them
        together; a share ``along`` of the requests comes with some of its cache or all of it."""
        r, now, arrival = Random(seed), 0.0, []
        for _ in range(n):
            if rate and r.random() < 0.8:
                now += r.expovariate(rate) * 1e12
            arrival.append(int(now))
        prompts = [max(1, min(int(r.lognormvariate(0, 1) * inputs), 4000)) for _ in range(n)]
        answers = [max(1, int(r.expovariate(1 / outputs))) for _ in range(n)]
        progress = [r.choice((p, p // 2, 1)) if r.random() < along else 0 for p in prompts]
        return Load(
            arrival, prompts, answers, [r.randint(0, 3) for _ in range(n)], [r.randint(-2, 2) for _ in range(n)],
            [max(1, a + r.randint(-3, 3)) for a in answers], progress,
        )  # fmt: skip


class Pair:
    """Both loops of one engine, driven alike."""

    def __init__(self, spec: EngineSpec, load: Load, one_by_one: bool = False) -> None:
        n = len(load.arrival)
        self.spec, self.asked = spec, load
        self.python_record = Record.of(n)
        arrival = np.array(load.arrival, np.int64)
        key = load.priority if spec.rules.order == "priority" else load.predicted
        rows = Asked(
            *(np.array(a, np.int64) for a in (load.inputs, load.outputs, load.client, key)),
        )
        self.record = rows.record(arrival)
        self.python_record.arrival[:] = arrival
        first = [a + 7 if p >= i else -1 for a, p, i in zip(load.arrival, load.progress, load.inputs, strict=True)]
        self.record.first[:] = self.python_record.first[:] = first  # made elsewhere

        def make(number: int, time: int, progress: int) -> Request:
            return Request(
                number, time, load.inputs[number], load.outputs[number], client=load.client[number],
                priority=load.priority[number], predicted=load.predicted[number], progress=progress,
            )  # fmt: skip

        self.python = PythonEngine(spec, self.python_record, make, index=3, one_by_one=one_by_one, log_size=LOG)
        self.compiled = CompiledEngine(spec, arrival, rows, index=3, one_by_one=one_by_one, log_size=LOG)

    def submit(self, number: int, time: int) -> None:
        progress = self.asked.progress[number]
        self.python.submit(number, time, progress)
        self.compiled.submit(number, time, progress)

    def advance(self, until: int) -> None:
        self.python.advance(until)
        self.compiled.advance(until)

    def compare(self) -> None:
        """Everything that can be seen from outside, without changing it."""
        p, c = self.python, self.compiled
        assert c.load() == p.load()
        assert c.bound() == p.bound()
        assert (c.clock, c.in_system, c.owed) == (p.clock, p.in_system, p.owed)
        assert (c.completed, c.produced) == (p.completed, p.produced)
        assert c.queue_integral == p.queue_integral

    def compare_done(self) -> None:
        assert list(self.compiled.take_done()) == list(self.python.take_done())

    def compare_all(self) -> None:
        """That, and all that has been recorded and counted."""
        self.compare()
        self.compare_done()
        for name in ("start", "first", "finish", "status", "preempted", "replica"):
            np.testing.assert_array_equal(getattr(self.record, name), getattr(self.python_record, name), name)
        ours, theirs = self.compiled.tally, self.python.tally
        assert ours.log == theirs.log
        for name in (
            "gaps", "cells", "events", "iterations", "batch_sum", "batch_max", "samples", "gap", "next_sample",
            "blocked", "kv_peak", "kv_integral", "busy",
        ):  # fmt: skip
            assert getattr(ours, name) == getattr(theirs, name), name
