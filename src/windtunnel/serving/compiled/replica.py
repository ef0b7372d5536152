"""The compiled loop as a :class:`~windtunnel.serving.replica.Replica`."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from windtunnel.serving.compiled import library
from windtunnel.serving.compiled.build import PROMPT_CELLS
from windtunnel.serving.compiled.library import LoadNow, Prices, Settings, State
from windtunnel.serving.histogram import BINS
from windtunnel.serving.knots import Ints
from windtunnel.serving.outcome import PS
from windtunnel.serving.record import Record
from windtunnel.serving.replica import Done, Load
from windtunnel.serving.spec import EngineSpec
from windtunnel.serving.step_cost import SPREAD, SQUARE, Floats, StepCost
from windtunnel.serving.tally import BLOCKED, Tally

ORDERS = {"fcfs": library.FCFS, "priority": library.SORTED, "shortest": library.SORTED, "fair": library.FAIR}
ROW = np.dtype(library.Request)
WHOLE = np.iinfo(np.int32)
PIECE = 1 << 20
"""Events before an interrupt is listened to: some tenths of a second."""


class Asked:
    """What the requests of a workload ask and what becomes of them: 104 bytes each, shared by engines of one kind.

    ``rows`` [N]: the compiled loop's view of each request. ``input_tokens``, ``output_tokens`` [N]: below 2^31.
    ``client`` [N], numbered from 0, for fair shares; ``key`` [N]: what the queue is sorted by, smaller first.
    """

    __slots__ = ("clients", "rows")

    def __init__(self, input_tokens: Ints, output_tokens: Ints, client: Ints | None, key: Ints | None) -> None:
        rows = self.rows = np.zeros(len(input_tokens), ROW)
        for name in ("start", "first", "finish", "replica", "last_token"):
            rows[name] = -1
        rows["input_tokens"], rows["output_tokens"] = _small(input_tokens), _small(output_tokens)
        if client is not None:
            rows["client"] = client
        if key is not None:
            # Only the order counts.
            rows["key"] = key if _fits(key) else np.unique(key, return_inverse=True)[1]
        self.clients = int(rows["client"].max(initial=0)) + 1

    def record(self, arrival: Ints) -> Record:
        """The record's arrays, which the loop writes to."""
        rows = self.rows
        cached = np.zeros(len(rows), np.int64)
        return Record(
            arrival, rows["start"], rows["first"], rows["finish"], rows["status"], rows["preempted"], cached,
            rows["replica"],
        )  # fmt: skip


def _fits(values: Ints) -> bool:
    return not len(values) or (int(values.min()) >= WHOLE.min and int(values.max()) <= WHOLE.max)


def _small(tokens: Ints) -> Ints:
    if not _fits(tokens):
        raise ValueError(f"the compiled loop takes requests of up to {WHOLE.max} tokens, not {int(tokens.max())}")
    return tokens


