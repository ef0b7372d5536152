"""The KV cache of one rank: what requests hold, what a prefix cache keeps beside it, what is free."""

from __future__ import annotations

from windtunnel.serving.prefix_cache import PrefixCache
from windtunnel.serving.spec import EngineSpec


class Pool:
    """Units of cache. ``free``: held by nobody; blocks of the prefix cache that no request uses can be had, too."""

    __slots__ = ("cache", "capacity", "free", "swap_free", "unit")

    def __init__(self, spec: EngineSpec, cache: PrefixCache | None = None) -> None:
        self.capacity = self.free = spec.capacity
        self.swap_free = spec.swap_units
        self.unit = spec.prefix_units
        self.cache = cache

    @property
    def available(self) -> int:
        """Units that a request could take."""
        return self.free if self.cache is None else self.free + self.cache.unpinned * self.unit

    @property
    def used(self) -> int:
        """Units that requests hold."""
        return self.capacity - self.available

    def take(self, units: int) -> None:
        """Some of what is available, old blocks of the prefix cache making room if need be."""
        if units > self.free and self.cache is not None:
            self.free += self.unit * self.cache.reclaim(-(-(units - self.free) // self.unit))
        self.free -= units

    def give(self, units: int) -> None:
        """Back."""
        self.free += units
