"""Every pass of every micro-batch, laid over time: what a timeline shows and what the schedules' formulas are held to.

Each rank works through a fixed list of passes; a pass starts as soon as its rank is free and its input has come. The
lists are those of the published schedules, named at each function below.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from windtunnel.errors import ScenarioError, unknown

Phase = Literal["F", "B", "W"]

Pass = tuple[str, int, int]
"""What to run ("F", "B" for the input gradient alone, "W", "BW" for both gradients), chunk, micro-batch."""

Step = tuple[Pass, ...]
"""Passes that a rank runs together."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One pass of one micro-batch on one rank; ``start`` and ``end`` in seconds from the step's beginning.

    ``stage``: the rank, from 0. ``chunk``: which of the rank's model chunks; in dualpipe the direction, 0 for
    micro-batches that enter at rank 0 and 1 for those that enter at the last. Phase ``B`` is the input gradient,
    with the weight gradient where the schedule does not run it apart as ``W``.
    """

    stage: int
    micro_batch: int
    chunk: int
    phase: Phase
    start: float
    end: float


def layout(
    schedule: str,
    forward: Sequence[float],
    backward: Sequence[float],
    weight: Sequence[float],
    send: Sequence[float],
    micro_batches: int,
    virtual_stages: int = 1,
    overlapped: Sequence[float] | None = None,
) -> list[Slot]:
    """Every slot of a step, ordered by start time.

    Args:
        schedule: a name of ``training.schedules.SCHEDULES``.
        forward, backward, weight, send: seconds for one micro-batch on each stage (all chunks together), as in
            :class:`windtunnel.ops.pipeline.StageTimes`; one entry a stage.
        micro_batches: at least 1. Dualpipe sends the first half of them (rounded up) in at rank 0.
        virtual_stages: model chunks a rank; only ``interleaved`` uses them, and with 1 it is ``1f1b``.
        overlapped: for dualpipe, seconds of a forward and a full backward pass run together, per stage; their sum
            if left out.

    Raises:
        ScenarioError: unknown schedule, lists of different length, negative times, fewer than 1 micro-batch or
            virtual stage, or an odd number of stages above 1 in dualpipe.
    """
    p, m = len(forward), micro_batches
    lists = (forward, backward, weight, send) + ((overlapped,) if overlapped is not None else ())
    if p < 1 or any(len(times) != p for times in lists):
        raise ScenarioError(f"lists of stage times have lengths {[len(t) for t in lists]}; one entry a stage is needed")
    if any(not t >= 0 for times in lists for t in times):
        raise ScenarioError("a stage time is negative or not a number; seconds of at least 0 are accepted")
    if m < 1 or virtual_stages < 1:
        raise ScenarioError(f"{m} micro-batches and {virtual_stages} virtual stages; both must be at least 1")
    if schedule not in _ORDERS:
        raise unknown("schedule", schedule, _ORDERS)
    dual = schedule == "dualpipe"
    if dual and p > 1 and p % 2:
        raise ScenarioError(f"dualpipe cannot run {p} stages; an even number, or 1, is accepted")
    v = virtual_stages if schedule == "interleaved" else 1
    if schedule == "interleaved" and v > 1 and m > p and m % p:
        raise ScenarioError(f"interleaved cannot run {m} micro-batches in {p} stages; a multiple of {p} is accepted")
    holds = dual or schedule == "1f1b" or (schedule == "interleaved" and v == 1)
    pair = [f + b + w for f, b, w in zip(forward, backward, weight, strict=True)] if overlapped is None else overlapped
    depth = v * p

    def position(rank: int, chunk: int) -> int:
        """Where in the model a rank's chunk lies, in chunks."""
        return p - 1 - rank if dual and chunk else chunk * p + rank

    def seconds(rank: int, step: Step) -> float:
        if len(step) == 2:
            return (pair[rank] + pair[p - 1 - rank]) / 2
        kind, chunk, _ = step[0]
        s = position(rank, chunk) % p
        return {"F": forward[s], "B": backward[s], "W": weight[s], "BW": backward[s] + weight[s]}[kind] / v

    # When the input of (backward?, position, micro-batch) is there, for inputs whose producer has run.
    ready: dict[tuple[bool, int, int], float] = {(False, 0, j): 0.0 for j in range(m)}
    waiting: dict[tuple[bool, int, int], int] = {}
    steps = [_ORDERS[schedule](rank, p, m, v) for rank in range(p)]
    at, free = [0] * p, [0.0] * p
    slots: list[Slot] = []
    runnable = deque(range(p))
    while runnable:
        rank = runnable.popleft()
        while at[rank] < len(steps[rank]):
            step = steps[rank][at[rank]]
            keys = [(kind != "F", position(rank, chunk), j) for kind, chunk, j in step if kind != "W"]
            missing = next((key for key in keys if key not in ready), None)
            if missing is not None:
                waiting[missing] = rank
                break
            start = max([free[rank], *(ready[key] for key in keys)])
            end = start + seconds(rank, step)
            free[rank] = end
            at[rank] += 1
            for kind, chunk, j in step:
                slots.append(Slot(rank, j, chunk, kind[0], start, end))  # type: ignore[arg-type]
            for backward_pass, q, j in keys:
                nearer = q - 1 if backward_pass else q + 1
                if backward_pass and q == 0:
                    continue
                key = (backward_pass, nearer, j)
                lag = send[q % p] if p > 1 else 0.0
                if not backward_pass and nearer == depth:
                    key, lag = (True, q, j), 0.0
                ready[key] = end + lag
                if holds:  # see schedules.py on sends
                    free[rank] = max(free[rank], end + lag)
                if key in waiting:
                    runnable.append(waiting.pop(key))
    slots.sort(key=lambda slot: (slot.start, slot.stage, slot.end))
    return slots


