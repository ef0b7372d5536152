"""Deep Gradient Compression (P145): how much smaller gradients get, and what that buys on 1 Gbit/s Ethernet."""

from __future__ import annotations

from functools import cache

from windtunnel.scenario.provenance import assumption, catalogue, paper
from windtunnel.scenario.results import TrainResult
from windtunnel.studies.ask import train
from windtunnel.studies.study import Claim, Setup, Study, Sweep

SETUP = Setup(
    technique=paper("deep-gradient-compression", "abstract: 99.9 % of the gradient exchange is redundant"),
    flat=paper("deep-gradient-compression:nodes=false", "the same, every accelerator by itself"),
    model=catalogue("gpt2", "the catalogue has no convolutional or recurrent networks; of the size of the paper's"),
    machine=assumption("256xp100", "64 nodes of four Pascal GPUs; the paper's are Titan XP"),
    one_node=assumption("4xp100", "one of these nodes"),
    gpus_per_node=paper(4, "figure 6: each training node has four GPUs"),
    nics_per_node=assumption(1, "one Ethernet adapter a node"),
    gbit_per_s=paper(1.0, "abstract: commodity 1 Gbit/s Ethernet"),
    engine=assumption("pytorch", "fp32 training, as frameworks of 2017 did it, gradients exchanged after the pass"),
    precision=paper("fp32", "the compression ratio is of 32-bit gradients"),
    optimizer=paper("sgd", "momentum is corrected locally; the global update is plain SGD"),
    seq=assumption(512, "a common length of that model"),
    micro_batch=assumption(4, "what an accelerator of 16 GB holds"),
    gpus=assumption(256, "64 nodes of four"),
)


@cache
def _step(gbit_per_s: float, technique: str = "", machine: str = SETUP.machine) -> TrainResult:
    gpus = SETUP.gpus if machine == SETUP.machine else SETUP.gpus_per_node
    network = {
        "gpus_per_node": SETUP.gpus_per_node, "nics_per_node": SETUP.nics_per_node, "nic_gbit_per_s": gbit_per_s,
    }  # fmt: skip
    return train(
        model=SETUP.model, on=machine, set=network, engine=SETUP.engine, precision=SETUP.precision,
        optimizer=SETUP.optimizer, seq=SETUP.seq, micro_batch=SETUP.micro_batch,
        global_batch=SETUP.micro_batch * gpus, techniques=[technique] if technique else [],
    )  # fmt: skip


def _gradient_bytes(result: TrainResult) -> float:
    """What one rank has to send: all of its gradients, or what it has chosen of them."""
    totals = result.tree.totals()
    return float(totals.messages.get("all_reduce", 0) + totals.messages.get("all_gather", 0) / SETUP.gpus)


def _ratio() -> float:
    return _gradient_bytes(_step(SETUP.gbit_per_s)) / _gradient_bytes(_step(SETUP.gbit_per_s, SETUP.flat))


def _scaling(technique: str) -> float:
    """Throughput of all nodes over one's."""
    many = _step(SETUP.gbit_per_s, technique)
    return many.samples_per_second / _step(SETUP.gbit_per_s, machine=SETUP.one_node).samples_per_second


def _gain(gbit_per_s: float) -> float:
    return _step(gbit_per_s).step_time_s / _step(gbit_per_s, SETUP.technique).step_time_s


STUDY = Study(
    name="deep-gradient-compression",
    seed="P145",
    title="Deep Gradient Compression: Reducing the Communication Bandwidth for Distributed Training",
    technique="deep-gradient-compression",
    setup=SETUP,
    setup_stated=False,
    claim=Claim(
        metric="gradient size over compressed gradient size",
        published=paper((270.0, 600.0), "abstract: 270x to 600x"),
        kind="ratio",
        predict=_ratio,
        why="a thousandth of the gradients at 32 + 16 bits each is 667x; small layers that are sent whole make it less",
    ),
    also=(
        Claim(
            metric="speedup of 64 nodes over one at 1 Gbit/s with Deep Gradient Compression",
            published=paper(None, "figure 6 has convolutional networks, which the catalogue does not"),
            kind="ratio",
            predict=lambda: _scaling(SETUP.technique),
        ),
        Claim(
            metric="speedup of 64 nodes over one at 1 Gbit/s without it",
            published=paper(None, "figure 6 has convolutional networks, which the catalogue does not"),
            kind="ratio",
            predict=lambda: _scaling(""),
        ),
    ),
    sweep=Sweep(
        variable="network of a node, Gbit/s",
        values=assumption(
            (1.0, 10.0, 25.0, 100.0, 400.0, 1600.0), "from commodity Ethernet to a modern training cluster"
        ),
        gain=_gain,
        metric="step time over that with deep-gradient-compression",
    ),
)
