"""The prefix cache against a naive model of it, and its eviction policies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from windtunnel.cost.channel import Channel
from windtunnel.errors import ScenarioError
from windtunnel.serving.fetching import Fetches
from windtunnel.serving.prefix_cache import EVICTIONS, HBM, LFU, LRU, EvictionPolicy, PrefixCache, Tier, eviction

BLOCK = 16


class Naive:
    """The same laws with lists that are searched: every place an ordered list of (block, uses), oldest first."""

    def __init__(self, policy: str, rooms: list[int]) -> None:
        self.policy, self.rooms = policy, rooms
        self.pins: dict[int, int] = {}
        self.uses: dict[int, int] = {}
        self.free: list[int] = []
        self.below: list[list[int]] = [[] for _ in rooms]

    def use(self, block: int) -> None:
        self.uses[block] = self.uses.get(block, 0) + 1

    def reclaim(self, count: int) -> int:
        freed = min(count, len(self.free))
        for _ in range(freed):
            fewest = min(self.uses[b] for b in self.free)
            block = next(b for b in self.free if self.policy == "lru" or self.uses[b] == fewest)
            self.free.remove(block)
            del self.pins[block], self.uses[block]
            for tier, room in zip(self.below, self.rooms, strict=True):
                if room == 0:
                    continue
                tier.append(block)
                if len(tier) <= room:
                    break
                block = tier.pop(0)  # uses of blocks below are all equal: none
        return freed


class Machine(RuleBasedStateMachine):
    """Random requests over a small tree of prefixes: block b's parent is (b - 1) // 2."""

    policy = "lru"

    def __init__(self) -> None:
        super().__init__()
        rooms = [3, 0, 4]
        tiers = [Tier(name, n * BLOCK + 5) for name, n in zip(("host", "nvme", "remote"), rooms, strict=True)]
        self.cache = PrefixCache(EVICTIONS[self.policy], tiers, BLOCK)
        self.naive = Naive(self.policy, rooms)
        self.running: list[list[int]] = []

    @rule(leaf=st.integers(0, 30))
    def begin(self, leaf: int) -> None:
        path = [leaf]
        while path[0] > 0:
            path.insert(0, (path[0] - 1) // 2)
        match = self.cache.match(path)
        where = [self.place(b) for b in path]
        held = next((i for i, w in enumerate(where) if w is None), len(path))
        assert match.resident == next((i for i, w in enumerate(where) if w != HBM), len(path))
        assert match.below == tuple(where[match.resident : held])
        self.cache.pin(path[: match.resident])
        for block in path[match.resident : held]:
            self.cache.add(block)
        for block in path[held:]:
            assert self.cache.add(block) == (block not in self.naive.pins)
        for block in path:
            if self.naive.pins.get(block) == 0:
                self.naive.free.remove(block)
            for tier in self.naive.below:
                if block in tier:
                    tier.remove(block)
            self.naive.pins[block] = self.naive.pins.get(block, 0) + 1
            self.naive.use(block)
        self.running.append(path)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        path = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.cache.unpin(path)
        for block in reversed(path):
            self.naive.pins[block] -= 1
            if self.naive.pins[block] == 0:
                self.naive.free.append(block)

    @rule(count=st.integers(0, 6))
    def reclaim(self, count: int) -> None:
        assert self.cache.reclaim(count) == self.naive.reclaim(count)

    @rule()
    def clear(self) -> None:
        self.cache.clear()
        self.running.clear()
        self.naive = Naive(self.policy, self.naive.rooms)

    def place(self, block: int) -> int | None:
        if block in self.naive.pins:
            return HBM
        return next((i for i, tier in enumerate(self.naive.below) if block in tier), None)

    @invariant()
    def laws_hold(self) -> None:
        cache = self.cache
        pinned = {b for path in self.running for b in path}
        assert cache.resident == len(pinned) + cache.unpinned
        assert all(cache.match([b]) == (1, ()) for b in pinned)
        found = [cache.match([b]) for b in range(31)]
        assert sum(m.resident for m in found) == cache.resident
        for tier, room in enumerate(self.naive.rooms):
            held = sum(m.below == (tier,) for m in found)
            assert cache.held(tier) == held <= room
        for b, m in enumerate(found):
            assert (m.below[0] if m.below else HBM if m.resident else None) == self.place(b)


class LFUMachine(Machine):
    policy = "lfu"


TestLRU = Machine.TestCase
TestLFU = LFUMachine.TestCase
TestLRU.settings = TestLFU.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_leaves_go_first() -> None:
    cache = PrefixCache()
    for block in (1, 2, 3):
        assert cache.add(block)
    cache.unpin([1, 2, 3])
    assert cache.reclaim(1) == 1
    assert cache.match([1, 2, 3]) == (2, ())
    assert cache.reclaim(5) == 2
    assert cache.resident == cache.unpinned == 0


def test_lfu_keeps_what_is_used_most() -> None:
    cache = PrefixCache(LFU)
    for block, uses in ((1, 3), (2, 1), (3, 2)):
        for _ in range(uses):
            cache.add(block)
            cache.unpin([block])
    assert [cache.reclaim(1) and [b for b in (1, 2, 3) if cache.match([b]).resident] for _ in range(3)] == [
        [1, 3],
        [1],
        [],
    ]


def test_a_device_block_behind_a_lower_one_is_found() -> None:
    cache = PrefixCache(tiers=[Tier("host", 100 * BLOCK)], block_bytes=BLOCK)
    for block in (1, 2, 3):
        cache.add(block)
    cache.unpin([2])
    cache.reclaim(1)
    assert cache.match([1, 2, 3, 4]) == (1, (0, HBM))
    cache.add(2)
    assert cache.match([1, 2, 3, 4]) == (3, ())
    assert cache.held(0) == 0


@given(st.lists(st.tuples(st.sampled_from(["touch", "add", "remove", "victim"]), st.integers(0, 5)), max_size=300))
def test_lfu_forgets_outdated_ranks(calls: list[tuple[str, int]]) -> None:
    policy, evictable = LFU(), set[int]()
    for name, block in calls:
        if name == "touch":
            policy.touch(block)
        elif name == "add" and block not in evictable:
            policy.add(block)
            evictable.add(block)
        elif name == "remove" and block in evictable:
            policy.remove(block)
            evictable.remove(block)
        elif name == "victim" and evictable:
            evictable.remove(policy.victim())
    while evictable:
        evictable.remove(policy.victim())


@pytest.mark.parametrize("choice", [7, None, "x", [], 1.5])
def test_a_policy_must_choose_among_its_blocks(choice: Any) -> None:
    class Wrong(LRU):
        def victim(self) -> int:
            return choice  # type: ignore[no-any-return]

    policy: type[EvictionPolicy] = Wrong
    cache = PrefixCache(policy)
    cache.add(1)
    cache.unpin([1])
    with pytest.raises(ScenarioError, match="eviction policy chose block"):
        cache.reclaim(1)


def test_policies_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert eviction("lru") is LRU
    with pytest.raises(ScenarioError, match="unknown eviction policy 'mru'; did you mean lru"):
        eviction("mru")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wt_newest.py").write_text(
        "class Newest(list):\n"
        "    add = list.append\n"
        "    def touch(self, block): pass\n"
        "    def victim(self): return self.pop()\n"
    )
    cache = PrefixCache(eviction("wt_newest:Newest"))
    for block in (1, 2, 3):
        cache.add(block)
    cache.unpin([1, 2, 3])
    cache.reclaim(1)
    assert [b for b in (1, 2, 3) if cache.match([b]).resident] == [2, 3]


def test_more_compressed_blocks_fit_into_a_tier() -> None:
    for ratio, fit in ((1.0, 3), (2.0, 6), (2.5, 7)):
        tier = Tier("remote", 300, None, ratio)
        cache = PrefixCache(LRU, [tier], 100)
        for block in range(20):
            cache.add(block)
            cache.unpin([block])
        cache.reclaim(20)
        assert cache.held(0) == fit
        assert fit * tier.size(100) <= 300


def test_a_fetch_is_estimated_where_it_may_be_left_out() -> None:
    link = Channel(100.0)
    kept = Tier("remote", 10_000, link, 4.0, optional=True)
    cache = PrefixCache(LRU, [Tier("host", 10_000, Channel(1e6)), kept], 100)
    fetches = Fetches([cache])
    assert fetches.estimate(cache, (1, HBM, 1)) == 2 * 25 / 100
    link.start(0, 50)
    assert fetches.estimate(cache, (1, HBM, 1)) == 2 * 2 * 25 / 100
    assert fetches.estimate(cache, (0, 1)) is None
