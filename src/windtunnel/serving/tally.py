"""What an engine's loop counts as time passes: sums small enough to keep for a million requests."""

from __future__ import annotations

from itertools import pairwise

from windtunnel.serving.histogram import BINS, add_run, bin_of
from windtunnel.serving.knots import Axis
from windtunnel.serving.step_time import Work

SIZES = Axis(3, 2)
"""Cells of iterations with prompts, by their tokens."""
COLUMNS = 6
"""Of a cell: iterations, picoseconds, prompt tokens, prompts, decodes, rows sampled; then for each view decode context,
pairs and keys."""

BLOCKED = ("kv_cache", "max_batch", "budget", "gate", "policy")
"""Why the head of a queue waits."""

SAMPLES = 1024
"""Samples over time; when they are full windows of time become twice as long."""

FIRST_GAP = 10**9
"""Picoseconds of the first windows of samples."""


class Tally:
    """Counters of one engine. Cells [size, column]: pure decoding by sequences, then iterations with prompts by size.

    ``gaps``: times between tokens by bin. ``log``: the first stretches of iterations, at most ``log_size``.
    """

    __slots__ = (
        "batch_max", "batch_sum", "blocked", "busy", "cells", "decode_cells", "events", "found", "gap", "gaps",
        "iterations", "kv_integral", "kv_peak", "log", "log_size", "looked_up", "next_sample", "samples", "views",
    )  # fmt: skip

    def __init__(self, most_sequences: int, views: int, log_size: int = 0) -> None:
        self.views = views
        self.decode_cells = most_sequences + 1
        self.cells: dict[int, list[int]] = {}
        self.gaps: list[int] = [0] * BINS
        self.blocked = [0] * len(BLOCKED)
        self.busy = self.iterations = self.batch_sum = self.batch_max = self.events = 0
        self.kv_peak = self.looked_up = self.found = 0
        self.kv_integral = 0
        self.samples: list[tuple[int, int, int, int, int, int]] = []
        self.gap, self.next_sample = FIRST_GAP, 0
        self.log: list[tuple[int, ...]] = []
        self.log_size = log_size

    def iteration(self, work: Work, steps: int, duration: int, growth: list[int]) -> None:
        """``steps`` like iterations of ``duration`` in all, in which the views' contexts grow by ``growth`` a step."""
        where = work.decodes if not work.prompt else self.decode_cells + SIZES.index(work.decodes + work.prompt)
        cell = self.cells.get(where)
        if cell is None:
            cell = self.cells[where] = [0] * (COLUMNS + 3 * self.views)
        decodes = work.decodes
        cell[0] += steps
        cell[1] += duration
        if decodes:
            cell[4] += steps * decodes
            pairs_of_steps = steps * (steps - 1) // 2
            view, at = 0, COLUMNS
            for context in work.contexts:
                cell[at] += steps * context + growth[view] * pairs_of_steps
                view, at = view + 1, at + 3
        cell[5] += steps * (decodes + work.finished)
        if work.prompt:
            cell[2] += work.prompt
            cell[3] += work.prompts
            at = COLUMNS
            for pairs, keys in work.pieces or ():
                cell[at + 1] += pairs
                cell[at + 2] += keys
                at += 3
        batch = decodes + work.prompts
        self.iterations += steps
        self.batch_sum += steps * batch
        if batch > self.batch_max:
            self.batch_max = batch

    def tokens(self, gap: int, growth: int, steps: int, sequences: int) -> None:
        """``sequences`` have got ``steps`` tokens each, ``gap``, ``gap + growth``, … after the one before."""
        if steps == 1:
            self.gaps[bin_of(gap)] += sequences
        else:
            add_run(self.gaps, gap, growth, steps, sequences)

    def sample(self, now: int, waiting: int, running: int, used: int, tokens: int, done: int) -> None:
        """The state now, the last one kept of each window of time."""
        kept, state = self.samples, (now, waiting, running, used, tokens, done)
        if kept and kept[-1][0] // self.gap == now // self.gap:
            kept[-1] = state
        else:
            kept.append(state)
        while len(self.samples) >= SAMPLES:
            self.gap *= 2
            gap, kept = self.gap, self.samples
            self.samples = [a for a, b in pairwise(kept) if a[0] // gap != b[0] // gap] + kept[-1:]
        self.next_sample = (now // self.gap + 1) * self.gap
