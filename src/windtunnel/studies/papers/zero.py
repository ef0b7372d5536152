"""P376: 100 billion parameters on 400 V100, against tensor parallelism over several nodes."""

from __future__ import annotations

from typing import Any

from windtunnel.models import load_network
from windtunnel.scenario.provenance import assumption, catalogue, paper
from windtunnel.scenario.results import TrainResult
from windtunnel.studies.ask import train
from windtunnel.studies.study import Claim, Setup, Study, Sweep

SETUP = Setup(
    technique=paper("zero:stage=2,partition_activations=true", "section 8: Pos+g and ZeRO-R"),
    engine=catalogue("megatron@2019", "engine profile: the code that ZeRO ran with, and its baseline"),
    model=paper("zero-100b", "section 10.2 and appendix: 100 billion parameters"),
    on=paper("400xv100-sxm", "abstract: 400 GPUs; section 10.1: V100"),
    gpus=paper(400, "abstract: 400 GPUs"),
    machine=paper({"node": "dgx-2"}, "section 10.1: DGX-2 nodes of 16 V100, 800 Gbit/s between nodes"),
    seq=paper(1024, "appendix: GPT-2-like models with 1,024 positions"),
    precision=paper("fp16", "section 3.1: mixed precision with fp16"),
    recompute=paper("full", "section 6.1: activation checkpointing"),
    tp=paper(16, "section 10.2: model parallelism within a node"),
    micro_batch=paper(32, "appendix: batch of a model-parallel group"),
    batch=paper(800, "32 for each of 25 model-parallel groups"),
    wide_on=assumption("64xv100-sxm", "one model-parallel group of the baseline, without data parallelism to wait for"),
    wide_tp=assumption(64, "the widest that deals out 64 heads; 32 do not hold the model"),
    wide_batch=assumption(2, "what its memory holds"),
    wide_machine=assumption(
        {"node": "dgx-2", "nics_per_node": 1},
        "introduction: communication falls from 300 GB/s a link in a node to 12.5 GB/s across nodes, one EDR link",
    ),
    two_nodes=paper("megatron-gpt-39.1b", "introduction: a model of 40 billion parameters on two DGX-2"),
    two_on=paper("32xv100-sxm", "introduction: two DGX-2"),
    two_tp=paper(32, "introduction: model parallelism over two nodes"),
    two_batch=assumption(4, "what its memory holds"),
    two_flops=paper(5e12, "introduction: about 5 TFLOP/s for each V100"),
    alone=assumption(("opt-1.3b", "opt-6.7b", "opt-13b", "gpt-neox-20b", "opt-30b"), "models by size"),
    alone_on=paper("128xv100-sxm", "section 10.4: up to 128 GPUs, without model parallelism"),
    alone_parameters=paper(13e9, "abstract: up to 13 billion parameters without model parallelism"),
    sizes=assumption(
        ("megatron-gpt-18.4b", "megatron-gpt-39.1b", "megatron-gpt-145.6b", "gpt3-175b", "megatron-gpt-310.1b"),
        "models by size, to see which fit with model parallelism of a node",
    ),
    larger=paper(8.0, "abstract: 8 times the model size of the state of the art"),
    speedup=paper(10.0, "abstract: 10 times the performance of the state of the art"),
    flops=paper(15e15, "abstract: 15 petaFLOP/s on 400 GPUs"),
    peak_flops=catalogue(125e12, "v100-sxm, fp16"),
    networks=assumption((12.5, 25, 50, 100, 200, 400, 800, 1600), "Gbit/s of an adapter: from slow Ethernet on"),
)


def step(**more: Any) -> TrainResult:
    """One step of the study's kind."""
    given: dict[str, Any] = {
        "model": SETUP.model, "seq": SETUP.seq, "precision": SETUP.precision, "recompute": SETUP.recompute,
        "engine": SETUP.engine, "set": SETUP.machine,
    }  # fmt: skip
    return train(**{**given, **more})


