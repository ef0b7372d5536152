"""Networks by hand, steps of them, and sums over what a step's ranks do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from windtunnel.models.network import MLP, Attention, Block, MoE, Network, Norm
from windtunnel.ops.fold import tree_totals
from windtunnel.ops.op import Op
from windtunnel.ops.pipeline import StageTimes
from windtunnel.ops.rewrite import rewrite
from windtunnel.ops.tree import Node
from windtunnel.ops.values import Value, maximum
from windtunnel.parallel.step import Step, training_step
from windtunnel.scenario.engines import TrainEngine
from windtunnel.scenario.layout import Layout
from windtunnel.scenario.plan import TrainPlan

DEGREES = ("tp", "pp", "dp", "cp", "ep", "etp")


class OneAfterTheOther:
    """A schedule without overlap: every stage of every micro-batch in turn."""

    name = "serial"
    overlaps = False

    def length(self, stages: tuple[StageTimes, ...], micro_batches: Value, virtual_stages: Value) -> Value:
        total: Value = 0.0
        last: Value = 0.0
        for s in stages:
            total = total + s.count * (s.forward + s.backward + s.weight + 2 * s.send)
            last = maximum(last, s.epilogue)
        return micro_batches * total + last

    def in_flight(self, stage: Value, stages: Value, micro_batches: Value, virtual_stages: Value) -> Value:
        return micro_batches


def make_gpt(
    layers: int = 4,
    hidden: int = 64,
    heads: int = 8,
    kv_heads: int | None = None,
    vocab: int = 1024,
    *,
    bias: bool = True,
    tied: bool = False,
    moe: MoE | None = None,
    **attention: Any,
) -> Network:
    kv, d = kv_heads or heads, hidden // heads
    mixer = Attention(
        hidden, heads, kv, d, d, q_bias=bias, kv_bias=bias, out_bias=bias, **{"position": "learned", **attention}
    )  # fmt: skip
    ffn = moe or MLP(hidden, 4 * hidden, gated=False, bias=bias)
    block = Block(mixer, ffn, (Norm(hidden, 2), Norm(hidden, 2)))
    return Network(
        "gpt", "gpt2", hidden, vocab, (block,) * layers, embedding_parameters=vocab * hidden,
        head_parameters=0 if tied else vocab * hidden, other_parameters=2 * hidden, tied=tied,
    )  # fmt: skip


def make_step(network: Network, engine: TrainEngine | None = None, **options: Any) -> Step:
    degrees = {k: options.pop(k) for k in DEGREES if k in options}
    layout = Layout(**{"etp": degrees.get("tp", 1), **degrees})
    plan = TrainPlan(layout=layout, **{"seq": 64, **options})
    return training_step(network, plan, engine or plain_engine(), OneAfterTheOther())


def plain_engine(**changes: Any) -> TrainEngine:
    return TrainEngine(name="plain", description="", **{"vocab_multiple": 1, **changes})


def matrix_flops(tree: Node, leave_out: Iterable[str] = ()) -> Value:
    """Matrix FLOPs of one rank (their mean over pipeline stages), without operators of some names."""
    prefixes = tuple(leave_out)

    def change(op: Op) -> Node:
        return op.but(flops=0.0) if prefixes and op.name.startswith(prefixes) else op

    return sum((v for k, v in tree_totals(rewrite(tree, change)).flops.items() if k != "vector"), 0.0)


def parameters_by_name(tree: Node) -> dict[str, Value]:
    """Parameters of one rank under the name of the operator that holds them."""
    found: dict[str, Value] = {}

    def walk(node: Node, times: Value) -> None:
        if isinstance(node, Op):
            if not isinstance(node.parameters, float | int) or node.parameters > 0:
                found[node.name] = found.get(node.name, 0.0) + times * node.parameters
            return
        for child, n in zip(node.children, node.times, strict=True):
            walk(child, times * n)

    walk(tree, 1)
    return found


def messages(tree: Node) -> dict[str, Value]:
    """Message bytes of one rank by operator name."""
    found: dict[str, Value] = {}

    def walk(node: Node, times: Value) -> None:
        if isinstance(node, Op):
            if node.group is not None:
                found[node.name] = found.get(node.name, 0.0) + times * node.message_bytes
            return
        for child, n in zip(node.children, node.times, strict=True):
            walk(child, times * n)

    walk(tree, 1)
    return found


def retyped(network: Network, **changes: Any) -> Network:
    return replace(network, **changes)


def _session(function: Callable[..., Any]) -> Callable[[], Any]:
    @pytest.fixture(scope="session")
    def value() -> Any:
        return function

    return value


gpt = _session(make_gpt)
step = _session(make_step)
engine = _session(plain_engine)
flops = _session(matrix_flops)
held_by_name = _session(parameters_by_name)
sent = _session(messages)
