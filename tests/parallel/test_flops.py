"""Matrix FLOPs: against published closed forms, and conserved however a step is laid on ranks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.models import forward_flops_per_token, load_network
from windtunnel.models.network import MLP, Attention, MoE, Network
from windtunnel.ops.tree import Node
from windtunnel.ops.values import Value
from windtunnel.parallel.attention import attention_layer
from windtunnel.parallel.step import Step
from windtunnel.parallel.style import Style
from windtunnel.scenario.batch import Batch, prefill, training
from windtunnel.scenario.layout import Layout

Make = Callable[..., Step]
Flops = Callable[..., Value]
Gpt = Callable[..., Network]

UNSHARDED = ("moe.router", "mla.q_down", "mla.kv_down")
"""Products that every rank of a tp group runs whole unless the sequence is sharded."""


@pytest.mark.parametrize(
    ("b", "s", "layers", "h", "a", "vocab"), [(3, 64, 4, 64, 8, 1024), (8, 2048, 24, 2048, 16, 51200)]
)
def test_a_gpt_step_matches_equation_3_of_narayanan_et_al(
    step: Make, flops: Flops, gpt: Gpt, b: int, s: int, layers: int, h: int, a: int, vocab: int
) -> None:
    """arXiv 2104.04473, section 5.1, whose 96 counts the fourth, recomputed, forward pass; 72 is without it."""
    network = gpt(layers, h, a, vocab=vocab)

    def made(recompute: str) -> Value:
        return flops(
            step(network, micro_batch=1, global_batch=b, seq=s, recompute=recompute, eager_attention=True).tree
        )

    base = b * s * layers * h * h
    assert made("full") == pytest.approx(96 * base * (1 + s / (6 * h) + vocab / (16 * layers * h)), rel=1e-12)
    assert made("none") == pytest.approx(72 * base * (1 + s / (6 * h) + vocab / (12 * layers * h)), rel=1e-12)
    assert made("selective") - made("none") == pytest.approx(4 * b * s * s * h * layers, rel=1e-9)


@pytest.mark.parametrize(
    "name", ["gpt3-175b", "llama-3.1-70b", "mixtral-8x7b", "gemma-2-9b", "qwen3-30b-a3b", "falcon-40b"]
)
def test_a_step_executes_the_model_flops(name: str, step: Make, flops: Flops) -> None:
    """Flash attention runs seven products for six and sees the causal half, with its diagonal."""
    network, s = load_network(name), 4096
    made = flops(step(network, seq=s).tree)
    attention = sum(
        4 * b.mixer.heads * b.mixer.head_dim * (s + 1) / 2
        if b.mixer.window is None or b.mixer.window >= s
        else 4 * b.mixer.heads * b.mixer.head_dim * sum(min(i, b.mixer.window) for i in range(1, s + 1)) / s
        for b in network.blocks
    )
    expected = 3.0 * forward_flops_per_token(network) + 3.5 * attention
    assert made == pytest.approx(s * expected, rel=1e-9)


def world(step: Step, layout: dict[str, int]) -> int:
    return layout.get("tp", 1) * layout.get("pp", 1) * layout.get("cp", 1) * layout.get("dp", 1)


powers = st.sampled_from([1, 2, 4])


@settings(max_examples=60)
@given(
    st.sampled_from(["llama-3.1-8b", "qwen3-0.6b", "deepseek-v2-lite", "mixtral-8x7b", "mamba2-2.7b", "jamba-v0.1"]),
    powers, powers, powers, powers, powers, powers,
    st.sampled_from(["ring", "ulysses"]), st.booleans(), st.sampled_from(["none", "selective", "full"]), st.booleans(),
)  # fmt: skip
def test_sharding_conserves_matrix_flops(
    step: Make, flops: Flops, name: str, tp: int, pp: int, cp: int, dp: int, ep: int, etp: int, context: str,
    sharded: bool, recompute: str, eager: bool,
) -> None:  # fmt: skip
    network = load_network(name)
    has_experts = any(isinstance(b.ffn, MoE) for b in network.blocks)
    ep, etp = (ep, etp) if has_experts and (tp * cp * dp) % (ep * etp) == 0 else (1, tp)
    options = {"seq": 512, "global_batch": 16, "micro_batch": 2, "recompute": recompute, "eager_attention": eager}
    degrees = {"tp": tp, "pp": pp, "cp": cp, "dp": dp, "ep": ep, "etp": etp}
    leave_out = () if sharded else UNSHARDED
    alone = flops(step(network, **options).tree, leave_out)
    spread = flops(
        step(network, **options, **degrees, context=context, sequence_parallel=sharded and tp > 1).tree, leave_out
    )
    assert spread * tp * pp * cp * dp == pytest.approx(alone, rel=1e-9)


def test_what_is_not_sharded_over_tp_is_repeated(step: Make, flops: Flops) -> None:
    network = load_network("deepseek-v2-lite")
    alone, spread = step(network).tree, step(network, tp=4).tree
    repeated = flops(alone) - flops(alone, UNSHARDED)
    assert repeated > 0
    assert 4 * flops(spread) - flops(alone) == pytest.approx(3 * repeated, rel=1e-9)


def test_output_rows_are_padded_for_every_tp_rank(
    step: Make, flops: Flops, gpt: Gpt, engine: Callable[..., object]
) -> None:
    """Megatron-LM pads the vocabulary to a multiple of 128 x tp."""
    network = gpt(layers=2, hidden=64, vocab=1000)

    def made(tp: int, multiple: int) -> Value:
        return tp * flops(step(network, engine(vocab_multiple=multiple), tp=tp).tree)

    for tp, rows in ((1, 1024), (4, 1024), (8, 1024), (2, 1024)):
        assert made(tp, 128) - made(tp, 1) == pytest.approx(6 * 64 * 64 * (rows - 1000))
    wide = gpt(layers=2, hidden=128, heads=16, vocab=1000)
    padded = 16 * flops(step(wide, engine(), tp=16).tree) - flops(step(wide, engine()).tree)
    assert padded == pytest.approx(6 * 64 * 128 * (16 * 63 - 1000))


@pytest.mark.parametrize("kind", ["causal", "window", "both ways", "cross"])
@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("context", ["ring", "ulysses"])
def test_context_parallelism_conserves_attention(kind: str, eager: bool, context: str, flops: Flops) -> None:
    s, cp, window = 64, 4, 16 if kind == "window" else None
    a = Attention(32, 8, 8, 4, 4, window=window, causal=kind in ("causal", "window"), cross=kind == "cross")
    whole = training(2, s, windows=(16,))
    share = Batch(
        tokens=whole.tokens / cp, sequences=whole.sequences / cp, prefill_tokens=whole.tokens / cp,
        prefill_pairs=whole.prefill_pairs / cp, prefill_context=whole.prefill_context,
        windows={w: (p / cp, c, d) for w, (p, c, d) in whole.windows.items()}, sequences_in_prefill=2,
    )  # fmt: skip

    def core(batch: Batch, degree: int) -> Value:
        style = Style(Layout(cp=degree), training=True, context=context, eager_attention=eager)
        tree = attention_layer(a, batch, style, whole if kind == "cross" else None)
        return flops(tree, ("attn.q", "attn.kv", "attn.out"))

    pairs = {
        "causal": 2 * s * (s + 1) / 2,
        "window": 2 * sum(min(i, 16) for i in range(1, s + 1)),
        "both ways": 2 * s * s,
        "cross": 2 * s * s,
    }[kind]
    expected = 2 * (2 * s * s if eager else pairs) * 8 * (4 + 4)
    assert core(whole, 1) == pytest.approx(expected, rel=1e-12)
    assert cp * core(share, cp) == pytest.approx(expected, rel=1e-12)


GRIDS = [
    (tp, cp, dp, ep, etp)
    for tp, cp, dp, ep, etp in product((1, 2, 4), (1, 2), (1, 4), (1, 2, 8), (1, 2, 4))
    if (tp * cp * dp) % (ep * etp) == 0
]


@pytest.mark.parametrize("sharded", [False, True])
def test_expert_rows_are_conserved_for_every_grid(step: Make, flops: Flops, gpt: Gpt, sharded: bool) -> None:
    moe = MoE(experts=8, top_k=2, expert=MLP(64, 128, gated=True), router_parameters=64 * 8)
    network, seq, batch = gpt(layers=2, moe=moe), 64, 4
    others = ("attn.", "moe.router", "lm_head")
    expected = 3 * batch * seq * 2 * 2 * 3 * 64 * 128 * 2
    for tp, cp, dp, ep, etp in GRIDS:
        made = step(
            network, tp=tp, cp=cp, dp=dp, ep=ep, etp=etp, seq=seq, global_batch=batch,
            sequence_parallel=sharded and tp > 1,
        )  # fmt: skip
        assert tp * cp * dp * flops(made.tree, others) == pytest.approx(expected, rel=1e-12), (tp, cp, dp, ep, etp)


def test_serving_flops_of_a_prompt_and_of_chunks_are_the_same(flops: Flops) -> None:
    """A prompt in two pieces multiplies as much as in one (MLA aside, which expands its cache again)."""
    for name in ("llama-3.1-8b", "gemma-2-9b"):
        network = load_network(name)
        windows = (4096,) if name.startswith("gemma") else ()

        def layer(batch: Batch, network: Network = network) -> Node:
            return attention_layer(network.blocks[0].mixer, batch, Style())

        whole = flops(layer(prefill(1, 8192, 0, windows)))
        pieces = flops(layer(prefill(1, 5000, 0, windows))) + flops(layer(prefill(1, 3192, 5000, windows)))
        assert pieces == pytest.approx(whole, rel=1e-12)
