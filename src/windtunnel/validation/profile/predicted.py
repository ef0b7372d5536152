"""What a priced tree says of one rank's step: seconds by kind, by GEMM shape, busy, idle, exposed communication."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from windtunnel.ops.build import gemm
from windtunnel.ops.fold import Evaluation
from windtunnel.ops.op import Op
from windtunnel.ops.tree import Best, Node, Pipeline
from windtunnel.validation.profile.measured import Shape, Total


@dataclass(frozen=True, slots=True)
class Predicted:
    """One rank's step (with pipeline stages, a rank of the busiest one), in seconds.

    ``kinds``: each operator run alone, hidden behind others or not, as a trace's kernels are counted. ``gemms``: by
    (m, n, k), with the names of the operators in ``names``. ``busy_s`` is the step without the pipeline's bubble and
    without waiting for the host.
    """

    step_s: float
    host_s: float
    bubble_s: float
    exposed_comm_s: float
    kinds: dict[str, Total]
    gemms: dict[Shape, Total]
    names: dict[Shape, list[str]]
    evaluation: Evaluation
    like: Op | None

    @property
    def idle_s(self) -> float:
        return self.host_s + self.bubble_s

    @property
    def busy_s(self) -> float:
        return self.step_s - self.idle_s

    def gemm_seconds(self, shape: Shape) -> float | None:
        """What a product of any shape would take by itself, as a forward layer in the plan's precision."""
        if self.like is None:
            return None
        m, n, k = shape
        weight, act = float(self.like.shape["weight"]), float(self.like.shape["act"])
        product = gemm("gemm", m, n, k, dtype=self.like.dtype, weight=weight, act=act)
        # The pricing function charges for several machines at once, of which the first is the one that was asked for.
        return float(np.ravel(Evaluation(product, self.evaluation.price).seconds())[0])


def predicted_step(evaluation: Evaluation) -> Predicted:
    """The prediction of a tree's step."""
    kinds: dict[str, Total] = {}
    gemms: dict[Shape, Total] = {}
    names: dict[Shape, list[str]] = {}
    like: Op | None = None
    for op, runs in operators(evaluation, evaluation.tree, 1.0):
        seconds, kernels = runs * float(evaluation.op_price(op).seconds), runs * float(op.kernels)
        if seconds == 0 and kernels == 0:
            continue
        kinds.setdefault(op.kind, Total()).add(seconds, kernels)
        if op.kind == "gemm":
            shape = (round(float(op.shape["m"])), round(float(op.shape["n"])), round(float(op.shape["k"])))
            gemms.setdefault(shape, Total()).add(seconds, runs)
            known = names.setdefault(shape, [])
            if op.name not in known:
                known.append(op.name)
            like = like or op
    exposed = {category: float(s) for category, s in evaluation.exposed().items()}
    communication = sum(s for category, s in exposed.items() if category.endswith("_comm"))
    return Predicted(
        float(evaluation.seconds()), exposed.get("host", 0.0), exposed.get("pp_bubble", 0.0), communication,
        kinds, gemms, names, evaluation, like,
    )  # fmt: skip


def operators(evaluation: Evaluation, node: Node, runs: float) -> Iterator[tuple[Op, float]]:
    """Every operator below ``node`` and how often one rank runs it, ``node`` itself being run ``runs`` times."""
    if runs == 0:
        return
    if isinstance(node, Op):
        yield node, runs
        return
    costs = [evaluation.cost(child) for child in node.children]
    times = [float(t) for t in node.times]
    if isinstance(node, Best):
        times = [float(w) for w in node.weights(costs)]
    elif isinstance(node, Pipeline):
        stages = zip(node.busiest(costs), node.by_stage(node.times), strict=True)
        times = [float(flag) * float(t) for flag, own in stages for t in own]
    for child, n in zip(node.children, times, strict=True):
        yield from operators(evaluation, child, runs * n)
