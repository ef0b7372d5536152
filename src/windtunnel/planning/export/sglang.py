"""``--export sglang``: a ``python -m sglang.launch_server`` command for each engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from windtunnel.planning.export.model import Model, read_model
from windtunnel.planning.export.nodes import node_size
from windtunnel.planning.export.service import Engine, Place, engines
from windtunnel.planning.export.serving import check, check_world, dtype, notes_on, other_checkpoint, start_everywhere
from windtunnel.planning.export.shell import Expanded, command
from windtunnel.planning.export.writer import Export, Exported, refused

TOOL = "sglang"

KV = {"bf16": "auto", "fp16": "auto", "fp32": "auto", "fp8": "fp8_e4m3", "nvfp4": "nvfp4", "mxfp8": "mxfp8"}

ONLINE = {"fp8": "fp8", "mxfp8": "mxfp8"}
"""Precisions that it brings a 16-bit checkpoint to as it loads it, by the name of the method."""

SCHEDULERS = ("prefill-first", "chunked")


def write(plan: Mapping[str, Any], asked: Mapping[str, Any]) -> Exported:
    """The launch script.

    Raises:
        ScenarioError: a plan that SGLang cannot run.
    """
    model, size = read_model(asked), node_size(asked)
    pools = engines(plan, asked)
    notes = notes_on(plan, pools, model.network, tuple(ONLINE))
    for engine in pools:
        check(TOOL, engine, SCHEDULERS, ("prompt",))
        check_world(TOOL, engine, size)
        if engine.cache_tiers:
            raise refused(TOOL, "cache_tiers", engine.cache_tiers, "none: its tiers are sized by rank")
    if any(e.role == "prefill" for e in pools):
        notes.append("a router (sglang_router with --pd-disaggregation) sends each request to a pair of engines")
    return start_everywhere(TOOL, asked, model, pools, notes, lambda where, node: _command(where, node, size, model))


def _command(where: Place, node: int, size: int, model: Model) -> str:
    """The command of one engine on its ``node``-th node."""
    engine = where.engine
    program: list[Any] = ["python", "-m", "sglang.launch_server", "--model-path", Expanded("$MODEL")]
    if where.nodes.each < size:
        program = ["env", f"CUDA_VISIBLE_DEVICES={where.devices}", *program]
    return command(program, {**_layout(where, node, model), **_settings(engine, model), **_disaggregated(where)})


def _attention_ranks(engine: Engine, model: Model) -> bool:
    """Whether data-parallel ranks share experts; those of a dense model are copies of it."""
    return engine.dp > 1 and model.experts is not None


def _layout(where: Place, node: int, model: Model) -> dict[str, Any]:
    engine, nodes = where.engine, where.nodes
    shared = _attention_ranks(engine, model)
    return {
        "--host": "0.0.0.0",
        "--port": where.port,
        # Its tensor-parallel size is that of the experts: attention's ranks divide it.
        "--tp-size": engine.tp * engine.dp if shared else engine.tp,
        "--attn-dp-size": engine.dp if shared else None,
        "--dp-size": engine.dp if engine.dp > 1 and not shared else None,
        "--pp-size": engine.pp,
        "--ep-size": engine.ep if model.experts is not None else None,
        "--nnodes": nodes.count if nodes.count > 1 else None,
        "--node-rank": node if nodes.count > 1 else None,
        "--dist-init-addr": Expanded(f"${{NODES[{where.node}]}}:29501") if nodes.count > 1 else None,
    }


def _settings(engine: Engine, model: Model) -> dict[str, Any]:
    if engine.kv_precision not in KV:
        raise refused(TOOL, "kv_precision", engine.kv_precision, ", ".join(KV))
    online = model.network.quantization is None and other_checkpoint(engine, model.network)
    ranks = engine.dp if _attention_ranks(engine, model) else 1  # it shares these out over attention's ranks
    return {
        "--dtype": dtype(engine),
        "--quantization": ONLINE.get(engine.precision) if online else None,
        "--kv-cache-dtype": KV[engine.kv_precision],
        "--mem-fraction-static": engine.memory_utilization,
        "--max-total-tokens": engine.kv_blocks * engine.block_size if engine.kv_blocks is not None else None,
        "--page-size": engine.block_size,
        "--context-length": engine.max_model_len,
        "--chunked-prefill-size": engine.chunk * ranks,
        "--max-running-requests": engine.max_batch * ranks,
        "--enable-mixed-chunk": engine.scheduler == "chunked",
        "--disable-radix-cache": not engine.prefix_cache,
        "--disable-overlap-schedule": engine.asynchronous is False,
        "--disable-custom-all-reduce": engine.all_reduce == "nccl",
    }


def _disaggregated(where: Place) -> dict[str, Any]:
    if where.engine.role == "engine":
        return {}
    port = 8998 + where.number if where.engine.role == "prefill" else None
    return {"--disaggregation-mode": where.engine.role, "--disaggregation-bootstrap-port": port}


SGLANG = Export(
    tool=TOOL,
    kind="serve",
    engine="sglang",
    write=write,
    searched={
        "scheduler": SCHEDULERS,
        "preemption": ("recompute",),
        "reserve": ("prompt",),
        "kv_precision": tuple(KV),
        "engine": ("sglang",),
    },
)
