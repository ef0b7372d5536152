"""What is kept of every request, in arrays that all engines of a service write to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """Picoseconds [N], -1 where it has not happened: ``arrival``, ``start``, ``first`` and ``finish``; and ``status``,
    ``preempted``, ``cached_tokens``, ``replica`` as in :class:`~windtunnel.serving.outcome.Outcome`."""

    arrival: Ints
    start: Ints
    first: Ints
    finish: Ints
    status: NDArray[np.int8]
    preempted: NDArray[np.int32]
    cached_tokens: Ints
    replica: NDArray[np.int32]

    @staticmethod
    def of(requests: int) -> Record:
        """Nothing has happened yet."""

        def never() -> Ints:
            return np.full(requests, -1, dtype=np.int64)

        return Record(
            never(), never(), never(), never(), np.zeros(requests, np.int8), np.zeros(requests, np.int32),
            np.zeros(requests, np.int64), np.full(requests, -1, dtype=np.int32),
        )  # fmt: skip