class CompiledEngine:
    """One engine. ``one_by_one``: never more than one iteration at a time. ``keep_done``: collect what leaves, for
    :meth:`take_done`; where nobody asks, that only costs memory.

    Raises:
        ScenarioError: there is no C compiler (:func:`.library.load`).
        ValueError: an engine with a prefix cache, which only the plain-Python loop has.
        MemoryError: there is not enough.
    """

    def __init__(
        self, spec: EngineSpec, arrival: Ints, asked: Asked, *, index: int = 0, one_by_one: bool = False,
        log_size: int = 0, keep_done: bool = True,
    ) -> None:  # fmt: skip
        if spec.prefix_tokens:
            raise ValueError("the compiled loop has no prefix cache")
        self.spec, self.arrival, self.index = spec, arrival, index
        self._library = library.load()
        self._asked, self._tables = asked, _Tables(spec.cost)
        settings = _settings(spec, asked, self._tables)
        settings.index, settings.one_by_one = index, one_by_one
        settings.log_size, settings.keep_done = log_size, keep_done
        self._engine = self._library.wt_new(settings, asked.rows.ctypes.data)
        if not self._engine:
            raise MemoryError("no memory for an engine")
        self._log_size = log_size
        self._state = State.from_address(self._engine)
        self._load = LoadNow()
        weakref.finalize(self, self._library.wt_free, self._engine)

    def submit(self, request: int, time: int, progress: int = 0) -> None:
        if not self._library.wt_submit_one(self._engine, int(request), int(time), int(progress)):
            raise MemoryError("no memory for an arrival")

    def submit_all(self, requests: Ints, times: Ints) -> None:
        """Many at once, in order of time."""
        numbers, at = (np.ascontiguousarray(a, np.int64) for a in (requests, times))
        if not self._library.wt_submit(self._engine, len(numbers), numbers.ctypes.data, at.ctypes.data, 0):
            raise MemoryError(f"no memory for {len(numbers)} arrivals")

    def advance(self, until: int) -> None:
        while not self.advance_some(until, PIECE):
            pass

    def advance_some(self, until: int, events: int) -> bool:
        """Let time pass until ``until`` or for so many events; whether it got there."""
        ended = self._library.wt_advance(self._engine, until, events)
        if ended == library.FAILED:
            if self._library.wt_failure(self._engine) == library.NO_MEMORY:
                raise MemoryError("no memory for the compiled loop")
            raise IndexError("an iteration is larger than the price list")
        return bool(ended == library.REACHED)

    def bound(self) -> int:
        return int(self._library.wt_bound(self._engine))

    def take_done(self) -> Sequence[Done]:
        state = self._state
        if not state.done_length:
            return []
        rows = _view(state.done, 3 * state.done_length).reshape(-1, 3).tolist()
        state.done_length = 0
        return [Done(*row) for row in rows]

    def load(self) -> Load:
        now = self._load
        self._library.wt_load(self._engine, now)
        capacity = self.spec.capacity * self.spec.ranks
        return Load(now.queued, now.running, now.tokens, now.used / capacity if capacity else 0.0)

    def prefix_tokens(self, request: int) -> int:
        return 0

    def settle(self) -> None:
        """Count what has ended by now of a stretch under way, as if its iterations had been advanced one by one."""
        self._library.wt_settle(self._engine)

    def stop(self, time: int) -> list[int]:
        self._library.wt_pass(self._engine, time)
        self.settle()
        self._library.wt_load(self._engine, self._load)
        found = np.empty(self._load.queued + self._load.running, np.int64)
        n = self._library.wt_held(self._engine, found.ctypes.data)
        self._library.wt_stop(self._engine, time)
        return sorted(found[:n].tolist(), key=lambda number: (int(self.arrival[number]), number))

    @property
    def tally(self) -> Tally:
        """What has been counted so far."""
        counts, spec = self._state.tally, self.spec
        made = Tally(spec.most_sequences, len(spec.units), self._log_size)
        for first, name, rows in (
            (0, counts.decode_cells, counts.decode_rows),
            (made.decode_cells, counts.prompt_cells, PROMPT_CELLS),
        ):
            cells = _view(name, rows * counts.columns).reshape(rows, counts.columns)
            made.cells |= {first + int(i): cells[i].tolist() for i in np.flatnonzero(cells[:, 0])}
        gaps = self.gaps
        for i in np.flatnonzero(gaps).tolist():
            made.gaps[i] = int(gaps[i])
        for field in ("busy", "iterations", "events", "batch_sum", "batch_max", "kv_peak", "kv_integral"):
            setattr(made, field, int(getattr(counts, field)))
        made.blocked = list(counts.blocked[: len(BLOCKED)])
        made.gap, made.next_sample = counts.gap, counts.next_sample
        samples = _view(counts.samples, 6 * counts.sampled).reshape(-1, 6)
        made.samples = [(r[0], r[1], r[2], r[3], r[4], r[5]) for r in samples.tolist()]
        made.log = [tuple(row) for row in _view(counts.log, 7 * counts.logged).reshape(-1, 7).tolist()]
        return made

    @property
    def gaps(self) -> Ints:
        """Of the tally, as the array that the loop counts in."""
        return _view(self._state.tally.gaps, BINS)

    @property
    def queue_integral(self) -> float:
        """Request seconds in the engine."""
        return int(self._state.queue_integral) / PS

    @property
    def clock(self) -> int:
        """Picoseconds to which it has been advanced."""
        return int(self._state.clock)

    @property
    def in_system(self) -> int:
        """Requests that wait or have a place."""
        return int(self._state.in_system)

    @property
    def owed(self) -> int:
        """Tokens still to be computed."""
        return int(self._state.owed)

    @property
    def completed(self) -> int:
        """Requests that have had all their tokens."""
        return int(self._state.completed)

    @property
    def produced(self) -> int:
        """Output tokens so far."""
        return int(self._state.produced)

    @property
    def peak(self) -> int:
        """The most cache of a rank in use at the end of an iteration, in units."""
        return int(self._state.tally.kv_peak)