def makespan(slots: Iterable[Slot], epilogues: Sequence[float]) -> float:
    """Seconds until the last rank has ended its epilogue, which follows its last slot; ``epilogues``: one a rank."""
    ends = [0.0] * len(epilogues)
    for slot in slots:
        ends[slot.stage] = max(ends[slot.stage], slot.end)
    return max(end + epilogue for end, epilogue in zip(ends, epilogues, strict=True))


def peak_in_flight(slots: Iterable[Slot], virtual_stages: int = 1) -> list[float]:
    """Per rank, the most micro-batches of whole-stage activations held at once.

    A chunk's activations are held from the start of its forward pass to the end of its last gradient; each is
    1 / ``virtual_stages`` of a stage's.
    """
    held: dict[tuple[int, int, int], tuple[float, float]] = {}
    for slot in slots:
        key = (slot.stage, slot.chunk, slot.micro_batch)
        start, end = held.get(key, (slot.start, slot.end))
        held[key] = (min(start, slot.start), max(end, slot.end))
    changes: dict[int, list[tuple[float, int]]] = {}
    for (stage, _, _), (start, end) in held.items():
        changes.setdefault(stage, []).extend([(start, 1), (end, -1)])
    peaks = []
    for stage in sorted(changes):
        now = peak = 0
        for _, change in sorted(changes[stage]):  # at one instant, what ends is let go before what starts
            now += change
            peak = max(peak, now)
        peaks.append(peak / virtual_stages)
    return peaks


def _gpipe(rank: int, p: int, m: int, v: int) -> list[Step]:
    """All forward, then all backward passes (Huang et al., GPipe, arXiv 1811.06965)."""
    return [((kind, 0, j),) for kind in ("F", "BW") for j in range(m)]


def _one_forward_one_backward(rank: int, p: int, m: int, v: int) -> list[Step]:
    """PipeDream-Flush as Megatron-LM runs it (Narayanan et al., arXiv 2104.04473, section 2.2)."""
    ahead = min(m, p - 1 - rank)
    steps: list[Step] = [(("F", 0, j),) for j in range(ahead)]
    for j in range(m):
        if ahead + j < m:
            steps.append((("F", 0, ahead + j),))
        steps.append((("BW", 0, j),))
    return steps


