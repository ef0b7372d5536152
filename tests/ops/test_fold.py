"""Laws of the folds, over random trees under a small pricing function."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.ops.fold import Evaluation, tree_totals
from windtunnel.ops.op import Group, Op, Price
from windtunnel.ops.pipeline import StageTimes
from windtunnel.ops.rewrite import operators, rewrite
from windtunnel.ops.tree import EMPTY, Best, Exposed, Flow, Node, Par, Pipeline, Repeat, Seq, Stage, Sync, seq
from windtunnel.ops.values import Value, maximum, where

MACHINES = 3
EXAMPLES = 50
QUANTITIES = ("flops", "hbm_bytes", "host_s", "kernels")


@dataclass(frozen=True)
class Machine:
    """Seconds a unit of each demand; any may be an array."""

    tensor: Value = 1.0
    hbm: Value = 1.0
    gap: Value = 1.0

    def __call__(self, op: Op) -> Price:
        busy = {"tensor": op.flops * self.tensor, "hbm": op.hbm_bytes * self.hbm}
        latency = op.kernels * self.gap
        return Price(latency + maximum(busy["tensor"], busy["hbm"]), busy, latency, op.host_s)


price = Machine()


def alone(op: Op) -> Price:
    """Seconds without any shared resource."""
    return Price(op.flops, {})


sizes = st.sampled_from([0.0, 0.5, 1.0, 3.0]) | st.floats(0.01, 10.0)
counts = st.sampled_from([0.0, 0.4, 1.0, 2.0, 5.5])
interferences = st.sampled_from([0.0, 0.25, 1.0])


def ops(values: st.SearchStrategy[Value]) -> st.SearchStrategy[Node]:
    return st.builds(
        Op,
        st.just("op"),
        st.sampled_from(["gemm", "norm", "all_reduce"]),
        st.sampled_from(["compute", "tp_comm", "optimizer"]),
        flops=values,
        hbm_bytes=values,
        host_s=values,
        kernels=values,
    )


@st.composite
def flows(draw: st.DrawFn, parts: st.SearchStrategy[Node], n: st.SearchStrategy[Value] = counts) -> Flow:
    stages = draw(st.lists(parts, min_size=1, max_size=3))
    streams = draw(st.lists(st.sampled_from("abc"), min_size=len(stages), max_size=len(stages)))
    main = draw(st.integers(0, len(stages) - 1))
    shares = draw(st.sampled_from([(), (1.0, 0.6, 0.3)[: len(stages)]]))
    closed = draw(st.booleans())
    return Flow(draw(n), tuple(stages), tuple(streams), draw(interferences), main, closed=closed, shares=shares)


@st.composite
def pars(draw: st.DrawFn, parts: st.SearchStrategy[Node]) -> Par:
    children = draw(st.lists(parts, min_size=1, max_size=3))
    return Par(tuple(children), draw(interferences), main=draw(st.integers(0, len(children) - 1)))


def trees(
    values: st.SearchStrategy[Value] = sizes,
    n: st.SearchStrategy[Value] = counts,
    *,
    choices: bool = True,
    leaves: int = 8,
) -> st.SearchStrategy[Node]:
    """Everything but Exposed, which stands in sequences only, and pipelines."""

    def extend(parts: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
        several = st.lists(parts, min_size=1, max_size=3).map(tuple)
        kinds = [
            st.builds(Seq, st.lists(parts, max_size=3).map(tuple)),
            st.builds(Repeat, n, parts),
            st.builds(Sync, parts),
            pars(parts),
            flows(parts, n),
        ]
        return st.one_of(*kinds, *([st.builds(Best, several)] if choices else []))

    return st.recursive(ops(values), extend, max_leaves=leaves)


def exposing_trees(
    values: st.SearchStrategy[Value] = sizes, n: st.SearchStrategy[Value] = counts
) -> st.SearchStrategy[Node]:
    """Trees that also hold Exposed flows, in sequence with the rest."""
    inner = trees(values, n)
    leaves = inner | st.builds(Exposed, flows(inner, n) | pars(inner))

    def extend(parts: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
        several = st.lists(parts, min_size=1, max_size=3).map(tuple)
        return st.builds(Seq, several) | st.builds(Repeat, n, parts) | st.builds(Sync, parts)

    return st.recursive(leaves, extend, max_leaves=3)


@dataclass(frozen=True)
class Turns:
    """A schedule simple enough to be its own proof: the slowest stage sets the pace, the others fill and drain."""

    name: str = "turns"
    overlaps: bool = False

    def length(self, stages: tuple[StageTimes, ...], micro_batches: Value, virtual_stages: Value) -> Value:
        fill: Value = 0.0
        pace: Value = 0.0
        last: Value = 0.0
        for s in stages:
            work = passes(s)
            fill = fill + s.count * (work + 2 * s.send)
            pace = maximum(pace, where(s.count > 0, work, 0.0))
            last = maximum(last, where(s.count > 0, s.epilogue, 0.0))
        return fill + (micro_batches - 1) * pace + last

    def in_flight(self, stage: Value, stages: Value, micro_batches: Value, virtual_stages: Value) -> Value:
        return micro_batches


def passes(s: StageTimes) -> Value:
    return s.forward + s.backward + s.weight if s.overlapped is None else s.overlapped


@dataclass(frozen=True)
class Shared(Turns):
    """Ranks share the stages' work evenly, so that a step may be shorter than the busiest stage's own work."""

    name: str = "shared"

    def length(self, stages: tuple[StageTimes, ...], micro_batches: Value, virtual_stages: Value) -> Value:
        total: Value = 0.0
        for s in stages:
            each = micro_batches * (passes(s) + 2 * s.send) + s.epilogue
            total = total + s.count * each
        return total / sum(s.count for s in stages)


@st.composite
def pipelines(
    draw: st.DrawFn, values: st.SearchStrategy[Value] = sizes, n: st.SearchStrategy[Value] = counts
) -> Pipeline:
    inner = trees(values, n, leaves=3)
    work = inner | st.builds(Exposed, flows(ops(values), n))
    send, stage_counts = (
        ops(values) | st.just(EMPTY),
        (draw(st.integers(1, 2)), *draw(st.sampled_from([(), (0,), (1,)]))),
    )
    side_by_side = draw(st.booleans())
    stages = []
    for count in stage_counts:
        forward, backward, weight = draw(work), draw(inner), draw(ops(values))
        overlapped = Par((forward, Seq((backward, weight))), 0.25) if side_by_side else None
        stages.append(Stage(count, forward, backward, weight, draw(send), draw(work), overlapped))
    return Pipeline(tuple(stages), draw(st.integers(1, 5)), draw(st.sampled_from([Turns(), Shared()])))


def any_tree() -> st.SearchStrategy[Node]:
    return exposing_trees() | pipelines()


def total(parts: dict[str, Value]) -> Value:
    return sum(parts.values(), 0.0)


@settings(max_examples=EXAMPLES)
@given(any_tree())
def test_every_second_has_one_place(tree: Node) -> None:
    evaluation = Evaluation(tree, price)
    seconds = evaluation.seconds()
    for parts in (evaluation.exposed(), evaluation.critical(), evaluation.by_kind()):
        assert total(parts) == pytest.approx(seconds, rel=1e-9, abs=1e-9)


@given(exposing_trees())
def test_every_second_of_a_part_has_one_place(tree: Node) -> None:
    evaluation = Evaluation(Seq((tree, tree)), price)
    for parts in (evaluation.exposed(tree), evaluation.critical(tree), evaluation.by_kind(tree)):
        assert total(parts) == pytest.approx(evaluation.seconds(tree), rel=1e-9, abs=1e-9)


@settings(max_examples=EXAMPLES)
@given(any_tree())
def test_exposed_times_are_not_negative(tree: Node) -> None:
    assert all(v >= -1e-9 for v in Evaluation(tree, price).exposed().values())


@given(trees())
def test_the_critical_path_has_no_negative_part(tree: Node) -> None:
    evaluation = Evaluation(tree, price)
    assert all(v >= 0 for v in evaluation.critical().values())
    assert all(v >= 0 for v in evaluation.by_kind().values())


def hidden(work: Node, comm: Node, pieces: float, interference: float, times: float) -> Node:
    """A step's shape: work done ``times`` times, and what communication behind the last of them leaves exposed."""
    flow = Flow(pieces, (Repeat(1 / pieces, work), comm), ("compute", "dp"), interference)
    return Seq((Repeat(times, work), Exposed(flow)))


