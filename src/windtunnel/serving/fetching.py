"""Blocks of prompts on their way up from host memory, disks or other machines into one engine's prefix caches.

A request whose prompt goes on below device memory takes its place and all the cache that it needs when the scheduler
gives it its turn, and steps aside while its blocks are read, one transfer from each tier; others may be admitted
meanwhile. When the last has arrived it computes what is left of its prompt, before those that wait. That is how vLLM's
connectors load external KV caches (WAITING_FOR_REMOTE_KVS); since the place is already its own, requests that fetch
never wait for each other's cache. What is found is fetched, even where computing it anew would be quicker, unless its
tiers are all optional.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from windtunnel.serving.lane import Lane
from windtunnel.serving.prefix_cache import HBM, PrefixCache
from windtunnel.serving.replica import NEVER
from windtunnel.serving.request import Request


class Fetch:
    """One request's blocks on their way: ``below`` are those after its pinned ones with their tiers, ``open`` counts
    the transfers under way."""

    __slots__ = ("below", "lane", "open", "request")

    def __init__(self, lane: Lane, request: Request, below: list[tuple[int, int]]) -> None:
        self.lane, self.request, self.below, self.open = lane, request, below, 0


class Landed(NamedTuple):
    """All blocks of a fetch have arrived at ``time``."""

    time: int
    fetch: Fetch


class Fetches:
    """The transfers of one engine; no other may use its tiers' channels."""

    def __init__(self, caches: Iterable[PrefixCache]) -> None:
        found = {id(t.channel): t.channel for cache in caches for t in cache.tiers if t.channel is not None}
        self._channels = list(found.values())
        self._under_way: dict[tuple[int, int], Fetch] = {}

    def start(self, now: int, cache: PrefixCache, fetch: Fetch) -> bool:
        """Begin to read its blocks; False if all of them are there in no time."""
        sizes: dict[int, int] = {}
        for _, tier in fetch.below:
            if tier != HBM and cache.tiers[tier].channel is not None:
                sizes[tier] = sizes.get(tier, 0) + cache.tiers[tier].size(cache.block_bytes)
        for tier, size in sizes.items():
            channel = cache.tiers[tier].channel
            assert channel is not None
            self._under_way[id(channel), channel.start(now, size)] = fetch
            fetch.open += 1
        return fetch.open > 0

    def estimate(self, cache: PrefixCache, below: Iterable[int]) -> float | None:
        """Seconds until blocks of these tiers would be there, if those that share their links stay as many; None where
        they are not optional."""
        counts = {tier: 0 for tier in below if tier != HBM}
        for tier in below:
            if tier != HBM:
                counts[tier] += 1
        if not all(cache.tiers[tier].optional for tier in counts):
            return None
        found = 0.0
        for tier, count in counts.items():
            kept = cache.tiers[tier]
            if kept.channel is not None:
                size = count * kept.size(cache.block_bytes)
                found = max(found, size * (kept.channel.under_way + 1) / kept.channel.bytes_per_s)
        return found

    def next(self) -> int:
        """When the next transfer ends if no other starts."""
        if not self._under_way:
            return NEVER
        return min((time for channel in self._channels if (time := channel.next()) is not None), default=NEVER)

    def landed(self, now: int) -> list[Landed]:
        """Those of which the last block has arrived by now, in order of time."""
        if not self._under_way:
            return []
        arrived = [(time, id(channel), n) for channel in self._channels for time, n in channel.advance(now)]
        found = []
        for time, channel_id, transfer in sorted(arrived, key=lambda a: a[0]):
            fetch = self._under_way.pop((channel_id, transfer))
            fetch.open -= 1
            if not fetch.open:
                found.append(Landed(time, fetch))
        return found

    def cancel(self, now: int) -> None:
        """Nothing of it arrives any more."""
        for channel in self._channels:
            for at, transfer in list(self._under_way):
                if at == id(channel):
                    channel.cancel(now, transfer)
            channel.advance(now)
        self._under_way.clear()
