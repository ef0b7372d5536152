"""How tokens reach their experts: what each way exchanges."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.models import load_network
from windtunnel.ops.fold import tree_totals
from windtunnel.ops.op import Op
from windtunnel.ops.rewrite import operators
from windtunnel.ops.tree import Node
from windtunnel.parallel.block import block_tree
from windtunnel.parallel.reach import Reach
from windtunnel.parallel.style import Style
from windtunnel.scenario.batch import decode, training
from windtunnel.scenario.layout import Layout

TOKENS = 64.0
OVER_RANKS = Layout(dp=8, ep=8)


def layer(model: str = "mixtral-8x7b", layout: Layout = OVER_RANKS) -> Node:
    return block_tree(load_network(model).blocks[-1], decode(TOKENS, 500.0), Style(layout=layout))


def named(tree: Node, name: str) -> list[Op]:
    return [op for op in operators(tree) if op.name == name]


@given(st.floats(0, 1))
def test_placement_keeps_a_share_of_the_visits_at_home(affinity: float) -> None:
    before, after = layer(), Reach(affinity)(layer())
    for name in ("ep.dispatch", "ep.combine"):
        assert named(after, name)[0].message_bytes == (1 - affinity) * named(before, name)[0].message_bytes
    assert tree_totals(after).flops == tree_totals(before).flops


@pytest.mark.parametrize("top_k", [1, 2])
def test_tokens_that_do_not_come_back_need_one_exchange(top_k: int) -> None:
    """Results of further experts of a token still meet at one of them."""
    before = layer()
    after = Reach(0.0, False, top_k)(before)
    assert named(after, "ep.dispatch")[0].message_bytes == named(before, "ep.dispatch")[0].message_bytes
    back = sum(op.message_bytes for op in named(after, "ep.combine"))
    assert back == (1 - 1 / top_k) * named(before, "ep.combine")[0].message_bytes


def test_contexts_are_gathered_once_for_all_layers() -> None:
    after = Reach(0.0, False, 1, 24, 2048.0)(layer())
    assert tree_totals(after).messages["all_gather"] == pytest.approx(2048.0 * TOKENS * 8 / 24)


def test_nothing_changes_where_nothing_is_exchanged() -> None:
    for tree in (layer("llama-3-8b"), layer(layout=Layout())):
        assert Reach(0.5, False)(tree) is tree


def test_the_backward_pass_follows() -> None:
    block = load_network("mixtral-8x7b").blocks[-1]
    tree = block_tree(block, training(1.0, 512.0), Style(layout=OVER_RANKS, training=True))
    (before,), (after,) = (named(t, "ep.dispatch")[0].adjoint or () for t in (tree, Reach(0.25)(tree)))
    assert after.message_bytes == 0.75 * before.message_bytes