@given(trees(), trees(), st.floats(1, 9), interferences, st.floats(1, 4))
def test_an_exposed_flow_beside_its_own_work_has_no_negative_part(
    work: Node, comm: Node, pieces: float, interference: float, times: float
) -> None:
    """Alone an Exposed takes work off the critical path; the same work elsewhere in the tree covers that."""
    evaluation = Evaluation(hidden(work, comm, pieces, interference, times), price)
    assert all(v >= -1e-9 for v in evaluation.by_kind().values())
    seconds = evaluation.seconds()
    assert seconds >= times * evaluation.cost(work).seconds - 1e-9


@given(trees(), trees(), st.integers(1, 9), interferences)
def test_an_exposed_par_hides_behind_several_steps(work: Node, comm: Node, steps: int, interference: float) -> None:
    """An exchange behind the work of several steps: what of it does not fit is shared out over them."""
    beside = Par((Repeat(steps, work), comm), interference)
    evaluation = Evaluation(Seq((work, Repeat(1 / steps, Exposed(beside)))), price)
    whole = evaluation.cost(beside).seconds
    assert evaluation.cost(evaluation.tree).seconds == pytest.approx(whole / steps, rel=1e-9, abs=1e-9)
    assert all(v >= -1e-9 for v in evaluation.by_kind().values())


