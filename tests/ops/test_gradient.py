"""The backward pass: what each operator's gradients ask for."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.ops.build import attention, collective, gemm, grouped_gemm, host_work, pointwise
from windtunnel.ops.fold import tree_totals
from windtunnel.ops.gradient import gradient, only
from windtunnel.ops.op import Group, Op
from windtunnel.ops.pipeline import StageTimes
from windtunnel.ops.rewrite import operators
from windtunnel.ops.tree import EMPTY, Best, Flow, Node, Par, Pipeline, Repeat, Seq, Stage, Sync
from windtunnel.ops.values import Value

sizes = st.integers(1, 4096)


def linear(m: int = 8, n: int = 16, k: int = 32, **extra: object) -> Op:
    return gemm("linear", m, n, k, dtype="bf16", weight=2.0, act=2.0, **extra)


def flash(tokens: int = 64, heads: int = 2) -> Op:
    return attention(
        "core", tokens=tokens, pairs=tokens * (tokens + 1) / 2, context=tokens, heads=heads, kv_heads=heads,
        head_dim=16, v_head_dim=16, dtype="bf16", act=2.0, core=True,
    )  # fmt: skip


def matrix_flops(*trees: Node) -> float:
    return sum(v for t in trees for k, v in tree_totals(t).flops.items() if k != "vector")


@given(sizes, sizes, sizes, st.floats(0.1, 64))
def test_a_linear_layer_costs_twice_its_forward_pass(m: int, n: int, k: int, groups: float) -> None:
    experts = grouped_gemm(
        "e", m, n, k, experts=8, active=groups, imbalance=1.0, dtype="bf16", weight=2.0, act=2.0
    )  # fmt: skip
    for op in (linear(m, n, k), experts):
        into, weight = gradient(op)
        assert matrix_flops(into) == matrix_flops(weight) == op.flops
        for made in (*operators(into), *operators(weight)):
            shape = made.shape
            assert 2.0 * shape["m"] * shape["n"] * shape["k"] == pytest.approx(op.flops)
            assert made.parameters == 0
            assert made.saved_bytes == 0


def test_gradients_read_the_weights_and_accumulate_in_fp32() -> None:
    into, weight = gradient(linear(8, 16, 32))
    assert tree_totals(into).bytes["hbm"] == 2.0 * 16 * 32
    assert tree_totals(weight).bytes["hbm"] == 2 * 4 * 16 * 32
    assert tree_totals(gradient(linear(8, 16, 32), 2.0)[1]).bytes["hbm"] == 2 * 2 * 16 * 32
    assert isinstance(into, Op)
    assert (into.shape["n"], into.shape["k"]) == (32, 16)


def test_flash_attention_runs_five_products_for_two() -> None:
    into, weight = gradient(flash())
    assert weight is EMPTY
    assert matrix_flops(into) == 2.5 * matrix_flops(flash())
    assert isinstance(into, Op)
    assert into.kind == "attention_backward"


def test_a_frozen_layer_has_no_weight_gradient() -> None:
    into, weight = gradient(Seq((linear(frozen=True), linear())))
    assert [op.name for op in operators(weight)] == ["linear.wgrad"]
    assert len(operators(into)) == 2
    assert gradient(Repeat(3, linear(frozen=True)))[1] is EMPTY


def test_a_collective_answers_with_its_adjoint() -> None:
    group = Group(4)
    back = collective("reduce_scatter", 8.0, group, "tp_comm")
    there = collective("all_gather", 8.0, group, "tp_comm", adjoint=(back,))
    into, weight = gradient(there)
    assert operators(into) == [back]
    assert weight is EMPTY
    assert gradient(collective("all_reduce", 8.0, group, "tp_comm")) == (EMPTY, EMPTY)
    assert gradient(host_work("issue", 1.0)) == (EMPTY, EMPTY)


def test_an_adjoint_is_all_of_the_backward_pass() -> None:
    """A product of two activations has two input gradients and no weight's."""
    product = linear().but(parameters=0.0)
    into, weight = gradient(product.but(adjoint=(product, product)))
    assert matrix_flops(into) == 2 * product.flops
    assert weight is EMPTY


