"""Work side by side in an iteration's tree, as sums: the rows of a price list.

A Par or a Flow lasts as long as the largest of a few values, each of which is a sum over its operators (a stream's
time, a resource's: :meth:`windtunnel.ops.tree.Flow.lines`). Such sums split into parts of an iteration as its time does
where everything runs in turn, so each is tabulated as if it were an iteration of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from windtunnel.ops.fold import Evaluation
from windtunnel.ops.together import shared
from windtunnel.ops.tree import Flow, Node, Par, Repeat, Seq
from windtunnel.ops.values import Value

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Region:
    """One Par or Flow: the ``resources`` that its streams have in common, and which of its lines are ``kept``."""

    resources: tuple[str, ...]
    kept: tuple[int, ...]


def regions(evaluation: Evaluation, stage: Node) -> list[Region]:
    """The regions of a stage's tree, of a batch that has some of everything, in order."""
    found = []
    for node, _ in _together(stage, 1.0):
        costs = [evaluation.cost(c) for c in node.children]
        resources = tuple(sorted(shared(costs)))
        found.append(Region(resources, tuple(range(len(node.lines(costs, resources))))))
    return found


def rows(evaluation: Evaluation, stage: Node, known: list[Region]) -> list[Value]:
    """Seconds of a stage's work in turn, then each region's sums."""
    if not known:
        return [evaluation.cost(stage).seconds]
    found = [_in_turn(evaluation, stage)]
    for (node, times), region in zip(_together(stage, 1.0), known, strict=True):
        costs = [evaluation.cost(c) for c in node.children]
        lines = node.lines(costs, region.resources)
        found += [times * lines[i] for i in region.kept]
    return found


def largest(values: Floats) -> list[int]:
    """Which of the rows [R, points] to keep: all but those that another is at least as large as everywhere."""
    kept = list(range(len(values)))
    for i in range(len(values)):
        others = [j for j in kept if j != i]
        if any(bool(np.all(values[j] >= values[i])) for j in others):
            kept = others
    return kept


def _together(node: Node, times: Value) -> list[tuple[Par | Flow, Value]]:
    """The outermost regions of a tree, with how often each runs."""
    if isinstance(node, Par | Flow):
        return [(node, times)]
    if isinstance(node, Seq):
        return [found for part in node.parts for found in _together(part, times)]
    return _together(node.part, times * node.n) if isinstance(node, Repeat) else []


def _in_turn(evaluation: Evaluation, node: Node) -> Value:
    """Seconds outside of all regions."""
    if isinstance(node, Par | Flow):
        return 0.0
    if isinstance(node, Seq):
        total: Value = 0.0
        for part in node.parts:
            total = total + _in_turn(evaluation, part)
        return total
    return node.n * _in_turn(evaluation, node.part) if isinstance(node, Repeat) else evaluation.cost(node).seconds
