"""P013: the attention kernel against its first generation, and GPT training with it."""

from __future__ import annotations

from typing import Any

from windtunnel.scenario.provenance import assumption, catalogue, paper
from windtunnel.studies.ask import train
from windtunnel.studies.study import Claim, Setup, Study, Sweep

SETUP = Setup(
    technique=paper("flash-attention-2", "title"),
    engine=catalogue("flash-attn", "engine profile: the first generation's training code"),
    plain=assumption(
        {"flash_attention": False, "recompute": "selective"},
        "the same code with scores in memory, which attention's recomputation makes fit at 8k",
    ),
    one=paper("1xa100-80gb-sxm", "section 4.1: one A100 of 80 GB"),
    node=paper("8xa100-80gb-sxm", "section 4.2: 8 A100 of 80 GB"),
    gpus=paper(8, "section 4.2: 8 A100"),
    heads=assumption(
        ("llama-3.2-1b", "qwen3-0.6b"),
        "32 heads of 64 and 16 of 128, the paper's hidden dimension of 2,048; causal, since these are language models",
    ),
    tokens=paper(16384, "section 4.1: 16k tokens in all"),
    lengths=paper((512, 1024, 2048, 4096, 8192, 16384), "section 4.1: sequences from 512 to 16k"),
    precision=paper("fp16", "section 4.1: 16-bit"),
    model=assumption("phi-2", "the sizes of GPT3-2.7B (32 layers of 2,560), with positions that reach 8k"),
    contexts=paper((2048, 8192), "table 1: 2k and 8k context"),
    batch_tokens=assumption(8192, "tokens of a micro-batch, what fits in 80 GB"),
    accumulated=assumption(8, "micro-batches of a step: the update is spread over about half a million tokens"),
    kernel_speedup=paper(2.0, "abstract: around 2 times over FlashAttention"),
    training_speed=paper(225e12, "abstract: up to 225 TFLOP/s for each A100"),
    peak_flops=catalogue(312e12, "a100-80gb-sxm, fp16"),
    utilization=paper(0.72, "abstract: 72 % model FLOPs utilization"),
    over_first=paper(1.3, "section 4.2, table 1: 225 over 175 TFLOP/s at 2.7B and 8k"),
    over_plain=paper(2.8, "section 4.2, table 1: 225 over 80 TFLOP/s at 2.7B and 8k"),
)


def attention_s(model: str, length: int, **more: Any) -> float:
    """Seconds of attention, forward and backward, in all layers of one step."""
    batch = SETUP.tokens // length
    answer = train(
        model=model, on=SETUP.one, micro_batch=batch, global_batch=batch, seq=length, precision=SETUP.precision,
        engine=SETUP.engine, **more,
    )  # fmt: skip
    spent = answer.tree.by_kind()
    return float(spent["attention"] + spent["attention_backward"])


def kernel_speedup(model: str, length: float) -> float:
    """The first generation's time over the second's."""
    return attention_s(model, int(length)) / attention_s(model, int(length), techniques=[SETUP.technique])


def utilization(context: int, **more: Any) -> float:
    """Model FLOPs, attention counted in full, over the peak: of GPUs in training."""
    batch = max(SETUP.batch_tokens // context, 1)
    share = train(
        model=SETUP.model, on=SETUP.node, micro_batch=batch, global_batch=batch * SETUP.gpus * SETUP.accumulated,
        seq=context, precision=SETUP.precision, engine=SETUP.engine, **more,
    ).mfu  # fmt: skip
    assert share is not None
    return share


def best_utilization() -> float:
    """The largest over the contexts of table 1."""
    return max(utilization(c, techniques=[SETUP.technique]) for c in SETUP.contexts)


def training_speedup(**before: Any) -> float:
    """Training speed with the technique over that without, at the longest context."""
    context = max(SETUP.contexts)
    return utilization(context, techniques=[SETUP.technique]) / utilization(context, **before)


STUDY = Study(
    name="flash-attention-2",
    seed="P013",
    title="FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning",
    technique="flash-attention-2",
    setup=SETUP,
    setup_stated=True,
    claim=Claim(
        "attention, forward and backward, over FlashAttention: largest over head sizes and lengths",
        SETUP.given["kernel_speedup"], "ratio",
        lambda: max(kernel_speedup(m, s) for m in SETUP.heads for s in SETUP.lengths),
        why="the first generation is calibrated on MPT training runs of 2023, which had it from Triton or CUDA, at "
        "0.34 of peak; the paper's table 1 leaves its baseline 0.24, and 1.3 to 2.5 times over the Triton version. The "
        "second is calibrated on a serving engine's paged calls, 0.56 of peak where the paper's reach 0.73",
    ),
    also=(
        Claim(
            "model FLOP/s for each A100 in GPT training, largest over the contexts", SETUP.given["training_speed"],
            "absolute", lambda: best_utilization() * SETUP.peak_flops,
        ),
        Claim("the same over the peak", SETUP.given["utilization"], "absolute", best_utilization),
        Claim(
            "GPT training at 8k over FlashAttention", SETUP.given["over_first"], "ratio",
            training_speedup,
            why="the first generation is too fast here, as in the headline: 199 TFLOP/s for each A100, not 175",
        ),
        Claim(
            "GPT training at 8k over attention whose scores are in memory", SETUP.given["over_plain"], "ratio",
            lambda: training_speedup(**SETUP.plain),
        ),
    ),
    sweep=Sweep(
        "tokens of a sequence", SETUP.given["lengths"], lambda s: kernel_speedup(SETUP.heads[-1], s),
        "attention over FlashAttention",
    ),
)  # fmt: skip
