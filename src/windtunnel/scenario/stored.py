"""Where the KV cache of a context comes from: a store that is reached over a link, or computing it anew."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoredContext:
    """A store of KV caches of contexts that prompts begin with, at ``bytes_per_s`` from one engine.

    ``share``: of a prompt, whose cache is there (``infer``; ``simulate`` knows what its prefix cache finds).
    ``ratio``: bytes in the device's cache for each byte stored and sent; ``decode_bytes_per_s``: that the device
    restores, piece by piece of ``piece_tokens`` as they arrive. ``text``: where it is quicker, the context is computed
    from its text instead.
    """

    bytes_per_s: float
    share: float = 1.0
    ratio: float = 1.0
    decode_bytes_per_s: float = math.inf
    piece_tokens: int = 1 << 60
    text: bool = False

    def split(self, tokens: int) -> tuple[int, int]:
        """(tokens of a prompt that are fetched, those that are computed): one of these at least, which gives the first
        token of the answer."""
        fetched = min(int(self.share * tokens), tokens - 1)
        return fetched, tokens - fetched

    def fetch_s(self, size: float, tokens: int) -> float:
        """Seconds until ``size`` bytes of cache, of ``tokens``, are there: pieces are sent and restored in turn, so
        that the first is sent and the last restored by itself (the Flow of :mod:`windtunnel.ops.tree`)."""
        pieces = max(math.ceil(tokens / self.piece_tokens), 1)
        sent = size / self.ratio / self.bytes_per_s / pieces
        restored = size / self.decode_bytes_per_s / pieces
        return sent + restored + (pieces - 1) * max(sent, restored)
