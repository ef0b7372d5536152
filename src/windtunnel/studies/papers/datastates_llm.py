"""P031: runs that write a checkpoint after every iteration, lazily or through torch.save."""

from __future__ import annotations

from typing import Any

from windtunnel.scenario.provenance import assumption, catalogue, paper
from windtunnel.studies.ask import train
from windtunnel.studies.study import Claim, Setup, Study, Sweep

SETUP = Setup(
    technique=paper("datastates-llm", "abstract"),
    engine=catalogue("deepspeed@2024", "engine profile: ZeRO-1, torch.save"),
    runs=assumption(
        (("llama-7b", 8), ("llama-13b", 16), ("llama-30b", 32), ("llama-2-70b", 80)),
        "models of 7 to 70 billion parameters on as many GPUs as hold them; the abstract says up to 180 GPUs",
    ),
    device=assumption("xa100-40gb-sxm", "Polaris, the authors' machine: A100 of 40 GB"),
    machine=assumption(
        {"gpus_per_node": 4, "nics_per_node": 2, "nic_gbit_per_s": 100, "dram_gbyte": 512, "pcie_gbyte_per_s": 25},
        "Polaris: nodes of 4 GPUs with 512 GB, two adapters of 100 Gbit/s, 25 GB/s from a GPU to pinned memory",
    ),
    store=assumption(
        "parallel-fs:aggregate_write_gbyte_per_s=650,write_gbyte_per_s_per_node=10",
        "Polaris's Lustre, 650 GB/s; one of its clients gets 5 to 10 GB/s in public lists of ten nodes (IO500)",
    ),
    tp=assumption(4, "the GPUs of a node; its stages are the nodes"),
    batch=assumption(16, "one micro-batch of 16 sequences a step, without accumulation"),
    seq=assumption(2048, "the sequence length of these models"),
    recompute=assumption("full", "16 sequences would not fit in 40 GB otherwise"),
    iterations=assumption(50, "long enough for the last write, after the last iteration, to count little"),
    every=paper("1step", "abstract: up to the granularity of individual iterations"),
    no_failures=assumption(1e11, "hours between failures: none in so short a run"),
    end_to_end=paper(2.2, "abstract: up to 2.2 times faster end-to-end training runtime"),
    checkpointing=paper(48.0, "abstract: up to 48 times faster checkpointing"),
    intervals=assumption(
        (1, 2, 5, 10, 20, 50), "iterations between checkpoints, from the paper's highest frequency on"
    ),
)


def run(model: str, gpus: int, every: str = SETUP.every, **more: Any) -> dict[str, Any]:
    """A run of some iterations with checkpoints."""
    answer = train(
        model=model, on=f"{gpus}{SETUP.device}", set=SETUP.machine, tp=SETUP.tp, pp=gpus // SETUP.tp,
        micro_batch=SETUP.batch, global_batch=SETUP.batch, seq=SETUP.seq, recompute=SETUP.recompute,
        engine=SETUP.engine, tokens=SETUP.iterations * SETUP.batch * SETUP.seq, checkpoint_every=every,
        checkpoint_to=SETUP.store, mtbf_hours=SETUP.no_failures, **more,
    )  # fmt: skip
    assert answer.run is not None
    return dict(answer.run)


def both(model: str, gpus: int, every: str = SETUP.every) -> tuple[dict[str, Any], dict[str, Any]]:
    """The run as it was, and with the technique."""
    return run(model, gpus, every), run(model, gpus, every, techniques=[SETUP.technique])


def end_to_end(model: str, gpus: int, every: str = SETUP.every) -> float:
    """Time of the run without over with."""
    before, after = both(model, gpus, every)
    return float(before["time_to_train_s"] / after["time_to_train_s"])


def checkpointing(model: str, gpus: int) -> float:
    """Time for which checkpoints hold training up, without over with."""
    before, after = both(model, gpus)
    return float(before["lost_s"]["checkpoints"] / after["lost_s"]["checkpoints"])


def gain(steps: float) -> float:
    """End to end, of the first model, with so many iterations between checkpoints."""
    model, gpus = SETUP.runs[0]
    return end_to_end(model, gpus, f"{int(steps)}step")


STUDY = Study(
    name="datastates-llm",
    seed="P031",
    title="DataStates-LLM: Lazy Asynchronous Checkpointing for Large Language Models",
    technique="datastates-llm",
    setup=SETUP,
    setup_stated=False,
    claim=Claim(
        "end-to-end time, torch.save over lazy checkpoints, one an iteration, largest over the models",
        SETUP.given["end_to_end"], "ratio", lambda: max(end_to_end(*each) for each in SETUP.runs),
        why="the gain is iteration plus write over iteration, 3.2 at 7 billion parameters and 1.4 at 70, so it turns "
        "on how long an iteration takes beside the 11 to 14 s of a synchronous write, and on what the shared file "
        "system gives a node in the background; neither is in the abstract",
    ),
    also=(
        Claim(
            "time for which checkpoints hold training up, torch.save over lazy, largest over the models",
            SETUP.given["checkpointing"], "ratio", lambda: max(checkpointing(*each) for each in SETUP.runs),
            why="where copies hide completely only the last write is left, after the last iteration; what a call costs "
            "on the host and how the copies disturb training is not modelled",
        ),
    ),
    sweep=Sweep(
        "iterations between checkpoints", SETUP.given["intervals"],
        gain, "end-to-end speed over torch.save",
    ),
)  # fmt: skip
