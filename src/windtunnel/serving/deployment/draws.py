"""Random numbers that depend on what they are for and not on when they are drawn."""

from __future__ import annotations

_WORD = (1 << 64) - 1


def bits(seed: int, *place: int) -> int:
    """64 random bits for ``place``: the same for the same seed and place, in whatever order they are drawn.

    The mixing function of SplitMix64 (Steele, Lea & Flood, Fast splittable pseudorandom number generators, OOPSLA
    2014, figure 16), applied once for each number.
    """
    state = seed & _WORD
    for number in (len(place), *place):
        state = (state + 0x9E3779B97F4A7C15 + number) & _WORD
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _WORD
        state ^= state >> 31
    return state


def uniform(seed: int, *place: int) -> float:
    """A random number in (0, 1]."""
    return ((bits(seed, *place) >> 11) + 1) / (1 << 53)
