"""The compiled loop as a :class:`~windtunnel.serving.replica.Replica`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from windtunnel.serving.compiled import fields as f
from windtunnel.serving.compiled import loop
from windtunnel.serving.histogram import BINS
from windtunnel.serving.knots import Ints
from windtunnel.serving.record import Record
from windtunnel.serving.replica import NEVER, Done, Load
from windtunnel.serving.spec import EngineSpec
from windtunnel.serving.step_cost import SPREAD, SQUARE, Floats
from windtunnel.serving.tally import BLOCKED, COLUMNS, FIRST_GAP, SAMPLES, SIZES, Tally

ORDERS = {"fcfs": f.FCFS, "priority": f.SORTED, "shortest": f.SORTED, "fair": f.FAIR}
LARGEST_ITERATION = 1 << 40
"""Tokens of an iteration that the tally's cells have room for."""


class Asked:
    """What the requests of a workload ask and what becomes of them; engines of one kind share it.

    ``times`` [N, Q_SIZE] and ``counts`` [N, S_SIZE]: the compiled loop's view of each request. Clients are numbered
    from 0; ``key``: what queues are sorted by.
    """

    __slots__ = ("clients", "counts", "times")

    def __init__(self, input_tokens: Ints, output_tokens: Ints, client: Ints | None, key: Ints | None) -> None:
        n = len(input_tokens)
        self.times = np.zeros((n, f.Q_SIZE), np.int64)
        self.times[:, f.START : f.FINISH + 1] = -1
        self.counts = np.zeros((n, f.S_SIZE), np.int32)
        self.counts[:, f.W_INPUT], self.counts[:, f.W_OUTPUT] = input_tokens, output_tokens
        self.counts[:, f.W_CLIENT] = 0 if client is None else client
        self.counts[:, f.W_KEY] = 0 if key is None else key
        self.counts[:, f.REPLICA] = -1
        self.clients = 1 if client is None or not n else int(client.max()) + 1

    def record(self, arrival: Ints) -> Record:
        """The record's arrays, which the loop writes to."""
        t, c = self.times, self.counts
        return Record(
            arrival, t[:, f.START], t[:, f.FIRST], t[:, f.FINISH], c[:, f.STATUS], c[:, f.PREEMPTED],
            np.zeros(len(t), np.int64), c[:, f.REPLICA],
        )  # fmt: skip


