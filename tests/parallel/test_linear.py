"""Chains of small kernels: one where the engine has it fused, several where it runs them one by one."""

from __future__ import annotations

import pytest

from windtunnel.models import load_network
from windtunnel.ops.build import pointwise
from windtunnel.ops.fold import tree_totals
from windtunnel.ops.op import Op
from windtunnel.ops.rewrite import operators
from windtunnel.parallel.block import block_tree
from windtunnel.parallel.linear import UNFUSED, chain
from windtunnel.parallel.style import Style
from windtunnel.scenario.batch import training

ALL = frozenset(UNFUSED)


@pytest.mark.parametrize("group", sorted(UNFUSED))
def test_a_chain_moves_launches_and_keeps_at_least_what_one_kernel_does(group: str) -> None:
    op = pointwise("x", "norm", reads=100.0, writes=100.0, act=2.0, saved_bytes=200.0)
    assert chain(op, group, Style(fused=frozenset({group}))) is op
    apart = chain(op, group, Style(fused=ALL - {group}))
    assert apart.cached_bytes > op.cached_bytes
    assert apart.kernels > op.kernels
    assert apart.saved_bytes >= op.saved_bytes


def test_an_eager_rms_norm_moves_36_bytes_an_element() -> None:
    """16 bits in, fp32 inside: 6 + 8 + 4 + 8 + 6 + 4 bytes over the operators of the chain."""
    op = pointwise("x", "norm", reads=1.0, writes=1.0, act=2.0)
    assert chain(op, "norm", Style()).cached_bytes == 36


@pytest.mark.parametrize(("name", "apart"), [("llama-3.1-8b", {"norm", "rope", "mlp.act"}), ("gpt2", set())])
def test_only_what_is_a_chain_in_eager_pytorch_is_one(name: str, apart: set[str]) -> None:
    """LayerNorm and GELU are single kernels of PyTorch; RMSNorm, rotation and SwiGLU are not."""
    network, batch = load_network(name), training(1, 128)

    def small(fused: frozenset[str]) -> dict[str, Op]:
        tree = block_tree(network.blocks[0], batch, Style(training=True, fused=fused))
        return {op.name.removeprefix("attn."): op for op in operators(tree)}

    one, many = small(ALL), small(frozenset())
    assert {n for n in one if many[n].kernels > one[n].kernels} == apart
    assert tree_totals(block_tree(network.blocks[0], batch, Style(fused=ALL))).flops.keys() == {"bf16", "vector"}