@given(pars(trees()))
def test_par_lies_between_ideal_and_serial(par: Par) -> None:
    evaluation = Evaluation(par, price)
    costs = [evaluation.cost(c) for c in par.parts]
    serial = sum(c.seconds for c in costs)
    resources = [sum(c.busy.get(r, 0.0) for c in costs) for r in ("tensor", "hbm")]
    ideal = max([c.seconds for c in costs] + resources)
    together = evaluation.cost(par).seconds
    assert ideal - 1e-9 <= together <= serial + 1e-9
    assert together == pytest.approx((1 - par.interference) * ideal + par.interference * serial)


def recurrence(n: int, times: list[float]) -> float:
    """C[i,j] = max(C[i-1,j], C[i,j-1]) + t[j]."""
    ends = [0.0] * len(times)
    for _ in range(n):
        before = 0.0
        for j, t in enumerate(times):
            before = ends[j] = max(ends[j], before) + t
    return ends[-1]


@given(st.integers(0, 7), st.lists(sizes, min_size=1, max_size=4))
def test_flow_equals_the_naive_recurrence(n: int, times: list[float]) -> None:
    stages = tuple(Op(str(i), "gemm", flops=t) for i, t in enumerate(times))
    flow = Flow(n, stages, tuple(str(i) for i in range(len(times))))
    assert Evaluation(flow, alone).seconds() == pytest.approx(recurrence(n, times) if n else 0.0)


@given(st.integers(1, 7), st.lists(sizes, min_size=1, max_size=4), st.integers(1, 6))
def test_closed_flows_in_a_row_last_as_their_bounds_say(n: int, times: list[float], layers: int) -> None:
    """Pieces go round stages of different streams again and again: never faster than priced, and slower at the most by
    one passage of one piece for each of the others at the start and the end."""
    stages = tuple(Op(str(i), "gemm", flops=t) for i, t in enumerate(times))
    flow = Flow(n, stages, tuple(str(i) for i in range(len(times))), closed=True)
    priced = layers * float(Evaluation(flow, alone).seconds())
    found = going_round(n, times, layers)
    assert priced * (1 - 1e-12) <= found <= priced + sum(times) + 1e-9


def going_round(n: int, times: list[float], layers: int) -> float:
    """``n`` pieces through the same stages ``layers`` times, each stage serving who came first."""
    free, ready = [0.0] * len(times), [0.0] * n
    for _ in range(layers):
        for i in range(n):
            for j, t in enumerate(times):
                free[j] = ready[i] = max(free[j], ready[i]) + t
    return max(ready)


@given(flows(trees()) | pars(trees()))
def test_the_largest_of_its_lines_is_how_long_an_overlap_takes(beside: Flow | Par) -> None:
    evaluation = Evaluation(beside, price)
    costs = [evaluation.cost(c) for c in beside.children]
    longest = max(beside.lines(costs, ("hbm", "tensor")))
    assert longest == pytest.approx(evaluation.cost(beside).seconds, rel=1e-9, abs=1e-12)


@given(flows(trees()))
def test_stages_of_one_stream_never_overlap(flow: Flow) -> None:
    evaluation = Evaluation(flow, price)
    seconds = evaluation.cost(flow).seconds
    for stream in flow.streams:
        own = [evaluation.cost(s).seconds for s, name in zip(flow.stages, flow.streams, strict=True) if name == stream]
        assert seconds >= flow.n * sum(own) * (1 - 1e-12)
    for resource in ("tensor", "hbm"):
        assert seconds >= flow.n * sum(evaluation.cost(s).busy.get(resource, 0.0) for s in flow.stages) * (1 - 1e-12)
    assert seconds <= max(flow.n, 0) * sum(evaluation.cost(s).seconds for s in flow.stages) * (1 + 1e-12)


