"""Training plans as Megatron-LM, torchtitan and DeepSpeed read them."""

from __future__ import annotations

import json
import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import windtunnel as wt
from windtunnel.errors import ScenarioError
from windtunnel.models import load_network
from windtunnel.parallel.stages import deal
from windtunnel.planning.export import EXPORTS, Exported, export
from windtunnel.planning.export.megatron import uneven
from windtunnel.planning.export.writer import UNSAID

ENGINES = {"megatron": "megatron", "torchtitan": "fsdp", "deepspeed": "deepspeed"}
STARTS = {"megatron": "$MEGATRON/pretrain_gpt.py", "torchtitan": "torchtitan.train", "deepspeed": "$TRAIN"}

LAYERS = {"llama3_8b": 32, "llama3_70b": 80, "llama3_405b": 126, "qwen3_30b_a3b": 48}
"""Of models that torchtitan has a configuration of."""

BASE: dict[str, Any] = {
    "tp": 1, "pp": 1, "dp": 64, "cp": 1, "ep": 1, "virtual_stages": 1, "schedule": "1f1b", "zero": 1,
    "sequence_parallel": False, "micro_batch": 1, "global_batch": 512, "seq": 8192, "precision": "bf16",
    "recompute": "none", "optimizer": "adamw", "engine": "megatron", "flash_attention": True, "finetune": "full",
}  # fmt: skip


def plan(**changed: Any) -> dict[str, Any]:
    """A plan on 64 accelerators: dp is what is left."""
    told = {**BASE, **changed}
    if "dp" not in changed:
        told["dp"] = 64 // (told["tp"] * told["pp"] * told["cp"])
    if told["cp"] > 1:
        told.setdefault("context_parallel", "ring")
    return told


@st.composite
def plans(draw: st.DrawFn) -> tuple[str, str, dict[str, Any]]:
    """(tool, model, plan) over what a search for the tool goes over."""
    tool = draw(st.sampled_from(sorted(ENGINES)))
    searched = EXPORTS[tool].searched
    model = draw(st.sampled_from(["llama-3.1-8b", "llama-3.1-70b", "qwen3-30b-a3b", "deepseek-v3", "gpt3-175b"]))
    experts = model in ("qwen3-30b-a3b", "deepseek-v3")
    tp, pp, cp = draw(st.sampled_from([d for d in product((1, 2, 4, 8), (1, 2, 4), (1, 2)) if math.prod(d) <= 64]))
    schedule = draw(st.sampled_from(searched["schedule"]))
    told = plan(
        tp=tp, pp=pp, cp=cp, schedule=schedule, zero=draw(st.sampled_from(searched["zero"])),
        virtual_stages=2 if schedule == "interleaved" and pp > 1 else 1,
        sequence_parallel=tp > 1 and (experts or draw(st.booleans())),
        micro_batch=draw(st.sampled_from([1, 2, 4])), precision=draw(st.sampled_from(searched["precision"])),
        recompute=draw(st.sampled_from(searched.get("recompute", ("none", "selective", "full")))),
        optimizer=draw(st.sampled_from(searched["optimizer"])), engine=ENGINES[tool],
    )  # fmt: skip
    if experts:
        told |= {"ep": draw(st.sampled_from([1, 2, 4])), "etp": draw(st.sampled_from(sorted({1, tp})))}
    if cp > 1:
        told["context_parallel"] = draw(st.sampled_from(searched.get("context_parallel", ("ring", "ulysses"))))
    if told["zero"] == 3 and tool != "deepspeed" and draw(st.booleans()):
        told["hsdp"] = told["dp"] * cp // 2 if told["dp"] % 2 == 0 else None
    return tool, model, {k: v for k, v in told.items() if v is not None}


def written(tool: str, model: str, told: dict[str, Any]) -> Exported | None:
    """None: the tool cannot run the plan, and the error says so."""
    message = ""
    try:
        return export(tool, told, {"model": model, "on": "64xh100-sxm"})
    except ScenarioError as error:
        message = str(error)
    assert "\n" not in message
    assert f"--export {tool}" in message
    assert "accepted" in message or "needs" in message
    return None


