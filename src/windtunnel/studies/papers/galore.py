"""GaLore (P190): optimizer and total memory of pre-training a 7B model on one device."""

from __future__ import annotations

from functools import cache

from windtunnel.scenario.provenance import assumption, catalogue, paper
from windtunnel.studies.ask import train
from windtunnel.studies.study import Claim, Setup, Study, Sweep

SETUP = Setup(
    model=catalogue("llama-7b", "abstract: LLaMA 7B"),
    machine=paper("1xrtx-4090", "abstract: NVIDIA RTX 4090 with 24 GB"),
    engine=assumption("pytorch@bf16", "Hugging Face's model in plain PyTorch, weights, gradients and states in bf16"),
    precision=paper("bf16", "abstract: BF16 baseline"),
    seq=paper(256, "figure 1: token batch size of 256, without activation checkpointing"),
    batch=paper(1, "figure 1: token batch size of 256"),
    adam=paper("adamw-bf16", "abstract: BF16 baseline"),
    adam8=paper("adam8bit", "abstract: 8-bit GaLore"),
    galore=paper("galore:rank=1024", "experiments: rank 1024 for the 7B model"),
    layerwise=paper("galore:rank=1024,layerwise=true", "figure 1: 8-bit GaLore with per-layer weight updates"),
    at_rank=paper("galore:layerwise=true,rank={}", "figure 1: 8-bit GaLore with per-layer weight updates"),
    per_gb=assumption(1e9, "the paper's G is taken as 10^9 bytes: 14 GB for the weights of 6.7 billion parameters"),
)


@cache
def _memory(optimizer: str, technique: str = "") -> dict[str, float]:
    found = train(
        model=SETUP.model, on=SETUP.machine, engine=SETUP.engine, precision=SETUP.precision, seq=SETUP.seq,
        micro_batch=SETUP.batch, global_batch=SETUP.batch, optimizer=optimizer,
        techniques=[technique] if technique else [],
    )  # fmt: skip
    return dict(found.memory_bytes)


def _over(kind: str, optimizer: str, technique: str) -> float:
    """Memory with GaLore over the BF16 baseline's."""
    return _memory(optimizer, technique)[kind] / _memory(SETUP.adam)[kind]


def _gain(rank: float) -> float:
    return _memory(SETUP.adam)["total"] / _memory(SETUP.adam8, SETUP.at_rank.format(int(rank)))["total"]


STUDY = Study(
    name="galore",
    seed="P190",
    title="GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection",
    technique="galore",
    setup=SETUP,
    setup_stated=True,
    claim=Claim(
        metric="optimizer state with GaLore over BF16 Adam's",
        published=paper(0.345, "abstract: up to 65.5 % less"),
        kind="ratio",
        predict=lambda: _over("optimizer", SETUP.adam, SETUP.galore),
    ),
    also=(
        Claim(
            metric="optimizer state with 8-bit GaLore over BF16 Adam's",
            published=paper(0.175, "abstract: up to 82.5 % less"),
            kind="ratio",
            predict=lambda: _over("optimizer", SETUP.adam8, SETUP.galore),
            why="projectors are kept in 16 bits here; 82.5 % counts them in 8",
        ),
        Claim(
            metric="total memory with 8-bit GaLore, layer by layer, over the BF16 baseline's",
            published=paper(0.367, "abstract: 63.3 % less"),
            kind="ratio",
            predict=lambda: _over("total", SETUP.adam8, SETUP.layerwise),
        ),
        Claim(
            metric="total memory of the BF16 baseline, GB",
            published=paper(58.0, "introduction: 14 GB weights, 42 GB Adam states and gradients, 2 GB activations"),
            kind="absolute",
            predict=lambda: _memory(SETUP.adam)["total"] / SETUP.per_gb,
        ),
        Claim(
            metric="total memory of 8-bit GaLore on the 7B model, GB",
            published=paper((0.0, 24.0), "abstract: feasible on GPUs with 24 GB"),
            kind="absolute",
            predict=lambda: _memory(SETUP.adam8, SETUP.layerwise)["total"] / SETUP.per_gb,
        ),
    ),
    sweep=Sweep(
        variable="rank",
        values=assumption(
            (64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 3072.0, 4096.0),
            "up to the model's width, from where on nothing is projected",
        ),
        gain=_gain,
        metric="total memory of BF16 Adam over that of 8-bit GaLore",
    ),
)
