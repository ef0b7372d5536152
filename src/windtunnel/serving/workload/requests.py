"""A workload as plain arrays: what the event loop, the routers and the reports all read."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

OPEN, NEXT = -1, -2
"""Values of :attr:`Workload.after`: arrives at its own time; arrives when any request is done, in order."""


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """``N`` requests in order of arrival.

    ``arrival_s`` [N]: seconds, not decreasing among open requests, the first at 0 or later; 0 where ``after`` says
    that another request decides. ``input_tokens``, ``output_tokens`` [N]: at least 1 each.

    ``after`` [N] and ``think_s`` [N]: :data:`OPEN`, or the number of the request (a smaller one) whose end starts
    this one ``think_s`` later (the turns of a session), or :data:`NEXT` where the end of any request starts the next
    one in order (a closed loop: as many are in the system as there are open requests at the start).

    ``blocks`` with ``block_offsets`` [N + 1]: the hashes of request i's prompt are
    ``blocks[block_offsets[i]:block_offsets[i + 1]]``, one for each whole or last partial block of ``block_tokens``
    tokens, renumbered from 0; equal numbers are equal prefixes. Blocks beyond the prompt are those of its answer.
    No blocks: nothing is known to be shared.

    ``client``, ``priority``, ``session`` [N]: who asks (fair shares), how urgently (smaller first), and which
    conversation it belongs to (-1: none).
    """

    name: str
    arrival_s: Floats
    input_tokens: Ints
    output_tokens: Ints
    after: Ints | None = None
    think_s: Floats | None = None
    blocks: Ints | None = None
    block_offsets: Ints | None = None
    block_tokens: int = 0
    client: Ints | None = None
    priority: Ints | None = None
    session: Ints | None = None
    warnings: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.input_tokens)

    @property
    def closed(self) -> bool:
        """Whether some requests wait for the end of others."""
        return self.after is not None and bool(np.any(self.after != OPEN))
