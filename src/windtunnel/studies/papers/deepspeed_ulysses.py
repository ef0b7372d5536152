"""P148: long sequences over 32 GPUs, by Ulysses with ZeRO-3 or by Megatron-LM's sequence parallelism."""

from __future__ import annotations

from typing import Any

from windtunnel.scenario.provenance import assumption, catalogue, paper
from windtunnel.scenario.results import TrainResult
from windtunnel.studies.ask import train
from windtunnel.studies.study import Claim, Setup, Study, Sweep

SETUP = Setup(
    technique=paper("deepspeed-ulysses", "title"),
    engine=catalogue("deepspeed@2023", "engine profile: Megatron-DeepSpeed of 2023"),
    model=assumption("llama-7b", "section 4.4: GPT of 7 billion parameters; this one's positions have no limit"),
    on=paper("32xa100-80gb-sxm", "section 4.4: 7 billion parameters on 32 A100"),
    ranks=paper(32, "section 4.4: all GPUs share a sequence, by either method"),
    lengths=assumption(
        (8192, 16384, 32768, 65536, 131072, 262144, 524288), "section 4.4: from 8k to the longest that fits"
    ),
    batch=assumption(8, "sequences of a step, the same for both, and all in one micro-batch"),
    zero=paper(3, "section 3.3: ZeRO-3 over data and sequence parallel ranks"),
    recompute=assumption("full", "activation checkpointing, usual at these lengths"),
    flash=paper(True, "section 3.5: FlashAttention; the baseline is given it, too"),
    precision=assumption("bf16", "usual on A100"),
    faster=paper(2.5, "abstract: 2.5 times faster"),
    longer=paper(4.0, "abstract: 4 times longer sequences"),
    speed=paper(175e12, "introduction: over 175 TFLOP/s for each GPU"),
    peak_flops=catalogue(312e12, "a100-80gb-sxm, bf16"),
)


def step(length: float, **more: Any) -> TrainResult:
    """One step with sequences of that length."""
    return train(
        model=SETUP.model, on=SETUP.on, seq=int(length), micro_batch=SETUP.batch, global_batch=SETUP.batch,
        precision=SETUP.precision, recompute=SETUP.recompute, flash_attention=SETUP.flash, engine=SETUP.engine, **more,
    )  # fmt: skip


def before(length: float) -> TrainResult:
    """Sequence parallelism as far as tensor parallelism goes."""
    return step(length, tp=SETUP.ranks, sequence_parallel=True)


def after(length: float) -> TrainResult:
    """Ulysses over the same ranks."""
    return step(length, cp=SETUP.ranks, zero=SETUP.zero, techniques=[SETUP.technique])


def gain(length: float) -> float:
    """Throughput with Ulysses over throughput of the baseline."""
    return before(length).step_time_s / after(length).step_time_s


def longer() -> float:
    """The longest sequence of the range that fits, over the baseline's."""
    with_it, without = (max(s for s in SETUP.lengths if method(s).fits) for method in (after, before))
    return float(with_it / without)


def flops(length: float) -> float:
    """Model FLOP/s of one GPU."""
    share = after(length).mfu
    assert share is not None
    return float(share * SETUP.peak_flops)


STUDY = Study(
    name="deepspeed-ulysses",
    seed="P148",
    title="DeepSpeed Ulysses: System Optimizations for Enabling Training of Extreme Long Sequence Transformer Models",
    technique="deepspeed-ulysses",
    setup=SETUP,
    setup_stated=False,
    claim=Claim(
        "training throughput over Megatron-LM's sequence parallelism, largest over the lengths", SETUP.given["faster"],
        "ratio", lambda: max(gain(s) for s in SETUP.lengths),
    ),
    also=(
        Claim(
            "longest sequence over the baseline's", SETUP.given["longer"], "ratio", longer,
            why="with the same kernels and recomputation a rank keeps the same share of the activations either way; "
            "what filled the baseline's memory four times earlier is not in the paper",
        ),
        Claim(
            "model FLOP/s for each GPU, largest over the lengths", SETUP.given["speed"], "absolute",
            lambda: max(flops(s) for s in SETUP.lengths),
        ),
    ),
    sweep=Sweep("tokens of a sequence", SETUP.given["lengths"], gain, "throughput over the baseline"),
)  # fmt: skip
