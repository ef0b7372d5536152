"""Memory and time of all plans of a chunk: the trees of ``train``, priced with arrays for sizes.

Layers are built and priced once for all chunks that have them in common. The length of a pipeline is laid out exactly
for the plans that a bound from below does not rule out (see :mod:`windtunnel.planning.train.keep`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from windtunnel.cost import Runtime, load_calibration, make_pricer
from windtunnel.cost.calibration import Calibration
from windtunnel.cost.energy import at_work, drawn_j
from windtunnel.cost.runtime import runtime_of
from windtunnel.cost.sustained import at_power
from windtunnel.errors import ScenarioError
from windtunnel.ops.fold import Totals
from windtunnel.ops.op import Op, Price
from windtunnel.ops.pipeline import Schedule, StageTimes
from windtunnel.ops.values import Array, Value
from windtunnel.parallel.step import Step, training_step
from windtunnel.planning.export.writer import Rule
from windtunnel.planning.train.axes import Axes
from windtunnel.planning.train.grid import HOST, MEMORY, NAMES, SAME, Grid, Key, Mask, Refused, along, make_grid
from windtunnel.planning.train.group import Cells, Group
from windtunnel.planning.train.steps import Layers, Priced, remembering
from windtunnel.scenario.checks import has_experts
from windtunnel.scenario.engines import TrainEngine
from windtunnel.scenario.layout import Layout
from windtunnel.scenario.options import TrainOptions, read_options
from windtunnel.scenario.plan import TrainPlan
from windtunnel.scenario.registry import techniques_of
from windtunnel.scenario.train import TrainScenario, plain_scenario, with_rewritten_step
from windtunnel.training.memory import host_bytes, stage_memory
from windtunnel.training.schedules import get_schedule


class Pricer:
    """Prices chunk after chunk of one question."""

    def __init__(self, axes: Axes, rules: Sequence[Rule] = ()) -> None:
        self.axes = axes
        self.rules = rules
        self.cluster = axes.cluster
        self.calibration: Calibration = load_calibration(self.cluster.accelerator, axes.options.calibration)
        self.capacity = float(self.cluster.accelerator.hbm.capacity_bytes)
        self._price: dict[Runtime, Callable[[Op], Price]] = {}
        self._layers: dict[object, Layers] = {}

    def groups(self, key: Key, refused: Refused) -> Iterator[Group]:
        """The chunk's plans by ZeRO stage and schedule. What is not legal, or does not fit, is counted."""
        axes = self.axes
        schedules = self._schedules(key)
        sharded = sum(len(axes.hsdp) if z == 3 else 1 for z in axes.zero)
        chunks = sum(len(v) for _, v in schedules)
        grid = make_grid(axes, key, sharded * chunks, refused)
        if not grid.legal.any():
            return
        base, grid = self._with_techniques(self._scenario(key, grid), grid, sharded * chunks, refused)
        if not grid.legal.any():
            return
        for zero in axes.zero:
            legal, hsdp, groups = self._sharding(grid, zero, chunks, refused)
            if legal.any():
                yield from self._of_zero(key, base, grid, zero, legal, hsdp, groups, schedules, refused)

    def _schedules(self, key: Key) -> list[tuple[str, tuple[int, ...]]]:
        """(schedule, virtual stages) to try; with one stage all schedules are the same."""
        axes, asked = self.axes, self.axes.schedule
        plain = 1 in axes.virtual_stages
        if key.pp == 1:
            first = "1f1b" if "1f1b" in asked else asked[0]
            return [(first, (1,))] if plain else []
        result = []
        for name in asked:
            if name == "interleaved":
                several = tuple(v for v in axes.virtual_stages if v * key.pp <= axes.network.layers)
                several = tuple(v for v in several if v > 1 or "1f1b" not in asked)
                if several:
                    result.append((name, several))
            elif plain and not (name == "dualpipe" and key.pp % 2):
                result.append((name, (1,)))
        return result

    def _sharding(
        self, grid: Grid, zero: int, others: int, refused: Refused
    ) -> tuple[Mask, Array | None, tuple[int | None, ...]]:
        """(legal plans, sizes of the groups that share model states, what they are called) of a ZeRO stage."""
        axes, ranks = self.axes, grid.dp * grid.cp
        if zero != 3:
            legal = grid.legal
            if not has_experts(axes.network) and zero != axes.zero[0]:
                legal = refused.strike(legal, np.asarray(ranks > 1), SAME, others)
            return legal, None, (None,)
        sizes = [-1.0 if size is None else float(size) for size in axes.hsdp]
        size = along("hsdp", sizes)
        legal = grid.legal
        if not has_experts(axes.network) and zero != axes.zero[0]:
            legal = refused.strike(legal, ranks > 1, SAME, others * len(sizes))
        legal = refused.strike(
            legal, (size < 0) | ((size <= ranks) & (ranks % np.abs(size) == 0)),
            "hsdp does not divide the data-parallel ranks", others,
        )  # fmt: skip
        if None in axes.hsdp:
            legal = refused.strike(legal, size != ranks, SAME, others)
        if sizes == [-1.0]:
            return legal, None, (None,)
        divides = (size > 0) & (size <= ranks) & (ranks % np.abs(size) == 0)
        return legal, np.where(divides, size, ranks), axes.hsdp

    def _scenario(self, key: Key, grid: Grid) -> TrainScenario:
        """``train``'s own reading of the chunk, taken at its first legal plan."""
        at = np.unravel_index(int(np.argmax(grid.legal)), grid.legal.shape)

        def value(array: Value) -> int:
            array = np.asarray(array)
            return int(array[tuple(i if n > 1 else 0 for i, n in zip(at, array.shape, strict=True))])

        sizes = {name: value(getattr(grid, name)) for name in ("tp", "cp", "dp", "ep", "etp", "micro_batch")}
        if not has_experts(self.axes.network):
            sizes.pop("etp")
        fields = {"precision": key.precision, "offload": key.offload, "sequence_parallel": key.sequence_parallel}
        asked = {**self.axes.fixed(), **sizes, **fields, "pp": key.pp, "recompute": key.recompute}
        return plain_scenario(read_options(TrainOptions, asked))

    def _with_techniques(
        self, base: TrainScenario, grid: Grid, others: int, refused: Refused
    ) -> tuple[TrainScenario, Grid]:
        """The chunk with the step as techniques rewrite it at its first plan that none of them refuses; plans that one
        does are not legal."""
        used = techniques_of(base.options, "train")
        if not used:
            return base, grid
        names = ("tp", "cp", "dp", "ep", "etp", "micro_batch")
        sizes = np.broadcast_arrays(grid.legal, *(getattr(grid, name) for name in names))[1:]
        legal, first = grid.legal.copy(), None
        for at in np.argwhere(grid.legal):
            where = tuple(at)
            *degrees, micro = (int(each[where]) for each in sizes)
            layout = Layout(pp=base.plan.layout.pp, **dict(zip(names, degrees, strict=False)))
            try:
                found = with_rewritten_step(
                    replace(base, plan=replace(base.plan, layout=layout, micro_batch=micro))
                )  # fmt: skip
            except ScenarioError:
                legal[where] = False
            else:
                first = found if first is None else first
        struck = int(np.count_nonzero(grid.legal) - np.count_nonzero(legal))
        refused.add(f"refused by {' or '.join(t.name for t in used)}", struck * others)
        return first or base, replace(grid, legal=legal)

    def _of_zero(
        self, key: Key, base: TrainScenario, grid: Grid, zero: int, legal: Mask, hsdp: Array | None,
        groups: tuple[int | None, ...], schedules: list[tuple[str, tuple[int, ...]]], refused: Refused,
    ) -> Iterator[Group]:  # fmt: skip
        plan = replace(
            base.plan,
            layout=Layout(tp=grid.tp, pp=key.pp, dp=grid.dp, cp=grid.cp, ep=grid.ep, etp=grid.etp),
            micro_batch=grid.micro_batch, zero=zero, hsdp=hsdp, sequence_parallel=key.sequence_parallel,
        )  # fmt: skip
        priced: dict[str, Priced] = {}
        for name, several in schedules:
            v = along("virtual_stages", several)
            right = _orderly(name, key.pp, grid.micro_batches, v)
            own = refused.strike(legal, right, f"{name} does not allow this number of micro-batches", 1)
            full = replace(plan, schedule=name, virtual_stages=v)
            options = _options(key, full, grid, groups)
            own = self._allowed(own, options, refused)
            if not own.any():
                continue
            schedule = get_schedule(name)
            way = "apart" if name == "zero-bubble" and base.engine.tp_overlap_backward else "plain"
            if way not in priced:
                priced[way] = self._step(base, replace(plan, schedule=name), schedule)
            if schedule.overlaps and key.pp > 1:
                priced["overlapped"] = priced.get("overlapped") or priced[way].overlapped()
                way = "overlapped"
            yield self._group(key, full, schedule, priced[way], own, options, refused)

    def _allowed(self, legal: Mask, options: Mapping[str, Any], refused: Refused) -> Mask:
        """The plans that the tool can run which they are to be written for."""
        told = {**options, "offload": options["offload"] or "", "optimizer": self.axes.options.optimizer}
        for rule in self.rules:
            legal = refused.strike(legal, np.asarray(rule.holds(told, self.axes.network), bool), rule.reason, 1)
        return legal

    def _step(self, base: TrainScenario, plan: TrainPlan, schedule: Schedule) -> Priced:
        runtime = runtime_of(base.engine)
        if runtime not in self._price:
            held = at_power(self.calibration, self.cluster.accelerator)
            self._price[runtime] = remembering(make_pricer(self.cluster, runtime, held))
        layout = plan.layout
        arrays = (layout.tp, layout.cp, layout.ep, layout.etp, plan.micro_batch)
        sizes = tuple((np.shape(a), np.asarray(a).tobytes()) for a in arrays)
        eight = np.asarray(plan.micro_batches).tobytes() if plan.linear.compute == "fp8" else b""
        apart = plan.schedule == "zero-bubble" and base.engine.tp_overlap_backward
        shared = (plan.precision, plan.sequence_parallel, apart, sizes, eight)
        if shared not in self._layers:
            self._layers[shared] = Layers(self._price[runtime])
        layers = self._layers[shared]
        domain = self.cluster.levels[0].domain
        step = training_step(base.network, plan, base.engine, schedule, domain, layers.parts)
        return Priced(step, layers, self._op_work, base, plan)

    def _op_work(self, op: Op) -> tuple[Value, ...]:
        totals = Totals({}, dict.fromkeys(("hbm", "cached", "pcie", "nvme"), 0.0), {}, {})
        totals.add(op)
        return at_work(totals, self.cluster, self.calibration)

    def _group(
        self, key: Key, plan: TrainPlan, schedule: Schedule, priced: Priced, legal: Mask,
        options: Mapping[str, Any], refused: Refused,
    ) -> Group:  # fmt: skip
        engine, held = priced.base.engine, priced.step.held
        full: Value = 0.0
        for h in held:
            full = np.maximum(full, stage_memory(h, plan, engine, schedule).total)
        fits = full <= self.capacity
        shape = np.broadcast_shapes(legal.shape, np.shape(full))
        cells = Cells(np.nonzero(np.broadcast_to(legal, shape)))
        fitting = cells.take(fits)
        refused.add(MEMORY, len(fitting) - int(np.count_nonzero(fitting)))
        if plan.offload_optimizer or plan.offload_params or plan.offload_activations:
            both = fitting & cells.take(self._host_fits(plan, engine, priced.step, schedule))
            refused.add(HOST, int(np.count_nonzero(fitting) - np.count_nonzero(both)))
            fitting = both
        inside = cells.some(fitting)
        flat = _Flat(priced, schedule, plan, inside, self) if len(inside) else None
        none = np.zeros(0)
        return Group(
            options=options,
            cells=cells,
            memory=np.asarray(cells.take(np.asarray(full, float))),
            fits=fitting,
            least=flat.least() if flat else none,
            length=flat.length if flat else lambda _: none,
            energy=flat.energy if flat else lambda _, __: none,
        )

    def _host_fits(self, plan: TrainPlan, engine: TrainEngine, step: Step, schedule: Schedule) -> Mask:
        """Whether what is offloaded finds room in the nodes."""
        sharers = np.minimum(self.cluster.node_size, plan.layout.world)
        pp, n, v = plan.layout.pp, plan.micro_batches, plan.virtual_stages
        fits: Mask = np.ones((1,) * len(NAMES), bool)
        for tier, memory in (("cpu", self.cluster.dram), ("nvme", self.cluster.nvme)):
            for h in step.held:
                each = host_bytes(h, plan, engine, tier, schedule.in_flight(h.layers.index, pp, n, v))
                fits = fits & (each * sharers <= memory.capacity_bytes)
        return fits


