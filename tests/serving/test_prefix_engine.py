"""The event loop with a prefix cache: whose units are whose, what is found, and when fetched blocks arrive."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.cost.channel import Channel
from windtunnel.serving import sharing
from windtunnel.serving.engine import PythonEngine
from windtunnel.serving.outcome import PS, Status
from windtunnel.serving.policy import RuleScheduler, Turn
from windtunnel.serving.prefix_cache import HBM, LFU, LRU, PrefixCache, Tier
from windtunnel.serving.record import Record
from windtunnel.serving.replica import NEVER
from windtunnel.serving.request import Request
from windtunnel.serving.rules import RULES
from windtunnel.serving.spec import NO_LIMIT, EngineSpec

MS = PS // 1000
HASH = 32
"""Tokens of a block of the prefix cache: two of the engine's."""

SEEDS = (1, 2, 3, 4, 8, 12, 14, 21, 41, 52, 63, 143)
"""Crowds that between them need every rule by which a stretch of iterations ends early."""


@dataclass(frozen=True)
class Asked:
    """A request and the blocks of its prompt, and of its answer where they are known."""

    arrival: int
    input_tokens: int
    output_tokens: int
    blocks: Sequence[int] = ()
    progress: int = 0


class Trial:
    """An engine and what becomes of the requests that it is given."""

    def __init__(
        self,
        spec: EngineSpec,
        asked: Sequence[Asked],
        make_cache: Callable[[], PrefixCache] | None = None,
        **options: Any,
    ) -> None:
        def make(number: int, time: int, progress: int) -> Request:
            a = asked[number]
            return Request(number, time, a.input_tokens, a.output_tokens, progress=progress, blocks=a.blocks)

        self.asked, self.record = asked, Record.of(len(asked))
        self.engine = PythonEngine(spec, self.record, make, make_cache=make_cache, **options)
        self.seen: list[tuple[int, int]] = []

    def run(self, look: bool = False) -> Trial:
        """All requests, to the end; ``look``: as a router that asks what is in the cache does."""
        for number, ask in enumerate(self.asked):
            if look:
                self.engine.advance(ask.arrival)
                self.seen += [(number, self.engine.prefix_tokens(n)) for n in range(len(self.asked))]
            self.record.arrival[number] = ask.arrival
            if ask.progress:
                self.record.first[number] = ask.arrival
            self.engine.submit(number, ask.arrival, ask.progress)
        self.engine.advance(NEVER)
        return self

    @property
    def found(self) -> list[int]:
        cached: list[int] = self.record.cached_tokens.tolist()
        return cached

    def same_as(self, other: Trial, but: Sequence[str] = ()) -> bool:
        arrays = ("start", "first", "finish", "status", "preempted", "cached_tokens", "replica")
        counts = ("cells", "gaps", "iterations", "batch_sum", "busy", "kv_peak", "looked_up", "found")
        one, two = self.engine.tally, other.engine.tally
        # Not why the head waited: a stretch keeps the reason of its first step.
        return all(np.array_equal(getattr(self.record, a), getattr(other.record, a)) for a in arrays) and all(
            getattr(one, c) == getattr(two, c) for c in counts if c not in but
        )


class Accountant(RuleScheduler):
    """A built-in scheduler that checks the books before each decision and after it."""

    def schedule(self, turn: Turn) -> None:
        balance(turn._engine)
        super().schedule(turn)
        balance(turn._engine)
        assert turn._free >= 0


def balance(engine: PythonEngine) -> None:
    """Every unit of the cache belongs to one request, to the prefix cache, or to nobody; every pin to a request."""
    spec = engine.spec
    for rank, pool in enumerate(engine.pools):
        lanes = [lane for lane in engine.lanes if lane.rank == rank]
        cache = pool.cache
        assert cache is not None
        alone, pins = 0, 0
        for lane in lanes:
            for r in lane.running.values():
                own = spec.held(r.origin + lane.k) - sharing.covered(spec, len(r.pinned))
                alone += r.units if r.reserved else own
                pins += len(r.pinned)
            for r in [*lane.partial, *lane.fetching.values()]:
                alone += r.units
                pins += len(r.pinned)
        for fetch in {*engine.fetches._under_way.values(), *(w.fetch for n in lanes for w in n.landed)}:
            if fetch.lane.rank == rank:
                alone += sum(tier != HBM for _, tier in fetch.below) * pool.unit
                pins += sum(tier == HBM for _, tier in fetch.below)
        flying = any(slot.flight for slot in engine.slots)
        if not flying:
            assert pool.free + alone + cache.resident * pool.unit == pool.capacity
            assert pool.free >= 0
        assert sum(cache._pins.values()) == pins
        assert sum(p == 0 for p in cache._pins.values()) == cache.unpinned