def _interleaved(rank: int, p: int, m: int, v: int) -> list[Step]:
    """Megatron-LM's interleaved 1F1B (arXiv 2104.04473, section 2.2): micro-batches in groups of p, chunk by chunk.

    A rank runs 2(p − 1 − rank) + (v − 1)p forward passes of chunks before its first backward pass.
    """
    if v == 1:
        return _one_forward_one_backward(rank, p, m, v)
    order = [(c, j) for first in range(0, m, p) for c in range(v) for j in range(first, min(first + p, m))]
    ahead = min(m * v, 2 * (p - 1 - rank) + (v - 1) * p)
    steps: list[Step] = [(("F", c, j),) for c, j in order[:ahead]]
    for i, (c, j) in enumerate(order):
        if ahead + i < m * v:
            steps.append((("F", *order[ahead + i]),))
        steps.append((("BW", v - 1 - c, j),))
    return steps


def _zero_bubble(rank: int, p: int, m: int, v: int) -> list[Step]:
    """ZB-H1 (Qi et al., arXiv 2401.10241, section 2.1): 1F1B with weight gradients ``rank`` micro-batches late.

    Later ranks put off more of them, so that every rank holds the activations of p micro-batches; they fill the end.
    """
    ahead = min(m, p - 1 - rank)
    steps: list[Step] = [(("F", 0, j),) for j in range(ahead)]
    for j in range(m + rank):
        if ahead + j < m:
            steps.append((("F", 0, ahead + j),))
        if j < m:
            steps.append((("B", 0, j),))
        if j - rank >= 0:
            steps.append((("W", 0, j - rank),))
    return steps


def _dualpipe(rank: int, p: int, m: int, v: int) -> list[Step]:
    """DeepSeek's bidirectional schedule in its eight parts (arXiv 2412.19437, section 3.2.1; repository DualPipe).

    "near" is the direction that enters at this rank's end of the pipeline, "far" the other one.
    """
    if p == 1:
        return [((kind, 0, j),) for j in range(m) for kind in ("F", "BW")]
    half, depth = p // 2, min(rank, p - 1 - rank)
    streams = (range((m + 1) // 2), range((m + 1) // 2, m))
    near, far = (0, 1) if rank < half else (1, 0)
    fed, done = [0, 0], [0, 0]
    steps: list[Step] = []
    late: deque[Pass] = deque()

    def next_forward(direction: int) -> list[Pass]:
        if fed[direction] == len(streams[direction]):
            return []
        fed[direction] += 1
        return [("F", direction, streams[direction][fed[direction] - 1])]

    def next_backward(direction: int, split: bool = False) -> list[Pass]:
        if done[direction] == len(streams[direction]):
            return []
        done[direction] += 1
        j = streams[direction][done[direction] - 1]
        if split:
            late.append(("W", direction, j))
        return [("B" if split else "BW", direction, j)]

    def run(*passes: list[Pass]) -> None:
        step = tuple(one for each in passes for one in each)
        if step:
            steps.append(step)

    def weight_gradient() -> None:
        if late:
            steps.append((late.popleft(),))

    for _ in range(2 * (half - depth - 1)):
        run(next_forward(near))
    for _ in range(depth + 1):
        run(next_forward(near))
        run(next_forward(far))
    for _ in range(half - depth - 1):
        run(next_backward(far, split=True))
        weight_gradient()
        run(next_forward(far))
    for i in range(max(0, (m + 1) // 2 - p + depth + 1)):
        if i == 0 and depth == half - 1:  # the two middle ranks do not overlap their first pair: a smaller bubble
            run(next_forward(near))
            run(next_backward(far))
        else:
            run(next_forward(near), next_backward(far))
        run(next_forward(far), next_backward(near))
    for _ in range(half - depth - 1):
        run(next_backward(far))
        run(next_forward(far), next_backward(near))
    split = False
    for i in range(depth + 1):
        split = split or (i == (depth + 1) // 2 and depth % 2 == 1)
        run(next_backward(far, split))
        split = split or (i == (depth + 1) // 2 and depth % 2 == 0)
        run(next_backward(near, split))
    for _ in range(half - depth - 1):
        weight_gradient()
        run(next_backward(near, split=True))
    while late:
        weight_gradient()
    return steps


_ORDERS: dict[str, Callable[[int, int, int, int], list[Step]]] = {
    "gpipe": _gpipe,
    "1f1b": _one_forward_one_backward,
    "interleaved": _interleaved,
    "zero-bubble": _zero_bubble,
    "dualpipe": _dualpipe,
}