def _options(key: Key, plan: TrainPlan, grid: Grid, groups: Sequence[int | None]) -> dict[str, Any]:
    """The options of all plans of a ZeRO stage and a schedule: one value for all, or an array on the grid."""
    return {
        "tp": grid.tp, "pp": key.pp, "dp": grid.dp, "cp": grid.cp, "ep": grid.ep, "etp": grid.etp,
        "micro_batch": grid.micro_batch, "gpus": grid.gpus, "virtual_stages": plan.virtual_stages,
        "schedule": plan.schedule, "zero": plan.zero, "hsdp": along("hsdp", [float(g or 0) for g in groups]),
        "sequence_parallel": key.sequence_parallel, "recompute": key.recompute, "precision": key.precision,
        "offload": key.offload,
    }  # fmt: skip


def _orderly(name: str, pp: int, micro_batches: Array, v: Array) -> Mask:
    """Whether a schedule can run so many micro-batches."""
    allowed: Mask = np.ones((1,) * len(NAMES), bool)
    if name == "interleaved":
        allowed = (v == 1) | (micro_batches % pp == 0)
    if name == "dualpipe" and pp > 1:
        allowed = (micro_batches % 2 == 0) & (micro_batches >= 2 * pp)
    return allowed


class _Flat:
    """Plans of one group that fit, one after the other."""

    def __init__(self, priced: Priced, schedule: Schedule, plan: TrainPlan, cells: Cells, pricer: Pricer) -> None:
        self.priced, self.schedule, self.plan, self.cells, self.pricer = priced, schedule, plan, cells, pricer

    def _stages(self, at: Cells) -> tuple[tuple[StageTimes, ...], Array, Array]:
        stages = tuple(
            StageTimes(
                count=s.count,
                forward=at.take(s.forward),
                backward=at.take(s.backward),
                weight=at.take(s.weight),
                send=at.take(s.send),
                epilogue=at.take(s.epilogue),
                overlapped=None if s.overlapped is None else at.take(s.overlapped),
            )
            for s in self.priced.times
        )
        return stages, at.take(self.plan.micro_batches), at.take(self.plan.virtual_stages)

    def least(self) -> Array:
        return np.asarray(self.schedule.least(*self._stages(self.cells)), float)

    def length(self, positions: NDArray[np.intp]) -> Array:
        return np.asarray(self.schedule.length(*self._stages(self.cells.some(positions))), float)

    def energy(self, positions: NDArray[np.intp], seconds: Array) -> Array:
        at = self.cells.some(positions)
        (full, links), (sent_full, sent_links) = self.priced.work()
        m, v = at.take(self.plan.micro_batches), at.take(self.plan.virtual_stages)
        sends = 2.0 * m * (v - 1.0 / float(self.plan.layout.pp))
        busy = at.take(full) + sends * at.take(sent_full)
        linked = at.take(links) + sends * at.take(sent_links)
        each = drawn_j(busy, linked, seconds, self.pricer.cluster, self.pricer.calibration)
        return np.asarray(each * at.take(self.plan.layout.world), float)
