"""One engine in numbers: all that an event loop needs to know of model, machine, engine and plan."""

from __future__ import annotations

from dataclasses import dataclass, field

from windtunnel.serving.rules import Rules
from windtunnel.serving.step_cost import StepCost

NO_LIMIT = (1 << 62) - 1


@dataclass(frozen=True, slots=True, eq=False)
class EngineSpec:
    """``cost``: its price list. ``budget``: tokens of an iteration; ``most_sequences``: places of a lane. A lane is
    one of ``ranks`` attention-data-parallel ranks, which step together, in one of ``slots`` batches that take turns in
    the pipeline.

    KV cache, in units (bytes) of one rank's pool of ``capacity``, shared by its slots: a sequence of c tokens holds
    ``state_units`` and, for each view of the context, ``units`` for each of ceil(min(c, stop) / block) blocks.
    ``watermark``: units left free when a request is admitted. ``reserve_output``: the whole answer's at admission.
    ``longest``: tokens of prompt and answer. ``swap_units``: room in host memory (0: recompute), ``swap_s``: seconds a
    unit, one way. ``front_ps``: from a request's arrival to the engine's queue. ``delayed``: what comes while an
    iteration is prepared takes part one later (asynchronous scheduling). ``max_queue``, ``timeout_ps``: requests that
    may wait, and for how long. ``prefix_tokens``: tokens of a block of the prefix cache (0: there is none);
    ``prefix_units``: its size, with all that its layers keep of these tokens
    (:mod:`~windtunnel.serving.sharing`); ``least_used``: blocks used least often are evicted first, not those used
    least recently.
    """

    cost: StepCost
    rules: Rules
    budget: int
    most_sequences: int
    slots: int
    ranks: int
    block: int
    units: tuple[int, ...]
    stops: tuple[int, ...]
    state_units: int
    capacity: int
    watermark: int = 0
    reserve_output: bool = False
    longest: int = NO_LIMIT
    swap_units: int = 0
    swap_s: float = 0.0
    front_ps: int = 0
    delayed: bool = False
    max_queue: int = NO_LIMIT
    timeout_ps: int = NO_LIMIT
    prefix_tokens: int = 0
    prefix_units: int = 0
    least_used: bool = False
    views: tuple[tuple[int, int], ...] = field(init=False, repr=False)
    """(units, stop) of each view."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "views", tuple(zip(self.units, self.stops, strict=True)))

    def held(self, tokens: int) -> int:
        """Units of a sequence of ``tokens``."""
        total, block = self.state_units, self.block
        for unit, stop in self.views:
            total += unit * -(-(tokens if tokens < stop else stop) // block)
        return total

    def too_long(self, input_tokens: int, output_tokens: int) -> bool:
        """Whether a request can never be served: its context exceeds what is allowed or what an empty cache holds."""
        last = input_tokens + output_tokens - 1
        return last + 1 > self.longest or self.held(last) > self.capacity


def seen(tokens: int, window: int) -> int:
    """How many of ``tokens`` the last one attends to: all (0), the last ``window``, or those of its chunk (< 0)."""
    if window == 0:
        return tokens
    return min(tokens, window) if window > 0 else (tokens - 1) % -window + 1


def pairs_and_keys(new: int, before: int, window: int) -> tuple[int, int]:
    """(query-key pairs, keys read) of ``new`` prompt tokens after ``before`` (``scenario.batch.causal_pairs``)."""
    if window == 0:
        return new * before + new * (new + 1) // 2, before + new
    if window < 0:
        size = -window
        return _in_chunks(before + new, size) - _in_chunks(before, size), new - 1 + seen(before + 1, window)
    ramp = min(max(window - before, 0), new)
    return ramp * before + ramp * (ramp + 1) // 2 + (new - ramp) * window, new - 1 + min(before + 1, window)


def _in_chunks(tokens: int, size: int) -> int:
    rest = tokens % size
    return (tokens - rest) * (size + 1) // 2 + rest * (rest + 1) // 2
