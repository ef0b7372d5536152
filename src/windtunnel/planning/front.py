"""Which of several plans no other beats in every respect."""

from __future__ import annotations

from collections.abc import Sequence


def unbeaten(rows: Sequence[tuple[float, ...]]) -> list[int]:
    """The places of the rows that no other beats in every column (less is better), the smallest first; of equals the
    first."""
    kept = []
    for i, row in enumerate(rows):
        beaten = any(
            all(a <= b for a, b in zip(other, row, strict=True)) and (other != row or j < i)
            for j, other in enumerate(rows)
            if j != i
        )
        if not beaten:
            kept.append(i)
    return sorted(kept, key=lambda i: rows[i])