@given(flows(trees()) | pars(trees()))
def test_exposed_is_what_an_overlap_adds_to_its_main_child(beside: Flow | Par) -> None:
    evaluation = Evaluation(Exposed(beside), price)
    main = evaluation.cost(beside.children[beside.main]).seconds
    beyond = evaluation.cost(beside).seconds - beside.times[beside.main] * main
    assert beyond >= -1e-9
    assert evaluation.cost(evaluation.tree).seconds == pytest.approx(beyond, abs=1e-9)


def longer(tree: Node, index: int, quantity: str, by: float) -> Node:
    chosen = operators(tree)[index]
    return rewrite(tree, lambda op: op.but(**{quantity: getattr(op, quantity) + by}) if op is chosen else op)


@given(trees(choices=False), st.data())
def test_a_slower_operator_never_makes_a_tree_faster(tree: Node, data: st.DataObject) -> None:
    """Choices are left out: the alternative to a slower option may share resources better with what runs beside it."""
    if not operators(tree):
        return
    index = data.draw(st.integers(0, len(operators(tree)) - 1))
    slower = longer(tree, index, data.draw(st.sampled_from(QUANTITIES)), data.draw(sizes))
    assert Evaluation(slower, price).seconds() >= Evaluation(tree, price).seconds() * (1 - 1e-12)


@given(trees(choices=False), trees(choices=False), st.floats(1, 9), interferences, st.data())
def test_a_slower_operator_never_makes_a_step_faster(
    work: Node, comm: Node, pieces: float, interference: float, data: st.DataObject
) -> None:
    """Slower work hides more communication, but never more than it grows."""
    if not operators(work):
        return
    tree = hidden(work, comm, pieces, interference, 1.0)
    index = data.draw(st.integers(0, len(operators(work)) - 1))
    slower = longer(tree, index, data.draw(st.sampled_from(QUANTITIES)), data.draw(sizes))
    assert Evaluation(slower, price).seconds() >= Evaluation(tree, price).seconds() * (1 - 1e-9)


@settings(max_examples=EXAMPLES)
@given(any_tree(), st.floats(0.01, 100))
def test_times_are_homogeneous_of_degree_one(tree: Node, factor: float) -> None:
    scaled = rewrite(tree, lambda op: op.but(**{q: factor * getattr(op, q) for q in QUANTITIES}))
    expected = factor * Evaluation(tree, price).seconds()
    assert Evaluation(scaled, price).seconds() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(st.lists(trees(), min_size=1, max_size=4))
def test_best_is_the_fastest(options: list[Node]) -> None:
    evaluation = Evaluation(Best(tuple(options)), price)
    assert evaluation.cost(evaluation.tree).seconds == min(evaluation.cost(o).seconds for o in options)


def test_best_chooses_for_each_plan_and_counts_the_work_of_what_it_chose() -> None:
    a = Op("a", "gemm", flops=np.array([1.0, 5.0, 3.0]), kernels=0.0)
    b = Op("b", "norm", flops=np.array([2.0, 4.0, 3.0]), kernels=0.0)
    evaluation = Evaluation(Best((a, b)), price)
    assert evaluation.seconds().tolist() == [1.0, 4.0, 3.0]
    assert evaluation.by_kind()["gemm"].tolist() == [1.0, 0.0, 3.0]
    assert evaluation.totals().flops["bf16"].tolist() == [1.0, 4.0, 3.0]


arrays = st.lists(sizes, min_size=MACHINES, max_size=MACHINES).map(np.array)
array_counts = st.lists(counts, min_size=MACHINES, max_size=MACHINES).map(np.array)


def at(node: Node, i: int) -> Node:
    """Plan ``i`` of a tree of arrays, as a tree of plain floats."""

    def one(value: Value) -> float:
        return float(value[i]) if isinstance(value, np.ndarray) else value

    if isinstance(node, Op):
        return node.but(**{q: one(getattr(node, q)) for q in QUANTITIES})
    if isinstance(node, Seq | Par):
        return replace(node, parts=tuple(at(p, i) for p in node.parts))
    if isinstance(node, Repeat):
        return replace(node, part=at(node.part, i), n=one(node.n))
    if isinstance(node, Sync):
        return replace(node, part=at(node.part, i))
    if isinstance(node, Flow):
        return replace(node, stages=tuple(at(s, i) for s in node.stages), n=one(node.n))
    if isinstance(node, Exposed):
        beside = at(node.beside, i)
        assert isinstance(beside, Flow | Par)
        return Exposed(beside)
    if isinstance(node, Best):
        return replace(node, options=tuple(at(o, i) for o in node.options))
    stages = tuple(
        Stage(s.count, *(at(c, i) for c in s.children[:5]), None if s.overlapped is None else at(s.overlapped, i))
        for s in node.stages
    )
    return replace(node, stages=stages)