def settle(trial: Trial) -> None:
    """Nobody is left, and what is left of them is in the prefix cache."""
    engine = trial.engine
    assert engine.owed == engine.in_system == 0
    assert not engine.fetches._under_way
    for pool in engine.pools:
        assert pool.cache is not None
        assert pool.cache.unpinned == pool.cache.resident
        assert pool.free + pool.cache.resident * pool.unit == pool.capacity == pool.available
        assert pool.swap_free == engine.spec.swap_units


@st.composite
def prompts(draw: st.DrawFn) -> list[Asked]:
    """Requests whose prompts go on from earlier ones, some with answers that later prompts contain."""
    gaps = draw(st.sampled_from([0, 10 * MS, 200 * MS]))
    answer = draw(st.sampled_from([1, 8, 70, 70]))
    found: list[Asked] = []
    now, new, room = 0, 0, 1000  # tokens of an iteration that the invented price lists hold
    for _ in range(draw(st.integers(1, 14))):
        now += draw(st.integers(0, 2 * gaps))
        tokens, output = draw(st.integers(1, 260)), draw(st.integers(1, answer))
        tokens = max(min(tokens, room - output), 1)
        room = max(room - tokens - output, 8)
        size = tokens + output if draw(st.booleans()) else tokens
        count = -(-size // HASH)
        parent = draw(st.sampled_from(found)).blocks if found else ()
        kept = list(parent[: draw(st.sampled_from([count, count, count // 2, 0]))])
        if size != tokens or len(kept) * HASH > tokens:
            kept = kept[: size // HASH]  # a block that is not full is nobody else's
        blocks = kept + list(range(new, new + count - len(kept)))
        new += count - len(kept)
        whole = tokens if draw(st.integers(0, 9)) == 0 and output > 1 else 0
        found.append(Asked(now, tokens, output, blocks, progress=whole))
    return found


@st.composite
def engines(draw: st.DrawFn, lab: Any) -> tuple[EngineSpec, Callable[[], PrefixCache]]:
    """Engines of every kind that are short of cache, and what makes their prefix caches."""
    slots, ranks = draw(st.sampled_from([(1, 1), (1, 1), (1, 1), (2, 1), (1, 2), (2, 2)]))
    windows = draw(st.sampled_from([(0,), (0,), (0, 24), (0, -48)]))
    cost = replace(lab.rugged(windows, groups=slots, seed=draw(st.integers(0, 2))), overlapped=draw(st.booleans()))
    block = draw(st.sampled_from([16, 16, 1, 24]))
    state = draw(st.sampled_from([0, 3]))
    units = (2, 1)[: len(windows)]
    longest = -(-330 // block) * sum(units) + state
    capacity = draw(st.sampled_from([longest, 2 * longest, 5 * longest]))
    prefix = draw(st.sampled_from([1.0, 1.0, 0.5, 1.6])) * sum(units) * HASH / block
    swap = draw(st.sampled_from([0, 0, capacity]))
    spec = lab.spec(
        cost, draw(st.sampled_from(sorted(RULES))), slots=slots, ranks=ranks, block=block, units=units,
        capacity=capacity, state_units=state, budget=draw(st.sampled_from([32, 200, 1000])),
        most_sequences=draw(st.sampled_from([1, 3, 16])), watermark=draw(st.sampled_from([0, capacity // 50])),
        reserve_output=draw(st.sampled_from([False, False, True])), delayed=draw(st.booleans()), swap_units=swap,
        swap_s=1e-6, timeout_ps=draw(st.sampled_from([NO_LIMIT, NO_LIMIT, 300 * MS])), prefix_tokens=HASH,
        prefix_units=int(prefix), front_ps=draw(st.sampled_from([0, MS])),
    )  # fmt: skip
    policy = draw(st.sampled_from([LRU, LFU]))
    below = draw(st.sampled_from(["", "host", "host nvme", "host at once"]))
    rates = draw(st.sampled_from([(1e3, 0.0), (2e4, 0.003), (1e6, 0.05)]))

    def make() -> PrefixCache:
        tiers = []
        if below:
            tiers.append(Tier("host", 12 * 64, None if "at once" in below else Channel(*rates)))
        if "nvme" in below:
            tiers.append(Tier("nvme", 30 * 64, Channel(rates[0] / 4, rates[1] * 2)))
        return PrefixCache(policy, tiers, 64)

    return spec, make


@settings(max_examples=150)
@given(st.data())
def test_no_unit_is_lost_and_no_block_stays_pinned(lab: Any, data: st.DataObject) -> None:
    (spec, make), asked = data.draw(engines(lab)), data.draw(prompts())
    trial = Trial(spec, asked, make, scheduler=Accountant(spec.rules)).run()
    settle(trial)
    for ask, status, cached in zip(asked, trial.record.status, trial.found, strict=True):
        assert status in (Status.COMPLETED, Status.TIMED_OUT, Status.TOO_LONG)
        assert cached % HASH == 0
        assert 0 <= cached < max(ask.input_tokens, 1)
    assert trial.engine.tally.found == sum(trial.found)


@settings(max_examples=150)
@given(st.data())
def test_skipping_ahead_changes_nothing(lab: Any, data: st.DataObject) -> None:
    (spec, make), asked = data.draw(engines(lab)), data.draw(prompts())
    look = data.draw(st.booleans())
    skipping, naive = Trial(spec, asked, make).run(look), Trial(spec, asked, make, one_by_one=True).run(look)
    assert skipping.same_as(naive)
    assert skipping.seen == naive.seen
    assert Trial(spec, asked, make).run().same_as(skipping)


def crowded(lab: Any, seed: int) -> tuple[EngineSpec, list[Asked], Callable[[], PrefixCache]]:
    """An engine too small for its 60 requests, which go on from each other, with memories below it."""
    r = random.Random(seed)
    slots, ranks = r.choice([(1, 1), (1, 1), (1, 1), (1, 1), (2, 1), (1, 2)])
    windows = r.choice([(0,), (0,), (0, 24), (0, -48)])
    cost = replace(lab.rugged(windows, groups=slots, seed=r.randint(0, 3)), overlapped=r.random() < 0.3)
    block, units = r.choice([16, 16, 16, 1, 24]), (2, 1)[: len(windows)]
    capacity = int((-(-430 // block) * sum(units) + 3) * r.choice([1, 1.5, 3]))
    rules = r.choice([name for name in RULES if name != "orca"])
    spec: EngineSpec = lab.spec(
        cost, rules, slots=slots, ranks=ranks, block=block, units=units, capacity=capacity, prefix_tokens=HASH,
        prefix_units=int(r.choice([1, 1, 1, 1.6, 0.5]) * sum(units) * HASH / block), state_units=r.choice([0, 3]),
        budget=r.choice([32, 200, 500]), most_sequences=2 if rules == "static" else r.choice([2, 4, 16]),
        watermark=r.choice([0, capacity // 50]), reserve_output=r.random() < 0.2, delayed=r.random() < 0.4,
        swap_units=r.choice([0, 0, capacity]), swap_s=1e-6, front_ps=r.choice([0, MS]),
    )  # fmt: skip
    asked: list[Asked] = []
    now = new = 0
    for _ in range(60):
        now += int(r.expovariate(1) * r.choice([1, 20, 20]) * 10 * MS)
        tokens, output = r.randint(1, 260), r.choice([1, 5, 60, 150])
        size = tokens + output if r.random() < 0.5 else tokens
        count = -(-size // HASH)
        kept = list(r.choice(asked).blocks)[: r.choice([count, count, count // 2, 0])] if asked else []
        if size != tokens or len(kept) * HASH > tokens:
            kept = kept[: size // HASH]
        asked.append(Asked(now, tokens, output, kept + list(range(new, new + count - len(kept)))))
        new += count - len(kept)
    rate, tiers = r.choice([(1e3, 0.0), (2e4, 0.003), (1e6, 0.05)]), r.choice([(), (12,), (12, 30), (12, 30)])
    policy = r.choice([LRU, LFU])

    def make() -> PrefixCache:
        return PrefixCache(policy, [Tier("host", 64 * blocks, Channel(*rate)) for blocks in tiers], 64)

    return spec, asked, make


@pytest.mark.parametrize("seed", SEEDS)
def test_a_crowd_is_served_alike_however_time_is_advanced(lab: Any, seed: int) -> None:
    spec, asked, make = crowded(lab, seed)
    settle(Trial(spec, asked, make, scheduler=Accountant(spec.rules)).run())
    skipping, naive = (Trial(spec, asked, make, one_by_one=one).run(look=True) for one in (False, True))
    assert skipping.same_as(naive)
    assert skipping.seen == naive.seen
    assert set(skipping.record.status) == {Status.COMPLETED}


@settings(max_examples=60)
@given(st.data())
def test_prompts_without_blocks_cost_what_they_cost_without_a_cache(lab: Any, data: st.DataObject) -> None:
    (spec, make), asked = data.draw(engines(lab)), data.draw(prompts())
    plain = [replace(ask, blocks=()) for ask in asked]
    without = Trial(replace(spec, prefix_tokens=0, prefix_units=0), asked).run()
    with_cache = Trial(spec, plain, make).run()
    assert with_cache.same_as(without, but=("looked_up",))
    # Samples are taken where a stretch of iterations ends; with a cache the loop may stop once more on the way.
    one, other = ({s[0]: s for s in trial.engine.tally.samples} for trial in (with_cache, without))
    assert all(one[now] == other[now] for now in one.keys() & other.keys())
    assert max(one) == max(other)
    assert with_cache.engine.tally.kv_integral == without.engine.tally.kv_integral
    assert not any(with_cache.found)


def in_turn(asked: Sequence[Asked]) -> list[Asked]:
    """The same requests, each after the one before has long ended."""
    return [replace(ask, arrival=i * 3600 * PS, progress=0) for i, ask in enumerate(asked)]


@settings(max_examples=60)
@given(asked=prompts())
def test_an_endless_cache_finds_whatever_was_there_before(lab: Any, asked: list[Asked]) -> None:
    spec = lab.spec(lab.flat(), prefix_tokens=HASH, prefix_units=2)
    trial = Trial(spec, in_turn(asked)).run()
    known: set[tuple[int, ...]] = set()
    for ask, cached in zip(asked, trial.found, strict=True):
        inside = [b for i, b in enumerate(ask.blocks) if (i + 1) * HASH < ask.input_tokens]
        repeated = max(n for n in range(len(inside) + 1) if n == 0 or tuple(inside[:n]) in known)
        assert cached == repeated * HASH
        told = ask.input_tokens + ask.output_tokens - 1 if len(ask.blocks) * HASH >= ask.input_tokens + HASH else None
        full = (told or ask.input_tokens) // HASH
        known |= {tuple(ask.blocks[: n + 1]) for n in range(min(full, len(ask.blocks)))}
    tally = trial.engine.tally
    assert tally.looked_up == sum(ask.input_tokens for ask in asked)
    assert tally.found == sum(trial.found)


def least_recently_used(asked: Sequence[Asked], room: int) -> list[int]:
    """Blocks found of prompts that come one at a time to a cache of ``room`` tokens: a list, oldest first."""
    kept: list[int] = []
    found = []
    for ask in asked:
        listed = len(ask.blocks) * HASH >= ask.input_tokens + HASH
        inside = ask.blocks[: min((ask.input_tokens - 1) // HASH, len(ask.blocks))]
        n = next((i for i, b in enumerate(inside) if b not in kept), len(inside))
        found.append(n * HASH)
        mine = list(ask.blocks[:n])
        last = ask.input_tokens + ask.output_tokens - 1
        for tokens in (ask.input_tokens, last):
            # What is there alone: whole blocks of 16 tokens beyond the shared ones.
            others = [b for b in kept if b not in mine]
            while room < 16 * -(-(tokens - len(mine) * HASH) // 16) + HASH * (len(mine) + len(others)):
                kept.remove(others.pop(0))
            whole = tokens // HASH if listed or tokens == ask.input_tokens else ask.input_tokens // HASH
            mine = list(ask.blocks[: min(whole, len(ask.blocks))])
            kept += [b for b in mine if b not in kept]
        kept = [b for b in kept if b not in mine] + mine[::-1]
    return found


@settings(max_examples=100)
@given(asked=prompts(), blocks=st.integers(22, 80))
def test_a_full_cache_forgets_what_was_used_longest_ago(lab: Any, asked: list[Asked], blocks: int) -> None:
    spec = lab.spec(lab.flat(), prefix_tokens=HASH, prefix_units=2, capacity=blocks)
    asked = [ask for ask in asked if ask.input_tokens + ask.output_tokens <= 16 * blocks]
    trial = Trial(spec, in_turn(asked)).run()
    assert trial.found == least_recently_used(asked, 16 * blocks)


@pytest.mark.parametrize("rules", ["chunked", "static"])
def test_each_turn_of_a_conversation_finds_the_ones_before(lab: Any, rules: str) -> None:
    """Of 161 - 1 and 256 - 1 tokens in the cache, the whole blocks; a static batch goes on after its end."""
    asked = [
        Asked(0, 100, 61, [0, 1, 2, 3, 4, 5]),
        Asked(0, 10, 99),
        Asked(60 * PS, 161 + 40, 55, [0, 1, 2, 3, 4, 6, 7, 8]),
        Asked(60 * PS, 10, 99),
        Asked(120 * PS, 256 + 10, 2, [0, 1, 2, 3, 4, 6, 7, 8, 9]),
    ]
    trial = Trial(lab.spec(lab.flat(), rules, prefix_tokens=HASH, prefix_units=2), asked).run()
    assert trial.found == [0, 0, 160, 0, 224]


def test_requests_at_one_time_share_from_the_end_of_the_first_prompt_on(lab: Any) -> None:
    """Four like prompts of 256 tokens in iterations of 512: two at once compute all, two find it."""
    asked = [Asked(0, 256, 40, list(range(8))) for _ in range(4)]
    trial = Trial(lab.spec(lab.flat(), prefix_tokens=HASH, prefix_units=2), asked)
    trial.engine.submit(0, 0)
    for n in range(1, 4):
        trial.engine.submit(n, 0)
    trial.engine.advance(25 * MS)
    pool = trial.engine.pools[0]
    assert trial.found == [0, 0, 224, 224]
    assert pool.cache is not None
    assert pool.cache.resident == 8  # once, not four times
    trial.engine.advance(NEVER)
    settle(trial)


def test_what_is_found_is_not_owed(lab: Any) -> None:
    asked = [Asked(0, 256, 1, list(range(8))), Asked(PS, 256, 5, list(range(8)))]
    trial = Trial(lab.spec(lab.flat(), prefix_tokens=HASH, prefix_units=2), asked)
    trial.engine.submit(0, 0)
    trial.engine.advance(PS)
    trial.engine.submit(1, PS)
    assert trial.engine.load().outstanding_tokens == 261
    assert trial.engine.prefix_tokens(1) == 224
    trial.engine.advance(PS + MS)
    assert trial.engine.load().outstanding_tokens == 261 - 224


def test_a_failed_engine_has_forgotten_everything(lab: Any) -> None:
    asked = [Asked(i * PS, 256, 5, list(range(8))) for i in range(3)]
    trial = Trial(lab.spec(lab.flat(), prefix_tokens=HASH, prefix_units=2), asked)
    for n in range(3):
        trial.engine.advance(n * PS)
        if n == 2:
            assert trial.engine.stop(n * PS) == []
        trial.engine.submit(n, n * PS)
    trial.engine.advance(NEVER)
    assert trial.found == [0, 224, 0]


# Blocks from below.

RATE, LATENCY = 1e6, 0.004


def below(tiers: Sequence[str] = ("host",), blocks: int = 100) -> Callable[[], PrefixCache]:
    """A cache whose blocks of 1000 bytes come up at a block a millisecond, 4 ms later."""
    return lambda: PrefixCache(LRU, [Tier(t, blocks * 1000, Channel(RATE, LATENCY)) for t in tiers], 1000)


def pushed_out(*after: Asked) -> list[Asked]:
    """A prompt of 8 blocks that is pushed out by a long one before others come."""
    return [Asked(0, 257, 1, list(range(9))), Asked(PS, 512, 1, list(range(100, 116))), *after]


def small(lab: Any, **changes: Any) -> EngineSpec:
    """An engine of 10 ms a step with room for 512 tokens."""
    spec: EngineSpec = lab.spec(lab.flat(), prefix_tokens=HASH, prefix_units=2, capacity=32)
    return replace(spec, **changes)


def test_a_fetch_takes_its_bytes_over_the_bandwidth_and_the_latency(lab: Any) -> None:
    trial = Trial(small(lab), pushed_out(Asked(2 * PS, 257, 3, list(range(9)))), below()).run()
    cache = trial.engine.caches[0]
    assert trial.found == [0, 0, 256]
    assert trial.record.start[2] == 2 * PS
    assert trial.record.first[2] == 2 * PS + 8 * MS + 4 * MS + 10 * MS
    assert trial.record.finish[2] == trial.record.first[2] + 20 * MS
    assert [cache.holds(b) for b in range(8)] == [True] * 8
    settle(trial)


def test_without_tiers_it_is_computed_anew(lab: Any) -> None:
    trial = Trial(small(lab), pushed_out(Asked(2 * PS, 257, 3, list(range(9))))).run()
    assert trial.found[2] < 32 * 8
    assert trial.record.first[2] == 2 * PS + 10 * MS


def test_others_go_ahead_of_a_fetch_and_it_ends_their_stretch(lab: Any) -> None:
    fetching, other = Asked(2 * PS, 257, 2, list(range(9))), Asked(2 * PS, 32, 9)
    trial = Trial(small(lab), pushed_out(fetching, other), below()).run()
    record = trial.record
    assert record.first[3] == 2 * PS + 10 * MS  # while the blocks are on their way
    assert record.first[2] == 2 * PS + 20 * MS + 10 * MS  # they come at 12 ms, seen at the end of the next step
    settle(trial)


def test_two_fetches_share_the_link(lab: Any) -> None:
    """Each takes twice as long; what both bring is kept once."""
    again = Asked(2 * PS, 257, 1, list(range(9)))
    large = Asked(PS, 1024, 1, list(range(100, 132)))
    trial = Trial(small(lab, capacity=64), [Asked(0, 257, 1, list(range(9))), large, again, again], below()).run()
    assert trial.found[2:] == [256, 256]
    assert trial.record.first.tolist()[2:] == [2 * PS + 16 * MS + 4 * MS + 10 * MS] * 2
    settle(trial)


def test_a_fetch_that_finds_no_room_has_not_begun(lab: Any) -> None:
    again = Asked(2 * PS, 257, 1, list(range(9)))
    trial = Trial(small(lab), pushed_out(again, replace(again, blocks=[*range(7), 50, 51])), below()).run()
    assert trial.record.start[3] == 2 * PS + 12 * MS  # what the other has brought is shared
    assert trial.found[2:] == [256, 224]
    assert trial.record.first[3] == trial.record.first[2]
    settle(trial)


def test_tiers_are_read_side_by_side(lab: Any) -> None:
    """Four blocks in host memory and four on disk: each over its own link."""
    make = below(("host", "nvme"), blocks=4)
    asked = pushed_out(Asked(2 * PS, 257, 1, list(range(9))))
    trial = Trial(small(lab), asked, make)
    for n in range(2):
        trial.engine.submit(n, asked[n].arrival)
    trial.engine.advance(2 * PS)
    match = trial.engine.caches[0].match(range(8))
    host, disk = match.below.count(0), match.below.count(1)
    assert host + disk + match.resident == 8
    trial.engine.submit(2, 2 * PS)
    trial.engine.advance(NEVER)
    assert trial.record.first[2] == 2 * PS + max(host, disk) * MS + 4 * MS + 10 * MS


def test_a_tier_without_a_channel_takes_no_time(lab: Any) -> None:
    def make() -> PrefixCache:
        return PrefixCache(LRU, [Tier("host", 100_000)], 1000)

    trial = Trial(small(lab), pushed_out(Asked(2 * PS, 257, 1, list(range(9)))), make).run()
    assert trial.found[2] == 256
    assert trial.record.first[2] == 2 * PS + 10 * MS


def test_a_fetch_ends_with_its_engine(lab: Any) -> None:
    asked = pushed_out(Asked(2 * PS, 257, 3, list(range(9))), Asked(3 * PS, 257, 3, list(range(9))))
    trial = Trial(small(lab), asked, below())
    for n in range(3):
        trial.engine.submit(n, asked[n].arrival)
    trial.engine.advance(2 * PS + 5 * MS)
    assert trial.engine.load().running == 1
    assert trial.engine.stop(2 * PS + 5 * MS) == [2]
    trial.engine.submit(3, 3 * PS)
    trial.engine.advance(NEVER)
    assert trial.record.status.tolist() == [1, 1, 0, 1]
    assert trial.record.first[3] == 3 * PS + 10 * MS
    settle(trial)


@pytest.mark.parametrize("units", [1, 2, 3, 50])
def test_blocks_that_take_more_than_a_sequence_never_keep_it_out(lab: Any, units: int) -> None:
    spec = lab.spec(lab.flat(), prefix_tokens=HASH, prefix_units=units, capacity=18)
    asked = [Asked(0, 256, 30, list(range(8))) for _ in range(3)]
    trial = Trial(spec, asked).run()
    assert trial.record.status.tolist() == [1, 1, 1]
    settle(trial)
