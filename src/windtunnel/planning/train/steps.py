"""Training steps whose sizes are arrays, priced so that what several have in common is priced once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from windtunnel.ops.fold import Evaluation
from windtunnel.ops.op import Op, Price
from windtunnel.ops.pipeline import StageTimes
from windtunnel.ops.tree import EMPTY, Node
from windtunnel.ops.values import Value
from windtunnel.parallel.step import Part, Step, computing, side_by_side, talking
from windtunnel.scenario.plan import TrainPlan
from windtunnel.scenario.train import TrainScenario


def remembering(price: Callable[[Op], Price]) -> Callable[[Op], Price]:
    """The same prices; those of collectives, which chunks of one depth repeat, are looked up."""
    known: dict[object, Price] = {}

    def bytes_of(value: Value) -> object:
        return (value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value

    def looked_up(op: Op) -> Price:
        if op.group is None:
            return price(op)
        key = (op.kind, *(bytes_of(v) for v in (op.message_bytes, op.group.size, op.group.stride)))
        if key not in known:
            known[key] = price(op)
        return known[key]

    return looked_up


class Layers:
    """Layers that chunks have in common, and their prices."""

    def __init__(self, price: Callable[[Op], Price]) -> None:
        self.parts: dict[object, Part] = {}
        self.known = Evaluation(EMPTY, price)
        self.apart: tuple[dict[int, Node], dict[int, Node]] = ({}, {})
        """Of each tree of the parts, its computing and its messages, by ``id``."""

    def learn(self, of: Callable[[Op], tuple[Value, ...]]) -> None:
        """Price what is not priced yet, for trees to come."""
        for part in self.parts.values():
            for tree in (part.forward, part.backward, part.weight):
                self.known.cost(tree)
                self.known.sums(tree, of)

    def take_apart(self) -> tuple[dict[int, Node], dict[int, Node]]:
        """Computing and messages of all parts, priced."""
        for part in self.parts.values():
            for tree in (part.forward, part.backward, part.weight):
                if id(tree) not in self.apart[0]:
                    for found, some in zip(self.apart, (computing(tree), talking(tree)), strict=True):
                        found[id(tree)] = some
                        self.known.cost(some)
        return self.apart


class Priced:
    """A step's stages, priced when first asked for."""

    def __init__(
        self,
        step: Step,
        layers: Layers,
        of: Callable[[Op], tuple[Value, ...]],
        base: TrainScenario,
        plan: TrainPlan,
        like: Priced | None = None,
    ) -> None:
        self.step, self.base, self.plan = step, base, plan
        self._layers, self._of, self._like = layers, of, like
        self._times: tuple[StageTimes, ...] | None = None
        self._sums: tuple[tuple[Value, Value], tuple[Value, Value]] | None = None
        self._evaluation: Evaluation | None = None

    @property
    def evaluation(self) -> Evaluation:
        if self._evaluation is None:
            self._layers.learn(self._of)
            known = self._like.evaluation if self._like else self._layers.known
            self._evaluation = Evaluation(self.step.tree, known.price, known)
        return self._evaluation

    def overlapped(self) -> Priced:
        """The same stages with forward beside backward passes."""
        tree = self.step.tree
        apart = self._layers.take_apart()
        stages = tuple(side_by_side(stage, self.base.engine, apart) for stage in tree.stages)
        step = replace(self.step, tree=replace(tree, stages=stages))
        return Priced(step, self._layers, self._of, self.base, self.plan, self)

    @property
    def times(self) -> tuple[StageTimes, ...]:
        if self._times is None:
            tree = self.step.tree
            self._times = tree.stage_times([self.evaluation.cost(c) for c in tree.children])
        return self._times

    def work(self) -> tuple[tuple[Value, Value], tuple[Value, Value]]:
        """What :func:`at_work` finds for one rank of the mean stage, sends apart: of those, for one crossing."""
        if self._sums is None:
            tree, micro_batches = self.step.tree, self.plan.micro_batches
            ranks = sum(float(s.count) for s in tree.stages)
            total: list[Value] = [0.0, 0.0]
            sent: list[Value] = [0.0, 0.0]
            for stage in tree.stages:
                share = float(stage.count) / ranks
                for node, times in (
                    (stage.forward, micro_batches), (stage.backward, micro_batches), (stage.weight, micro_batches),
                    (stage.epilogue, 1.0),
                ):  # fmt: skip
                    for i, value in enumerate(self.evaluation.sums(node, self._of)):
                        total[i] = total[i] + share * times * value
                for i, value in enumerate(self.evaluation.sums(stage.send, self._of)):
                    sent[i] = sent[i] + share * value
            self._sums = (total[0], total[1]), (sent[0], sent[1])
        return self._sums
