"""What recomputation runs again and keeps."""

from __future__ import annotations

import pytest

from windtunnel.models import load_network
from windtunnel.ops.fold import tree_totals
from windtunnel.ops.rewrite import operators
from windtunnel.ops.tree import Node
from windtunnel.parallel.block import block_tree
from windtunnel.parallel.recompute import UNUSED, recomputed
from windtunnel.parallel.style import Style
from windtunnel.scenario.batch import training
from windtunnel.scenario.layout import Layout

BATCH = training(1, 512)


def layer(name: str, tp: int = 1) -> Node:
    network = load_network(name)
    style = Style(
        Layout(tp=tp), training=True, sequence_parallel=tp > 1, fused=frozenset({"norm", "rope", "activation"})
    )
    return block_tree(network.blocks[-1], BATCH, style)


def saved(tree: Node) -> float:
    return float(tree_totals(tree).held["saved"])  # type: ignore[arg-type]


def flops(tree: Node) -> float:
    return float(tree_totals(tree).flops.get("bf16", 0.0))  # type: ignore[arg-type]


@pytest.mark.parametrize("tp", [1, 4])
@pytest.mark.parametrize("name", ["llama-3.1-8b", "gpt3-175b", "qwen3-30b-a3b", "deepseek-v3"])
def test_more_recomputation_keeps_less_and_runs_more(name: str, tp: int) -> None:
    tree = layer(name, tp)
    none, single, full = (
        recomputed(tree, tree_totals(tree), how, "operators") for how in ("none", "selective", "full")
    )
    assert none.kept == saved(tree)
    assert none.kept > single.kept > full.kept == 0
    assert 0 == flops(none.tree) < flops(single.tree) < flops(full.tree) == flops(tree)
    assert full.brought_back == single.brought_back == none.kept


def test_operators_keep_what_a_llama_layer_holds_under_torchtitan() -> None:
    """Outputs of q, k, v, of attention and of half of gate and up, and a statistic a row and head; not of out, whose
    product runs again, nor of down, which no gradient needs (the input is counted apart)."""
    tree = layer("llama-3.1-8b")
    again = recomputed(tree, tree_totals(tree), "selective", "operators")
    widths = (4096 + 2 * 1024) + 4096 + 14336
    assert again.kept == pytest.approx(512 * (2 * widths + 4 * 32))
    products = {op.name for op in operators(again.tree) if op.kind == "gemm"}
    assert products == {"attn.out", "mlp.up"}
    assert not [op for op in operators(again.tree) if op.kind == "attention"]


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-30b-a3b"])
def test_stopping_early_leaves_out_the_last_product(name: str) -> None:
    tree = layer(name)
    whole, early = (recomputed(tree, tree_totals(tree), "full", "core", stops=s) for s in (False, True))
    last = sum(float(op.flops) for op in operators(tree) if op.name in UNUSED)
    assert last > 0
    assert flops(whole.tree) - flops(early.tree) == pytest.approx(last)
    assert whole.brought_back == early.brought_back
