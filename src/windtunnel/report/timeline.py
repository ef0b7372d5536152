"""A training step as a Chrome trace, which Perfetto (ui.perfetto.dev) and chrome://tracing show.

One process a pipeline stage: its passes (F3 is the forward pass of micro-batch 3, B3 the backward pass, W3 a weight
gradient run apart), and below them the operators of the first pass of each kind, with what runs beside them.
Layout: "Trace Event Format", Chromium project; times in microseconds.
"""

from __future__ import annotations

from typing import Any

from windtunnel.errors import ScenarioError
from windtunnel.ops.fold import Evaluation
from windtunnel.ops.op import Op
from windtunnel.ops.tree import Best, Exposed, Flow, Node, Par, Pipeline, Repeat, Seq, Stage, Sync
from windtunnel.training.layout import Slot, layout

MOST_PASSES = 300_000
"""A longer timeline than any viewer opens."""

PASSES, OPERATORS = "passes", "operators"
_PHASES = {"F": "forward", "B": "backward", "W": "weight gradient"}

Event = dict[str, Any]


def step_timeline(evaluation: Evaluation, pipeline: Pipeline, schedule_name: str) -> dict[str, Any]:
    """The trace of one step of ``pipeline`` (a node of the evaluation, scalar plans only) as a JSON-ready mapping.

    Raises:
        ScenarioError: an unknown schedule, or more than ``MOST_PASSES`` passes.
    """
    costs = [evaluation.cost(c) for c in pipeline.children]
    stages: list[Stage] = []
    times: list[tuple[float, ...]] = []
    for stage, t in zip(pipeline.stages, pipeline.stage_times(costs), strict=True):
        many = int(stage.count)
        stages += [stage] * many
        together = t.forward + t.backward + t.weight if t.overlapped is None else t.overlapped
        times += [tuple(map(float, (t.forward, t.backward, t.weight, t.send, t.epilogue, together)))] * many
    micro_batches, chunks = round(float(pipeline.micro_batches)), int(pipeline.virtual_stages)
    passes = 3 * micro_batches * chunks * len(stages)
    if passes > MOST_PASSES:
        raise ScenarioError(
            f"a timeline of {micro_batches} micro-batches on {len(stages)} stages has {passes:,} passes; "
            f"at most {MOST_PASSES:,} are accepted: use a smaller global_batch"
        )
    forward, backward, weight, send, epilogue, overlapped = ([t[i] for t in times] for i in range(6))
    slots = layout(schedule_name, forward, backward, weight, send, micro_batches, chunks, overlapped)
    events: list[Event] = []
    for rank, stage in enumerate(stages):
        own = [slot for slot in slots if slot.stage == rank]
        events += _stage(evaluation, stage, rank, own, epilogue[rank], many_chunks=chunks > 1)
    events.sort(key=lambda e: (e["ph"] != "M", e.get("ts", 0.0)))
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _stage(
    evaluation: Evaluation, stage: Stage, rank: int, slots: list[Slot], epilogue: float, *, many_chunks: bool
) -> list[Event]:
    drawing = _Drawing(evaluation, rank)
    split = any(slot.phase == "W" for slot in slots)
    seen: set[str] = set()
    for slot in slots:
        name = f"{slot.phase}{slot.micro_batch}" + (f".{slot.chunk}" if many_chunks else "")
        info = {"micro_batch": slot.micro_batch, "pass": _PHASES[slot.phase], "chunk": slot.chunk}
        drawing.event(PASSES, name, _PHASES[slot.phase], slot.start, slot.end - slot.start, **info)
        if slot.phase in seen:
            continue
        seen.add(slot.phase)
        trees = {"F": [stage.forward], "B": [stage.backward], "W": [stage.weight]}[slot.phase]
        if slot.phase == "B" and not split:
            trees = [stage.backward, stage.weight]
        drawing.until = slot.end
        at = slot.start
        for tree in trees:
            at = drawing.draw(tree, at)
    end = max((slot.end for slot in slots), default=0.0)
    if epilogue > 0:
        drawing.event(PASSES, "epilogue", "epilogue", end, epilogue)
        drawing.until = end + epilogue
        drawing.draw(stage.epilogue, end)
    return drawing.named()