@settings(max_examples=EXAMPLES)
@given(exposing_trees(arrays, array_counts) | pipelines(arrays, array_counts))
def test_arrays_of_plans_equal_plans_one_by_one(tree: Node) -> None:
    def answers(evaluation: Evaluation) -> list[dict[str, Value]]:
        totals = evaluation.totals()
        return [
            {"seconds": evaluation.seconds()},
            evaluation.exposed(),
            evaluation.critical(),
            evaluation.by_kind(),
            totals.flops,
            totals.bytes,
        ]

    together = answers(Evaluation(tree, price))
    for i in range(MACHINES):
        for many, one in zip(together, answers(Evaluation(at(tree, i), price)), strict=True):
            assert many.keys() == one.keys()
            for key, value in many.items():
                assert np.broadcast_to(value, MACHINES)[i] == pytest.approx(one[key], rel=1e-12, abs=1e-12)


@settings(max_examples=EXAMPLES)
@given(any_tree())
def test_an_array_of_machines_equals_machines_one_by_one(tree: Node) -> None:
    """What elasticities are taken from: one evaluation on a reference and on machines with one rate changed."""
    tensor, hbm, gap = np.array([1.0, 0.99, 1.0, 1.0]), np.array([1.0, 1.0, 0.99, 1.0]), np.array([1, 1, 1, 0.99])
    many = np.broadcast_to(Evaluation(tree, Machine(tensor, hbm, gap)).seconds(), 4)
    each = [Evaluation(tree, Machine(*rates)).seconds() for rates in zip(tensor, hbm, gap, strict=True)]
    assert many == pytest.approx(np.array(each), rel=1e-12, abs=1e-12)


@settings(max_examples=EXAMPLES)
@given(any_tree())
def test_a_rewrite_that_changes_nothing_changes_nothing(tree: Node) -> None:
    same = rewrite(tree, lambda op: op)
    before, after = Evaluation(tree, price), Evaluation(same, price)
    assert after.seconds() == before.seconds()
    assert after.exposed() == before.exposed()
    assert operators(same) == operators(tree)


def test_a_rewrite_keeps_sharing() -> None:
    shared = Seq((Op("a", "gemm"), Op("b", "norm")))
    flow = Flow(2, (shared, Op("c", "all_reduce")), ("x", "y"))
    tree = rewrite(Seq((shared, Repeat(2, shared), flow, Exposed(flow))), lambda op: op.but(name=op.name * 2))
    assert isinstance(tree, Seq)
    first, repeat, new_flow, exposed = tree.parts
    assert isinstance(repeat, Repeat)
    assert isinstance(new_flow, Flow)
    assert isinstance(exposed, Exposed)
    assert first is repeat.part is new_flow.stages[0]
    assert exposed.beside is new_flow
    assert [op.name for op in operators(tree)] == ["aa", "bb", "cc"]


def test_operators_are_priced_once_however_often_they_occur() -> None:
    asked: list[str] = []

    def counting(op: Op) -> Price:
        asked.append(op.name)
        return price(op)

    op = Op("shared", "gemm", flops=1.0)
    tree = Seq((op, Repeat(3, op), Sync(Seq((op,)))))
    evaluation = Evaluation(tree, counting)
    evaluation.seconds()
    evaluation.exposed()
    evaluation.critical()
    assert asked == ["shared"]


def test_host_and_device_meet_at_synchronisations_only() -> None:
    device, host = Op("d", "gemm", flops=4.0, kernels=0.0), Op("h", "host", host_s=3.0, kernels=0.0)
    apart = Evaluation(seq(Sync(Seq((host,))), device), price)
    assert apart.seconds() == 7.0
    assert apart.exposed() == {"compute": 4.0, "host": 3.0}
    assert Evaluation(seq(host, device), price).seconds() == 4.0
    bound = Evaluation(Seq((host, host, device)), price)
    assert bound.seconds() == 6.0
    assert bound.exposed() == {"compute": 4.0, "host": 2.0}
    assert bound.critical()["host"] == 6.0


