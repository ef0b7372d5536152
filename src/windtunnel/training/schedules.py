"""Pipeline schedules: how long a step of uneven stages takes, and how many micro-batches each stage holds.

Every length is one array formula that serves floats and arrays alike; tests hold it to the explicit ``layout``. With
p equal stages without sends, F, B and W the times of a stage's forward pass and of its two gradients, and ``F&B`` a
forward and a full backward pass run together, what exceeds m·(F + B + W) is

    gpipe         (p − 1)(F + B + W)                    arXiv 1811.06965, section 2.3
    1f1b          (p − 1)(F + B + W)                    arXiv 2104.04473, section 2.2
    interleaved   (p − 1)(F + B + W)/v                  arXiv 2104.04473, section 2.2
    zero-bubble   (p − 1)(F + B − W), if W ≤ F          arXiv 2401.10241, section 2.2 (ZB-H1)
    dualpipe      (p/2 − 1)(F&B + B − 2W)               arXiv 2412.19437, table 2 (whose B is B + W here), if F = B

Sends. In Megatron-LM's non-interleaved 1F1B and in DeepSeek's DualPipe a rank waits for its sends before it goes on,
so a send holds the sender and delays the receiver. GPipe, interleaved 1F1B (with overlapped point-to-point
communication) and the zero-bubble runtime post a send and go on: it only delays the receiver, and can hide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from windtunnel.errors import unknown
from windtunnel.ops.pipeline import Schedule, StageTimes
from windtunnel.ops.values import Value, minimum, where
from windtunnel.training.alternating import alternating_length
from windtunnel.training.bounds import alternating_least, dualpipe_least, zero_bubble_least
from windtunnel.training.dualpipe import dualpipe_length
from windtunnel.training.stages import Stages
from windtunnel.training.zero_bubble import zero_bubble_length


@dataclass(frozen=True, slots=True)
class GPipe:
    """All forward, then all backward passes. Every activation of the step is held."""

    name: str = "gpipe"
    overlaps: bool = False

    def length(self, stages: tuple[StageTimes, ...], micro_batches: Value, virtual_stages: Value = 1) -> Value:
        """Two flows through the stages, one after the other, each Σ t + (m − 1)·max t plus the sends; exact.

        Raises:
            ScenarioError: no stages, or less than one micro-batch.
        """
        st = Stages(stages, micro_batches, 1.0)
        p, m = st.p, st.m
        backward = [b + w for b, w in zip(st.backward, st.weight, strict=True)]
        sends = st.below(st.send, p)
        turn = st.below(st.forward, p) + (m - 1) * st.largest(st.forward, 0, p - 1) + sends - st.at(st.send, p - 1)
        total = np.zeros(st.shape)
        for count, e, epilogue in zip(st.counts, st.starts, st.epilogue, strict=True):
            back = st.below(backward, p) - st.below(backward, e) + (m - 1) * st.largest(backward, e, p - 1)
            back = back + sends - st.below(st.send, e) - st.at(st.send, e)
            total = np.maximum(total, np.where(count > 0, turn + back + epilogue, 0.0))
        return st.answer(total)

    def least(self, stages: tuple[StageTimes, ...], micro_batches: Value, virtual_stages: Value = 1) -> Value:
        """The length itself, which takes no longer."""
        return self.length(stages, micro_batches)

    def in_flight(self, stage: Value, stages: Value, micro_batches: Value, virtual_stages: Value = 1) -> Value:
        """m, at every stage."""
        return micro_batches + 0.0 * stage


@dataclass(frozen=True, slots=True)
class OneForwardOneBackward:
    """1F1B with a flush (PipeDream-Flush), as Megatron-LM runs it."""

    name: str = "1f1b"
    overlaps: bool = False

    def length(self, stages: tuple[StageTimes, ...], micro_batches: Value, virtual_stages: Value = 1) -> Value:
        """See ``training.alternating``; no difference from the layout was found.

        Raises:
            ScenarioError: no stages, or less than one micro-batch.
        """
        return alternating_length(stages, micro_batches, 1.0)

    def least(self, stages: tuple[StageTimes, ...], micro_batches: Value, virtual_stages: Value = 1) -> Value:
        """See ``training.bounds``."""
        return alternating_least(stages, micro_batches, 1.0)

    def in_flight(self, stage: Value, stages: Value, micro_batches: Value, virtual_stages: Value = 1) -> Value:
        """min(m, p − stage) (arXiv 2104.04473, section 2.2)."""
        return minimum(micro_batches, stages - stage)


@dataclass(frozen=True, slots=True)
class Interleaved:
    """Interleaved 1F1B, v chunks of the model a rank; with v = 1 it is 1F1B. Micro-batches: a multiple of p."""

    name: str = "interleaved"
    overlaps: bool = False

    def length(self, stages: tuple[StageTimes, ...], micro_batches: Value, virtual_stages: Value = 1) -> Value:
        """See ``training.alternating``; no difference from the layout was found for sends shorter than a chunk's pass.

        The schedule itself needs m ≤ p or a multiple of p; the formula does not mind.

        Raises:
            ScenarioError: no stages, or less than one micro-batch or virtual stage.
        """
        return alternating_length(stages, micro_batches, virtual_stages)

    def least(self, stages: tuple[StageTimes, ...], micro_batches: Value, virtual_stages: Value = 1) -> Value:
        """See ``training.bounds``."""
        return alternating_least(stages, micro_batches, virtual_stages)

    def in_flight(self, stage: Value, stages: Value, micro_batches: Value, virtual_stages: Value = 1) -> Value:
        """(2(p − 1 − stage) + (v − 1)p + 1)/v, at most m.

        For stage 0 it is p(1 + (p − 1)/(pv)), as in arXiv 2205.05198, section 4.2.3. With v = 1 as 1F1B.
        """
        v = virtual_stages
        chunks = 2 * (stages - 1 - stage) + (v - 1) * stages + 1
        single = np.asarray(v == 1)
        held = where(single if single.ndim else bool(single), stages - stage, chunks / v)
        return minimum(micro_batches, held)


@dataclass(frozen=True, slots=True)
class ZeroBubble:
    """ZB-H1: weight gradients apart from the rest, late ones fill the end; no rank holds more than 1F1B's first."""

    name: str = "zero-bubble"
    overlaps: bool = False

    def length(self, stages: tuple[StageTimes, ...], micro_batches: Value, virtual_stages: Value = 1) -> Value:
        """See ``training.zero_bubble``; at most 2 % below the layout for m ≥ p.

        Raises:
            ScenarioError: no stages, or less than one micro-batch.
        """
        return zero_bubble_length(stages, micro_batches)

    def least(self, stages: tuple[StageTimes, ...], micro_batches: Value, virtual_stages: Value = 1) -> Value:
        """See ``training.bounds``."""
        return zero_bubble_least(stages, micro_batches)

    def in_flight(self, stage: Value, stages: Value, micro_batches: Value, virtual_stages: Value = 1) -> Value:
        """min(m, p) at every stage: activations are held until the weight gradient (arXiv 2401.10241, section 2.1)."""
        return minimum(micro_batches, stages + 0.0 * stage)