class _Drawing:
    """The events of one process. ``until``: nothing is drawn later (a chunk's pass is a part of its stage's)."""

    def __init__(self, evaluation: Evaluation, pid: int) -> None:
        self.evaluation = evaluation
        self.pid = pid
        self.until = float("inf")
        self.rows: dict[str, int] = {PASSES: 0, OPERATORS: 1}
        self.events: list[Event] = []

    def event(self, row: str, name: str, category: str, start: float, seconds: float, **info: Any) -> None:
        tid = self.rows.setdefault(row, len(self.rows))
        event = {"name": name, "cat": category, "ph": "X", "ts": _us(start), "dur": _us(seconds)}
        self.events.append({**event, "pid": self.pid, "tid": tid, **({"args": info} if info else {})})

    def named(self) -> list[Event]:
        """The events, with those that name the process and its rows."""
        names: list[tuple[str, int, dict[str, Any]]] = [
            ("process_name", 0, {"name": f"stage {self.pid}"}),
            ("process_sort_index", 0, {"sort_index": self.pid}),
        ]
        for row, tid in self.rows.items():
            names += [("thread_name", tid, {"name": row}), ("thread_sort_index", tid, {"sort_index": tid})]
        meta = [{"name": n, "ph": "M", "pid": self.pid, "tid": tid, "args": args} for n, tid, args in names]
        return meta + self.events

    def block(self, name: str, category: str, start: float, seconds: float, row: str, **info: Any) -> float:
        shown = min(start + seconds, self.until) - start
        if shown > 0:
            self.event(row, name, category, start, shown, **info)
        return start + seconds

    def seconds(self, node: Node) -> float:
        return float(self.evaluation.cost(node).seconds)

    def draw(self, node: Node, start: float, runs: float = 1.0, row: str = OPERATORS) -> float:
        """Lay ``runs`` runs of a node on ``row`` from ``start``; the first run of a repetition is drawn in detail.

        Returns the end.
        """
        seconds = self.seconds(node)
        if runs * seconds <= 0 or start >= self.until:
            return start + runs * seconds
        if isinstance(node, Op):
            name = node.name if _once(runs) else f"{_count(runs)} {node.name}"
            info = {"binding": self.binding(node), "kind": node.kind}
            return self.block(name, node.category, start, runs * seconds, row, **info)
        if isinstance(node, Repeat):
            return self.draw(node.part, start, runs * float(node.n), row)
        if not _once(runs):
            if runs > 1:
                start, runs = self.draw(node, start, 1.0, row), runs - 1
            return self.block(f"{_count(runs)} {_title(node)}", "repeated", start, runs * seconds, row)
        if isinstance(node, Seq | Sync):
            at = start
            for part in node.children:
                at = self.draw(part, at, 1.0, row)
            return start + seconds
        if isinstance(node, Best):
            picked = node.weights([self.evaluation.cost(c) for c in node.options])
            best = max(zip(picked, node.options, strict=True), key=lambda pair: float(pair[0]))
            return self.draw(best[1], start, 1.0, row)
        if isinstance(node, Par | Flow):
            return self.beside(node, start, seconds, row)
        name = node.name or _title(node)
        return self.block(name, "exposed" if isinstance(node, Exposed) else "other", start, seconds, row)

    def beside(self, node: Par | Flow, start: float, seconds: float, row: str) -> float:
        """Streams at once: the main one on its row, what comes before it from the start on, after it up to the end."""
        end = start + seconds
        times = [float(t) for t in node.times]
        streams = node.streams if isinstance(node, Flow) else ("beside",) * len(times)
        lead = 0.0
        for i, (part, n, stream) in enumerate(zip(node.children, times, streams, strict=True)):
            if i == node.main:
                self.draw(part, start + lead, n, row)
                continue
            if isinstance(node, Flow) and i < node.main:
                lead += self.seconds(part)
            late = isinstance(node, Flow) and i > node.main
            self.draw(part, end - n * self.seconds(part) if late else start, n, stream)
        return end

    def binding(self, op: Op) -> str:
        held = self.evaluation.binding(op)
        return max(held, key=lambda r: float(held[r]))


def _once(runs: float) -> bool:
    return abs(runs - 1) < 1e-9


def _count(runs: float) -> str:
    return f"{runs:.3g} x"


def _title(node: Node) -> str:
    """A node's name, else that of the first named node below it."""
    name = getattr(node, "name", "")
    while not name and not isinstance(node, Op) and node.children:
        node = node.children[0]
        name = getattr(node, "name", "")
    return str(name)


def _us(seconds: float) -> float:
    """Microseconds to the nanosecond."""
    return round(1e6 * seconds, 3)