def _view(address: int | None, size: int) -> Ints:
    """[size] whole numbers in C's memory."""
    if not address or not size:
        return np.empty(0, np.int64)
    return np.ctypeslib.as_array((ctypes.c_int64 * size).from_address(address))


class _Tables:
    """A price list's arrays as C reads them, kept as long as an engine needs them."""

    __slots__ = (
        "apart", "base", "copies", "decode", "ends", "head", "issue", "prompt", "schedule", "sends", "spread", "waves",
    )  # fmt: skip

    def __init__(self, cost: StepCost) -> None:
        for name in ("base", "copies", "decode", "ends", "head", "issue", "schedule", "sends"):
            setattr(self, name, np.ascontiguousarray(getattr(cost, name), np.int64))
        for name in ("apart", "prompt", "waves"):
            setattr(self, name, np.ascontiguousarray(getattr(cost, name), np.float64))
        self.spread: Floats = SQUARE if cost.eager else SPREAD

    def prices(self, cost: StepCost) -> Prices:
        made = Prices(
            groups=len(cost.copies), base_rows=cost.base.shape[1], base_columns=cost.base.shape[2],
            head_points=min(len(cost.head), len(cost.schedule)), decode_rows=cost.decode.shape[2],
            decode_points=cost.decode.shape[3], wave_points=cost.waves.shape[2], prompt_rows=cost.prompt.shape[2],
            prompt_columns=cost.prompt.shape[3], spread_points=cost.prompt.shape[4], mixed=cost.mixed,
            overlapped=cost.overlapped, eager=cost.eager, by_decodes=cost.by_decodes,
        )  # fmt: skip
        for name in self.__slots__:
            table: NDArray[np.generic] = getattr(self, name)
            setattr(made, name, table.ctypes.data if table.size else None)
        return made


def _settings(spec: EngineSpec, asked: Asked, tables: _Tables) -> Settings:
    """``struct settings``; the views' rules are copied when the engine is made."""
    rules = spec.rules
    views = np.array(list(zip(spec.cost.windows, spec.stops, spec.units, strict=True)), np.int64)
    made = Settings(
        prices=tables.prices(spec.cost), rules=views.ctypes.data, views=len(views), budget=spec.budget,
        most_sequences=spec.most_sequences, slots=spec.slots, ranks=spec.ranks, block=spec.block,
        state_units=spec.state_units, capacity=spec.capacity, watermark=spec.watermark, longest=spec.longest,
        swap_units=spec.swap_units, front=spec.front_ps, max_queue=spec.max_queue, timeout=spec.timeout_ps,
        clients=asked.clients, order=ORDERS[rules.order], mixed=rules.mixed, cut=rules.cut, limited=rules.limited,
        gated=rules.gated, padded=rules.padded, reserve_output=spec.reserve_output, delayed=spec.delayed,
        swap_s=spec.swap_s,
    )  # fmt: skip
    made.kept = views
    return made