def sharded(**more: Any) -> TrainResult:
    """ZeRO between nodes, tensor parallelism inside them."""
    return step(
        on=SETUP.on, tp=SETUP.tp, micro_batch=SETUP.micro_batch, global_batch=SETUP.batch,
        techniques=[SETUP.technique], **more,
    )  # fmt: skip


def wide(**more: Any) -> TrainResult:
    """Tensor parallelism as far as the model needs."""
    given = {"set": SETUP.wide_machine, **more}
    return step(
        on=SETUP.wide_on, tp=SETUP.wide_tp, micro_batch=SETUP.wide_batch, global_batch=SETUP.wide_batch, **given
    )


def flops(answer: TrainResult) -> float:
    """Model FLOP/s of one GPU."""
    assert answer.mfu is not None
    return float(answer.mfu * SETUP.peak_flops)


def gain(nic_gbit_per_s: float) -> float:
    """Throughput of a GPU over the baseline's, on machines with such adapters."""
    given = {"nic_gbit_per_s": nic_gbit_per_s}
    after, before = sharded(set={**SETUP.machine, **given}), wide(set={**SETUP.wide_machine, **given})
    return flops(after) / flops(before)


def two_nodes() -> float:
    """Model FLOP/s of a GPU of the baseline on two nodes."""
    return flops(
        step(
            model=SETUP.two_nodes, on=SETUP.two_on, tp=SETUP.two_tp, micro_batch=SETUP.two_batch,
            global_batch=SETUP.two_batch, set=SETUP.wide_machine,
        )
    )  # fmt: skip


def parameters(model: str) -> float:
    """Of a catalogue model."""
    return float(load_network(model).total_parameters)


def largest_alone() -> float:
    """Parameters of the largest model that fits with data parallelism alone."""
    fits = [m for m in SETUP.alone if step(model=m, on=SETUP.alone_on, techniques=[SETUP.technique]).fits]
    return parameters(fits[-1])


def larger() -> float:
    """Parameters of the largest model that fits on the 400 GPUs, over that without ZeRO."""
    layout = {"on": SETUP.on, "tp": SETUP.tp, "micro_batch": 1, "global_batch": SETUP.gpus // SETUP.tp}
    after = [m for m in SETUP.sizes if step(model=m, **layout, techniques=[SETUP.technique]).fits]
    before = [m for m in SETUP.sizes if step(model=m, **layout).fits]
    return parameters(after[-1]) / parameters(before[-1])


STUDY = Study(
    name="zero",
    seed="P376",
    title="ZeRO: Memory Optimizations Toward Training Trillion Parameter Models",
    technique="zero",
    setup=SETUP,
    setup_stated=True,
    claim=Claim(
        "throughput of a GPU at 100 billion parameters over tensor parallelism across nodes", SETUP.given["speedup"],
        "ratio", lambda: flops(sharded()) / flops(wide()),
        why="It hangs on how many network adapters carry one model-parallel group's ring across nodes: one, as the "
        "introduction's figure for a link says. With all eight of a node at work for it the ratio is 2.5.",
    ),
    also=(
        Claim(
            "FLOP/s at 100 billion parameters on 400 GPUs, recomputation not counted", SETUP.given["flops"], "absolute",
            lambda: flops(sharded()) * SETUP.gpus,
        ),
        Claim(
            "parameters of the largest model that fits with model parallelism in nodes, over those without ZeRO",
            SETUP.given["larger"], "ratio", larger,
        ),
        Claim(
            "FLOP/s for each GPU of the baseline, 40 billion parameters on two nodes", SETUP.given["two_flops"],
            "absolute", two_nodes,
            why="30 % above \"about 5\": kernels run at a V100's best sustained rate and nothing but the ring of one "
            "link holds the exchange up",
        ),
        Claim(
            "parameters of the largest model that fits without model parallelism", SETUP.given["alone_parameters"],
            "absolute", largest_alone,
        ),
    ),
    sweep=Sweep("Gbit/s of a network adapter", SETUP.given["networks"], gain, "throughput over the baseline"),
)  # fmt: skip
