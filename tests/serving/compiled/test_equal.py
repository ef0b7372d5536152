"""The compiled loop is the plain-Python one, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from windtunnel.serving.compiled.replica import Asked, CompiledEngine
from windtunnel.serving.outcome import Status
from windtunnel.serving.replica import NEVER
from windtunnel.serving.rules import RULES
from windtunnel.serving.spec import NO_LIMIT, EngineSpec
from windtunnel.serving.step_cost import StepCost

from .conftest import Load, Pair, make_spec

pytestmark = pytest.mark.usefixtures("compiled_loop")
Prices = Callable[..., StepCost]

MODELS = {
    "whole context": {},
    "windows": {"model": "gemma-2-9b"},
    "sinks": {"model": "gpt-oss-20b"},
    "chunks": {"model": "llama-4-scout-17b-16e", "on": "8xh100-sxm", "tp": 8},
    "states": {"model": "mamba2-2.7b"},
    "hybrid": {"model": "jamba-v0.1", "on": "2xh100-sxm", "tp": 2},
    "latent": {"model": "deepseek-v2-lite"},
    "unfused": {"model": "llama-2-7b", "engine": "transformers"},
    "stages": {"model": "llama-3.1-8b", "on": "4xa100-80gb-sxm", "pp": 4},
    "pieces": {"model": "llama-3.1-8b", "on": "4xa100-80gb-sxm", "tp": 4, "techniques": ("nanoflow",)},
    "pieces of windows": {"model": "gemma-2-9b", "techniques": ("nanoflow",)},
}


def run_all(spec: EngineSpec, load: Load, one_by_one: bool = False) -> Pair:
    """All requests known beforehand."""
    pair = Pair(spec, load, one_by_one)
    for number, time in enumerate(load.arrival):
        pair.submit(number, time)
    pair.advance(NEVER)
    pair.compare_all()
    return pair


def run_routed(spec: EngineSpec, load: Load, seed: int) -> Pair:
    """Requests that come one by one, a look at everything in between, and now and then a failure."""
    pair, r = Pair(spec, load), Random(seed)
    waiting = list(enumerate(load.arrival))
    while waiting:
        number, time = waiting.pop(0)
        time = max(time, pair.python.clock)
        if r.random() < 0.3:
            pair.advance(min(max(pair.python.bound() - 1, pair.python.clock), time))
            pair.compare()
        pair.advance(time)
        pair.compare()
        if r.random() < 0.05:
            lost = pair.python.stop(time)
            assert pair.compiled.stop(time) == lost
            waiting = sorted(((n, time + r.choice((0, 10**9))) for n in lost), key=lambda w: w[1]) + waiting
            waiting.sort(key=lambda w: w[1])
            pair.compare()
        pair.submit(number, time)
        pair.compare()
        if r.random() < 0.5:
            pair.compare_done()
    pair.advance(NEVER)
    pair.compare_all()
    return pair


def random_spec(r: Random, cost: StepCost, rules: str, **fixed: Any) -> EngineSpec:
    """Anything that an engine may be, small enough for its limits to be met."""
    views = len(cost.windows)
    capacity = r.choice((300, 1000, 20_000)) * views
    changes: dict[str, Any] = {
        "budget": r.choice((64, 512, 2048)), "most_sequences": r.choice((2, 16, 64)), "block": r.choice((1, 16, 48)),
        "units": tuple(r.randint(0 if views > 1 else 1, 3) for _ in range(views)), "state_units": r.choice((0, 0, 7)),
        "capacity": capacity, "watermark": r.choice((0, capacity // 100)), "reserve_output": r.random() < 0.2,
        "longest": r.choice((NO_LIMIT, NO_LIMIT, 3000)), "swap_units": r.choice((0, 1000)), "swap_s": 1e-4,
        "front_ps": r.choice((0, 10**10)), "delayed": r.random() < 0.5, "max_queue": r.choice((NO_LIMIT, 20)),
        "timeout_ps": r.choice((NO_LIMIT, 2 * 10**12)),
    }  # fmt: skip
    if not RULES[rules].limited:
        changes["most_sequences"] = min(changes["most_sequences"], 4)  # the price list is not endless
    return make_spec(cost, rules, **changes | fixed)


def random_load(r: Random, n: int = 60, along: float = 0.0) -> Load:
    return Load.random(
        r.randrange(10**6), n, r.choice((0, 1, 10, 50)), r.choice((50, 800)), r.choice((3, 50, 200)), along
    )


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("seed", range(4))
def test_rules(price_list: Prices, rules: str, seed: int) -> None:
    r = Random(f"{rules} {seed}")
    run_all(random_spec(r, price_list(), rules), random_load(r))
    run_routed(random_spec(r, price_list(), rules), random_load(r, 40), seed)


@pytest.mark.parametrize("model", MODELS)
def test_models(price_list: Prices, model: str) -> None:
    cost = price_list(**MODELS[model])
    for seed in range(3):
        r = Random(f"{model} {seed}")
        run_all(random_spec(r, cost, r.choice(["chunked", "vllm", "orca"])), random_load(r, 40))
        run_routed(random_spec(r, cost, r.choice(list(RULES))), random_load(r, 30), seed)


@pytest.mark.parametrize("model", ["whole context", "windows", "stages", "pieces"])
@pytest.mark.parametrize(("slots", "ranks"), [(1, 2), (2, 1), (4, 1), (2, 3)])
def test_slots_and_ranks(price_list: Prices, model: str, slots: int, ranks: int) -> None:
    r = Random(f"{model} {slots} {ranks}")
    spec = random_spec(r, price_list(**MODELS[model]), r.choice(list(RULES)), slots=slots, ranks=ranks)
    run_all(spec, random_load(r))
    run_routed(replace(spec, delayed=not spec.delayed), random_load(r, 40), slots)


@pytest.mark.parametrize("rules", ["chunked", "priority", "sjf", "fair", "vllm", "decode-first"])
def test_little_cache(price_list: Prices, rules: str) -> None:
    """Many lose their places."""
    r = Random(rules)
    for swap_units in (0, 60):
        spec = random_spec(
            r, price_list(), rules, capacity=150, watermark=1, units=(1,), block=16, state_units=0,
            reserve_output=False, swap_units=swap_units, longest=NO_LIMIT, max_queue=NO_LIMIT, timeout_ps=NO_LIMIT,
            most_sequences=16,
        )  # fmt: skip
        pair = run_all(spec, Load.random(r.randrange(100), 60, 20, 50, 300))
        assert pair.record.preempted.sum() > 5
        run_routed(spec, Load.random(r.randrange(100), 40, 20, 50, 300), 1)


@pytest.mark.parametrize("rules", RULES)
def test_cache_comes_along(price_list: Prices, rules: str) -> None:
    r = Random(rules)
    run_all(random_spec(r, price_list(), rules), random_load(r, along=0.6))
    run_routed(random_spec(r, price_list(), rules), random_load(r, 40, along=1.0), 2)


@pytest.mark.parametrize("rules", ["chunked", "static", "sjf"])
def test_one_by_one(price_list: Prices, rules: str) -> None:
    r = Random(rules)
    run_all(random_spec(r, price_list(), rules), Load.random(1, 20, 5, 200, 40), one_by_one=True)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_anything(price_list: Prices, data: st.DataObject) -> None:
    """Few requests and tight limits, so that a difference comes down to the few numbers that make it."""
    n = data.draw(st.integers(1, 8))

    def column(numbers: st.SearchStrategy[int]) -> list[int]:
        return data.draw(st.lists(numbers, min_size=n, max_size=n))

    inputs, outputs = column(st.integers(1, 200)), column(st.integers(1, 60))
    arrival = sorted(column(st.integers(0, 5) | st.integers(0, 10**12)))
    small = st.integers(0, 2)
    load = Load(arrival, inputs, outputs, column(small), column(small), column(small), column(st.integers(0, 200)))
    spec = make_spec(
        price_list(**data.draw(st.sampled_from([MODELS["whole context"], MODELS["windows"]]))),
        data.draw(st.sampled_from(list(RULES))),
        budget=data.draw(st.sampled_from([1, 16, 100])), most_sequences=data.draw(st.integers(1, 5)),
        slots=data.draw(st.integers(1, 2)), ranks=data.draw(st.integers(1, 2)), block=data.draw(st.integers(1, 20)),
        capacity=data.draw(st.integers(20, 600)), watermark=data.draw(st.integers(0, 5)),
        swap_units=data.draw(st.sampled_from([0, 20])), swap_s=0.01, delayed=data.draw(st.booleans()),
        timeout_ps=data.draw(st.sampled_from([NO_LIMIT, 10**11])), max_queue=data.draw(st.sampled_from([NO_LIMIT, 2])),
        front_ps=data.draw(st.sampled_from([0, 10**9])),
    )  # fmt: skip
    if data.draw(st.booleans()):
        run_all(spec, load)
    else:
        run_routed(spec, load, data.draw(st.integers(0, 99)))


def test_many_at_once_and_in_parts(price_list: Prices) -> None:
    """All arrivals in one call, and any number of pauses, change nothing."""
    spec = make_spec(price_list(), timeout_ps=10**12, most_sequences=8)
    load = Load.random(5, 300, 20, 300, 60)
    pair = run_all(spec, load)
    arrival = np.array(load.arrival)
    rows = Asked(np.array(load.inputs), np.array(load.outputs), None, None)
    engine, record = CompiledEngine(spec, arrival, rows, keep_done=False, log_size=10**5), rows.record(arrival)
    engine.submit_all(np.arange(300), arrival)
    pauses = 0
    while not engine.advance_some(NEVER, 7):
        pauses += 1
    assert pauses > 10
    assert engine.take_done() == []
    assert engine.tally.log == pair.python.tally.log
    np.testing.assert_array_equal(record.finish, pair.record.finish)
    assert set(record.status) == {Status.COMPLETED, Status.TIMED_OUT}


def test_long_pauses(price_list: Prices) -> None:
    """More picoseconds than a double counts, up to the end of the clock."""
    load = Load.random(6, 12, 5, 300, 40)
    far = [t + i // 3 * (10**18 + 12_345_678_901) + (i == 11) * NEVER // 2 for i, t in enumerate(load.arrival)]
    run_routed(make_spec(price_list(), front_ps=10**9), replace(load, arrival=sorted(far)), 4)
    run_all(make_spec(price_list()), replace(load, arrival=[*sorted(far)[:-1], NEVER - 10**9]))


def test_keys_that_are_large(price_list: Prices) -> None:
    """Priorities may be any whole numbers."""
    load = Load.random(3, 60, 0, 300, 20)
    run_all(make_spec(price_list(), "priority"), replace(load, priority=[p * 10**15 for p in load.priority]))


def test_a_million_places(price_list: Prices) -> None:
    """Room is taken as it is needed."""
    run_all(make_spec(price_list(), most_sequences=10**6), Load.random(4, 60, 0, 100, 30))


def test_what_it_cannot_do(price_list: Prices) -> None:
    one = np.ones(1, np.int64)
    with pytest.raises(ValueError, match="no prefix cache"):
        CompiledEngine(make_spec(price_list(), prefix_tokens=16), one, Asked(one, one, None, None))
    with pytest.raises(ValueError, match="3000000000"):
        Asked(3 * 10**9 * one, one, None, None)
    engine = CompiledEngine(make_spec(price_list(), "orca"), one, Asked(30_000 * one, one, None, None))
    engine.submit(0, 0)
    with pytest.raises(IndexError, match="price list"):
        engine.advance(NEVER)
