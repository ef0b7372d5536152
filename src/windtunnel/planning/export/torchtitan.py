"""``--export torchtitan``: the command line of ``torchtitan.train``, over one of its own configurations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from windtunnel.errors import ScenarioError
from windtunnel.models.network import Network
from windtunnel.planning.export.model import Model, read_model
from windtunnel.planning.export.shell import Expanded, command, script
from windtunnel.planning.export.training import Training, about, placed, rendezvous, torchrun, training
from windtunnel.planning.export.writer import Export, Exported, Rule, refused

Sizes = tuple[int, int, int, int, int]

CONFIGURATIONS: Mapping[Sizes, Mapping[str, tuple[str, str]]] = {
    (4096, 32, 32, 128256, 0): {"bf16": ("llama3", "llama3_8b")},
    (8192, 80, 64, 128256, 0): {"bf16": ("llama3", "llama3_70b")},
    (16384, 126, 128, 128256, 0): {"fp8": ("llama3", "llama3_405b")},
    (2048, 27, 16, 102400, 64): {"bf16": ("deepseek_v3", "deepseek_v3_16b")},
    (7168, 61, 128, 129280, 256): {
        "bf16": ("deepseek_v3", "deepseek_v3_671b"), "fp8": ("deepseek_v3", "deepseek_v3_671b_float8"),
    },
    (1024, 28, 16, 151936, 0): {"bf16": ("qwen3", "qwen3_0_6b")},
    (2048, 28, 16, 151936, 0): {"bf16": ("qwen3", "qwen3_1_7b")},
    (5120, 40, 40, 151936, 0): {"bf16": ("qwen3", "qwen3_14b")},
    (2048, 48, 32, 151936, 128): {"bf16": ("qwen3", "qwen3_30b_a3b")},
    (5120, 64, 64, 151936, 0): {"bf16": ("qwen3", "qwen3_32b")},
    (2880, 24, 64, 201088, 32): {"bf16": ("gpt_oss", "gpt_oss_20b")},
    (2880, 36, 64, 201088, 128): {"bf16": ("gpt_oss", "gpt_oss_120b")},
}  # fmt: skip
"""(hidden size, layers, heads, vocabulary, experts) of a model to torchtitan's (module, configuration) by precision.

