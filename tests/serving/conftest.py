"""What tests of the event loop share: price lists of real models and of invented ones, and engines that run them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from windtunnel.cost import load_calibration, make_pricer
from windtunnel.cost.runtime import runtime_of
from windtunnel.ops.fold import Pricer
from windtunnel.scenario.options import InferOptions, read_options
from windtunnel.scenario.serve import InferScenario, infer_scenario
from windtunnel.serving.engine import PythonEngine
from windtunnel.serving.knots import CONTEXT, KEYS, PROMPT, SEQUENCES, TOKENS
from windtunnel.serving.outcome import PS
from windtunnel.serving.record import Record
from windtunnel.serving.replica import NEVER, Done
from windtunnel.serving.request import Request
from windtunnel.serving.rules import RULES, Rules
from windtunnel.serving.spec import NO_LIMIT, EngineSpec
from windtunnel.serving.speculated_cost import engine_cost
from windtunnel.serving.step_cost import MIX_BITS, SPREAD, StepCost

MS = PS // 1000


@dataclass(frozen=True)
class Ask:
    """A request, as a test writes it down: when it comes (ps) and how long it is."""

    arrival: int
    input_tokens: int
    output_tokens: int
    client: int = 0
    priority: int = 0
    predicted: int | None = None
    progress: int = 0


@dataclass
class Ran:
    """An engine, what it was asked and what it has recorded."""

    engine: PythonEngine
    record: Record
    asks: Sequence[Ask]
    done: list[Done] = field(default_factory=list)

    def submit(self, number: int) -> None:
        ask = self.asks[number]
        self.record.arrival[number] = ask.arrival
        self.engine.submit(number, ask.arrival, ask.progress)

    def advance(self, until: int = NEVER) -> Ran:
        self.engine.advance(until)
        self.done += self.engine.take_done()
        return self

    def same_as(self, other: Ran) -> bool:
        """Whether two runs agree to the last bit in all that is reported."""
        arrays = ("arrival", "start", "first", "finish", "status", "preempted", "replica")
        counts = ("cells", "gaps", "iterations", "batch_sum", "batch_max", "busy", "kv_peak")
        one, two = self.engine.tally, other.engine.tally
        # A stretch of decodes keeps the reason of its first step, before which a gate has not closed, nor has anybody
        # lost a place.
        plain = not self.engine.spec.rules.gated and not self.record.preempted.any()
        return (
            all(np.array_equal(getattr(self.record, a), getattr(other.record, a)) for a in arrays)
            and all(getattr(one, c) == getattr(two, c) for c in counts)
            and (one.blocked == two.blocked or not plain)
        )


@dataclass(frozen=True)
class Priced:
    """A real model on a real machine, with the price list made of it."""

    scenario: InferScenario
    price: Pricer
    cost: StepCost


class Lab:
    """Makes price lists, engines and runs."""

    MS = MS
    Ask = Ask

    @staticmethod
    @cache
    def priced(tokens: int = 20_000, sequences: int = 256, context: int = 1_000_000, **options: Any) -> Priced:
        """The price list of a real model; ``options`` of ``infer``."""
        scenario = infer_scenario(read_options(InferOptions, options))
        cluster = scenario.cluster
        calibration = load_calibration(cluster.accelerator, None)
        price = make_pricer(cluster, runtime_of(scenario.engine), calibration)
        cost = engine_cost(
            scenario.network, scenario.plan, scenario.engine, price, most_tokens=tokens + sequences,
            most_prompt_tokens=tokens, most_sequences=sequences, most_context=context, longest=131_072,
        )  # fmt: skip
        return Priced(scenario, price, cost)

    @staticmethod
    @cache
    def flat(fixed: int = 10 * MS, token: int = 0, tokens: int = 4096, sequences: int = 256) -> StepCost:
        """An iteration takes ``fixed`` ps and ``token`` ps for each token; nothing else counts."""
        points = TOKENS.points(tokens)
        rows, prompts = len(SEQUENCES.points(sequences)), len(PROMPT.points(tokens))
        contexts, keys = len(CONTEXT.points(NO_LIMIT)) - 1, len(KEYS.points(131_072))
        prompt = np.zeros((1, 1, prompts, keys, len(SPREAD)))
        nothing = np.zeros(sequences + 2, np.int64)
        return StepCost(
            windows=(0,), copies=np.ones(1, np.int64), issue=np.zeros((1, 2), np.int64),
            base=(fixed + token * points)[None, :, None], head=nothing, sends=np.zeros(len(points), np.int64),
            schedule=nothing, decode=np.zeros((1, 1, rows, contexts, 2), np.int64),
            waves=np.zeros((1, 1, len(TOKENS.points(2 * tokens)))), prompt=prompt, apart=prompt[:, :0],
            mixed=1 << MIX_BITS, overlapped=False, eager=False,
        )  # fmt: skip

    @staticmethod
    @cache
    def rugged(
        windows: tuple[int, ...] = (0,), *, groups: int = 1, seed: int = 0, maxima: tuple[int, ...] = (1,)
    ) -> StepCost:
        """A price list in which every table has been drawn at random, so that no two states cost the same: bends in
        the decodes' lines, floors set by the host, and prompts that depend on pairs and keys. For 8,192 prompt tokens
        at once and requests below 1,024. ``maxima``: rows of each region of every group."""
        rng = np.random.default_rng(seed)
        plain = Lab.flat(tokens=8192, sequences=32)
        points = CONTEXT.points(NO_LIMIT)[:-1]
        g, w = groups * sum(maxima), len(windows)
        growth = rng.integers(0, 40_000_000, (g, w, *plain.decode.shape[2:4]))
        growth[..., points > 1 << 20] = 0  # further than any test goes; int64 ends there
        steps = np.minimum(np.diff(points, append=points[-1]), 1 << 21)
        at = np.concatenate([np.zeros_like(growth[..., :1]), np.cumsum(growth * steps, axis=-1)[..., :-1]], axis=-1)
        wide, rows = plain.waves.shape[2], plain.prompt.shape[2]
        prompt = rng.uniform(0.1, 1.0, (g, w, rows, len(KEYS.points(1024)), len(SPREAD)))
        return StepCost(
            windows=windows,
            copies=np.arange(1, groups + 1),
            issue=rng.integers(0, 20 * MS, (groups, 2)),
            base=np.cumsum(rng.integers(0, 40_000_000, (g, plain.base.shape[1], 1)), axis=1) + 5 * MS,
            head=np.cumsum(rng.integers(0, 100_000_000, len(plain.head))),
            sends=np.cumsum(rng.integers(0, 10_000_000, len(plain.sends))),
            schedule=np.cumsum(rng.integers(0, 2 * MS // 4, len(plain.schedule))),
            decode=np.stack([at, growth], axis=-1),
            waves=np.cumsum(rng.uniform(0, 1e8, (g, w, wide)), axis=-1),
            prompt=prompt,
            apart=0.5 * prompt if w == 1 and seed % 2 else prompt[:, :0],
            mixed=int(rng.integers(1 << MIX_BITS, 2 << MIX_BITS)),
            overlapped=False,
            eager=False,
            maxima=() if maxima == (1,) else (maxima,) * groups,
        )

    @staticmethod
    def spec(cost: StepCost, rules: str | Rules = "chunked", **changes: Any) -> EngineSpec:
        """An engine with one batch, room for everything and a unit of cache for each block of 16 tokens."""
        stops = tuple(NO_LIMIT if w == 0 else w - 1 if w > 0 else -w for w in cost.windows)
        spec = EngineSpec(
            cost=cost, rules=RULES[rules] if isinstance(rules, str) else rules, budget=512, most_sequences=32, slots=1,
            ranks=1, block=16, units=(1,) * len(cost.windows), stops=stops, state_units=0, capacity=1 << 40,
        )  # fmt: skip
        return replace(spec, **changes)

    @staticmethod
    def start(spec: EngineSpec, asks: Sequence[Ask], **options: Any) -> Ran:
        """An engine to which nothing has been submitted."""
        record = Record.of(len(asks))
        return Ran(PythonEngine(spec, record, _maker(asks), **options), record, asks)

    @staticmethod
    def run(spec: EngineSpec, asks: Sequence[Ask], **options: Any) -> Ran:
        """All of it, in order of arrival, to the end."""
        ran = Lab.start(spec, asks, **options)
        for number in range(len(asks)):
            ran.submit(number)
        return ran.advance()


def _maker(asks: Sequence[Ask]) -> Callable[[int, int, int], Request]:
    def make(number: int, time: int, progress: int) -> Request:
        a = asks[number]
        predicted = a.output_tokens if a.predicted is None else a.predicted
        return Request(
            number, time, a.input_tokens, a.output_tokens, client=a.client, priority=a.priority, predicted=predicted,
            progress=progress,
        )  # fmt: skip

    return make


VIEWS = ((0,), (0, 24), (-16,), (0, -32))
"""Views of the context: all of it, a window, chunks, or all of it beside one of these."""


@st.composite
def workloads(draw: st.DrawFn) -> list[Ask]:
    """Requests in order of arrival: many at once, or spread over the time that some iterations take."""
    gaps = draw(st.sampled_from([0, 3 * MS, 40 * MS, 400 * MS]))
    size, answer = draw(st.sampled_from([(8, 60), (60, 60), (60, 6), (300, 1), (300, 40)]))
    few = draw(st.sampled_from([1, 6, 18]))
    one = st.tuples(
        st.integers(0, 2 * gaps), st.integers(1, size), st.integers(answer // 3 + 1, answer), st.integers(0, 2),
        st.integers(0, 2), st.integers(1, 9),
    )  # fmt: skip
    now, asks = 0, []
    for gap, input_tokens, output_tokens, client, priority, predicted in draw(st.lists(one, min_size=few, max_size=24)):
        now += gap
        asks.append(Ask(now, input_tokens, output_tokens, client, priority, predicted))
    return asks


@st.composite
def services(
    draw: st.DrawFn, *, lanes: bool = True, rejects: bool = True
) -> tuple[EngineSpec, list[Ask]]:  # fmt: skip
    """Engines of every kind, most of them short of something for the requests that they get."""
    asks = draw(workloads())
    slots, ranks = draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (1, 3), (2, 2)])) if lanes else (1, 1)
    windows = draw(st.sampled_from(VIEWS))
    cost = replace(
        Lab.rugged(
            windows, groups=slots, seed=draw(st.integers(0, 2)), maxima=draw(st.sampled_from([(1,), (1,), (1, 3)]))
        ),
        overlapped=draw(st.booleans()), eager=draw(st.booleans()),
    )  # fmt: skip
    changes: dict[str, Any] = {}
    if rejects and draw(st.booleans()):
        changes = {
            "timeout_ps": draw(st.sampled_from([1 << 60, 1 << 60, 1 << 60, 0, 150 * MS])),
            "max_queue": draw(st.sampled_from([1 << 60, 1 << 60, 1 << 60, 0, 3])),
            "longest": draw(st.sampled_from([1 << 60, 1 << 60, 200])),
        }
    spec = Lab.spec(
        cost, draw(st.sampled_from(sorted(RULES))), slots=slots, ranks=ranks, block=draw(st.sampled_from([1, 4, 16])),
        budget=draw(st.sampled_from([1, 32, 512])), most_sequences=draw(st.sampled_from([1, 2, 5, 16])),
        units=draw(st.sampled_from([(1,) * len(windows), (2, 1)[: len(windows)]])),
        state_units=draw(st.sampled_from([0, 3])), reserve_output=draw(st.sampled_from([False, False, True])),
        front_ps=draw(st.sampled_from([0, 2 * MS])), delayed=draw(st.booleans()), **changes,
    )  # fmt: skip
    largest = max(spec.held(ask.input_tokens + ask.output_tokens - 1) for ask in asks)
    capacity = int(largest * draw(st.sampled_from([0.7, 1.0, 1.4, 2.5, 2.5, 1e6])))
    short = replace(
        spec, capacity=capacity, watermark=draw(st.sampled_from([0, capacity // 50])),
        swap_units=draw(st.sampled_from([0, capacity // 4, 4 * capacity])), swap_s=draw(st.sampled_from([0.0, 1e-5])),
    )  # fmt: skip
    return short, asks


Lab.services = staticmethod(services)


@pytest.fixture(scope="session")
def lab() -> Lab:
    return Lab()
