"""What experts cost beside their products: how often a token travels, how often it is moved."""

from __future__ import annotations

import pytest

from windtunnel.models import load_network
from windtunnel.ops.op import Op
from windtunnel.ops.rewrite import operators
from windtunnel.parallel.block import block_tree
from windtunnel.parallel.style import Style
from windtunnel.scenario.batch import training
from windtunnel.scenario.layout import Layout

NETWORK = load_network("qwen3-30b-a3b")
TOP_K = 8


def layer(ep: int, tp: int = 1, **style: object) -> list[Op]:
    made = Style(Layout(tp=tp, ep=ep, dp=ep, etp=1), training=True, sequence_parallel=tp > 1, **style)  # type: ignore[arg-type]
    return operators(block_tree(NETWORK.blocks[0], training(1, 512), made))


def sent(ops: list[Op]) -> float:
    return float(next(op for op in ops if op.name == "ep.dispatch").message_bytes)  # type: ignore[arg-type]


@pytest.mark.parametrize("tp", [1, 2])
def test_inside_a_domain_a_token_has_a_copy_for_each_expert(tp: int) -> None:
    assert sent(layer(8 // tp, tp, expert_once=True, domain=8)) == sent(layer(8 // tp, tp))


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("ep", [16, 32, 64])
def test_over_networks_it_travels_once_to_each_domain(ep: int, tp: int) -> None:
    once, copies = sent(layer(ep, tp, expert_once=True, domain=8)), sent(layer(ep, tp))
    domains = ep * tp // 8
    # Eight independent choices reach at most that many domains, and at least one.
    assert copies / TOP_K < once < min(domains / TOP_K, 1) * copies
    more = sent(layer(ep, tp, expert_once=True, domain=4))
    assert once < more < copies


def test_passes_move_more_and_compute_nothing() -> None:
    one, four = layer(8), layer(8, expert_passes=4.0)
    for a, b in zip(one, four, strict=True):
        assert b.flops == a.flops
        assert b.saved_bytes == a.saved_bytes
        assert b.cached_bytes == (4 if a.name in ("moe.permute", "moe.unpermute") else 1) * a.cached_bytes
