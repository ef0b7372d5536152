"""P034: what interleaving gains over 1F1B on 96 GPUs, and the largest model on 3,072."""

from __future__ import annotations

from statistics import median
from typing import Any

from windtunnel.scenario.provenance import assumption, catalogue, paper
from windtunnel.scenario.results import TrainResult
from windtunnel.studies.ask import train
from windtunnel.studies.study import Claim, Setup, Study, Sweep

SETUP = Setup(
    technique=paper("megatron-lm:virtual_stages=2", "section 2.2 and figure 4: two chunks a device"),
    engine=catalogue("megatron@2021", "engine profile of April 2021"),
    model=paper("gpt3-175b", "section 5.3, figure 12: GPT of 175 billion parameters, 96 layers"),
    on=paper("96xa100-80gb-sxm", "section 5.3, figure 12: 96 GPUs; section 5: A100 of 80 GB, 8 x 200 Gbit/s a node"),
    tp=assumption(8, "a node's GPUs, the rule of section 3.2; the 12 stages of figure 12 follow"),
    pp=assumption(12, "96 GPUs over tensor-parallel groups of 8"),
    seq=paper(2048, "section 5: sequence length 2,048"),
    precision=paper("fp16", "section 5: mixed precision"),
    recompute=paper("full", "section 3.5: activation recomputation, a layer's input kept"),
    batches=paper((12, 24, 36, 48, 60), "figure 12: batch sizes on the horizontal axis"),
    percent=paper((1.10, 1.31), "abstract: 10+ %; section 2.2's bubbles, (p - 1)/m and (p - 1)/(2m), allow 31 % at 12"),
    footprint=paper(None, "abstract: memory footprint comparable to existing approaches"),
    footprint_batch=paper(60, "figure 12: the largest batch"),
    largest=paper("megatron-gpt-1008b", "table 1: 1008.0 billion parameters"),
    largest_on=paper("3072xa100-80gb-sxm", "table 1: 3,072 GPUs"),
    largest_tp=paper(8, "table 1: tensor-parallel size"),
    largest_pp=paper(64, "table 1: pipeline-parallel size"),
    largest_batch=paper(3072, "table 1: batch size"),
    largest_flops=paper(502e15, "abstract: 502 petaFLOP/s"),
    peak_share=paper(0.52, "abstract: 52 % of theoretical peak"),
    peak_flops=catalogue(312e12, "a100-80gb-sxm, fp16"),
    gpus=paper(3072, "table 1: 3,072 GPUs"),
    sizes=assumption((12, 24, 48, 96, 192, 384, 768), "figure 12 and on, to where the bubble is gone"),
)


def both(batch: float) -> tuple[TrainResult, TrainResult]:
    """1F1B, and the interleaved schedule."""
    asked: dict[str, Any] = {
        "model": SETUP.model, "on": SETUP.on, "tp": SETUP.tp, "pp": SETUP.pp, "global_batch": int(batch),
        "seq": SETUP.seq, "precision": SETUP.precision, "recompute": SETUP.recompute, "engine": SETUP.engine,
    }  # fmt: skip
    return train(**asked), train(**asked, techniques=[SETUP.technique])


def gain(batch: float) -> float:
    """Throughput with interleaving over throughput without."""
    before, after = both(batch)
    return before.step_time_s / after.step_time_s


def footprint() -> float:
    """Memory of the fullest stage with interleaving over without."""
    before, after = both(SETUP.footprint_batch)
    return after.memory_bytes["total"] / before.memory_bytes["total"]


def usual_gain() -> float:
    """The median over the batch sizes of figure 12."""
    return median(gain(batch) for batch in SETUP.batches)


def largest_share() -> float:
    """FLOPs of the largest model's step, recomputation counted (equation 3), over the peak."""
    share = train(
        model=SETUP.largest, on=SETUP.largest_on, tp=SETUP.largest_tp, pp=SETUP.largest_pp,
        global_batch=SETUP.largest_batch, seq=SETUP.seq, precision=SETUP.precision, recompute=SETUP.recompute,
        engine=SETUP.engine, techniques=[SETUP.technique],
    ).hfu  # fmt: skip
    assert share is not None
    return share


STUDY = Study(
    name="megatron-lm",
    seed="P034",
    title="Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM",
    technique="megatron-lm",
    setup=SETUP,
    setup_stated=True,
    claim=Claim(
        "throughput of the interleaved schedule over 1F1B, median over the batch sizes of figure 12",
        SETUP.given["percent"], "ratio", usual_gain,
        why="\"10+ %\" is read as a range that ends where section 2.2's bubbles would be halved at the smallest batch; "
        "held against 10 % alone, 13 % would be the direction.",
    ),
    also=(
        Claim(
            "FLOP/s of 1 trillion parameters on 3,072 GPUs", SETUP.given["largest_flops"], "absolute",
            lambda: largest_share() * SETUP.peak_flops * SETUP.gpus,
            why="every rank runs alike here: no slow GPU or link among 3,072 holds the others up",
        ),
        Claim("the same over the peak of the GPUs", SETUP.given["peak_share"], "absolute", largest_share),
        Claim("memory of the fullest GPU over 1F1B's", SETUP.given["footprint"], "ratio", footprint),
    ),
    sweep=Sweep("sequences of a step", SETUP.given["sizes"], gain, "throughput over 1F1B"),
)  # fmt: skip
