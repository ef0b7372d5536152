"""A step's operators, one row each: how often they run, how long they take, what holds them, how near the roof.

The rows are a walk over the same tree that gives the answer: the exposed seconds of all leaves add up to the step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from windtunnel.cost.collectives import least_wire_bytes
from windtunnel.cost.kernels import effective_dtype
from windtunnel.cost.runtime import Runtime
from windtunnel.hardware.machine import Cluster
from windtunnel.ops.build import COLLECTIVES
from windtunnel.ops.fold import Evaluation
from windtunnel.ops.op import Op
from windtunnel.ops.together import Cost
from windtunnel.ops.tree import Best, Composite, Exposed, Flow, Node, Par, Pipeline, Repeat, Stage, Sync

PASSES = ("forward", "backward", "weight gradient", "send", "epilogue")
"""What a pipeline stage does, in the order of :attr:`windtunnel.ops.tree.Stage.children`."""

BUBBLE, HOST = "pipeline bubble", "waiting for the host"


@dataclass(frozen=True, slots=True)
class Row:
    """One operator, or one named part of the tree (``leaf`` False: the rows below it, deeper, are its parts).

    ``runs``: times in one step on one rank that holds it; ``each_s`` one run; ``total_s`` all of them, overlapped or
    not; ``exposed_s``: what it adds to the step (0 where it is hidden or not on the busiest pipeline stage);
    ``share``: that over the whole. ``binding``: the resource that holds it, or ``latency``
    (empty for the pipeline's bubble). ``roof``: the time that
    its work would take at the binding resource's peak rate over what it takes, None where no cluster was given.
    ``path``: the names from the root to here, pipeline stages left out.
    """

    name: str
    kind: str
    depth: int
    leaf: bool
    runs: float
    each_s: float
    total_s: float
    exposed_s: float
    share: float
    binding: str
    roof: float | None
    path: tuple[str, ...]


@dataclass(slots=True)
class _Line:
    """A row in the making. ``ideal``: seconds at peak rates of all runs, with ``rated`` seconds that they take."""

    name: str
    kind: str
    runs: float
    each: float
    exposed: float
    binding: str = ""
    ideal: float = 0.0
    rated: float = 0.0
    parts: list[_Line] = field(default_factory=list)
    transparent: bool = False


def operator_rows(evaluation: Evaluation, cluster: Cluster | None = None) -> list[Row]:
    """The rows of a priced tree in the order that it runs; see :class:`Row`. Operators of no time are left out.

    ``cluster``: the machine it was priced on, for the distance to the roof.
    """
    root = _Walker(evaluation, cluster).root()
    whole = float(evaluation.seconds())
    return list(_rows(root, 0, (), whole if whole > 0 else 1.0, cluster is not None))


def _rows(line: _Line, depth: int, path: tuple[str, ...], whole: float, roofed: bool) -> Iterator[Row]:
    path = path if line.transparent else (*path, line.name)
    roof = min(line.ideal / line.rated, 1.0) if roofed and line.rated > 0 and line.binding not in ("", "host") else None
    total = line.runs * line.each
    yield Row(
        line.name, line.kind, depth, not line.parts, line.runs, line.each, total, line.exposed, line.exposed / whole,
        line.binding, roof, path,
    )  # fmt: skip
    for part in line.parts:
        yield from _rows(part, depth + 1, path, whole, roofed)


class _Walker:
    def __init__(self, evaluation: Evaluation, cluster: Cluster | None) -> None:
        self.evaluation = evaluation
        self.cluster = cluster

    def root(self) -> _Line:
        tree = self.evaluation.tree
        whole = float(self.evaluation.seconds())
        parts = self.lines(tree, 1.0, 1.0)
        waited = whole - float(self.evaluation.cost(tree).seconds)
        if waited > 0:
            parts.append(_Line(HOST, "host", 1.0, waited, waited, "host"))
        if len(parts) == 1 and parts[0].parts and parts[0].runs == 1:
            return parts[0]
        return self.header(getattr(tree, "name", "") or "whole", tree, 1.0, whole, parts)

    def header(self, name: str, node: Node, runs: float, each: float, parts: list[_Line]) -> _Line:
        kind = type(node).__name__.lower()
        line = _Line(name, kind, runs, each, sum(p.exposed for p in parts), self.binding(node), parts=parts)
        line.ideal, line.rated = sum(p.ideal for p in parts), sum(p.rated for p in parts)
        return line

    def binding(self, node: Node) -> str:
        seconds = self.evaluation.binding(node) if isinstance(node, Op) else self.evaluation.critical(node)
        return max(seconds, key=lambda r: float(seconds[r])) if seconds else ""

    def lines(self, node: Node, runs: float, exposed: float) -> list[_Line]:
        """The rows that stand for ``node``, run ``runs`` times of which ``exposed`` add to the step."""
        cost = self.evaluation.cost(node)
        if isinstance(node, Op):
            return self.operator(node, runs, exposed, float(cost.seconds))
        if isinstance(node, Pipeline):
            parts = self.pipeline(node, runs, exposed)
        else:
            parts = self.children(node, cost, runs, exposed)
        name = getattr(node, "name", "")
        # A repetition is told by its runs; a dotted name is that of an operator whose backward pass this is.
        if not name or "." in name or isinstance(node, Repeat):
            return parts
        if len(parts) <= 1:  # one part needs no heading of its own
            for only in parts:
                if not only.name.startswith(name) and name not in (*PASSES, "layers"):
                    only.name = f"{name}: {only.name}"
            return parts
        return [self.header(name, node, runs, float(cost.seconds), parts)]

    def operator(self, op: Op, runs: float, exposed: float, each: float) -> list[_Line]:
        if each == 0 or runs == 0:
            return []
        line = _Line(op.name, op.kind, runs, each, exposed * each, self.binding(op))
        if self.cluster is not None:
            line.ideal, line.rated = runs * self.ideal(op, line.binding), runs * each
        return [line]

    def children(self, node: Composite, cost: Cost, runs: float, exposed: float) -> list[_Line]:
        inner = [self.evaluation.cost(c) for c in node.children]
        times = [float(t) for t in node.times]
        if isinstance(node, Sync):
            waited = float(cost.seconds) - float(inner[0].seconds)
            found = self.lines(node.part, runs, exposed)
            return found + ([_Line(HOST, "host", runs, waited, exposed * waited, "host")] if waited > 0 else [])
        if isinstance(node, Best):
            times = [float(w) for w in node.weights(inner)]
        share = times
        if isinstance(node, Exposed):
            # The main child is told where it runs; here is only what runs beside it.
            beside = [(c, float(n)) for c, n in node.others]
            worked = sum(n * float(self.evaluation.cost(c).seconds) for c, n in beside)
            left = float(cost.seconds) / worked if worked > 0 else 0.0
            return [line for c, n in beside for line in self.lines(c, runs * n, exposed * n * left)]
        if isinstance(node, Par | Flow):
            main = node.main
            others = sum(t * float(c.seconds) for i, (t, c) in enumerate(zip(times, inner, strict=True)) if i != main)
            left = float(cost.seconds) - times[main] * float(inner[main].seconds)
            share = [t if i == main else t * (left / others if others > 0 else 0.0) for i, t in enumerate(times)]
        found = []
        for child, n, e in zip(node.children, times, share, strict=True):
            if n != 0:
                found += self.lines(child, runs * n, exposed * e)
        return found

    def pipeline(self, node: Pipeline, runs: float, exposed: float) -> list[_Line]:
        costs = [self.evaluation.cost(c) for c in node.children]
        busiest = [float(b) for b in node.busiest(costs)]
        worked = [float(w) for w in node.work(costs)]
        whole, free = map(float, node.lengths(costs))
        sends = whole - free
        found: list[_Line] = []
        at = 0
        for i, stage in enumerate(node.stages):
            many = int(stage.count)
            if many > 0:
                found.append(self.stage(node, i, stage_name(at, many), runs, exposed * busiest[i], sends))
            at += many
        if len(found) == 1:
            found = found[0].parts
        bubble = free - sum(b * w for b, w in zip(busiest, worked, strict=True))
        # The last stage may end before the busiest one's epilogue; rounding leaves some 1e-16 of nothing.
        if abs(bubble) > 1e-12 * free:
            found.append(_Line(BUBBLE, "bubble", runs, bubble, exposed * bubble))
        return found

    def stage(self, node: Pipeline, i: int, name: str, runs: float, exposed: float, sends: float) -> _Line:
        stage: Stage = node.stages[i]
        times = [float(t) for t in node.by_stage(node.times)[i]][: len(PASSES)]
        found: list[_Line] = []
        # Passes that run side by side add less to the step than they take.
        apart = sum(self.evaluation.seconds(c) for c in stage.children[:3])
        side_by_side = 1.0
        if stage.overlapped is not None and apart > 0:
            side_by_side = float(self.evaluation.seconds(stage.overlapped) / apart)
        for j, (child, n) in enumerate(zip(stage.children[: len(PASSES)], times, strict=True)):
            cost = self.evaluation.cost(child)
            if PASSES[j] == "send":
                all_sends = n * float(cost.seconds)
                e = sends / all_sends * n if all_sends > 0 else 0.0
                found += self.lines(child, runs * n, exposed * e)
                continue
            e = exposed * n * (side_by_side if j < 3 else 1.0)
            parts = self.lines(child, runs * n, e)
            waited = max(float(cost.host) - float(cost.seconds), 0.0)
            if waited > 0:
                parts.append(_Line(HOST, "host", runs * n, waited, e * waited, "host"))
            if len(parts) == 1 and parts[0].parts and parts[0].name in (PASSES[j], getattr(child, "name", None)):
                parts = parts[0].parts
            if parts:
                each = float(cost.seconds) + waited
                found.append(self.header(PASSES[j], child, runs * n, each, parts))
        each = sum(n * line.each for n, line in ((p.runs / runs, p) for p in found))
        line = _Line(name, "stage", runs, each, sum(p.exposed for p in found), parts=found, transparent=True)
        line.ideal, line.rated = sum(p.ideal for p in found), sum(p.rated for p in found)
        heaviest = max(found, key=lambda p: p.runs * p.each, default=None)
        line.binding = heaviest.binding if heaviest is not None else ""
        return line

    def ideal(self, op: Op, binding: str) -> float:
        """Seconds of one run at the peak rate of what binds it (of its fullest resource, if that is latency)."""
        cluster = self.cluster
        assert cluster is not None
        busy = {r: float(v) for r, v in self.evaluation.op_price(op).busy.items()}
        if binding == "latency":
            binding = max(busy, key=lambda r: busy[r], default="")
        device = cluster.accelerator
        if op.kind in COLLECTIVES:
            crossed = least_wire_bytes(op, cluster, Runtime())
            return max((float(b) / float(level.bandwidth_bytes_per_s) for level, b in crossed), default=0.0)
        if binding in ("tensor", "vector") and op.flops:
            peak = device.peak_flops.get(effective_dtype(device, op.dtype), device.vector_flops)
            matrix = float(op.flops) / float(peak)
            return max(matrix, float(op.vector_flops) / float(device.vector_flops)) if binding == "vector" else matrix
        work_and_rate = {
            "vector": (op.vector_flops, device.vector_flops),
            "hbm": (op.hbm_bytes + op.cached_bytes, device.hbm.bandwidth_bytes_per_s),
            "l2": (op.hbm_bytes + op.cached_bytes, device.l2.bandwidth_bytes_per_s),
            "pcie": (op.pcie_bytes, cluster.pcie_bytes_per_s),
            "nvme": (op.nvme_bytes * cluster.node_size, cluster.nvme.bandwidth_bytes_per_s),
        }
        work, rate = work_and_rate.get(binding, (0.0, 1.0))
        return float(work) / float(rate) if float(rate) > 0 else 0.0


def stage_name(first: int, many: int) -> str:
    """``stage 0``, ``stages 1–6``."""
    return f"stage {first}" if many == 1 else f"stages {first}–{first + many - 1}"
