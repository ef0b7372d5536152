"""``--export vllm``: a ``vllm serve`` command for each engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from windtunnel.errors import ScenarioError
from windtunnel.planning.export.model import Model, read_model
from windtunnel.planning.export.nodes import node_size
from windtunnel.planning.export.service import Engine, Place, engines
from windtunnel.planning.export.serving import (
    check,
    check_world,
    dtype,
    host_cache_bytes,
    notes_on,
    other_checkpoint,
    start_everywhere,
)
from windtunnel.planning.export.shell import Expanded, command
from windtunnel.planning.export.writer import Export, Exported, Rule, check_rules, refused

TOOL = "vllm"

KV = {"bf16": "auto", "fp16": "auto", "fp32": "auto", "fp8": "fp8", "nvfp4": "nvfp4"}

ONLINE = {"fp8": "fp8"}
"""Precisions that it brings a 16-bit checkpoint to as it loads it, by the name of the method."""

SCHEDULERS = ("chunked", "priority")

RULES = (
    Rule(
        "expert parallelism needs ep=1 or all tp x dp ranks",
        ("ep", "tp", "dp"),
        lambda p, _: (p["ep"] == 1) | (p["ep"] == p["tp"] * p["dp"]),
    ),
)


def write(plan: Mapping[str, Any], asked: Mapping[str, Any]) -> Exported:
    """The launch script.

    Raises:
        ScenarioError: a plan that vLLM cannot run.
    """
    model, size = read_model(asked), node_size(asked)
    pools = engines(plan, asked)
    notes = notes_on(plan, pools, model.network, tuple(ONLINE))
    for engine in pools:
        check(TOOL, engine, SCHEDULERS, ("prompt",))
        check_world(TOOL, engine, size)
        check_rules(TOOL, RULES, engine.layout, model.network)
    if any(e.role == "prefill" for e in pools):
        notes.append("a proxy of your own sends each request to a prefill and then to a decode engine")
    return start_everywhere(TOOL, asked, model, pools, notes, lambda where, node: _command(where, node, size, model))


def _command(where: Place, node: int, size: int, model: Model) -> str:
    """The command of one engine on its ``node``-th node."""
    engine = where.engine
    program: list[Any] = ["vllm", "serve", Expanded("$MODEL")]
    variables: list[Any] = [f"CUDA_VISIBLE_DEVICES={where.devices}"] if where.nodes.each < size else []
    if engine.role != "engine":  # where NIXL answers; every data-parallel rank takes a port
        variables.append(Expanded(f"VLLM_NIXL_SIDE_CHANNEL_HOST=${{NODES[{where.node + node}]}}"))
        variables.append(f"VLLM_NIXL_SIDE_CHANNEL_PORT={5600 + where.number * 64}")
    if variables:
        program = ["env", *variables, *program]
    return command(program, {**_layout(where, node), **_settings(engine, model), **_disaggregated(where)})


def _layout(where: Place, node: int) -> dict[str, Any]:
    engine, nodes = where.engine, where.nodes
    head = Expanded(f"${{NODES[{where.node}]}}")
    options: dict[str, Any] = {
        "--port": where.port,
        "--tensor-parallel-size": engine.tp,
        "--pipeline-parallel-size": engine.pp,
        "--data-parallel-size": engine.dp,
        "--enable-expert-parallel": engine.ep > 1,
    }
    if nodes.count == 1:
        if engine.dp > 1:
            options["--data-parallel-rpc-port"] = 13345 + where.number
        return options
    options["--headless"] = node > 0
    if engine.dp == 1:
        options.update({"--nnodes": nodes.count, "--node-rank": node, "--master-addr": head, "--master-port": 29501})
        return options
    if nodes.each % (engine.tp * engine.pp):
        raise ScenarioError(
            f"--export {TOOL}: dp={engine.dp} ranks of tp x pp = {engine.tp * engine.pp} do not share out over "
            f"{nodes.count} nodes of {nodes.each}; accepted: a tp x pp that divides {nodes.each}"
        )
    local = nodes.each // (engine.tp * engine.pp)
    options.update({
        "--data-parallel-size-local": local,
        "--data-parallel-start-rank": node * local if node else None,
        "--data-parallel-address": head,
        "--data-parallel-rpc-port": 13345,
    })  # fmt: skip
    return options


def _settings(engine: Engine, model: Model) -> dict[str, Any]:
    if engine.kv_precision not in KV:
        raise refused(TOOL, "kv_precision", engine.kv_precision, ", ".join(KV))
    online = model.network.quantization is None and other_checkpoint(engine, model.network)
    host = host_cache_bytes(TOOL, engine)
    return {
        "--dtype": dtype(engine),
        "--quantization": ONLINE.get(engine.precision) if online else None,
        "--kv-cache-dtype": KV[engine.kv_precision],
        "--gpu-memory-utilization": engine.memory_utilization,
        "--num-gpu-blocks-override": engine.kv_blocks,
        "--block-size": engine.block_size,
        "--max-model-len": engine.max_model_len,
        "--max-num-batched-tokens": engine.chunk,
        "--max-num-seqs": engine.max_batch,
        "--enable-chunked-prefill": True,
        "--scheduling-policy": "priority" if engine.scheduler == "priority" else None,
        "--enable-prefix-caching" if engine.prefix_cache or host else "--disable-prefix-caching": True,
        "--kv-offloading-size": host / 2**30 if host else None,
        "--async-scheduling": engine.asynchronous is True,
        "--no-async-scheduling": engine.asynchronous is False,
        "--disable-custom-all-reduce": engine.all_reduce == "nccl",
    }


def _disaggregated(where: Place) -> dict[str, Any]:
    roles = {"prefill": "kv_producer", "decode": "kv_consumer"}
    role = roles.get(where.engine.role)
    return {"--kv-transfer-config": {"kv_connector": "NixlConnector", "kv_role": role} if role else None}


VLLM = Export(
    tool=TOOL,
    kind="serve",
    engine="vllm",
    write=write,
    searched={
        "scheduler": SCHEDULERS,
        "preemption": ("recompute",),
        "reserve": ("prompt",),
        "kv_precision": tuple(KV),
        "engine": ("vllm",),
    },
    rules=RULES,
)
