"""Fine-tuning on a frozen base, stored weights widened before use, and FP8 casts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from windtunnel.models import load_network
from windtunnel.models.dtypes import BYTES, PRECISIONS
from windtunnel.models.network import Network
from windtunnel.ops.fold import tree_totals
from windtunnel.ops.gradient import gradient
from windtunnel.ops.op import Op
from windtunnel.ops.rewrite import operators
from windtunnel.ops.tree import Node
from windtunnel.ops.values import Value
from windtunnel.parallel.adapters import with_adapters, with_casts
from windtunnel.parallel.block import block_tree
from windtunnel.parallel.step import Step
from windtunnel.parallel.style import Style
from windtunnel.scenario.batch import training
from windtunnel.scenario.layout import Layout
from windtunnel.scenario.plan import Finetune

Make = Callable[..., Step]
Flops = Callable[..., Value]
BATCH = training(1, 128)


def frozen_layer(network: Network, layout: Layout | None = None) -> Node:
    return block_tree(network.blocks[0], BATCH, Style(layout or Layout(), training=True, frozen=True))


def linears(network: Network, prefixes: tuple[str, ...]) -> list[Op]:
    return [op for op in operators(frozen_layer(network)) if op.kind == "gemm" and op.name.startswith(prefixes)]


@pytest.mark.parametrize("targets", ["attention", "mlp", "all"])
@pytest.mark.parametrize("name", ["llama-3.1-8b", "deepseek-v3", "mixtral-8x7b", "mamba2-2.7b"])
@pytest.mark.parametrize("r", [1, 16])
def test_adapters_add_r_times_inputs_and_outputs(step: Make, name: str, targets: str, r: int) -> None:
    network = load_network(name)
    network = replace(network, blocks=network.blocks[:1] * 2)
    prefixes = {
        "attention": ("attn.", "mla."),
        "mlp": ("mlp.", "shared."),
        "all": ("attn.", "mla.", "mlp.", "shared.", "ssm."),
    }
    expected = 2 * sum(r * (op.shape["k"] + op.shape["n"]) for op in linears(network, prefixes[targets]))
    held = step(network, finetune=Finetune("lora", r=r, targets=targets)).held[0]
    assert held.dense == expected
    assert held.expert == 0
    assert held.frozen == network.total_parameters


@pytest.mark.parametrize("name", ["llama-3.1-8b", "deepseek-v3", "mixtral-8x7b", "jamba-v0.1"])
def test_the_base_has_no_weight_gradient(name: str) -> None:
    network = load_network(name)
    for block in set(network.blocks):
        tree = block_tree(block, BATCH, Style(training=True, frozen=True))
        _, weight = gradient(with_adapters(tree, Finetune("lora"), "bf16"))
        assert all(".lora_" in op.name for op in operators(weight))


def test_full_training_of_a_frozen_tree_is_two_thirds(step: Make, flops: Flops) -> None:
    """One gradient instead of two for linear layers; attention keeps its five products."""
    network = load_network("llama-2-7b")
    options = {"seq": 1024, "eager_attention": True}
    full = flops(step(network, **options).tree)
    attention = full - flops(step(network, **options).tree, ("attn.scores", "attn.values"))
    adapters = ("attn.qkv.lora", "attn.out.lora", "mlp.up.lora", "mlp.down.lora")
    tuned = flops(step(network, finetune=Finetune("lora", r=1), **options).tree, adapters)
    assert tuned == pytest.approx((full - attention) * 2 / 3 + attention, rel=1e-9)


def test_adapters_follow_the_shards_of_their_layers() -> None:
    network = load_network("llama-3.1-8b")

    def adapters(layout: Layout) -> dict[str, Value]:
        tree = with_adapters(frozen_layer(network, layout), Finetune("lora", r=8), "bf16")
        return {op.name: op.parameters for op in operators(tree) if ".lora_" in op.name}

    whole, shard = adapters(Layout()), adapters(Layout(tp=4, etp=4))
    for column in ("attn.qkv", "mlp.up"):
        assert shard[column + ".lora_a"] == whole[column + ".lora_a"]
        assert shard[column + ".lora_b"] == whole[column + ".lora_b"] / 4
    for row in ("attn.out", "mlp.down"):
        assert shard[row + ".lora_a"] == whole[row + ".lora_a"] / 4
        assert shard[row + ".lora_b"] == whole[row + ".lora_b"]


def test_layers_without_adapters_keep_no_input() -> None:
    network = load_network("llama-3.1-8b")
    tree = frozen_layer(network)

    def kept(name: str, targets: str) -> Value:
        tuned = with_adapters(tree, Finetune("lora", targets=targets), "bf16")
        (op,) = [op for op in operators(tuned) if op.name == name]
        return op.saved_bytes

    assert kept("attn.qkv", "attention") == kept("mlp.up", "mlp") == 2 * 128 * network.hidden_size
    assert kept("mlp.up", "attention") == kept("attn.qkv", "mlp") == 0


@pytest.mark.parametrize(("bits", "width"), [(4, BYTES["nf4"]), (8, BYTES["int8"])])
def test_a_quantised_base_is_widened_before_each_use(bits: int, width: float) -> None:
    for name in ("llama-3.1-8b", "mixtral-8x7b"):
        tree = frozen_layer(load_network(name))
        tuned = with_adapters(tree, Finetune("qlora", bits=bits), "bf16")
        base = {op.name: op for op in operators(tree) if op.kind in ("gemm", "grouped_gemm")}
        widened = {op.name.removesuffix(".widen"): op for op in operators(tuned) if op.name.endswith(".widen")}
        assert widened.keys() == base.keys()
        for key, op in widened.items():
            weights = base[key].shape["n"] * base[key].shape["k"] * base[key].shape.get("groups", 1.0)
            assert op.hbm_bytes == pytest.approx(width * weights)
            assert op.cached_bytes == pytest.approx(2.0 * weights)
            # The backward pass widens again, and nothing is kept for it.
            (again,) = operators(gradient(op)[0])
            assert again.hbm_bytes == op.hbm_bytes
            assert op.saved_bytes == 0


def test_eager_attention_has_no_weights_to_adapt() -> None:
    block = load_network("llama-2-7b").blocks[0]
    tree = block_tree(block, BATCH, Style(training=True, frozen=True, eager_attention=True))
    tuned = with_adapters(tree, Finetune("qlora", bits=4), "bf16")
    assert not [op for op in operators(tuned) if op.name.startswith(("attn.scores.", "attn.values."))]


def test_fp8_casts_inputs_and_weights_forward_and_gradients_backward() -> None:
    network = load_network("llama-3.1-8b")
    fp8 = PRECISIONS["fp8"]
    tree = block_tree(network.blocks[0], BATCH, Style(linear=fp8, experts=fp8, training=True))
    cast = with_casts(tree, 4)
    base = {op.name: op for op in operators(tree) if op.kind == "gemm"}
    assert {op.dtype for op in base.values()} == {"fp8"}
    casts = {op.name.removesuffix(".cast"): op for op in operators(cast) if op.name.endswith(".cast")}
    assert casts.keys() == base.keys()
    back = {
        op.name.removesuffix(".cast.grad"): op for op in operators(gradient(cast)[0]) if op.name.endswith(".cast.grad")
    }
    assert back.keys() == base.keys()
    for key, op in base.items():
        m, n, k = op.shape["m"], op.shape["n"], op.shape["k"]
        # A read in 16 bits and two writes in 8 (both orders); weights once in four micro-batches.
        assert casts[key].cached_bytes == 4 * m * k
        assert casts[key].hbm_bytes == 4 * n * k / 4
        assert back[key].cached_bytes == 4 * m * n
        assert back[key].hbm_bytes == 0
    assert tree_totals(cast).flops["fp8"] == tree_totals(tree).flops["fp8"]
    frozen = frozen_layer(network)
    assert [op.name for op in operators(with_casts(frozen, 4))] == [op.name for op in operators(frozen)]
