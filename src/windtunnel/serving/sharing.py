"""What requests of one engine share: the blocks of its prefix cache, and whose units they are.

A request holds alone what of its own sequence no shared block keeps; its leading blocks that are in the prefix cache
are pinned and belong to all that use them. Where sequences keep less than all their tokens (windows, recurrent
states), a block of the prefix cache is what all layers keep of its tokens: an upper bound, since an engine may drop
what lies outside a window. A request then gives back no more for a shared block than it would hold itself.
"""

from __future__ import annotations

from typing import NamedTuple

from windtunnel.serving.pool import Pool
from windtunnel.serving.prefix_cache import HBM, PrefixCache
from windtunnel.serving.request import Request
from windtunnel.serving.spec import NO_LIMIT, EngineSpec


class Found(NamedTuple):
    """The part of a prompt that is used from the prefix cache: ``resident`` leading blocks in device memory, the tiers
    of those ``below`` them, and ``units`` that go with it: what the request takes alone of the pool, besides what
    the blocks to be fetched take."""

    resident: int
    below: tuple[int, ...]
    units: int

    @property
    def blocks(self) -> int:
        return self.resident + len(self.below)

    @property
    def fetched(self) -> int:
        """Blocks that come up from below device memory."""
        return sum(tier != HBM for tier in self.below)


NOTHING = Found(0, (), 0)


def whole(spec: EngineSpec, request: Request, tokens: int) -> int:
    """Blocks that lie wholly within its first ``tokens`` and whose content is known. The last block of a prompt may be
    filled up by an answer that nobody knows: it counts only if the answer's blocks are listed, too."""
    size, known = spec.prefix_tokens, len(request.blocks)
    if known * size < request.input_tokens + size:
        known = min(known, request.input_tokens // size)
    return min(known, tokens // size)


def covered(spec: EngineSpec, blocks: int) -> int:
    """Units that a sequence need not hold alone when its first ``blocks`` of the prefix cache are shared."""
    tokens, total = blocks * spec.prefix_tokens, 0
    for unit, stop in zip(spec.units, spec.stops, strict=True):
        total += unit * (min(tokens, stop) // spec.block)
    return min(total, blocks * spec.prefix_units)


def exact(spec: EngineSpec) -> bool:
    """Whether a shared block takes just what each of its sequences would hold alone, wherever it lies."""
    whole, rest = divmod(spec.prefix_tokens, spec.block)
    return not rest and spec.prefix_units <= whole * sum(spec.units) and min(spec.stops) >= NO_LIMIT


def find(
    spec: EngineSpec, cache: PrefixCache, request: Request, tokens: int, room: int, *, fetch: bool = True
) -> Found | None:  # fmt: skip
    """How much of the prefix cache a request uses that takes its place with ``tokens`` in the cache; None if it
    does not fit into ``room`` units. At least one token of its prompt is left to compute.

    All that is found, if it fits (and is to be fetched); else what is in device memory; else nothing (shared blocks can
    take more than a sequence of its own where layers have windows).
    """
    blocks = request.blocks[: whole(spec, request, request.wanted - 1)]
    resident, below = cache.match(blocks)
    held = spec.held(tokens)
    idle = cache.idle(blocks[:resident])
    for tiers in (below, ()) if below and fetch else ((),):
        found = Found(resident, tiers, held - covered(spec, resident + len(tiers)))
        back = [block for block, tier in zip(blocks[resident:], tiers, strict=False) if tier == HBM]
        cost = found.units + spec.prefix_units * (idle + cache.idle(back) + found.fetched)
        if cost <= room and _can_end(spec, request, found.blocks):
            return found
    return Found(0, (), held) if held <= room else None


def _can_end(spec: EngineSpec, request: Request, blocks: int) -> bool:
    """Whether the cache holds all of its sequence when its first ``blocks`` are shared; it would push itself out."""
    more = blocks * spec.prefix_units - covered(spec, blocks)
    return not more or spec.held(request.input_tokens + request.output_tokens - 1) + more <= spec.capacity


def share(spec: EngineSpec, pool: Pool, request: Request, tokens: int) -> None:
    """The request's whole blocks within its first ``tokens`` become shared, pinned by it: their units pass to the
    prefix cache, or are free if the block is there already. Where a shared block takes more than the request gives, the
    pool must have that."""
    cache = pool.cache
    if cache is None or not len(request.blocks):
        return
    first, last = len(request.pinned), whole(spec, request, tokens)
    before = covered(spec, first)
    for n in range(first, last):
        block = request.blocks[n]
        after = covered(spec, n + 1)
        freed, before = after - before, after
        new = not cache.holds(block)
        less = pool.unit - freed if new or cache.idle((block,)) else 0
        if less > 0 and (less > pool.available or not _can_end(spec, request, n + 1)):
            return
        pool.give(freed)
        if new:
            pool.take(pool.unit)
        cache.add(block)
        request.units -= freed
        request.pinned.append(block)


def let_go(pool: Pool, request: Request) -> None:
    """The request uses its shared blocks no more."""
    if pool.cache is not None and request.pinned:
        pool.cache.unpin(request.pinned)
        request.pinned = []