def test_an_operator_is_bound_by_its_fullest_resource_and_its_latency() -> None:
    op = Op("op", "gemm", flops=np.array([1.0, 5.0]), hbm_bytes=2.0, kernels=0.5)
    held = Evaluation(op, price).binding(op)
    assert np.broadcast_to(held["latency"], 2).tolist() == [0.5, 0.5]
    assert held["tensor"].tolist() == [0.0, 5.0]
    assert held["hbm"].tolist() == [2.0, 0.0]


def work(f: float, **more: Value) -> Op:
    return Op("w", "gemm", flops=f, kernels=0.0, **more)


def test_a_pipeline_is_bound_by_its_busiest_stage_and_exposes_bubbles_and_sends() -> None:
    send = Op("send", "send_recv", "pp_comm", hbm_bytes=0.25, kernels=0.0)
    slow = Stage(1, work(2.0), work(3.0), work(1.0), send, EMPTY)
    fast = Stage(2, work(1.0), work(1.0), EMPTY, send, EMPTY)
    evaluation = Evaluation(Pipeline((fast, slow), 4, Turns()), price)
    # Fill: two fast stages and the slow one, and two sends each; then three more at the slow one's pace.
    assert evaluation.seconds() == (2 * 2 + 6 + 3 * 2 * 0.25) + 3 * 6
    assert evaluation.exposed() == {"compute": 24.0, "host": 0.0, "pp_bubble": 4.0, "pp_comm": 1.5}
    assert evaluation.by_kind() == pytest.approx({"gemm": 28.0, "send_recv": 1.5, "host": 0.0})


def test_a_stage_that_waits_for_its_host_is_host_bound() -> None:
    stage = Stage(1, work(1.0, host_s=5.0), work(1.0), EMPTY, EMPTY, EMPTY)
    evaluation = Evaluation(Pipeline((stage,), 3, Turns()), price)
    assert evaluation.seconds() == 18.0
    assert evaluation.exposed()["host"] == 12.0
    assert evaluation.critical()["host"] == 15.0


def test_totals_of_a_pipeline_are_the_mean_over_ranks() -> None:
    send = Op("send", "send_recv", message_bytes=8.0, group=Group(2), kernels=0.0)
    stages = (Stage(1, work(6.0), EMPTY, EMPTY, send, work(3.0)), Stage(2, work(3.0), EMPTY, EMPTY, send, EMPTY))
    totals = tree_totals(Pipeline(stages, 2, Turns()))
    assert totals.flops["bf16"] == pytest.approx((2 * 6 + 3 + 2 * 2 * 3) / 3)
    # Three stages have two boundaries, crossed forward and back by each micro-batch.
    assert totals.messages["send_recv"] == pytest.approx(2 * 2 * 2 * 8.0 / 3)


def test_totals_without_prices_refuse_a_choice() -> None:
    with pytest.raises(TypeError, match="choice"):
        tree_totals(Best((Op("a", "gemm"), Op("b", "gemm"))))


def test_totals_count_what_is_held_by_group() -> None:
    tree = seq(
        Op("a", "gemm", parameters=10.0, shape={"weight": 1.0}, saved_bytes=3.0, core=True),
        Op("b", "grouped_gemm", parameters=4.0, expert=True, frozen=True, saved_bytes=2.0),
    )
    held = tree_totals(Repeat(2, tree)).held
    assert held == {"saved": 10.0, "saved_core": 6.0, "weight_bytes": 36.0, "dense": 20.0, "expert_frozen": 8.0}


@settings(max_examples=EXAMPLES)
@given(any_tree())
def test_one_of_many_machines_is_that_machine(tree: Node) -> None:
    """What :meth:`Evaluation.at` reads off an array of machines against pricing the machine alone."""
    tensor, hbm, gap = np.array([1.0, 0.99, 1.0]), np.array([1.0, 1.0, 0.5]), np.array([1.0, 1.0, 1.0])
    many = Evaluation(tree, Machine(tensor, hbm, gap))
    for i in range(3):
        one, alone = many.at(i), Evaluation(tree, Machine(tensor[i], hbm[i], gap[i]))
        assert one.seconds() == pytest.approx(alone.seconds(), rel=1e-12, abs=1e-12)
        for ours, theirs in ((one.exposed(), alone.exposed()), (one.critical(), alone.critical())):
            assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-12)
        assert one.totals().flops == pytest.approx(alone.totals().flops)