@dataclass(frozen=True, slots=True)
class DualPipe:
    """Bidirectional: a rank holds two stages' weights, and overlaps a forward with a backward pass. p even, m ≥ 2p."""

    name: str = "dualpipe"
    overlaps: bool = True

    def length(self, stages: tuple[StageTimes, ...], micro_batches: Value, virtual_stages: Value = 1) -> Value:
        """See ``training.dualpipe``; at most 2 % below the layout for m ≥ 2p.

        ``stages`` are the p stages of the model, as for the other schedules. Rank r runs stages r and p − 1 − r for
        half of the micro-batches each, and the epilogues of both.

        Raises:
            ScenarioError: no stages, an odd number of them above 1, or less than one micro-batch.
        """
        return dualpipe_length(stages, micro_batches)

    def least(self, stages: tuple[StageTimes, ...], micro_batches: Value, virtual_stages: Value = 1) -> Value:
        """See ``training.bounds``."""
        return dualpipe_least(stages, micro_batches)

    def in_flight(self, stage: Value, stages: Value, micro_batches: Value, virtual_stages: Value = 1) -> Value:
        """min(m, p + 1) on every rank, of both directions together (arXiv 2412.19437, table 2); 1 for p = 1."""
        one = np.asarray(stages == 1)
        held = where(one if one.ndim else bool(one), 1.0, stages + 1)
        return minimum(micro_batches, held + 0.0 * stage)


SCHEDULES: dict[str, Schedule] = {
    s.name: s for s in (GPipe(), OneForwardOneBackward(), Interleaved(), ZeroBubble(), DualPipe())
}
"""The schedules by name."""


def get_schedule(name: str) -> Schedule:
    """The schedule of that name.

    Raises:
        ScenarioError: unknown name.
    """
    if name not in SCHEDULES:
        raise unknown("schedule", name, SCHEDULES)
    return SCHEDULES[name]