Quantised training is part of a configuration and cannot be switched on from the command line.
"""

MODEL_TYPES = {
    "llama3": ("llama",), "deepseek_v3": ("deepseek_v2", "deepseek_v3"), "qwen3": ("qwen3", "qwen3_moe"),
    "gpt_oss": ("gpt_oss",),
}  # fmt: skip
"""Architectures of its modules."""

SCHEDULES = {"gpipe": "GPipe", "1f1b": "1F1B", "interleaved": "Interleaved1F1B"}
"""Those that are the same thing: its ZBVZeroBubble and DualPipeV fold two chunks on a rank, ours do not."""

LIGHTER = (0, 1, 2)
"""Of the first and last chunk, those that hold a layer less than the others: none, the last, both."""

RECOMPUTE = {"none": "none", "selective": "selective", "full": "full"}

TOOL = "torchtitan"


def write(plan: Mapping[str, Any], asked: Mapping[str, Any]) -> Exported:
    """The launch script.

    Raises:
        ScenarioError: a plan that torchtitan cannot run, or a model that it has no configuration of.
    """
    told = training(plan)
    model = read_model(asked)
    module, configuration = _configuration(model, "bf16" if told.precision == "fp32" else told.precision)
    nodes = placed(asked, told.world)
    notes = [
        f"sizes, data set, learning rate and steps are those of its configuration {configuration}; options given to "
        "launch.sh, before activation-checkpoint, are added, and win",
    ]
    if told.packed:
        notes.append(f"packed_lengths={told.packed}: documents are packed by the data set")
    options: dict[str, Any] = {
        "--module": module,
        "--config": configuration,
        **_layout(told, model.network),
        **_batch(told, model),
    }
    program = [*torchrun(nodes), "-m", "torchtitan.train"]
    after = [Expanded("$@"), f"activation-checkpoint:{RECOMPUTE[told.recompute]}"]
    head = about(TOOL, asked, told, nodes, notes)
    text = script(head, rendezvous(nodes), [command(program, options, after)])
    return Exported(TOOL, {"launch.sh": text}, tuple(notes))


def sizes(network: Network, model: Model) -> Sizes:
    """What a configuration is known by."""
    heads = model.attention.heads if model.attention is not None else 0
    experts = model.experts.experts if model.experts is not None else 0
    return network.hidden_size, len(network.blocks), heads, network.vocab_size, experts


def _configuration(model: Model, precision: str) -> tuple[str, str]:
    found = CONFIGURATIONS.get(sizes(model.network, model))
    modules = {module for module, _ in (found or {}).values()}
    if found is None or not any(model.network.model_type in MODEL_TYPES[m] for m in modules):
        names = sorted(name for each in CONFIGURATIONS.values() for _, name in each.values())
        raise ScenarioError(
            f"--export {TOOL}: it has no configuration of {model.network.name}; accepted: models of the kind and size "
            f"of {', '.join(names)}"
        )
    if precision not in found:
        raise refused(TOOL, "precision", precision, f"{', '.join(found)} for {model.network.name}")
    return found[precision]


def _layout(plan: Training, network: Network) -> dict[str, Any]:
    shard = plan.dp
    if plan.hsdp is not None:
        shard = plan.hsdp // plan.cp
    p = "--parallelism."
    options: dict[str, Any] = {
        f"{p}data-parallel-replicate-degree": plan.dp // shard,
        f"{p}data-parallel-shard-degree": shard,
        f"{p}fsdp-reshard-after-forward": "always",
        f"{p}tensor-parallel-degree": plan.tp,
        f"{p}enable-sequence-parallel": plan.tp > 1 and plan.sequence_parallel,
        f"{p}no-enable-sequence-parallel": plan.tp > 1 and not plan.sequence_parallel,
        f"{p}context-parallel-degree": plan.cp,
        f"{p}expert-parallel-degree": plan.ep,
        f"{p}pipeline-parallel-degree": plan.pp,
    }
    if plan.pp > 1:
        chunks, layers = plan.pp * plan.chunks, len(network.blocks)
        lighter = next(n for n in LIGHTER if (layers + n) % chunks == 0)
        options.update({
            f"{p}pipeline-parallel-schedule": SCHEDULES[plan.schedule],
            f"{p}pipeline-parallel-layers-per-stage": (layers + lighter) // chunks,
            f"{p}pipeline-parallel-first-stage-less-layers": int(lighter > 1),
            f"{p}pipeline-parallel-last-stage-less-layers": int(lighter > 0),
            f"{p}pipeline-parallel-microbatch-size": plan.micro_batch,
        })  # fmt: skip
    return options


def _as_priced(layers: int, chunks: Any) -> Any:
    """Whether it deals layers to chunks as they were priced: evenly, with one fewer in the last, or in both ends."""
    even = [(layers + lighter) % chunks == 0 for lighter in LIGHTER]
    return even[0] | even[1] | even[2]


def _batch(plan: Training, model: Model) -> dict[str, Any]:
    overlapped = plan.engine.endswith("@async-tp")
    return {
        # With a pipeline the whole batch of a rank is one pass through it.
        "--training.local-batch-size": plan.global_batch // plan.dp if plan.pp > 1 else plan.micro_batch,
        "--training.global-batch-size": plan.global_batch,
        "--training.seq-len": plan.seq,
        "--training.mixed-precision-param": "float32" if plan.precision == "fp32" else "bfloat16",
        "--training.enable-cpu-offload": bool(plan.offload),
        # Its CUDA graphs take neither pipelines nor the usual exchange of tokens between experts.
        "--training.disable-cuda-graphs": plan.pp > 1 or (plan.ep > 1 and model.experts is not None),
        "--compile.enable": True,
        "--compile.enable-async-tensor-parallel": overlapped,
        "--compile.no-enable-async-tensor-parallel": not overlapped,
    }


TORCHTITAN = Export(
    tool=TOOL,
    kind="train",
    engine="fsdp",
    write=write,
    searched={
        "schedule": tuple(SCHEDULES),
        "zero": (3,),
        "precision": ("bf16", "fp8", "fp32"),
        "optimizer": ("adamw",),
        "flash_attention": (True,),
        "finetune": ("full",),
        "offload": ("optimizer:cpu,params:cpu",),
        "context_parallel": ("ring",),
        "etp": (1,),
        "engine": ("fsdp",),
    },
    rules=(
        Rule(
            "context-parallel ranks shard together: hsdp needs a multiple of cp",
            ("hsdp", "cp"),
            lambda p, _: p["hsdp"] % p["cp"] == 0,
        ),
        Rule(
            "schedule=interleaved with pp > 1 needs at least 2 virtual_stages",
            ("schedule", "pp", "virtual_stages"),
            lambda p, _: (p["schedule"] != "interleaved") | (p["pp"] == 1) | (p["virtual_stages"] > 1),
        ),
        Rule(
            "pp x virtual_stages needs to divide the layers, or those and one or two more",
            ("pp", "virtual_stages"),
            lambda p, network: _as_priced(len(network.blocks), p["pp"] * p["virtual_stages"]),
        ),
    ),
)