@settings(max_examples=150, suppress_health_check=[HealthCheck.filter_too_much])
@given(plans())
def test_what_is_written_is_accepted_and_says_the_plan(checks: Any, drawn: tuple[str, str, dict[str, Any]]) -> None:
    tool, model, told = drawn
    exported = written(tool, model, told)
    assume(exported is not None)
    assert exported is not None
    (command,) = checks.commands(exported.files["launch.sh"], STARTS[tool])
    checks.options(tool, command.options)
    assert said(tool, command, exported.files) == {
        **{name: told[name] for name in ("tp", "pp", "dp", "cp", "micro_batch", "global_batch", "seq")},
        "chunks": told["virtual_stages"] if told["pp"] > 1 else 1, "ep": told["ep"], "recompute": told["recompute"],
        "shard": told.get("hsdp") or told["dp"] * told["cp"], "zero": told["zero"],
    } | ({"seq": None, "chunks": 1, "shard": None} if tool == "deepspeed" else {}) | (
        {"shard": None} if told["zero"] == 0 else {}
    )  # fmt: skip
    if tool == "deepspeed":
        checks.fields(tool, json.loads(exported.files["ds_config.json"]))


def said(tool: str, command: Any, files: Any) -> dict[str, Any]:
    """The plan as the tool would understand what is written."""
    return {"megatron": megatron, "torchtitan": torchtitan, "deepspeed": deepspeed}[tool](command, files)


def megatron(command: Any, files: Any) -> dict[str, Any]:
    o = command.options
    tp, pp, cp = (int(o[f"--{n}-parallel-size"]) for n in ("tensor-model", "pipeline-model", "context"))
    dp = world(command) // (tp * pp * cp)
    strategy = o.get("--data-parallel-sharding-strategy")
    zero = {"optim_grads": 2, "optim_grads_params": 3, None: int("--use-distributed-optimizer" in o)}[strategy]
    layout = o.get("--pipeline-model-parallel-layout", "")
    chunks = len(layout.split("|")) // pp if layout else int(o.get("--num-virtual-stages-per-pipeline-rank", 1))
    return {
        "tp": tp, "pp": pp, "dp": dp, "cp": cp, "chunks": chunks, "zero": zero,
        "ep": int(o.get("--expert-model-parallel-size", 1)),
        "recompute": o.get("--recompute-granularity", "none"), "micro_batch": int(o["--micro-batch-size"]),
        "global_batch": int(o["--global-batch-size"]), "seq": int(o["--seq-length"]),
        "shard": dp * cp // int(o.get("--num-distributed-optimizer-instances", 1)) if zero else None,
    }  # fmt: skip


