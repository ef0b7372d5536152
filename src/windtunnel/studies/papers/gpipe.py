"""P014: a Transformer of 48 layers on two to eight accelerators, in one to 32 micro-batches."""

from __future__ import annotations

from typing import Any

from windtunnel.scenario.provenance import assumption, catalogue, paper
from windtunnel.studies.ask import train
from windtunnel.studies.study import Claim, Setup, Study, Sweep

SETUP = Setup(
    technique=paper("gpipe", "title"),
    engine=catalogue("gpipe", "engine profile: Lingvo on XLA"),
    model=paper("gpipe-transformer-48", "section 3, table 2: Transformer-48"),
    tpu=paper("tpu-v3", "section 3: Cloud TPUv3"),
    gpu=paper("p100", "section 3, table 3: P100 without NVLink"),
    bus=paper({"node": "dgx-1-p100", "scale_up_gbyte_per_s": 16}, "section 3, table 3: no NVLink, so PCIe 3.0 x16"),
    batch=paper(32, "table 1: batch size 32"),
    seq=paper(1024, "table 1: 1,024 tokens"),
    few=paper(2, "table 2: K = 2, the fewest"),
    many=paper(8, "table 2: K = 8, the most"),
    pieces=paper(32, "table 2: M = 32"),
    some_pieces=paper(4, "table 2: M = 4"),
    scaling=paper(3.5, "abstract: almost linear; section 3, table 2: 1.8 to 6.3 from 2 to 8 accelerators, 3.5 of 4"),
    scaling_gpu=paper(3.3, "section 3, table 3: 1 to 3.3 from 2 to 8 GPUs"),
    pipelining=paper(4.8, "table 2: 6.3 at M = 32 over 1.3 at M = 1, K = 8"),
    four_pieces=paper(3.7, "table 2: 4.8 at M = 4 over 1.3 at M = 1, K = 8"),
    sweep=assumption((1, 2, 4, 8, 16, 32), "table 2's micro-batches and those between"),
)


def seconds(accelerators: int, pieces: float, device: str = SETUP.tpu, **more: Any) -> float:
    """One step of the model on so many accelerators, a stage each."""
    technique = f"{SETUP.technique}:partitions={accelerators},micro_batches={int(pieces)}"
    return train(
        model=SETUP.model, on=f"{accelerators}x{device}", global_batch=SETUP.batch, seq=SETUP.seq,
        engine=SETUP.engine, techniques=[technique], **more,
    ).step_time_s  # fmt: skip


def scaling(device: str, **more: Any) -> float:
    """Throughput of the most accelerators over that of the fewest."""
    return seconds(SETUP.few, SETUP.pieces, device, **more) / seconds(SETUP.many, SETUP.pieces, device, **more)


def pipelining(pieces: float) -> float:
    """Throughput on the most accelerators over that of one micro-batch, which only one stage at a time works on."""
    return seconds(SETUP.many, 1) / seconds(SETUP.many, pieces)


STUDY = Study(
    name="gpipe",
    seed="P014",
    title="GPipe: Efficient Training of Giant Neural Networks using Pipeline Parallelism",
    technique="gpipe",
    setup=SETUP,
    setup_stated=False,
    claim=Claim(
        "throughput of 8 accelerators over 2, 32 micro-batches", SETUP.given["scaling"], "ratio",
        lambda: scaling(SETUP.tpu),
    ),
    also=(
        Claim(
            "the same on GPUs without NVLink", SETUP.given["scaling_gpu"], "ratio",
            lambda: scaling(SETUP.gpu, set=SETUP.bus),
        ),
        Claim(
            "throughput of 32 micro-batches over one, 8 accelerators", SETUP.given["pipelining"], "ratio",
            lambda: pipelining(SETUP.pieces),
        ),
        Claim(
            "throughput of 4 micro-batches over one, 8 accelerators", SETUP.given["four_pieces"], "ratio",
            lambda: pipelining(SETUP.some_pieces),
            why="4 micro-batches over 8 stages can give (8·4)/(4 + 7) = 2.9 at most",
        ),
    ),
    sweep=Sweep("micro-batches", SETUP.given["sweep"], pipelining, "throughput over one micro-batch"),
)  # fmt: skip
