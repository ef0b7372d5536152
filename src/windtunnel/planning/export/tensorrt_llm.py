"""``--export tensorrt-llm``: a ``trtllm-serve`` command for each engine, with the YAML that it takes beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from windtunnel.planning.export.model import Model, read_model
from windtunnel.planning.export.nodes import node_size
from windtunnel.planning.export.service import Engine, Place, engines, launch, place
from windtunnel.planning.export.serving import check, host_cache_bytes, notes_on
from windtunnel.planning.export.shell import Expanded, command
from windtunnel.planning.export.writer import Export, Exported, Rule, check_rules, refused

TOOL = "tensorrt-llm"

KV = {"bf16": "auto", "fp16": "auto", "fp8": "fp8", "nvfp4": "nvfp4"}

POLICIES = {"output": "GUARANTEED_NO_EVICT", "prompt": "MAX_UTILIZATION"}
"""How requests are admitted, by what is reserved for them."""

FRONT = 8080
"""Port of the server in front of disaggregated engines."""

RULES = (
    Rule(
        "attention is split over ranks or copied on them: it needs tp=1 or dp=1",
        ("tp", "dp"),
        lambda p, _: (p["tp"] == 1) | (p["dp"] == 1),
    ),
)


def write(plan: Mapping[str, Any], asked: Mapping[str, Any]) -> Exported:
    """The launch script, a YAML for each pool, and one for the server in front of disaggregated engines.

    Raises:
        ScenarioError: a plan that TensorRT-LLM cannot run.
    """
    model, size = read_model(asked), node_size(asked)
    pools = engines(plan, asked)
    for engine in pools:
        check(TOOL, engine, ("chunked",), tuple(POLICIES))
        check_rules(TOOL, RULES, engine.layout, model.network)
    notes = notes_on(plan, pools, model.network, ())
    names = [f"{e.role}{i}.yaml" if len(pools) > 1 else "engine.yaml" for i, e in enumerate(pools)]
    files = {name: _yaml(_settings(engine, model)) for name, engine in zip(names, pools, strict=True)}
    places = place(pools, asked)
    lines: dict[int, list[str]] = {}
    for where in places:
        name = names[next(i for i, e in enumerate(pools) if e is where.engine)]
        lines.setdefault(where.node, []).append(_command(where, size, model, name))
        for node in range(1, where.nodes.count):
            lines.setdefault(where.node + node, [])  # mpirun reaches it from the engine's first node
    if any(e.role == "prefill" for e in pools):
        files["disaggregated.sh"] = _front(places)
        notes.append("disaggregated.sh, with the same NODES, starts the server in front of both pools")
    files["launch.sh"] = launch(TOOL, asked, model, places, lines, notes)
    return Exported(TOOL, files, tuple(notes))


def _yaml(settings: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(settings), sort_keys=False)


def _command(where: Place, size: int, model: Model, name: str) -> str:
    engine, nodes = where.engine, where.nodes
    program: list[Any] = ["trtllm-serve", Expanded("$MODEL")]
    if nodes.count > 1:
        hosts = ",".join(f"${{NODES[{where.node + i}]}}:{nodes.each}" for i in range(nodes.count))
        program = ["mpirun", "-n", engine.world, "--host", Expanded(hosts), "trtllm-llmapi-launch", *program]
    elif nodes.each < size:
        program = ["env", f"CUDA_VISIBLE_DEVICES={where.devices}", *program]
    options = {
        "--host": "0.0.0.0",
        "--port": where.port,
        "--backend": "pytorch",
        "--tp_size": engine.tp * engine.dp,
        "--pp_size": engine.pp,
        "--ep_size": engine.ep if model.experts is not None else None,
        "--max_batch_size": engine.max_batch,
        "--max_num_tokens": engine.chunk,
        "--max_seq_len": engine.max_model_len,
        "--extra_llm_api_options": Expanded(f"$HERE/{name}"),
    }
    return command(program, options)


def _settings(engine: Engine, model: Model) -> dict[str, Any]:
    """What ``--extra_llm_api_options`` takes."""
    if engine.kv_precision not in KV:
        raise refused(TOOL, "kv_precision", engine.kv_precision, ", ".join(KV))
    cache: dict[str, Any] = {
        "dtype": KV[engine.kv_precision],
        "free_gpu_memory_fraction": engine.memory_utilization,
        "tokens_per_block": engine.block_size,
        "enable_block_reuse": engine.prefix_cache,
    }
    if engine.kv_blocks is not None:
        cache["max_tokens"] = engine.kv_blocks * engine.block_size
    host = host_cache_bytes(TOOL, engine)
    if host:
        cache.update(enable_block_reuse=True, host_cache_size=host // engine.world)
    settings: dict[str, Any] = {
        "kv_cache_config": cache,
        "scheduler_config": {"capacity_scheduler_policy": POLICIES[engine.reserve]},
        "enable_chunked_prefill": True,
        "cuda_graph_config": {"max_batch_size": engine.max_batch, "enable_padding": True},
    }
    if engine.dp > 1:
        settings["enable_attention_dp"] = True
    if engine.asynchronous is not None:
        settings["disable_overlap_scheduler"] = not engine.asynchronous
    if engine.all_reduce == "nccl":
        settings["allreduce_strategy"] = "NCCL"
    if engine.role != "engine":
        settings["cache_transceiver_config"] = {"backend": "DEFAULT", "max_tokens_in_buffer": engine.chunk}
    if engine.role == "prefill":
        settings["disable_overlap_scheduler"] = True  # it has no iteration after the prompt's to overlap
    return settings


def _front(places: Sequence[Place]) -> str:
    """The script that writes the addresses of the pools, and starts the server in front of them."""

    def servers(role: str) -> list[str]:
        each = [p for p in places if p.engine.role == role]
        urls = [f'    - "${{NODES[{p.node}]}}:{p.port}"' for p in each]
        return [f"  num_instances: {len(each)}", "  urls:", *urls]

    lines = [
        "#!/usr/bin/env bash",
        "# Starts the server in front of the prefill and decode engines; run it once, on any node.",
        "set -euo pipefail",
        "",
        'read -r -a NODES <<<"${NODES:-localhost}"',
        "cat >disaggregated.yaml <<END",
        "hostname: 0.0.0.0",
        f"port: {FRONT}",
        "backend: pytorch",
        "context_servers:",
        *servers("prefill"),
        "generation_servers:",
        *servers("decode"),
        "END",
        "trtllm-serve disaggregated -c disaggregated.yaml",
    ]
    return "\n".join(lines) + "\n"


TENSORRT_LLM = Export(
    tool=TOOL,
    kind="serve",
    engine="tensorrt-llm",
    write=write,
    searched={
        "scheduler": ("chunked",),
        "preemption": ("recompute",),
        "kv_precision": tuple(KV),
        "engine": ("tensorrt-llm",),
    },
    rules=RULES,
)