def test_a_bandwidth_bound_kernel_moves_its_bytes_so_often() -> None:
    norm = pointwise("norm", "norm", reads=10, writes=10, act=2.0, flops=5.0, saved_bytes=20.0, backward=1.5)
    into, weight = gradient(norm)
    assert weight is EMPTY
    totals = tree_totals(into)
    assert (totals.bytes["cached"], totals.flops["vector"], totals.held["saved"]) == (60.0, 7.5, 0.0)
    assert gradient(norm.but(backward=0.0)) == (EMPTY, EMPTY)


leaves = st.builds(linear, sizes, sizes, sizes, frozen=st.booleans()) | st.builds(flash, sizes)


def _compose(parts: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    several = st.lists(parts, min_size=1, max_size=3).map(tuple)
    return st.one_of(
        st.builds(Seq, several),
        st.builds(Repeat, st.floats(0.1, 9), parts),
        st.builds(Sync, parts),
        st.builds(Par, several),
        st.builds(lambda stages: Flow(4, stages, tuple("ab"[i % 2] for i in range(len(stages)))), several),
    )


@settings(max_examples=50)
@given(st.recursive(leaves, _compose, max_leaves=6))
def test_composition_conserves_the_gradients_of_the_leaves(tree: Node) -> None:
    """Every forward FLOP of a linear layer is met by one or two backward, of attention by two and a half."""

    def factor(op: Op) -> float:
        return 2.5 if op.kind == "attention" else 1.0 if op.frozen else 2.0

    def expected(node: Node) -> float:
        if isinstance(node, Op):
            return factor(node) * node.flops
        return sum(n * expected(c) for c, n in zip(node.children, node.times, strict=True))

    assert matrix_flops(*gradient(tree)) == pytest.approx(expected(tree), rel=1e-12)


def test_the_backward_pass_runs_in_reverse() -> None:
    a, b = linear().but(name="a"), linear().but(name="b")
    into, _ = gradient(Seq((a, Repeat(2, b))))
    assert [op.name for op in operators(into)] == ["b.dgrad", "a.dgrad"]
    flow, _ = gradient(Flow(4, (a, b), ("compute", "tp"), 0.1, main=0))
    assert isinstance(flow, Flow)
    assert (flow.streams, flow.main) == (("tp", "compute"), 1)
    assert [op.name for op in operators(flow)] == ["b.dgrad", "a.dgrad"]


def test_recomputing_the_core_runs_attention_and_what_feeds_it() -> None:
    core, ring = flash(), Op("kv", "send_recv")
    tree = Seq((linear(), core, Repeat(3, Par((core, ring))), Par((linear(), ring)), Sync(linear())))
    again = only(tree, "core")
    assert [op.name for op in operators(again)] == ["core", "kv"]
    assert matrix_flops(again) == 4 * core.flops
    assert only(Flow(4, (linear(), ring), ("a", "b")), "core") is EMPTY
    assert matrix_flops(only(Flow(4, (core, linear()), ("a", "b")), "core")) == 4 * core.flops
    assert only(tree, "all") is tree
    assert operators(only(Par((core, ring), feeds=False), "core")) == [core]


def test_a_closed_flow_stays_closed_in_reverse() -> None:
    a, b = linear().but(name="a"), linear().but(name="b")
    flow, _ = gradient(Flow(3, (a, b), ("compute", "network"), 0.1, closed=True, shares=(1.0, 0.2)))
    assert isinstance(flow, Flow)
    assert (flow.n, flow.closed, flow.shares) == (3, True, (0.2, 1.0))


class _Never:
    name = "never"

    def length(self, stages: tuple[StageTimes, ...], micro_batches: Value, virtual_stages: Value) -> Value:
        raise AssertionError

    def in_flight(self, stage: Value, stages: Value, micro_batches: Value, virtual_stages: Value) -> Value:
        raise AssertionError


@pytest.mark.parametrize(
    "node", [Best((EMPTY,)), Pipeline((Stage(1, EMPTY, EMPTY, EMPTY, EMPTY, EMPTY),), 1, _Never())]
)
def test_choices_and_pipelines_have_no_backward_pass(node: Node) -> None:
    with pytest.raises(TypeError, match=type(node).__name__):
        gradient(node)
    with pytest.raises(TypeError, match=type(node).__name__):
        only(node, "core")
