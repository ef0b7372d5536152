"""How long an iteration takes, read from its price list in plain Python: whole picoseconds, the same in both loops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from windtunnel.serving.knots import CONTEXT, KEYS, PROMPT, SEQUENCES, STATES, TOKENS, Axis
from windtunnel.serving.replica import NEVER
from windtunnel.serving.step_cost import MIX_BITS, SPREAD, SQUARE, StepCost

LEAST = -(1 << 62)
"""Below any row's time; what is beside the rows sampled may be below zero where the host's work is with those."""


class Piece(NamedTuple):
    """Prompt tokens of one iteration as one view of the context sees them: query-key pairs and keys read."""

    pairs: int
    keys: int


@dataclass(slots=True)
class Work:
    """One iteration: ``decodes`` with the sum of their contexts in each view, ``prompt`` tokens of ``prompts``
    sequences, of which ``finished`` produce a token, and what the prompt tokens see in each view."""

    decodes: int
    contexts: list[int]
    prompt: int = 0
    prompts: int = 0
    finished: int = 0
    pieces: list[Piece] | None = None


class StepTimes:
    """Lookups in a :class:`~windtunnel.serving.step_cost.StepCost`, which reach up to ``most_tokens`` in an iteration
    and ``most_prompt_tokens`` of prompts."""

    __slots__ = (
        "_apart", "_base", "_by_decodes", "_copies", "_decode", "_eager", "_ends", "_flat", "_head", "_issue", "_mixed",
        "_overlapped", "_prompt", "_schedule", "_sends", "_shapes", "_spread", "_waves", "cost", "groups",
        "most_prompt_tokens", "most_tokens", "views",
    )  # fmt: skip

    def __init__(self, cost: StepCost) -> None:
        self.cost = cost
        self.groups, self.views = len(cost.copies), len(cost.windows)
        # Memory views hand out plain Python numbers, twice as fast as arrays.
        self._base, self._head, self._decode, self._prompt, self._apart, self._waves, self._sends, self._schedule = (
            np.ascontiguousarray(a).reshape(-1).data
            for a in (cost.base, cost.head, cost.decode, cost.prompt, cost.apart, cost.waves, cost.sends, cost.schedule)
        )
        self._shapes = cost.base.shape, cost.decode.shape, cost.prompt.shape, cost.waves.shape[2]
        self._ends: list[int] = cost.ends.tolist()
        self._copies, self._issue = cost.copies.tolist(), cost.issue.tolist()
        self._mixed, self._overlapped, self._eager = cost.mixed, cost.overlapped, cost.eager
        self._by_decodes = cost.by_decodes
        self._spread = (SQUARE if cost.eager else SPREAD).tolist()
        self._flat: dict[int, tuple[list[int], int, int]] = {}
        self.most_tokens = _largest(TOKENS, min(cost.base.shape[1], len(cost.sends)))
        self.most_prompt_tokens = min(_largest(PROMPT, cost.prompt.shape[2]), _largest(TOKENS, cost.waves.shape[2]))

    def seconds(self, work: Work) -> tuple[int, int]:
        """(from its start to its end, until the first stage is free for the next batch) in picoseconds."""
        tokens = work.decodes + work.prompt
        sampled = work.decodes + work.finished
        total = slowest = group = device = 0
        longest = LEAST
        for row, end in enumerate(self._ends):
            time = self._tokens(row, tokens, work.decodes if self._by_decodes else work.decodes + work.prompts)
            attention = 0
            if work.decodes:
                attention += self._decodes(row, work)
            if work.prompt:
                attention += self._prompts(self._prompt, row, work)
                if work.decodes:
                    attention = (attention * self._mixed) >> MIX_BITS
                if self._apart:
                    attention += self._prompts(self._apart, row, work)
            time += attention
            if time > longest:
                longest = time
            if not end:
                continue
            device += longest
            longest = LEAST
            if end < 2:
                continue
            if group == self.groups - 1:
                device += self._head[sampled]
            device = max(device, self._issue[group][work.prompt > 0])
            total += self._copies[group] * device
            slowest = max(slowest, device)
            group += 1
            device = 0
        total += self._interpolated(self._sends, TOKENS, tokens)
        host = self._schedule[sampled]
        return (max(total, host) if self._overlapped else total + host), slowest

    def stretch(self, decodes: int, contexts: Sequence[int], climbs: Sequence[int]) -> tuple[int, int, int, int, int]:
        """(device time, its growth an iteration, host time added, device time at least, iterations before a line
        bends) of ``decodes`` alone whose contexts climb so in each view, in an engine without pipeline stages."""
        most = NEVER
        cells = []
        for context, climb in zip(contexts, climbs, strict=True):
            i, low, high = _cell(CONTEXT, context)
            cells.append((i, context - low, climb))
            if climb > 0:
                most = min(most, (high - context - 1) // climb + 1)
        flat, added, floor = self._beside_attention(decodes)
        _, views, rows, points, _ = self._shapes[1]
        start, across = _cell(SEQUENCES, decodes)[0] * points, rows * points
        device, slope = self._head[decodes], 0
        region: list[tuple[int, int]] = []
        for row, end in enumerate(self._ends):
            at, growth, here = flat[row], 0, 2 * (start + row * views * across)
            for i, beyond, climb in cells:
                grows = self._decode[here + 2 * i + 1]
                at += self._decode[here + 2 * i] + grows * beyond
                growth += grows * climb
                here += 2 * across
            if region or not end:
                region.append((at, growth))
            if not end:
                continue
            if region:
                at, growth = max(region)
                for other, grows in region:
                    if grows > growth:  # it is longer than this one from then on
                        most = min(most, (at - other) // (grows - growth) + 1)
                region = []
            device += at
            slope += growth
            if end == 2:
                break
        return device, slope, added, floor, most

    def _beside_attention(self, decodes: int) -> tuple[list[int], int, int]:
        """(each row's time, host time added, device time at least) of ``decodes`` without attention and head."""
        found = self._flat.get(decodes)
        if found is None:
            device = [self._tokens(row, decodes, decodes) for row in range(len(self._ends))]
            host, issue = self._schedule[decodes], self._issue[0][0]
            found = (device, 0, max(issue, host)) if self._overlapped else (device, host, issue)
            self._flat[decodes] = found
        return found

    def _tokens(self, row: int, tokens: int, states: int) -> int:
        _, rows, columns = self._shapes[0]
        start = row * rows * columns
        if columns == 1:
            return self._interpolated(self._base, TOKENS, tokens, start)
        column, low, high = _cell(STATES, states)
        a = self._interpolated(self._base, TOKENS, tokens, start + column, columns)
        b = self._interpolated(self._base, TOKENS, tokens, start + column + 1, columns)
        return a + (b - a) * (states - low) // (high - low)

    @staticmethod
    def _interpolated(table: memoryview, axis: Axis, value: int, start: int = 0, stride: int = 1) -> int:
        if value < 1 << axis.dense:
            return int(table[start + value * stride])
        i, low, high = _cell(axis, value)
        a, b = int(table[start + i * stride]), int(table[start + (i + 1) * stride])
        return a + (b - a) * (value - low) // (high - low)

    def _decodes(self, row: int, work: Work) -> int:
        _, views, rows, points, _ = self._shapes[1]
        table = self._decode
        row = row * views * rows + _cell(SEQUENCES, work.decodes)[0]
        total = 0
        for context in work.contexts:
            i, low, _ = _cell(CONTEXT, context)
            at = 2 * (row * points + i)
            total += table[at] + table[at + 1] * (context - low)
            row += rows
        return int(total)

    def _prompts(self, table: memoryview, row: int, work: Work) -> int:
        _, views, rows, columns, depth = self._shapes[2]
        tokens = work.prompt
        i, low, high = _cell(PROMPT, tokens)
        part = (tokens - low) / (high - low)
        total = 0.0
        assert work.pieces is not None
        row *= views
        for pairs, read in work.pieces:
            keys = pairs / tokens
            column, left, right = _cell(KEYS, int(keys))
            if column > columns - 2:
                column = columns - 2
                left, right = _ends(KEYS, column)
            across = (keys - left) / (right - left)
            third = read / work.prompts / (2.0 * keys) if self._eager else read / (keys + (tokens - 1) / 2.0)
            deep, beyond = self._between(third)
            at = (row * rows + i) * columns * depth + column * depth + deep
            value = self._corner(table, at, depth, across, beyond) * self._wave(row, low)
            if part > 0.0:
                # Between two points, as far as the waves have come: their jumps lie where they lie.
                first, last = self._wave(row, low), self._wave(row, high)
                share = (self._wave(row, tokens) - first) / (last - first) if last > first else part
                value += share * (self._corner(table, at + columns * depth, depth, across, beyond) * last - value)
            total += value
            row += 1
        return int(total)

    def _between(self, value: float) -> tuple[int, float]:
        points, i = self._spread, 0
        most = len(points) - 2
        while i < most and value > points[i + 1]:
            i += 1
        return i, max((value - points[i]) / (points[i + 1] - points[i]), 0.0)

    def _wave(self, row: int, tokens: int) -> float:
        table, start = self._waves, row * self._shapes[3]
        i, low, high = _cell(TOKENS, tokens)
        a: float = table[start + i]
        b: float = table[start + i + 1]
        return a + (tokens - low) / (high - low) * (b - a)

    @staticmethod
    def _corner(table: memoryview, at: int, depth: int, across: float, beyond: float) -> float:
        a, b = table[at], table[at + depth]
        near: float = a + beyond * (table[at + 1] - a)
        far: float = b + beyond * (table[at + depth + 1] - b)
        return near + across * (far - near)


def _cell(axis: Axis, value: int) -> tuple[int, int, int]:
    """(the last point of an axis that is not above ``value``, what it stands for, and what the next one does)."""
    dense = 1 << axis.dense
    if value < dense:
        return value, value, value + 1
    mantissa = axis.mantissa
    shift = value.bit_length() - 1 - mantissa
    leading = value >> shift
    low = leading << shift
    return dense + ((shift - axis.dense + mantissa - 1) << mantissa) + leading, low, low + (1 << shift)


def _ends(axis: Axis, i: int) -> tuple[int, int]:
    """The points around a cell of an axis."""
    if i < 1 << axis.dense:
        return i, i + 1
    beyond = i - (1 << axis.dense)
    shift = (beyond >> axis.mantissa) + axis.dense - axis.mantissa
    low = ((beyond & ((1 << axis.mantissa) - 1)) + (1 << axis.mantissa)) << shift
    return low, low + (1 << shift)


def _largest(axis: Axis, points: int) -> int:
    """The largest number that lies between two of so many points."""
    return _ends(axis, points - 2)[1] - 1
