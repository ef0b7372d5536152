"""P001: throughput of LLaMA-2-70B on eight A100 with nano-batches, against TensorRT-LLM of 2024."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from windtunnel.models import load_network
from windtunnel.scenario.provenance import assumption, calibration, catalogue, paper
from windtunnel.studies.ask import infer, simulate
from windtunnel.studies.study import Claim, Setup, Study, Sweep

SETUP = Setup(
    technique=paper("nanoflow", "title"),
    model=paper("llama-2-70b", "abstract"),
    machine=assumption("8xa100-80gb-sxm", "section 6: eight A100 80 GB of one node; the abstract names no device"),
    gpus=assumption(8, "of that node"),
    engine=catalogue("tensorrt-llm@2024", "engine profile; of the three baselines the fastest"),
    lengths=assumption(
        ((512, 512), (1024, 512), (512, 1024)), "section 6: prompts and answers of constant length, all queued at once"
    ),
    all_at_once=assumption(float("inf"), "requests a second: offline throughput"),
    requests=assumption(6000, "enough that filling and draining the engine count little"),
    peak_flops=catalogue(312e12, "a100-80gb-sxm, fp16"),
    reached=calibration(0.83, "calibrations/ampere.yaml: what large products reach of the peak in benchmarks"),
    flops_per_parameter=paper(2.0, "section 3: the optimum is computing alone, two FLOPs a parameter and token"),
    faster=paper(1.91, "abstract: 1.91x throughput"),
    of_optimum=paper((0.59, 0.72), "abstract: 59 % to 72 % of optimal throughput"),
    batches=assumption(
        (16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0), "from where weights, not computing, take the time"
    ),
)


def _throughput(lengths: tuple[int, int], **options: Any) -> float:
    """Tokens a second, of prompts and answers."""
    prompt, answer = lengths
    return simulate(
        model=SETUP.model, on=SETUP.machine, tp=SETUP.gpus, engine=SETUP.engine, rate=SETUP.all_at_once,
        requests=SETUP.requests, input_length=prompt, output_length=answer, **options,
    ).total_tokens_per_second  # fmt: skip


def _gain() -> float:
    return fmean(_throughput(w, techniques=[SETUP.technique]) / _throughput(w) for w in SETUP.lengths)


def _of_optimum() -> float:
    parameters = load_network(SETUP.model).total_parameters
    optimum: float = SETUP.gpus * SETUP.peak_flops * SETUP.reached / (SETUP.flops_per_parameter * parameters)
    return fmean(_throughput(w, techniques=[SETUP.technique]) for w in SETUP.lengths) / optimum


def _at(batch: float) -> float:
    prompt, answer = SETUP.lengths[0]
    base = infer(
        model=SETUP.model, on=SETUP.machine, tp=SETUP.gpus, engine=SETUP.engine, batch=int(batch), input=prompt,
        output=answer,
    )  # fmt: skip
    treated = infer(
        model=SETUP.model, on=SETUP.machine, tp=SETUP.gpus, engine=SETUP.engine, batch=int(batch), input=prompt,
        output=answer, techniques=[SETUP.technique],
    )  # fmt: skip
    return treated.total_tokens_per_second / base.total_tokens_per_second


STUDY = Study(
    name="nanoflow",
    seed="P001",
    title="NanoFlow: Towards Optimal Large Language Model Serving Throughput",
    technique="nanoflow",
    setup=SETUP,
    setup_stated=False,
    claim=Claim(
        metric="Tokens a second over TensorRT-LLM's, LLaMA-2-70B, mean over constant lengths",
        published=SETUP.given["faster"],
        kind="ratio",
        predict=_gain,
        why="The gain is that of overlapping alone. The baseline here meets TensorRT-LLM's own published tables of "
        "this model on A100 within 10 % and reaches half of the optimum without any overlap; under the paper's load "
        "TensorRT-LLM was slower than its tables say, by losses between its iterations that they do not show.",
    ),
    also=(
        Claim(
            metric="Share of the optimal throughput that is reached, LLaMA-2-70B",
            published=SETUP.given["of_optimum"],
            kind="absolute",
            predict=_of_optimum,
        ),
    ),
    sweep=Sweep(
        variable="requests at once",
        values=SETUP.given["batches"],
        gain=_at,
        metric="throughput over that without nano-batches",
    ),
)
