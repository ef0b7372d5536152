"""CO2 (P007): how much of the exchange hides behind local steps on 128 A100 with slow networks."""

from __future__ import annotations

from functools import cache
from typing import Any

from windtunnel.scenario.provenance import assumption, paper
from windtunnel.scenario.results import TrainResult
from windtunnel.studies.ask import train
from windtunnel.studies.study import Claim, Setup, Study, Sweep

SETUP = Setup(
    technique=paper("co2", "abstract: local updating and asynchronous communication"),
    waiting=paper("co2:asynchronous=false", "the same steps, with an exchange that all wait for"),
    never=assumption(
        "co2:asynchronous=false,period=1000000000", "the limit of no exchange, which the other two are compared with"
    ),
    machine=paper("128xa100-80gb-sxm", "abstract: up to 128 A100 GPUs"),
    one_node=assumption("8xa100-80gb-sxm", "a node of eight, from where scalability is counted"),
    gpus=paper(128, "abstract: up to 128 A100 GPUs"),
    gpus_per_node=assumption(8, "a node of eight"),
    slow=paper({"nics_per_node": 1, "nic_gbit_per_s": 80}, "abstract: 80 Gbit/s TCP/IP between nodes"),
    fast=paper({"nics_per_node": 4, "nic_gbit_per_s": 200}, "abstract: 800 Gbit/s RDMA between nodes"),
    nic=assumption({"nics_per_node": 1}, "one adapter a node carries all of the sweep's bandwidth"),
    model=assumption("llama-7b", "a language model of the size of the paper's largest"),
    engine=assumption("fsdp@2023", "PyTorch with sharded data parallelism, as the paper's training frameworks"),
    zero=assumption(3, "abstract: integrates with ZeRO-series optimizers; nodes of eight share the state here"),
    seq=assumption(2048, "a common length"),
    micro_batch=assumption(1, "one sequence an accelerator, as hard on the network as can be"),
    recompute=assumption("full", "usual for a model of 7B"),
)


@cache
def _step(network: str, technique: str = "", gbit_per_s: float = 0) -> TrainResult:
    one = network == "one_node"
    gpus = SETUP.gpus_per_node if one else SETUP.gpus
    override: dict[str, Any] = {**SETUP.nic, "nic_gbit_per_s": gbit_per_s} if gbit_per_s else {}
    if not override and not one:
        override = getattr(SETUP, network)
    return train(
        model=SETUP.model, on=SETUP.one_node if one else SETUP.machine, set=override, engine=SETUP.engine,
        zero=SETUP.zero, seq=SETUP.seq, micro_batch=SETUP.micro_batch, global_batch=SETUP.micro_batch * gpus,
        recompute=SETUP.recompute, techniques=[technique] if technique else [],
    )  # fmt: skip


def _hidden(network: str) -> float:
    """Of the time that an exchange takes by itself, how much does not lengthen the steps behind which it runs."""
    free = _step(network, SETUP.never).step_time_s
    alone = _step(network, SETUP.waiting).step_time_s - free
    return 1 - (_step(network, SETUP.technique).step_time_s - free) / alone


def _scalability(network: str, technique: str) -> float:
    """Throughput of an accelerator among 128 over that in one node without the technique."""
    many = _step(network, technique).tokens_per_second_per_gpu
    return many / _step("one_node").tokens_per_second_per_gpu


def _gain(gbit_per_s: float) -> float:
    plain = _step("", gbit_per_s=gbit_per_s).step_time_s
    return plain / _step("", SETUP.technique, gbit_per_s).step_time_s


_NOT_STATED = "abstract: high scalability; no figure"

STUDY = Study(
    name="co2",
    seed="P007",
    title="CO2: Efficient Distributed Training with Full Communication-Computation Overlap",
    technique="co2",
    setup=SETUP,
    setup_stated=False,
    claim=Claim(
        metric="share of the exchange that is hidden at 80 Gbit/s",
        published=paper(1.0, "title and abstract: full overlap of communication with computation"),
        kind="absolute",
        predict=lambda: _hidden("slow"),
        why="the exchange fits behind the steps; what is left is what communication kernels take from computing",
    ),
    also=(
        Claim(
            metric="share of the exchange that is hidden at 800 Gbit/s",
            published=paper(1.0, "title and abstract: full overlap of communication with computation"),
            kind="absolute",
            predict=lambda: _hidden("fast"),
            why="the exchange fits behind the steps; what is left is what communication kernels take from computing",
        ),
        Claim(
            metric="throughput of an A100 among 128 over that among 8, CO2 at 80 Gbit/s",
            published=paper(None, _NOT_STATED),
            kind="ratio",
            predict=lambda: _scalability("slow", SETUP.technique),
        ),
        Claim(
            metric="throughput of an A100 among 128 over that among 8, CO2 at 800 Gbit/s",
            published=paper(None, _NOT_STATED),
            kind="ratio",
            predict=lambda: _scalability("fast", SETUP.technique),
        ),
        Claim(
            metric="throughput of an A100 among 128 over that among 8, without CO2 at 80 Gbit/s",
            published=paper(None, _NOT_STATED),
            kind="ratio",
            predict=lambda: _scalability("slow", ""),
        ),
    ),
    sweep=Sweep(
        variable="network of a node, Gbit/s",
        values=assumption((1.0, 10.0, 80.0, 200.0, 800.0, 3200.0), "from where not even a period hides the exchange"),
        gain=_gain,
        metric="step time over that with co2",
    ),
)
