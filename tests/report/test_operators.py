from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.hardware import parse_cluster
from windtunnel.ops.build import gemm
from windtunnel.ops.fold import Evaluation
from windtunnel.ops.op import Op, Price
from windtunnel.ops.tree import Best, Exposed, Flow, Node, Par, Repeat, Seq, Sync
from windtunnel.report.explanation import explain
from windtunnel.report.operators import BUBBLE, HOST, operator_rows

CATEGORIES = ("compute", "tp_comm", "dp_comm", "offload")


def _priced(op: Op) -> Price:
    seconds = float(op.shape.get("seconds", 0.0))
    return Price(seconds, {"tensor": seconds}, 0.0, float(op.host_s))


def _operators() -> st.SearchStrategy[Op]:
    # Kind and category are one here, so that rows can be added up by category.
    def made(category: str, seconds: float, host: float) -> Op:
        return Op(category, category, category, shape={"seconds": seconds}, host_s=host)

    return st.builds(made, st.sampled_from(CATEGORIES), st.floats(1e-6, 1.0), st.sampled_from([0.0, 0.0, 0.5]))


def _composite(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    some = st.lists(inner, min_size=1, max_size=3).map(tuple)
    names = st.sampled_from(["", "part", "layer"])
    flows = st.builds(
        lambda n, a, b, share: Flow(n, (a, b), ("compute", "link"), share, main=0),
        st.sampled_from([0.5, 1, 4, 7.5]), inner, inner, st.sampled_from([0.0, 0.3]),
    )  # fmt: skip
    return st.one_of(
        st.builds(Seq, some, names),
        st.builds(Repeat, st.sampled_from([0.25, 1, 3, 80]), inner, names),
        st.builds(Sync, inner),
        st.builds(Par, some, st.sampled_from([0.0, 0.2])),
        st.builds(Best, some),
        flows,
        flows.map(lambda flow: Seq((flow.stages[0], Exposed(flow)))),
    )


@given(st.recursive(_operators(), _composite, max_leaves=8))
def test_leaves_add_up_to_the_step(tree: Node) -> None:
    """INV: nothing of a step is lost in its rows, nor told twice; as a whole and by category."""
    evaluation = Evaluation(tree, _priced)
    leaves = [row for row in operator_rows(evaluation) if row.leaf]
    assert sum(r.exposed_s for r in leaves) == pytest.approx(float(evaluation.seconds()), rel=1e-9)
    assert sum(r.share for r in leaves) == pytest.approx(1.0)
    for category, seconds in evaluation.exposed().items():
        told = sum(r.exposed_s for r in leaves if r.kind == category)
        assert told == pytest.approx(float(seconds), rel=1e-9, abs=1e-12)


def test_a_pipeline_adds_up_and_names_its_bubble(evaluation: Evaluation) -> None:
    rows = operator_rows(evaluation)
    leaves = [r for r in rows if r.leaf]
    assert sum(r.exposed_s for r in leaves) == pytest.approx(float(evaluation.seconds()))
    exposed = evaluation.exposed()
    bubble = next(r for r in rows if r.name == BUBBLE)
    assert bubble.exposed_s == pytest.approx(float(exposed["pp_bubble"]))
    told = sum(r.exposed_s for r in leaves if "dp.reduce" in r.name)
    assert told == pytest.approx(float(exposed["dp_comm"]))


def test_rows_say_how_often_and_how_long(evaluation: Evaluation) -> None:
    rows = {r.path: r for r in operator_rows(evaluation)}
    up = rows["step", "forward", "layer", "mlp.up"]
    assert up.runs == pytest.approx(4 * 8)  # micro-batches x layers
    assert up.each_s == pytest.approx(7e-3)
    assert up.total_s == pytest.approx(up.runs * up.each_s)
    assert up.binding == "tensor"


def test_only_the_busiest_stage_counts(toy: SimpleNamespace) -> None:
    from windtunnel.ops.tree import Pipeline

    fast, slow = toy.stage(1, toy.op("fast", 1.0)), toy.stage(1, toy.op("slow", 3.0))
    evaluation = Evaluation(Pipeline((fast, slow), 2, toy.schedule), toy.price)
    rows = operator_rows(evaluation)
    assert all(r.exposed_s == 0 for r in rows if r.name.startswith("fast"))
    assert sum(r.exposed_s for r in rows if r.name.startswith("slow")) == pytest.approx(18.0)
    text = explain(evaluation)
    assert "stage 0" in text
    assert "fast" not in text  # the inside of a stage that nobody waits for is left out


def test_waiting_for_the_host_is_told() -> None:
    tree = Seq((Op("a", "gemm", shape={"seconds": 1.0}), Op("issue", "host", "host", host_s=3.0)))
    rows = {r.name: r for r in operator_rows(Evaluation(tree, _priced))}
    assert rows[HOST].exposed_s == pytest.approx(2.0)
    assert rows[HOST].binding == "host"


def test_hidden_work_is_told_as_hidden(toy: SimpleNamespace) -> None:
    tree = Par((toy.op("long", 2.0), toy.op("short", 1.0, kind="copy", resource="pcie")), name="both")
    rows = {r.name: r for r in operator_rows(Evaluation(tree, toy.price))}
    assert rows["short"].exposed_s == 0
    line = next(text for text in explain(Evaluation(tree, toy.price)).splitlines() if "short" in text)
    assert "hidden" in line
    assert "1.00 s" in line


def test_distance_to_the_roof_is_peak_time_over_time() -> None:
    cluster = parse_cluster("8xh100-sxm", {})
    product = gemm("mlp", 4096.0, 4096.0, 4096.0, dtype="bf16", weight=2.0, act=2.0)
    peak = product.flops / cluster.accelerator.peak_flops["bf16"]
    evaluation = Evaluation(product, lambda op: Price(2 * peak, {"tensor": 2 * peak}))
    (row,) = [r for r in operator_rows(evaluation, cluster) if r.leaf]
    assert row.roof == pytest.approx(0.5)
    assert operator_rows(evaluation)[-1].roof is None


@pytest.mark.parametrize("width", [100, 120])
def test_the_tree_fits_the_page(evaluation: Evaluation, width: int) -> None:
    text = explain(evaluation, parse_cluster("8xh100-sxm", {}), width=width)
    assert max(map(len, text.splitlines())) <= width
    assert text == "\n".join(line.rstrip() for line in text.splitlines())


def test_small_operators_are_told_together(toy: SimpleNamespace) -> None:
    parts = (toy.op("big", 1.0), *(toy.op(f"tiny{i}", 1e-6) for i in range(5)))
    text = explain(Evaluation(Seq(parts, "step"), toy.price))
    assert "5 smaller" in text
    assert "tiny" not in text


def test_both_kinds_of_answer_can_be_explained(make_infer: Callable[..., Any]) -> None:
    for tree in make_infer().tree.values():
        assert "mlp.up" in explain(tree)
