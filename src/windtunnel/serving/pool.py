"""The KV cache of one rank: what requests hold, what a prefix cache keeps beside it, what is free."""

from __future__ import annotations

from windtunnel.serving.prefix_cache import PrefixCache
from windtunnel.serving.spec import EngineSpec


class Pool:
    """Units of cache. ``free``: held by nobody, or less than 0 while a stretch of iterations owes what it will evict
    from the prefix cache; blocks there that no request uses can be had, too. At any time
    ``capacity`` = ``free`` + what requests hold alone + ``unit`` for each block of the prefix cache.
    """

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
        used = self.capacity - self.free
        return used if self.cache is None else used - self.cache.unpinned * self.unit

    def take(self, units: int) -> None:
        """Some of what is available, old blocks of the prefix cache making room if need be."""
        self.free -= units
        if self.free < 0:
            self.settle()

    def settle(self, later: int = 0) -> None:
        """Evict what is owed, but for ``later`` units."""
        short = -self.free - later
        if short > 0 and self.cache is not None and self.unit:
            self.free += self.unit * self.cache.reclaim(-(-short // self.unit))

    def give(self, units: int) -> None:
        """Back."""
        self.free += units
