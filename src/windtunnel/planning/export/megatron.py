"""``--export megatron``: the command line of Megatron-LM's ``pretrain_gpt.py``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from windtunnel.models.network import Network
from windtunnel.parallel.stages import deal
from windtunnel.planning.export.megatron_model import model_options
from windtunnel.planning.export.model import read_model
from windtunnel.planning.export.shell import Expanded, command, script
from windtunnel.planning.export.training import Training, about, placed, rendezvous, torchrun, training
from windtunnel.planning.export.writer import Export, Exported, Rule, offloads
from windtunnel.scenario.checks import has_experts

OPTIMIZERS = {"adamw": "adam", "adam": "adam", "sgd": "sgd", "sgd-momentum": "sgd"}

SHARDED = {2: "optim_grads", 3: "optim_grads_params"}
"""What Megatron-FSDP shards, by ZeRO stage."""

TOOL = "megatron"


def write(plan: Mapping[str, Any], asked: Mapping[str, Any]) -> Exported:
    """The launch script.

    Raises:
        ScenarioError: a plan that Megatron-LM cannot run, or a model that its options do not describe.
    """
    told = training(plan)
    model = read_model(asked)
    notes = ["--mock-data stands for the data set: options given to launch.sh are added, and win"]
    nodes = placed(asked, told.world)
    options = {
        **model_options(model, told.seq, notes),
        **_layout(told, model.network),
        **_memory(told),
        **_batch(told),
        "--expert-model-parallel-size": told.ep if model.experts is not None else None,
        "--expert-tensor-parallel-size": told.etp if model.experts is not None else None,
        "--tokenizer-type": "NullTokenizer",
        "--mock-data": True,
        "--distributed-timeout-minutes": 60,
    }
    program = [*torchrun(nodes), Expanded("$MEGATRON/pretrain_gpt.py")]
    settings = [*rendezvous(nodes), "MEGATRON=${MEGATRON:?set MEGATRON to a checkout of Megatron-LM}"]
    if told.zero < 2 and (told.tp > 1 or told.cp > 1):
        # Before Blackwell it orders communication ahead of the products that would hide it; Megatron-FSDP refuses it.
        settings.append("export CUDA_DEVICE_MAX_CONNECTIONS=1")
    if told.packed:
        notes.append(f"packed_lengths={told.packed}: documents are packed by the data set")
    body = [command(program, options, [Expanded("$@")])]
    return Exported(TOOL, {"launch.sh": script(about(TOOL, asked, told, nodes, notes), settings, body)}, tuple(notes))


def _layout(plan: Training, network: Network) -> dict[str, Any]:
    options: dict[str, Any] = {
        "--use-mcore-models": True,
        "--transformer-impl": "transformer_engine",
        "--tensor-model-parallel-size": plan.tp,
        "--pipeline-model-parallel-size": plan.pp,
        "--context-parallel-size": plan.cp,
        "--cp-comm-type": {"ring": "p2p", "ulysses": "a2a"}[plan.context_parallel] if plan.cp > 1 else None,
        "--sequence-parallel": plan.sequence_parallel and plan.tp > 1,
    }
    if plan.pp == 1:
        return options
    chunks = plan.pp * plan.chunks
    if len(network.blocks) % chunks:
        options["--pipeline-model-parallel-layout"] = uneven(network, chunks)
    elif plan.chunks > 1:
        options["--num-virtual-stages-per-pipeline-rank"] = plan.chunks
    return options


def uneven(network: Network, chunks: int) -> str:
    """Which layers every chunk holds, as ``--pipeline-model-parallel-layout`` has it: E embedding, t layer, L loss."""
    held = ["t" * stage.layers for stage in deal(network, chunks) for _ in range(stage.count)]
    held[0], held[-1] = "E" + held[0], held[-1] + "L"
    return "|".join(held)


def _memory(plan: Training) -> dict[str, Any]:
    options: dict[str, Any] = {
        "--use-distributed-optimizer": plan.zero >= 1,
        "--overlap-grad-reduce": True,
        "--overlap-param-gather": plan.zero >= 1,
    }
    if plan.zero >= 2:
        options.update({
            "--use-megatron-fsdp": True,
            "--data-parallel-sharding-strategy": SHARDED[plan.zero],
            "--ckpt-format": "fsdp_dtensor",
        })  # fmt: skip
    if plan.hsdp is not None and plan.hsdp != plan.dp * plan.cp:
        options["--num-distributed-optimizer-instances"] = plan.dp * plan.cp // plan.hsdp
        options["--outer-dp-sharding-strategy"] = "no_shard"
    if plan.recompute == "full":
        options.update({
            "--recompute-granularity": "full", "--recompute-method": "uniform", "--recompute-num-layers": 1,
        })  # fmt: skip
    elif plan.recompute == "selective":
        options["--recompute-granularity"] = "selective"
    if plan.offload:
        options.update({
            "--optimizer-cpu-offload": True, "--optimizer-offload-fraction": 1.0,
            "--use-precision-aware-optimizer": True, "--overlap-cpu-optimizer-d2h-h2d": True,
        })  # fmt: skip
    return options


def _batch(plan: Training) -> dict[str, Any]:
    return {
        "--micro-batch-size": plan.micro_batch,
        "--global-batch-size": plan.global_batch,
        "--seq-length": plan.seq,
        "--bf16": plan.precision in ("bf16", "fp8"),
        "--fp16": plan.precision == "fp16",
        "--fp8-format": "hybrid" if plan.precision == "fp8" else None,
        "--attention-backend": "auto" if plan.flash else "unfused",
        "--cross-entropy-loss-fusion": True,
        "--optimizer": OPTIMIZERS[plan.optimizer],
        "--sgd-momentum": {"sgd": 0.0, "sgd-momentum": 0.9}.get(plan.optimizer),
        "--lr": 1e-4,
        "--train-iters": 100,
        "--log-throughput": True,
    }


MEGATRON = Export(
    tool=TOOL,
    kind="train",
    engine="megatron",
    write=write,
    searched={
        "schedule": ("1f1b", "interleaved"),
        "zero": (0, 1, 2, 3),
        "precision": ("bf16", "fp16", "fp32", "fp8"),
        "optimizer": tuple(OPTIMIZERS),
        "finetune": ("full",),
        "offload": ("optimizer:cpu",),
        "engine": ("megatron",),
    },
    rules=(
        Rule(
            "offload=optimizer:cpu needs zero=1 and adamw or adam",
            ("offload", "zero", "optimizer"),
            lambda p, _: (
                ~offloads(p, "optimizer")
                | ((p["zero"] == 1) & ((p["optimizer"] == "adamw") | (p["optimizer"] == "adam")))
            ),
        ),
        Rule(
            "experts with tp > 1 need sequence_parallel",
            ("tp", "sequence_parallel"),
            lambda p, network: (p["tp"] == 1) | p["sequence_parallel"] | (not has_experts(network)),
        ),
    ),
)