def torchtitan(command: Any, files: Any) -> dict[str, Any]:
    def number(name: str) -> int:
        return int(command.options[f"--{name}"])

    o, p = command.options, "parallelism."
    tp, pp, cp = (number(f"{p}{n}-parallel-degree") for n in ("tensor", "pipeline", "context"))
    shard, copies = number(f"{p}data-parallel-shard-degree"), number(f"{p}data-parallel-replicate-degree")
    assert tp * pp * cp * shard * copies == world(command)
    layers = LAYERS.get(o["--config"], 61)
    micro = number(f"{p}pipeline-parallel-microbatch-size") if pp > 1 else number("training.local-batch-size")
    lighter = [f"{p}pipeline-parallel-{end}-stage-less-layers" for end in ("first", "last")] if pp > 1 else []
    dealt = layers + sum(number(name) for name in lighter)
    chunks = -(-dealt // number(f"{p}pipeline-parallel-layers-per-stage")) // pp if pp > 1 else 1
    if pp > 1:
        assert number("training.local-batch-size") * shard * copies == number("training.global-batch-size")
    (recompute,) = [word.partition(":")[2] for word in command.rest if word.startswith("activation-checkpoint:")]
    return {
        "tp": tp, "pp": pp, "dp": shard * copies, "cp": cp, "chunks": chunks, "zero": 3,
        "ep": number(f"{p}expert-parallel-degree"), "recompute": recompute, "micro_batch": micro,
        "global_batch": number("training.global-batch-size"), "seq": number("training.seq-len"), "shard": shard * cp,
    }  # fmt: skip


def deepspeed(command: Any, files: Any) -> dict[str, Any]:
    config = json.loads(files["ds_config.json"])
    tp = config.get("tensor_parallel", {}).get("autotp_size", 1)
    cp, pp = config.get("sequence_parallel_size", 1), config.get("pipeline", {}).get("stages", 1)
    dp = world(command) // (tp * cp * pp)
    micro, steps = config["train_micro_batch_size_per_gpu"], config["gradient_accumulation_steps"]
    assert micro * steps * dp == config["train_batch_size"]
    return {
        "tp": tp, "pp": pp, "dp": dp, "cp": cp, "chunks": 1, "zero": config["zero_optimization"]["stage"],
        "ep": config.get("expert_parallel", {}).get("autoep_size", 1),
        "recompute": "full" if "activation_checkpointing" in config else "none", "micro_batch": micro,
        "global_batch": config["train_batch_size"], "seq": None, "shard": None,
    }  # fmt: skip


def world(command: Any) -> int:
    """Processes that torchrun starts."""
    told = dict(zip(command.program[1::2], command.program[2::2], strict=False))
    return int(told["--nnodes"]) * int(told["--nproc-per-node"])


def test_torchrun_takes_what_starts_it(checks: Any) -> None:
    exported = export("megatron", plan(), {"model": "llama-3.1-8b", "on": "64xh100-sxm"})
    (command,) = checks.commands(exported.files["launch.sh"], "torchrun")
    names = ("--nnodes", "--nproc-per-node", "--node-rank", "--master-addr", "--master-port")
    checks.options("torchrun", {name: command.options[name] for name in names})
    assert (command.options["--nnodes"], command.options["--nproc-per-node"]) == ("8", "8")


@pytest.mark.parametrize(("tool", "changed"), [
    ("megatron", {"tp": 8, "pp": 2}), ("torchtitan", {"tp": 8, "recompute": "full"}),
    ("deepspeed", {"zero": 3, "recompute": "full", "seq": 2048}),
])  # fmt: skip
def test_an_answer_of_train_is_exported(tool: str, changed: dict[str, Any], checks: Any) -> None:
    asked = {"model": "llama-3.1-70b", "on": "64xh100-sxm"}
    told = {"micro_batch": 1, "global_batch": 512, "seq": 8192, "engine": ENGINES[tool], **changed}
    step = wt.train(**asked, **told)
    exported = export(tool, step.plan, asked)
    (command,) = checks.commands(exported.files["launch.sh"], STARTS[tool])
    assert said(tool, command, exported.files)["dp"] == step.plan["dp"]


@pytest.mark.parametrize(("tool", "model", "changed", "named", "accepted"), [
    ("megatron", "llama-3.1-8b", {"schedule": "zero-bubble"}, "schedule=zero-bubble", "1f1b, interleaved"),
    ("megatron", "llama-3.1-8b", {"precision": "tf32"}, "precision=tf32", "bf16"),
    ("megatron", "llama-3.1-8b", {"offload": "params:cpu"}, "offload=params:cpu", "optimizer:cpu"),
    ("megatron", "llama-3.1-8b", {"zero": 3, "offload": "optimizer:cpu"}, "offload=optimizer:cpu", "zero=1"),
    ("megatron", "mixtral-8x7b", {"tp": 2, "etp": 1}, "tp=2, sequence_parallel=False", "need sequence_parallel"),
    ("megatron", "mamba2-2.7b", {}, "model_type mamba2", "llama"),
    ("megatron", "mistral-7b-v0.1", {}, "seq=8192", "window of 4096"),
    ("megatron", "llama-3.1-8b", {"finetune": "lora:r=16"}, "finetune=lora", "full"),
    ("megatron", "llama-3.1-8b", {"engine": "fsdp"}, "engine=fsdp", "megatron"),
    ("torchtitan", "llama-3.1-8b", {"zero": 1, "engine": "fsdp"}, "zero=1", "3"),
    ("torchtitan", "llama-3.1-8b", {"zero": 3, "precision": "fp8", "engine": "fsdp"}, "precision=fp8", "bf16"),
    ("torchtitan", "mixtral-8x7b", {"zero": 3, "engine": "fsdp"}, "mixtral-8x7b", "llama3_8b"),
    ("torchtitan", "llama-3.1-8b", {"zero": 3, "pp": 32, "schedule": "interleaved", "engine": "fsdp"},
     "virtual_stages=1", "at least 2"),
    ("torchtitan", "llama-3.1-8b", {"zero": 3, "cp": 4, "hsdp": 2, "engine": "fsdp"}, "hsdp=2", "a multiple of cp"),
    ("deepspeed", "llama-3.1-8b", {"pp": 2, "zero": 2, "engine": "deepspeed"}, "pp=2", "zero=1"),
    ("deepspeed", "mixtral-8x7b", {"ep": 8, "cp": 2, "zero": 3, "context_parallel": "ulysses", "engine": "deepspeed"},
     "ep=8, zero=3, cp=2", "need cp=1"),
    ("deepspeed", "mixtral-8x7b", {"tp": 2, "etp": 1, "engine": "deepspeed"}, "etp=1, tp=2", "etp=tp"),
    ("deepspeed", "llama-3.1-8b", {"zero": 3, "hsdp": 8, "engine": "deepspeed"}, "hsdp=8", "all data-parallel"),
    ("deepspeed", "llama-3.1-8b", {"cp": 2, "engine": "deepspeed"}, "context_parallel=ring", "ulysses"),
    ("deepspeed", "llama-3.1-8b", {"offload": "optimizer:nvme", "zero": 2, "engine": "deepspeed"},
     "offload=optimizer:nvme", "zero=3"),
    ("deepspeed", "llama-3.1-8b", {"offload": "activations:cpu", "engine": "deepspeed"},
     "offload=activations:cpu", "recompute=full"),
    ("deepspeed", "llama-3.1-8b", {"offload": "params:cpu", "engine": "deepspeed"}, "offload=params:cpu", "zero=3"),
    ("vllm", "llama-3.1-8b", {}, "it serves", "trains"),
])  # fmt: skip
def test_what_a_tool_cannot_run_is_refused(
    tool: str, model: str, changed: dict[str, Any], named: str, accepted: str
) -> None:
    with pytest.raises(ScenarioError) as raised:
        export(tool, plan(**changed), {"model": model, "on": "64xh100-sxm"})
    message = str(raised.value)
    assert named in message
    assert accepted in message
    assert "\n" not in message


@pytest.mark.parametrize("tool", sorted(EXPORTS))
def test_rules_take_arrays_of_plans(tool: str) -> None:
    grid = np.array(list(product((1, 2), (1, 2, 4), (1, 2), (1, 2, 4), (0, 1, 2, 3), (1, 2), (0, 1, 2))))
    names = ("tp", "pp", "cp", "ep", "zero", "virtual_stages", "offload")
    fields = {**UNSAID, **dict(zip(names, grid.T, strict=True)), "dp": np.full(len(grid), 4)}
    fields["offload"] = np.array(["", "optimizer:cpu", "optimizer:nvme,params:cpu"])[fields["offload"]]
    network = load_network("mixtral-8x7b")
    for rule in EXPORTS[tool].rules:
        together = np.broadcast_to(rule.holds(fields, network), len(grid))
        alone = [rule.holds({k: v if np.ndim(v) == 0 else v[i] for k, v in fields.items()}, network)
                 for i in range(len(grid))]  # fmt: skip
        assert together.tolist() == [bool(a) for a in alone]
        assert set(rule.fields) <= set(UNSAID)


def test_an_unknown_tool_is_refused() -> None:
    with pytest.raises(ScenarioError, match="did you mean vllm"):
        export("vlm", plan(), {"model": "llama-3.1-8b", "on": "64xh100-sxm"})


def test_uneven_layers_are_dealt_as_they_were_priced() -> None:
    layout = uneven(load_network("llama-3.1-405b"), 16).split("|")
    assert [chunk.count("t") for chunk in layout] == [7, *[8] * 14, 7]
    assert layout[0][0] == "E"
    assert layout[-1][-1] == "L"


@pytest.mark.parametrize(("pp", "first", "last"), [(2, 0, 0), (16, 1, 1)])
def test_torchtitan_deals_layers_as_they_were_priced(pp: int, first: int, last: int, checks: Any) -> None:
    network = load_network("llama-3.1-405b")
    told = plan(pp=pp, zero=3, precision="fp8", engine="fsdp")
    exported = export("torchtitan", told, {"model": "llama-3.1-405b", "on": "64xh100-sxm"})
    (command,) = checks.commands(exported.files["launch.sh"], STARTS["torchtitan"])
    p = "--parallelism.pipeline-parallel-"
    each = int(command.options[f"{p}layers-per-stage"])
    assert [int(command.options[f"{p}{end}-stage-less-layers"]) for end in ("first", "last")] == [first, last]
    held = [stage.layers for stage in deal(network, pp) for _ in range(stage.count)]
    assert held == [each - first, *[each] * (pp - 2), each - last]


@pytest.mark.parametrize("offload", ["optimizer:nvme", "optimizer:cpu,params:nvme", "optimizer:cpu"])
def test_deepspeed_offloads_where_it_is_told(offload: str, checks: Any) -> None:
    told = plan(zero=3, engine="deepspeed", offload=offload)
    config = json.loads(
        export("deepspeed", told, {"model": "llama-3.1-8b", "on": "64xh100-sxm"}).files["ds_config.json"]
    )
    checks.fields("deepspeed", config)
    zero = config["zero_optimization"]
    names = {"optimizer": "offload_optimizer", "params": "offload_param"}
    assert {what: zero[name]["device"] for what, name in names.items() if name in zero} == dict(
        part.split(":") for part in offload.split(",")
    )


@pytest.mark.parametrize(("world", "nodes", "each"), [(6, 1, 6), (12, 2, 6), (64, 8, 8), (7, 1, 7)])
def test_ranks_share_out_over_the_fewest_nodes(world: int, nodes: int, each: int, checks: Any) -> None:
    told = plan(dp=world, global_batch=world)
    exported = export("megatron", told, {"model": "llama-3.1-8b", "on": "64xh100-sxm"})
    (command,) = checks.commands(exported.files["launch.sh"], "torchrun")
    assert (int(command.options["--nnodes"]), int(command.options["--nproc-per-node"])) == (nodes, each)
    assert ("MASTER_ADDR:-localhost" in exported.files["launch.sh"]) == (nodes == 1)


def test_every_size_of_a_model_is_written(checks: Any) -> None:
    told = plan(tp=2, ep=8, etp=1, sequence_parallel=True)
    exported = export("megatron", told, {"model": "deepseek-v3", "on": "64xh100-sxm"})
    (command,) = checks.commands(exported.files["launch.sh"], STARTS["megatron"])
    o = command.options
    assert (o["--num-layers"], o["--hidden-size"], o["--num-attention-heads"]) == ("61", "7168", "128")
    assert (o["--kv-lora-rank"], o["--q-lora-rank"], o["--v-head-dim"]) == ("512", "1536", "128")
    assert (o["--num-experts"], o["--moe-router-topk"], o["--moe-ffn-hidden-size"]) == ("256", "8", "2048")
    assert eval(str(o["--moe-layer-freq"])) == [0] * 3 + [1] * 58


def test_what_a_configuration_does_not_say_is_noted(tmp_path: Any) -> None:
    silent = export("megatron", plan(), {"model": "llama-3.1-8b", "on": "64xh100-sxm"})
    assert any("--rotary-base" in note for note in silent.notes)
    config = {
        "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0},
        "max_position_embeddings": 131072,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    full = export("megatron", plan(), {"model": str(tmp_path), "on": "64xh100-sxm"})
    assert not any("--rotary-base" in note for note in full.notes)
    assert "--rotary-base 500000" in full.files["launch.sh"]
    assert "--rope-scaling-factor 8.0" in full.files["launch.sh"]
