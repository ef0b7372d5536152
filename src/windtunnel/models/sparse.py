"""What of its context a layer keeps and uses in serving, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Use = Literal["hold", "read", "prompt"]
USES: tuple[Use, ...] = ("hold", "read", "prompt")


@dataclass(frozen=True, slots=True)
class Kept:
    """``share`` of the tokens that a view of the context shows: of the last ``window`` of them, or (None) of all that
    the layer itself sees."""

    share: float = 1.0
    window: int | None = None


@dataclass(frozen=True, slots=True)
class SparseKV:
    """What of its context a layer keeps and uses; each is a sum of parts, all of it unless stated.

    ``hold``: what the cache keeps; ``read``: what a decoding token attends to; ``prompt``: what a prompt's tokens
    attend to. ``width``: bytes of a token kept over those of a whole one. ``choose``: elements that choosing what to
    read or keep moves at every decode step, for each key/value head and token held (scores summed up, summaries of
    pages), in ``choose_kernels`` kernels. ``score``: share of a prompt's queries whose attention weights are summed
    over, once the prompt is through.
    """

    hold: tuple[Kept, ...] = (Kept(),)
    read: tuple[Kept, ...] = (Kept(),)
    prompt: tuple[Kept, ...] = (Kept(),)
    width: float = 1.0
    choose: float = 0.0
    choose_kernels: float = 1.0
    score: float = 0.0

    def parts(self, use: Use, own: int | None) -> tuple[tuple[float, int | None], ...]:
        """(share, view) of what a layer that itself sees the view ``own`` holds, reads or lets prompts attend to.

        Views are those of :attr:`windtunnel.models.network.Attention.view`; where a layer cuts the context into chunks,
        a part's window does not narrow them.
        """
        parts: tuple[Kept, ...] = getattr(self, use)
        return tuple((p.share, _narrower(own, p.window)) for p in parts)


def _narrower(own: int | None, window: int | None) -> int | None:
    if window is None or (own is not None and own < 0):
        return own
    return window if own is None else min(own, window)
