"""P012: GPT mixtures of experts over nodes of A100, with one exchange a layer instead of two."""

from __future__ import annotations

from windtunnel.scenario.provenance import assumption, catalogue, paper
from windtunnel.scenario.results import InferResult
from windtunnel.studies.ask import infer
from windtunnel.studies.study import Claim, Setup, Study, Sweep

SETUP = Setup(
    technique=paper("exflow", "title"),
    models=catalogue(
        {8: "gpt-moe-350m-8e", 16: "gpt-moe-350m-16e", 32: "gpt-moe-350m-32e", 64: "gpt-moe-350m-64e"},
        "abstract: pre-trained GPT mixtures with 8 to 64 experts",
    ),
    device=assumption("a100-80gb-sxm", "nodes of four A100"),
    gpus=assumption((8, 16, 32, 64), "as many as there are experts, or fewer"),
    node=assumption(
        {"gpus_per_node": 4, "nics_per_node": 2, "nic_gbit_per_s": 200}, "two rails of HDR InfiniBand for four GPUs"
    ),
    engine=catalogue(
        "deepspeed-inference", "engine profile; the abstract's cutting-edge implementations are DeepSpeed's"
    ),
    sequences=assumption(64, "on each GPU: throughput, not latency, is claimed"),
    prompt=assumption(512, "tokens of a prompt"),
    answer=assumption(1, "tokens made a second count all tokens that pass the layers: prompts are nearly all of them"),
    faster=paper(2.2, "abstract: up to 2.2x inference throughput"),
    few=assumption(16, "experts of the sweep"),
    networks=assumption((25.0, 50.0, 100.0, 200.0, 400.0, 800.0), "Gbit/s of each of the node's two adapters"),
)


def _run(experts: int, gpus: int, *techniques: str, **node: float) -> InferResult:
    return infer(
        model=SETUP.models[experts], on=f"{gpus}x{SETUP.device}", set={**SETUP.node, **node}, dp=gpus, ep=gpus,
        engine=SETUP.engine, batch=SETUP.sequences * gpus, input=SETUP.prompt, output=SETUP.answer,
        techniques=list(techniques),
    )  # fmt: skip


def _gain(experts: int, gpus: int, **node: float) -> float:
    base, treated = _run(experts, gpus, **node), _run(experts, gpus, SETUP.technique, **node)
    return treated.total_tokens_per_second / base.total_tokens_per_second


def _up_to() -> float:
    return max(_gain(experts, gpus) for experts in SETUP.models for gpus in SETUP.gpus if gpus <= experts)


def _at(gbit_per_s: float) -> float:
    return _gain(SETUP.few, SETUP.few, nic_gbit_per_s=gbit_per_s)


STUDY = Study(
    name="exflow",
    seed="P012",
    title="Exploiting Inter-Layer Expert Affinity for Accelerating Mixture-of-Experts Model Inference",
    technique="exflow",
    setup=SETUP,
    setup_stated=False,
    claim=Claim(
        metric="Throughput over DeepSpeed's, GPT mixtures of 8 to 64 experts on as many A100 or fewer, up to",
        published=SETUP.given["faster"],
        kind="ratio",
        predict=_up_to,
        why="Exchanges take somewhat more than half of an iteration here and fall to a sixth of that; 2.2 times needs "
        "them to take two thirds. What placement takes off (67 %) goes in as published, since the abstract gives no "
        "probabilities from which to predict it. With whole cache entries gathered, not one vector a token, decoding "
        "over many GPUs would lose.",
    ),
    sweep=Sweep(
        variable="bandwidth of each of a node's two network adapters, Gbit/s",
        values=SETUP.given["networks"],
        gain=_at,
        metric="throughput over that with two exchanges a layer",
    ),
)