class CompiledEngine:
    """One engine. ``one_by_one``: never more than one iteration at a time."""

    def __init__(
        self, spec: EngineSpec, arrival: Ints, asked: Asked, *, index: int = 0, one_by_one: bool = False,
        log_size: int = 0,
    ) -> None:  # fmt: skip
        self.spec, self.arrival, self.index = spec, arrival, index
        self.times, self.counts = asked.times, asked.counts
        self.memory, self.reals = _memory(spec, asked, index, one_by_one, log_size)
        self.coming = np.zeros((16, 3), np.int64)
        self._done: list[Done] = []
        loop.clear(self.memory)

    def submit(self, request: int, time: int, progress: int = 0) -> None:
        m, seen = self.memory, time + self.spec.front_ps
        alone = m[f.A_HEAD] == m[f.A_TAIL]
        self._room(1)
        self.coming[m[f.A_TAIL]] = seen, request, progress
        m[f.A_TAIL] += 1
        if alone and self.spec.slots * self.spec.ranks == 1:
            loop.shorten(m, seen)

    def submit_all(self, requests: Ints, times: Ints) -> None:
        """Many at once, in order of time."""
        self._room(len(requests))
        tail = int(self.memory[f.A_TAIL])
        rows = self.coming[tail : tail + len(requests)]
        rows[:, 0], rows[:, 1], rows[:, 2] = times + self.spec.front_ps, requests, 0
        self.memory[f.A_TAIL] += len(requests)

    def _room(self, more: int) -> None:
        m = self.memory
        first, last = int(m[f.A_HEAD]), int(m[f.A_TAIL])
        if last + more <= len(self.coming):
            return
        kept = last - first
        room = (
            self.coming if 2 * (kept + more) <= len(self.coming) else np.zeros((kept + more + kept // 2, 3), np.int64)
        )
        room[:kept] = self.coming[first:last].copy()
        self.coming = room
        m[f.A_HEAD], m[f.A_TAIL] = 0, kept

    def advance(self, until: int) -> None:
        while not self.advance_some(until, 1 << 62):
            pass

    def advance_some(self, until: int, events: int) -> bool:
        """Let time pass until ``until`` or for so many events; whether it got there."""
        ended = int(loop.advance(self.memory, self.reals, self.times, self.counts, self.coming, until, events))
        m = self.memory
        n = int(m[f.DONE])
        if n:
            rows = m[m[f.DONE_AT] : m[f.DONE_AT] + 3 * n].reshape(n, 3)
            self._done += [Done(*row) for row in rows.tolist()]
            m[f.DONE] = 0
        return ended == loop.REACHED

    def bound(self) -> int:
        time, kind, _ = loop.next_event(self.memory, self.coming)
        return int(time) if kind == loop.END or time >= NEVER else int(time) + 1

    def take_done(self) -> Sequence[Done]:
        found, self._done = self._done, []
        return found

    def load(self) -> Load:
        queued, running, owed = loop.load(self.memory, self.counts, self.coming)
        capacity = self.spec.capacity * self.spec.ranks
        return Load(int(queued), int(running), int(owed), int(loop.used(self.memory)) / capacity if capacity else 0.0)

    def prefix_tokens(self, request: int) -> int:
        return 0

    def stop(self, time: int) -> list[int]:
        loop.pass_time(self.memory, self.reals, time)
        found = np.empty(len(self.counts) + len(self.coming), np.int64)
        n = int(loop.held(self.memory, self.counts, self.coming, found))
        loop.stop(self.memory, time)
        return sorted(found[:n].tolist(), key=lambda number: (int(self.arrival[number]), number))

    @property
    def tally(self) -> Tally:
        """What has been counted so far."""
        m, spec = self.memory, self.spec
        made = Tally(spec.most_sequences, len(spec.units), int(m[f.LOG_SIZE]))
        cells = m[m[f.CELLS] : m[f.GAPS]].reshape(-1, int(m[f.COLUMNS]))
        made.cells = {int(i): cells[i].tolist() for i in np.flatnonzero(cells[:, 0])}
        made.gaps = m[m[f.GAPS] : m[f.GAPS] + BINS].tolist()
        made.blocked = m[f.BLOCKED_AT : f.BLOCKED_AT + len(BLOCKED)].tolist()
        made.busy, made.iterations, made.events = int(m[f.BUSY]), int(m[f.ITERATIONS]), int(m[f.EVENTS])
        made.batch_sum, made.batch_max, made.kv_peak = int(m[f.BATCH_SUM]), int(m[f.BATCH_MAX]), int(m[f.KV_PEAK])
        made.kv_integral = float(self.reals[m[f.INTEGRALS] + 1])
        samples = m[m[f.SAMPLES_AT] : m[f.SAMPLES_AT] + 6 * m[f.SAMPLED]].reshape(-1, 6)
        made.samples = [(r[0], r[1], r[2], r[3], r[4], r[5]) for r in samples.tolist()]
        log = m[m[f.LOG_AT] : m[f.LOG_AT] + 7 * m[f.LOGGED]].reshape(-1, 7)
        made.log = [tuple(row) for row in log.tolist()]
        return made

    @property
    def queue_integral(self) -> float:
        """Request seconds in the engine."""
        return float(self.reals[self.memory[f.INTEGRALS]])

    @property
    def clock(self) -> int:
        """Picoseconds to which it has been advanced."""
        return int(self.memory[f.CLOCK])

    @property
    def in_system(self) -> int:
        """Requests that wait or have a place."""
        return int(self.memory[f.IN_SYSTEM])

    @property
    def owed(self) -> int:
        """Tokens still to be computed."""
        return int(self.memory[f.OWED])


def _memory(spec: EngineSpec, asked: Asked, index: int, one_by_one: bool, log_size: int) -> tuple[Ints, Floats]:
    """(the engine's memory, its fractions)."""
    cost, p = spec.cost, np.zeros(f.Z_SIZE, np.int64)
    for at, value in _plain(spec, asked, index, one_by_one, log_size).items():
        p[at] = int(value)
    views, lanes = len(spec.units), spec.slots * spec.ranks
    _lane_buffers(p, views, spec, asked)
    cells = spec.most_sequences + 1 + SIZES.index(LARGEST_ITERATION)
    room = lanes * (spec.most_sequences + 1) + 4096
    p[f.COLUMNS], p[f.DONE_ROOM], p[f.GAP] = COLUMNS + 3 * views, room, FIRST_GAP

    def space(size: int) -> Ints:
        return np.zeros(int(size), np.int64)

    parts: dict[int, Ints] = {
        f.SLOTS_AT: space(spec.slots * f.SL_SIZE), f.LANES: space(lanes * p[f.LANE_SIZE]),
        f.POOLS: space(2 * spec.ranks), f.BASE: cost.base, f.HEAD: cost.head, f.SENDS: cost.sends,
        f.SCHEDULE: cost.schedule, f.COPIES: cost.copies, f.ISSUE: cost.issue, f.DECODE: cost.decode,
        f.WINDOWS: np.array(cost.windows, np.int64), f.UNITS: np.array(spec.units, np.int64),
        f.STOPS: np.array(spec.stops, np.int64), f.CELLS: space(cells * p[f.COLUMNS]), f.GAPS: space(BINS),
        f.SAMPLES_AT: space(6 * (SAMPLES + 1)), f.LOG_AT: space(7 * log_size), f.DONE_AT: space(3 * room),
    }  # fmt: skip
    at = len(p)
    for name, part in parts.items():
        p[name], at = at, at + part.size
    fractions: dict[int, Floats] = {
        f.INTEGRALS: np.zeros(2), f.SWAP_S: np.array([spec.swap_s]), f.WAVES: cost.waves, f.PROMPT: cost.prompt,
        f.APART: cost.apart, f.SPREAD: SQUARE if cost.eager else SPREAD,
    }  # fmt: skip
    at = 0
    for name, fraction in fractions.items():
        p[name], at = at, at + fraction.size
    if not cost.apart.size:
        p[f.APART] = -1
    memory = np.concatenate([p, *(np.ascontiguousarray(part).reshape(-1) for part in parts.values())])
    return memory, np.concatenate([np.ascontiguousarray(part).reshape(-1) for part in fractions.values()])


def _plain(spec: EngineSpec, asked: Asked, index: int, one_by_one: bool, log_size: int) -> dict[int, int]:
    """The parameters that are numbers of their own."""
    cost, rules = spec.cost, spec.rules
    return {
        f.BUDGET: spec.budget, f.SEQS: spec.most_sequences, f.SLOTS: spec.slots, f.RANKS: spec.ranks,
        f.BLOCK: spec.block, f.VIEWS: len(spec.units), f.STATE: spec.state_units, f.CAPACITY: spec.capacity,
        f.WATERMARK: spec.watermark, f.RESERVE: spec.reserve_output, f.LONGEST: spec.longest, f.SWAP: spec.swap_units,
        f.FRONT: spec.front_ps, f.DELAYED: spec.delayed, f.MAX_QUEUE: spec.max_queue, f.TIMEOUT: spec.timeout_ps,
        f.MIXED: rules.mixed, f.CUT: rules.cut, f.LIMITED: rules.limited, f.GATED: rules.gated,
        f.PADDED: rules.padded, f.ORDER: ORDERS[rules.order], f.CLIENTS: asked.clients, f.INDEX: index,
        f.ONE_BY_ONE: one_by_one, f.LOG_SIZE: log_size, f.DECODE_CELLS: spec.most_sequences + 1,
        f.GROUPS: len(cost.copies), f.STRETCH: cost.mixed, f.OVERLAPPED: cost.overlapped, f.EAGER: cost.eager,
        f.DEPTH: cost.prompt.shape[4], f.BASE_ROWS: cost.base.shape[1], f.BASE_COLUMNS: cost.base.shape[2],
        f.DECODE_ROWS: cost.decode.shape[2], f.DECODE_POINTS: cost.decode.shape[3],
        f.WAVE_LENGTH: cost.waves.shape[2], f.PROMPT_ROWS: cost.prompt.shape[2],
        f.PROMPT_COLUMNS: cost.prompt.shape[3],
    }  # fmt: skip


def _lane_buffers(p: Ints, views: int, spec: EngineSpec, asked: Asked) -> None:
    """Where a lane's buffers begin, from where the lane does."""
    places = spec.most_sequences
    p[f.ENDS_ROOM], p[f.GROUPS_ROOM], p[f.BENDS_ROOM] = 2 * places + 16, 2 * places + 16, 2 * views * places + 16
    sizes = {
        f.B_CONTEXTS: views, f.B_CLIMBS: views, f.B_PAIRS: views, f.B_KEYS: views, f.B_BUCKETS: views * spec.block,
        f.B_GROUPS: 2 * p[f.GROUPS_ROOM], f.B_PIECES: 2 * (places + 1), f.B_ENDS: 2 * p[f.ENDS_ROOM],
        f.B_BENDS: 2 * p[f.BENDS_ROOM], f.B_SHARES: asked.clients, f.B_COUNTERS: asked.clients,
        f.B_HEADS: asked.clients, f.B_TAILS: asked.clients,
        f.B_HEAP: 2 * (len(asked.counts) + 1) if p[f.ORDER] == f.SORTED else 0,
    }  # fmt: skip
    at = f.LN_SIZE
    for name, size in sizes.items():
        p[name], at = at, at + int(size)
    p[f.LANE_SIZE] = at
