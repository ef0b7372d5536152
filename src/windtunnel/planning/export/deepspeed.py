"""``--export deepspeed``: DeepSpeed's JSON configuration, and the launch of a training script that takes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from windtunnel.planning.export.model import Model, read_model
from windtunnel.planning.export.shell import HERE, Expanded, command, script
from windtunnel.planning.export.training import Training, about, placed, rendezvous, torchrun, training
from windtunnel.planning.export.writer import Export, Exported, Rule, offloads
from windtunnel.scenario.checks import has_experts

TOOL = "deepspeed"

OPTIMIZERS = ("adamw", "adam", "lion")


def write(plan: Mapping[str, Any], asked: Mapping[str, Any]) -> Exported:
    """The configuration and the launch script.

    Raises:
        ScenarioError: a plan that DeepSpeed cannot run from its configuration.
    """
    told = training(plan)
    model = read_model(asked)
    nodes = placed(asked, told.world)
    notes = [
        f"TRAIN is your own script: it makes the model {model.network.name} with sequences of {told.seq} tokens and "
        "calls deepspeed.initialize",
    ]
    if told.pp > 1:
        notes.append(f"the script cuts the model into PipelineModule(num_stages={told.pp}), and calls train_batch")
    if told.recompute == "full" and told.pp == 1:
        notes.append("the script switches recomputation on in the model (gradient_checkpointing_enable)")
    if told.packed:
        notes.append(f"packed_lengths={told.packed}: documents are packed by the data set")
    if told.precision == "fp32" and told.world > 1:
        notes.append("precision=fp32: neither bf16 nor fp16 is enabled")
    program = [*torchrun(nodes), Expanded("$TRAIN")]
    options = {"--deepspeed": True, "--deepspeed_config": Expanded("$HERE/ds_config.json")}
    settings = [
        *rendezvous(nodes), model.setting, "export MODEL",
        "TRAIN=${TRAIN:?set TRAIN to your training script}", HERE,
    ]  # fmt: skip
    launch = script(about(TOOL, asked, told, nodes, notes), settings, [command(program, options, [Expanded("$@")])])
    text = json.dumps(configuration(told, model), indent=2) + "\n"
    return Exported(TOOL, {"ds_config.json": text, "launch.sh": launch}, tuple(notes))


def configuration(plan: Training, model: Model) -> dict[str, Any]:
    """What ``deepspeed.initialize(config=...)`` takes."""
    result: dict[str, Any] = {
        "train_batch_size": plan.global_batch,
        "train_micro_batch_size_per_gpu": plan.micro_batch,
        "gradient_accumulation_steps": plan.micro_batches,
        "gradient_clipping": 1.0,
        "optimizer": {"type": plan.optimizer, "params": {"lr": 1e-4}},
        "zero_optimization": _zero(plan),
    }
    if plan.precision in ("bf16", "fp16"):
        result[plan.precision] = {"enabled": True}
    if plan.tp > 1:
        result["tensor_parallel"] = {"autotp_size": plan.tp}
    if plan.cp > 1:
        result["sequence_parallel_size"] = plan.cp
    if model.experts is not None and plan.ep > 1:
        result["expert_parallel"] = {"enabled": True, "autoep_size": plan.ep}
        if plan.etp not in (None, 1):
            result["expert_parallel"]["expert_tensor_parallel_size"] = plan.etp
    if plan.pp > 1:
        result["pipeline"] = {"stages": plan.pp, "activation_checkpoint_interval": int(plan.recompute == "full")}
    if plan.recompute == "full":
        result["activation_checkpointing"] = {"cpu_checkpointing": plan.offload.get("activations") == "cpu"}
    if "nvme" in plan.offload.values():
        result["aio"] = {"block_size": 1048576, "queue_depth": 8}
    return result


def _zero(plan: Training) -> dict[str, Any]:
    block: dict[str, Any] = {"stage": plan.zero, "overlap_comm": plan.zero > 0, "contiguous_gradients": True}
    for what, name in (("optimizer", "offload_optimizer"), ("params", "offload_param")):
        device = plan.offload.get(what)
        if device is not None:
            block[name] = {"device": device, "pin_memory": True}
            if device == "nvme":
                block[name]["nvme_path"] = "/local_nvme"
    return block


DEEPSPEED = Export(
    tool=TOOL,
    kind="train",
    engine="deepspeed",
    write=write,
    searched={
        "schedule": ("1f1b",),
        "virtual_stages": (1,),
        "zero": (0, 1, 2, 3),
        "precision": ("bf16", "fp16", "fp32"),
        "recompute": ("none", "full"),
        "optimizer": OPTIMIZERS,
        "finetune": ("full",),
        "context_parallel": ("ulysses",),
        "engine": ("deepspeed",),
    },
    rules=(
        Rule(
            "offload of the optimizer needs zero=1 or more, to nvme zero=3",
            ("offload", "zero"),
            lambda p, _: (
                (~offloads(p, "optimizer:cpu") | (p["zero"] >= 1)) & (~offloads(p, "optimizer:nvme") | (p["zero"] == 3))
            ),
        ),
        Rule(
            "offload of params needs zero=3",
            ("offload", "zero"),
            lambda p, _: ~offloads(p, "params") | (p["zero"] == 3),
        ),
        Rule(
            "offload of activations needs recompute=full, and the host's memory (activations:cpu)",
            ("offload", "recompute"),
            lambda p, _: ~offloads(p, "activations") | (offloads(p, "activations:cpu") & (p["recompute"] == "full")),
        ),
        Rule("pp > 1 needs zero=0 or zero=1", ("pp", "zero"), lambda p, _: (p["pp"] == 1) | (p["zero"] <= 1)),
        Rule(
            "pp > 1 needs tp=1 and cp=1 in its configuration",
            ("pp", "tp", "cp"),
            lambda p, _: (p["pp"] == 1) | ((p["tp"] == 1) & (p["cp"] == 1)),
        ),
        Rule(
            "experts with ep > 1 and zero=3 need cp=1 and etp=1",
            ("ep", "zero", "cp", "etp"),
            lambda p, network: (
                (p["ep"] == 1) | (p["zero"] < 3) | ((p["cp"] == 1) & (p["etp"] == 1)) | (not has_experts(network))
            ),
        ),
        Rule(
            "experts with ep=1 are split as attention is, and need etp=tp",
            ("ep", "etp", "tp"),
            lambda p, network: (p["ep"] > 1) | (p["etp"] == p["tp"]) | (not has_experts(network)),
        ),
        Rule(
            "ZeRO needs all data-parallel ranks to share what is sharded (no hsdp)",
            ("hsdp",),
            lambda p, _: p["hsdp"] == 0,
        ),
    ),
)
