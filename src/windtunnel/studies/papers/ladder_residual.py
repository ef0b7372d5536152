"""P047: a 70B Transformer over eight GPUs, with and without waiting for its all-reduces."""

from __future__ import annotations

from windtunnel.scenario.provenance import assumption, catalogue, paper
from windtunnel.studies.ask import infer
from windtunnel.studies.study import Claim, Setup, Study, Sweep

SETUP = Setup(
    technique=paper("ladder-residual", "title"),
    model=paper("llama-3-70b", "abstract: 70B parameters"),
    machine=assumption("8xh100-sxm", "section 4: H100 joined by NVLink; the abstract names no device"),
    tp=paper(8, "abstract: over 8 devices"),
    engine=catalogue("gpt-fast", "engine profile; section 4: a standalone runtime like gpt-fast, CUDA graphs, NCCL"),
    prompt=assumption(1024, "section 4: prompt tokens of the benchmark"),
    answer=assumption(512, "section 4: generated tokens of the benchmark"),
    batches=assumption((1, 4, 16, 64), "section 4: batch sizes from 1 to 64"),
    faster=paper(1.30, "abstract: 30 % end-to-end speed-up"),
    links=assumption((16.0, 32.0, 64.0, 128.0, 256.0, 450.0, 900.0, 1800.0), "GB/s one way: PCIe 3 to beyond NVLink 5"),
    middle=assumption(16, "a batch of the swept range"),
)


def _seconds(batch: int, *techniques: str, **hardware: float) -> float:
    return infer(
        model=SETUP.model, on=SETUP.machine, set=hardware, tp=SETUP.tp, engine=SETUP.engine, input=SETUP.prompt,
        output=SETUP.answer, batch=batch, techniques=list(techniques),
    ).e2e_s  # fmt: skip


def _gain() -> float:
    return max(_seconds(b) / _seconds(b, SETUP.technique) for b in SETUP.batches)


def _at(gbyte_per_s: float) -> float:
    link = {"scale_up_gbyte_per_s": gbyte_per_s}
    return _seconds(SETUP.middle, **link) / _seconds(SETUP.middle, SETUP.technique, **link)


STUDY = Study(
    name="ladder-residual",
    seed="P047",
    title="Ladder-residual: parallelism-aware architecture for accelerating large model inference with communication "
    "overlapping",
    technique="ladder-residual",
    setup=SETUP,
    setup_stated=False,
    claim=Claim(
        metric="End-to-end speed-up at inference, 70B over 8 GPUs with NVLink, best of the batch sizes",
        published=SETUP.given["faster"],
        kind="ratio",
        predict=_gain,
    ),
    sweep=Sweep(
        variable="bandwidth of the link between GPUs, GB/s one way",
        values=SETUP.given["links"],
        gain=_at,
        metric="speed-up end to end, batch of 16",
    ),
)
