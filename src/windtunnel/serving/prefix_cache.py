"""The prefix cache of one replica: which blocks of prompts lie in its memory and below, and which must go.

A block stands for a stretch of a prompt and all that comes before it (see
:class:`~windtunnel.serving.workload.requests.Workload`), so equal numbers are equal prefixes and the lists of blocks
form the radix tree of SGLang (arXiv 2312.07104, section 3) without anybody building it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import NamedTuple, Protocol

from windtunnel.cost.channel import Channel
from windtunnel.errors import ScenarioError, unknown
from windtunnel.serving.deployment.policies import load_policies

HBM = -1
"""The tier of a block in device memory, where :attr:`Match.below` names one."""


class EvictionPolicy(Protocol):
    """Which block goes when room is needed. One object for each tier, made without arguments.

    A block is evictable between :meth:`add` and the next :meth:`remove` or its choice by :meth:`victim`.
    """

    def touch(self, block: int) -> None:
        """A request uses the block, found or newly computed; it may be evictable or not."""

    def add(self, block: int) -> None:
        """The block is evictable from now on: its last user has left, or it has come down from the tier above."""

    def remove(self, block: int) -> None:
        """The block is no longer evictable: it is used again, or has gone up."""

    def victim(self) -> int:
        """The evictable block to evict, forgotten at once; asked only while there is one."""


EVICTION_METHODS = ("touch", "add", "remove", "victim")


class LRU:
    """The block that became evictable, or was touched since, longest ago. O(1)."""

    def __init__(self) -> None:
        self._order: OrderedDict[int, None] = OrderedDict()

    def touch(self, block: int) -> None:
        if block in self._order:
            self._order.move_to_end(block)

    def add(self, block: int) -> None:
        self._order[block] = None

    def remove(self, block: int) -> None:
        del self._order[block]

    def victim(self) -> int:
        return self._order.popitem(last=False)[0]


class LFU:
    """The block used least often since it came into the tier; among equals, as :class:`LRU`. O(log n)."""

    def __init__(self) -> None:
        self._uses: dict[int, int] = {}
        self._rank: dict[int, tuple[int, int]] = {}  # of the evictable: uses, and a count that grows
        self._heap: list[tuple[int, int, int]] = []  # the ranks, with outdated ones among them
        self._clock = 0

    def touch(self, block: int) -> None:
        self._uses[block] = self._uses.get(block, 0) + 1
        if block in self._rank:
            self.add(block)

    def add(self, block: int) -> None:
        self._clock += 1
        self._rank[block] = rank = (self._uses.get(block, 0), self._clock)
        heappush(self._heap, (*rank, block))
        if len(self._heap) > 2 * len(self._rank) + 64:
            self._heap = [(*rank, b) for b, rank in self._rank.items()]
            heapify(self._heap)

    def remove(self, block: int) -> None:
        del self._rank[block]

    def victim(self) -> int:
        while True:
            uses, clock, block = heappop(self._heap)
            if self._rank.get(block) == (uses, clock):
                del self._rank[block]
                self._uses.pop(block, None)
                return block


EVICTIONS: dict[str, Callable[[], EvictionPolicy]] = {"lru": LRU, "lfu": LFU}
"""Built-in policies by name."""


def eviction(text: str) -> Callable[[], EvictionPolicy]:
    """What makes the built-in policies of that name, or a user's ``module:Class``.

    Raises:
        ScenarioError: an unknown name, or a class that cannot be used (:func:`~.deployment.policies.load_policies`).
    """
    if text in EVICTIONS:
        return EVICTIONS[text]
    if ":" in text:
        return load_policies(text, "eviction policy", EVICTION_METHODS)
    raise unknown("eviction policy", text, EVICTIONS)


@dataclass(frozen=True, slots=True)
class Tier:
    """A memory below the device's: blocks come up from it over ``channel`` (None: in no time). ``ratio``: bytes of a
    block on the device for each byte of it here and on the way. ``optional``: they are computed instead where that is
    quicker."""

    name: str
    capacity_bytes: int
    channel: Channel | None = None
    ratio: float = 1.0
    optional: bool = False

    def size(self, block_bytes: int) -> int:
        """Bytes of a block here."""
        return block_bytes if self.ratio == 1 else max(round(block_bytes / self.ratio), 1)


class Match(NamedTuple):
    """What the cache holds of a prompt. ``resident``: leading blocks in device memory. ``below``: for each block after
    them, up to the first that is held nowhere, its tier's number (0: the first below; :data:`HBM`: in device memory
    again)."""

    resident: int
    below: tuple[int, ...]


class PrefixCache:
    """Blocks in device memory, pinned by the requests that use them or evictable, and in the ``tiers`` below it.

    A block lies in one place at most. The device's capacity is the engine's to keep: it calls :meth:`reclaim` when it
    needs room. A tier below holds as many blocks as its bytes allow; what it must evict goes to the next one
    and from the last nowhere. Writing to a tier takes no time (it is done in the background); reading from one is the
    engine's to time, over the tier's channel. ``policies`` makes an eviction policy for each tier.
    """

    def __init__(
        self, policies: Callable[[], EvictionPolicy] = LRU, tiers: Sequence[Tier] = (), block_bytes: int = 1
    ) -> None:
        self.tiers = tuple(tiers)
        self.block_bytes = block_bytes
        self._make = policies
        self._room = [tier.capacity_bytes // tier.size(block_bytes) for tier in tiers]
        self.clear()

    def clear(self) -> None:
        """Forget everything, in all tiers."""
        self._pins: dict[int, int] = {}  # of each block in device memory
        self._unpinned = 0
        self._policies = [self._make() for _ in range(1 + len(self.tiers))]  # the device's last: at HBM = -1
        self._tier: dict[int, int] = {}  # of each block below
        self._held = [0] * len(self.tiers)

    @property
    def resident(self) -> int:
        """Blocks in device memory."""
        return len(self._pins)

    @property
    def unpinned(self) -> int:
        """Blocks in device memory that may be evicted."""
        return self._unpinned

    def held(self, tier: int) -> int:
        """Blocks in a tier below."""
        return self._held[tier]

    def holds(self, block: int) -> bool:
        """Whether a block is in device memory."""
        return block in self._pins

    def idle(self, blocks: Sequence[int]) -> int:
        """How many of these blocks, which are in device memory, no request uses."""
        pins, found = self._pins, 0
        for block in blocks:
            if pins[block] == 0:
                found += 1
        return found

    def match(self, blocks: Sequence[int]) -> Match:
        """How much of a prompt of these blocks is held; nothing is touched."""
        pins, resident = self._pins, 0
        for block in blocks:
            if block not in pins:
                break
            resident += 1
        if not self._tier:
            return Match(resident, ())
        below = []
        for block in blocks[resident:]:
            tier = HBM if block in pins else self._tier.get(block)
            if tier is None:
                break
            below.append(tier)
        return Match(resident, tuple(below))

    def pin(self, blocks: Sequence[int]) -> None:
        """A request uses these blocks, which are in device memory."""
        policy = self._policies[HBM]
        for block in blocks:
            if self._pins[block] == 0:
                policy.remove(block)
                self._unpinned -= 1
            self._pins[block] += 1
            policy.touch(block)

    def unpin(self, blocks: Sequence[int]) -> None:
        """A request no longer uses these blocks. The last of them becomes evictable first, so that what goes first is
        the end of a prefix and not its beginning."""
        for block in reversed(blocks):
            self._pins[block] -= 1
            if self._pins[block] == 0:
                self._policies[HBM].add(block)
                self._unpinned += 1

    def add(self, block: int) -> bool:
        """A request has computed this block and goes on using it (a pin). False: it was in device memory already, so
        that the request's own copy is not needed."""
        if block in self._pins:
            self.pin((block,))
            return False
        self._leave_tier(block)
        self._pins[block] = 1
        self._policies[HBM].touch(block)
        return True

    def reclaim(self, count: int) -> int:
        """Evict up to ``count`` unpinned blocks of device memory; returns how many were.

        Raises:
            ScenarioError: a policy chose a block that it may not evict.
        """
        freed = min(count, self._unpinned)
        for _ in range(freed):
            block = self._victim(HBM)
            del self._pins[block]
            self._unpinned -= 1
            self._demote(block)
        return freed

    def _demote(self, block: int) -> None:
        for tier, room in enumerate(self._room):
            if room == 0:
                continue
            self._tier[block] = tier
            self._policies[tier].add(block)
            self._held[tier] += 1
            if self._held[tier] <= room:
                return
            block = self._victim(tier)
            self._leave(block, tier)

    def _victim(self, tier: int) -> int:
        block = self._policies[tier].victim()
        known = isinstance(block, Hashable)  # a user's policy may say anything
        if not (known and (self._pins.get(block) == 0 if tier == HBM else self._tier.get(block) == tier)):
            raise ScenarioError(f"eviction policy chose block {block!r}; only blocks that it was given may be chosen")
        return block

    def _leave_tier(self, block: int) -> None:
        tier = self._tier.get(block)
        if tier is not None:
            self._policies[tier].remove(block)
            self._leave(block, tier)

    def _leave(self, block: int, tier: int) -> None:
        del self._tier[block]
        self._held[tier] -= 1
