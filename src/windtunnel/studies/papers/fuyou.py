"""Fuyou (P020): fine-tuning GPT-3 on one RTX 4090 of a commodity server, against ZeRO-Infinity."""

from __future__ import annotations

from functools import cache

from windtunnel.scenario.provenance import assumption, catalogue, paper
from windtunnel.scenario.results import TrainResult
from windtunnel.studies.ask import train
from windtunnel.studies.study import Claim, Setup, Study, Sweep

SETUP = Setup(
    technique=paper("fuyou", "abstract: SSD-CPU communication as a dimension of optimisation"),
    small=catalogue("opt-13b", "abstract: GPT-3 13B; the same width, depth and vocabulary"),
    large=catalogue("gpt3-175b", "abstract: GPT-3 175B"),
    machine=paper("1xrtx-4090", "abstract: one RTX 4090"),
    one_gpu=paper({"gpus_per_node": 1}, "abstract: a single GPU"),
    dram=assumption(
        {"dram_gbyte": 256, "dram_gbyte_per_s": 375},
        "limited CPU memory; two Xeon Gold 5320 with eight channels of DDR4-2933 each",
    ),
    drives=assumption(
        {"nvme_gbyte": 46080, "nvme_gbyte_per_s": 53.6},
        "twelve Intel P5510 of 3.84 TB; 6.5 GB/s reading and 3.4 writing by its data sheet, half of the bytes each",
    ),
    per_drive=assumption(4.47, "GB/s of one of these drives"),
    engine=assumption("deepspeed@infinity", "what ZeRO-Infinity and Megatron-DeepSpeed's kernels do; Fuyou's too"),
    recompute=assumption("full", "ZeRO-Infinity keeps each layer's input"),
    offload=assumption("optimizer:nvme,params:nvme,activations:cpu", "ZeRO-Infinity with all state on drives"),
    precision=assumption("fp16", "mixed precision of the year"),
    seq=assumption(1024, "a common length for fine-tuning"),
    batches=assumption((8, 16, 32, 64), "powers of two; each system with the largest that fits"),
    sweep_batch=assumption(16, "the largest of these that both have room for"),
    tera=assumption(1e12, "FLOPs of a TFLOP"),
)


@cache
def _step(model: str, batch: int, fuyou: bool, nvme_gbyte_per_s: float = 0) -> TrainResult:
    host = {**SETUP.one_gpu, **SETUP.dram, **SETUP.drives}
    if nvme_gbyte_per_s:
        host["nvme_gbyte_per_s"] = nvme_gbyte_per_s
    asked = {
        "model": model, "on": SETUP.machine, "set": host, "engine": SETUP.engine, "precision": SETUP.precision,
        "seq": SETUP.seq, "micro_batch": batch, "global_batch": batch,
    }  # fmt: skip
    if fuyou:
        return train(**asked, techniques=[SETUP.technique])
    return train(**asked, recompute=SETUP.recompute, offload=SETUP.offload)


def _tflops(fuyou: bool) -> float:
    """Of the 13B model, at the largest batch that fits."""
    found = [_step(SETUP.small, batch, fuyou) for batch in SETUP.batches]
    return [r.model_tflops_per_gpu for r in found if r.fits_nodes][-1]


def _trains(fuyou: bool) -> float:
    """Whether the 175B model can be trained at all: 1 or 0."""
    return float(_step(SETUP.large, SETUP.batches[0], fuyou).fits_nodes)


def _gain(drives: float) -> float:
    rate = SETUP.per_drive * drives
    plain = _step(SETUP.small, SETUP.sweep_batch, False, rate)
    return plain.step_time_s / _step(SETUP.small, SETUP.sweep_batch, True, rate).step_time_s


_BASELINE = (
    "Ours of ZeRO-Infinity is a third too fast. That the host updates after the backward pass and waits for the drives "
    "in turn is modelled, and its buffers; the passes over gradients in host memory (overflow, clipping, conversion), "
    "the drives' rate under its requests and the batch that was measured are not known. Of Fuyou ours is a seventh "
    "too slow: the link to the host cannot carry the activations of all layers in time, so that a part of them is "
    "computed again; counted with that the device runs at nine tenths of its nominal rate"
)

STUDY = Study(
    name="fuyou",
    seed="P020",
    title="Adding NVMe SSDs to Enable and Accelerate 100B Model Fine-tuning on a Single GPU",
    technique="fuyou",
    setup=SETUP,
    setup_stated=False,
    claim=Claim(
        metric="TFLOPS of Fuyou on the 13B model over ZeRO-Infinity's",
        published=paper(156 / 45, "abstract: 156 TFLOPS against 45"),
        kind="ratio",
        predict=lambda: _tflops(True) / _tflops(False),
        why=_BASELINE,
    ),
    also=(
        Claim(
            metric="TFLOPS of Fuyou on the 13B model",
            published=paper(156.0, "abstract"),
            kind="absolute",
            predict=lambda: _tflops(True),
        ),
        Claim(
            metric="TFLOPS of ZeRO-Infinity on the 13B model",
            published=paper(45.0, "abstract"),
            kind="absolute",
            predict=lambda: _tflops(False),
            why=_BASELINE,
        ),
        Claim(
            metric="Fuyou trains the 175B model",
            published=paper(1.0, "abstract: fine-tunes 175B GPT-3 on a RTX 4090"),
            kind="absolute",
            predict=lambda: _trains(True),
        ),
        Claim(
            metric="ZeRO-Infinity trains the 175B model",
            published=paper((0.0, 0.0), "abstract: ZeRO-Infinity fails to fine-tune it"),
            kind="absolute",
            predict=lambda: _trains(False),
        ),
    ),
    sweep=Sweep(
        variable="drives",
        values=assumption((1.0, 2.0, 4.0, 8.0, 12.0, 24.0), "from one drive to two for each of the server's"),
        gain=_gain,
        metric="step time over that with fuyou",
    ),
)
