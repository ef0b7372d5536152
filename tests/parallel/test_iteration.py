"""Serving iterations: what they read, where the host waits, how stages follow each other."""

from __future__ import annotations

from typing import Any

import pytest

from windtunnel.models import load_network
from windtunnel.models.dtypes import PRECISIONS
from windtunnel.models.network import Attention, LatentAttention, Network
from windtunnel.ops.fold import Evaluation, tree_totals
from windtunnel.ops.op import Op, Price
from windtunnel.ops.rewrite import operators
from windtunnel.parallel.iteration import Iteration, iteration
from windtunnel.scenario.batch import Batch, decode, joined, prefill
from windtunnel.scenario.engines import ServeEngine
from windtunnel.scenario.layout import Layout
from windtunnel.scenario.plan import ServePlan

DENSE = ("llama-3.1-8b", "gemma-2-2b", "qwen3-8b", "gpt2-xl")


def run(network: Network, batch: Batch, layout: Layout | None = None, **engine: Any) -> Iteration:
    return iteration(
        network, ServePlan(layout=layout or Layout()), ServeEngine(name="e", description="", **engine), batch
    )


@pytest.mark.parametrize("name", DENSE)
def test_decoding_reads_every_weight_once_and_the_cache_once(name: str) -> None:
    network, n, context = load_network(name), 4.0, 5000.0
    tree = run(network, decode(n, context, network.views)).tree
    read = {
        kind: sum(op.hbm_bytes for op in operators_with_repeats(tree) if op.kind == kind)
        for kind in ("gemm", "attention_decode")
    }
    tables = network.embedding_parameters + network.head_parameters + network.other_parameters
    matrices = sum(
        b.parameters - sum(v.parameters for v in (*b.norms, *b.mixer.norms)) - biases(b) for b in network.blocks
    )
    assert tables > 0
    assert read["gemm"] == 2 * (matrices + network.vocab_size * network.hidden_size)
    cached = sum(b.mixer.kv_elements_per_token * min(context, b.mixer.window or context) for b in network.blocks)
    assert read["attention_decode"] == 2 * n * cached


def biases(block: Any) -> int:
    a, m = block.mixer, block.ffn
    qkv = a.q_bias * a.q_size + a.kv_bias * (a.k_size + a.v_size) + a.out_bias * a.hidden
    return qkv + m.bias * ((2 if m.gated else 1) * m.intermediate + m.hidden) + a.extra_parameters


def operators_with_repeats(tree: Any, times: float = 1.0) -> list[Op]:
    """Every operator with its bytes times how often it runs."""
    if isinstance(tree, Op):
        return [tree.but(hbm_bytes=times * tree.hbm_bytes)]
    return [
        op for c, n in zip(tree.children, tree.times, strict=True) for op in operators_with_repeats(c, times * float(n))
    ]


@pytest.mark.parametrize("name", ["deepseek-v2-lite", "deepseek-v3"])
@pytest.mark.parametrize("tp", [1, 4])
def test_latent_attention_reads_its_expansion_once_in_either_phase(name: str, tp: int) -> None:
    network = load_network(name)
    a = network.blocks[0].mixer
    assert isinstance(a, LatentAttention)
    expansion = 2 * a.kv_lora_rank * a.heads * (a.nope_head_dim + a.v_head_dim) / tp

    def read(batch: Batch) -> float:
        tree = run(network, batch, Layout(tp=tp, etp=tp)).stages[0][1]
        names = ("mla.kv_up", "mla.absorb", "mla.expand")
        found = {op.name: op.hbm_bytes for op in operators(tree) if op.name in names}
        return float(sum(found.values()))

    assert read(decode(8.0, 1000.0)) == expansion
    assert read(prefill(2.0, 500.0)) == expansion
    assert read(joined(prefill(2.0, 500.0), decode(8.0, 1000.0))) == 2 * expansion


def test_latent_attention_decodes_in_the_latent_space() -> None:
    """DeepSeek-V2 (arXiv 2405.04434, section 2.1.2): all heads share one latent of 512 channels and a key of 64."""
    network = load_network("deepseek-v2")
    (core,) = {
        op.kind: op for op in operators(run(network, decode(3.0, 1000.0)).tree) if op.kind == "attention_decode"
    }.values()
    assert core.hbm_bytes == 3 * 1000 * 2 * (512 + 64)
    assert core.flops == 2 * 3000 * 128 * (512 + 64 + 512)


def test_mixed_attention_is_dearer_than_its_parts() -> None:
    network = load_network("llama-3.2-1b")
    parts = (prefill(1.0, 512.0), decode(8.0, 2000.0))

    def attention(batch: Batch) -> float:
        kinds = Evaluation(run(network, batch, mixed_attention=1.5).tree, price).by_kind()
        return sum(float(kinds.get(k, 0.0)) for k in ("attention", "attention_decode"))

    assert attention(joined(*parts)) == pytest.approx(1.5 * sum(attention(p) for p in parts))


