"""What the writers for training frameworks share: the plan as numbers, and ``torchrun``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from windtunnel.planning.export.nodes import RANK, Nodes, node_size, spread
from windtunnel.planning.export.shell import Expanded


@dataclass(frozen=True, slots=True)
class Training:
    """A plan of ``train``. ``offload``: what leaves the device, to where."""

    tp: int
    pp: int
    dp: int
    cp: int
    ep: int
    etp: int | None
    chunks: int
    schedule: str
    zero: int
    hsdp: int | None
    sequence_parallel: bool
    micro_batch: int
    global_batch: int
    seq: int
    precision: str
    recompute: str
    optimizer: str
    engine: str
    flash: bool
    finetune: str
    context_parallel: str
    packed: str | None
    offload: Mapping[str, str]

    @property
    def world(self) -> int:
        return self.tp * self.pp * self.dp * self.cp

    @property
    def micro_batches(self) -> int:
        return self.global_batch // (self.dp * self.micro_batch)


def training(plan: Mapping[str, Any]) -> Training:
    """The plan's fields, with what is left out of it filled in."""
    parts = (part.strip().partition(":") for part in str(plan.get("offload") or "").split(",") if part.strip())
    return Training(
        tp=int(plan["tp"]), pp=int(plan["pp"]), dp=int(plan["dp"]), cp=int(plan.get("cp", 1)),
        ep=int(plan.get("ep", 1)), etp=plan.get("etp"), chunks=int(plan.get("virtual_stages", 1)),
        schedule=str(plan.get("schedule", "1f1b")), zero=int(plan.get("zero", 0)), hsdp=plan.get("hsdp"),
        sequence_parallel=bool(plan.get("sequence_parallel", False)), micro_batch=int(plan["micro_batch"]),
        global_batch=int(plan["global_batch"]), seq=int(plan["seq"]), precision=str(plan.get("precision", "bf16")),
        recompute=str(plan.get("recompute", "none")), optimizer=str(plan.get("optimizer", "adamw")),
        engine=str(plan.get("engine", "")), flash=bool(plan.get("flash_attention", True)),
        finetune=str(plan.get("finetune", "full")), context_parallel=str(plan.get("context_parallel") or "ring"),
        packed=plan.get("packed_lengths"), offload={what.strip(): where.strip() for what, _, where in parts},
    )  # fmt: skip


def placed(asked: Mapping[str, Any], world: int) -> Nodes:
    """The nodes that the ranks of a job take."""
    return spread(world, node_size(asked))


def rendezvous(nodes: Nodes) -> list[str]:
    """The variables by which the nodes of a job find each other."""
    address = "MASTER_ADDR=${MASTER_ADDR:-localhost}"
    if nodes.count > 1:
        address = "MASTER_ADDR=${MASTER_ADDR:?set MASTER_ADDR to the name of the first node}"
    return [RANK, address, "MASTER_PORT=${MASTER_PORT:-29500}"]


def torchrun(nodes: Nodes) -> list[Any]:
    """The words that start the processes of this node."""
    return [
        "torchrun", "--nnodes", nodes.count, "--nproc-per-node", nodes.each, "--node-rank", Expanded("$NODE_RANK"),
        "--master-addr", Expanded("$MASTER_ADDR"), "--master-port", Expanded("$MASTER_PORT"),
    ]  # fmt: skip


def about(tool: str, asked: Mapping[str, Any], plan: Training, nodes: Nodes, notes: Sequence[str]) -> Sequence[str]:
    """The comments on top of a launch script."""
    where = "once" if nodes.count == 1 else f"on each of {nodes.count} nodes, with NODE_RANK=0 to {nodes.count - 1}"
    return [
        f"{asked['model']} on {asked['on']}: {plan.world} ranks as tp={plan.tp} x cp={plan.cp} x dp={plan.dp} x "
        f"pp={plan.pp}; written by windtunnel for {tool}.",
        f"Run it {where}.",
        *(f"Note: {note}." for note in notes),
    ]