def price(op: Op) -> Price:
    seconds = op.flops * 1e-12 + op.hbm_bytes * 1e-10 + op.message_bytes * 1e-9
    return Price(seconds, {"hbm": seconds}, 0.0, op.host_s)


HOST = {"host_s_per_step": 2.0, "host_s_per_sequence": 0.25}


def test_an_asynchronous_engine_schedules_beside_the_device() -> None:
    network, batch = load_network("llama-3.2-1b"), decode(4.0, 100.0)
    device = Evaluation(run(network, batch).tree, price).seconds()
    assert device < 1
    assert Evaluation(run(network, batch, **HOST).tree, price).seconds() == pytest.approx(3.0 + device)
    assert Evaluation(run(network, batch, asynchronous=True, **HOST).tree, price).seconds() == pytest.approx(3.0)


def test_without_graphs_the_host_issues_every_layer() -> None:
    network, batch = load_network("llama-3.2-1b"), decode(4.0, 100.0)
    issued = Evaluation(run(network, batch, host_s_per_layer=1.0).tree, price)
    assert issued.seconds() == pytest.approx(network.layers)
    assert issued.critical()["host"] == pytest.approx(network.layers)
    replayed = run(network, batch, host_s_per_layer=1.0, graphs=True).tree
    assert Evaluation(replayed, price).seconds() == Evaluation(run(network, batch).tree, price).seconds()


def test_stages_run_in_turn_with_a_send_between() -> None:
    network, batch = load_network("llama-3.1-8b"), decode(4.0, 100.0)
    whole = tree_totals(run(network, batch).tree)
    for tp, pp in ((1, 4), (2, 5)):
        made = run(network, batch, Layout(tp=tp, pp=pp, etp=tp))
        totals = tree_totals(made.tree)
        assert totals.messages["send_recv"] == (pp - 1) * 2 * 4 * network.hidden_size / tp
        assert totals.flops["bf16"] * tp == pytest.approx(whole.flops["bf16"])
        assert sum(layers.count for layers, _ in made.stages) == pp


def test_windows_of_a_network_are_those_of_its_layers() -> None:
    for name in ("gemma-2-2b", "gpt-oss-20b", "llama-3.1-8b"):
        network = load_network(name)
        found = {b.mixer.window for b in network.blocks if isinstance(b.mixer, Attention)} - {None}
        assert set(network.views) == found


def test_prompts_are_issued_by_the_host_even_where_decoding_replays_a_graph() -> None:
    network, prompts = load_network("llama-3.2-1b"), prefill(1.0, 500.0)
    found = Evaluation(run(network, prompts, graphs=True, host_s_per_layer=1.0).tree, price)
    assert found.seconds() == pytest.approx(network.layers)


def test_sampling_launches_kernels_for_each_sequence() -> None:
    def launches(n: float, **engine: Any) -> Any:
        tree = run(load_network("llama-3.2-1b"), decode(n, 100.0), **engine).tree
        (sample,) = (op for op in operators(tree) if op.name == "sample")
        return sample.kernels

    assert launches(8.0) == 1
    assert launches(8.0, sampling_kernels=3.0) == 25


def test_products_in_8_bits_take_their_input_as_the_engine_makes_it() -> None:
    """One cast is in a product's measured price: without it half of the launches remain, more than one are added."""
    network, batch = load_network("llama-3.2-1b"), decode(4.0, 100.0)

    def found(**engine: Any) -> dict[str, Op]:
        plan = ServePlan(linear=PRECISIONS["fp8"], experts=PRECISIONS["fp8"])
        tree = iteration(network, plan, ServeEngine(name="e", description="", **engine), batch).tree
        return {op.name: op for op in operators(tree)}

    plain = found(quantize_kernels=None)
    one, three, none = (found(quantize_kernels=k) for k in (1.0, 3.0, 0.0))
    assert {n: op.kernels for n, op in one.items()} == {n: op.kernels for n, op in plain.items()}
    linears = {n for n, op in plain.items() if op.dtype == "fp8"}
    assert linears == {"attn.qkv", "attn.out", "mlp.up", "mlp.down"}
    assert set(three) - set(plain) == {f"{n}.cast" for n in linears}
    assert all(three[f"{n}.cast"].kernels == 2 for n in linears)
    for n in linears:
        assert none[n].kernels == 0.5
        assert none[n].cached_bytes == plain[n].cached_bytes - plain[n].shape["m"] * plain[n].shape["k"]
    partly = found(quantize_kernels=1.0, fused=frozenset({"quantize"}))
    assert {n for n in linears if partly[n].kernels == 1} == {"attn.out"}
