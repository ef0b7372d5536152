"""What the writers of ``--export`` write for a grid of plans, as the words that a tool's parser is handed."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from itertools import product
from typing import Any

from windtunnel.errors import ScenarioError
from windtunnel.planning.export import EXPORTS, export

STARTS = {
    "vllm": "serve", "sglang": "sglang.launch_server", "megatron": "$MEGATRON/pretrain_gpt.py",
    "torchtitan": "torchtitan.train", "deepspeed": "$TRAIN",
}  # fmt: skip
"""The word behind which a command's own options stand."""

ACCELERATORS = 64

MOST = 400
"""Samples of a tool, or a little more."""


def samples(tool: str) -> list[Any]:
    """Commands, word by word, or the configurations of a tool that reads those."""
    plans = _training(tool) if EXPORTS[tool].kind == "train" else _serving(tool)
    found: list[Any] = []
    for model, plan in plans:
        try:
            files = export(tool, plan, {"model": model, "on": f"{ACCELERATORS}xh100-sxm"}).files
        except ScenarioError:
            continue
        found += [json.loads(files["ds_config.json"])] if tool == "deepspeed" else _words(tool, files["launch.sh"])
    return found[:: max(1, len(found) // MOST)]


def _words(tool: str, text: str) -> Iterator[list[str]]:
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removesuffix("&"), comments=True)
        if STARTS.get(tool) in words:
            own = words[words.index(STARTS[tool]) + 1 :]
            yield [re.sub(r"\$\{NODES\[(\d+)\]\}", r"host\1", word) for word in own if word != "$@"]


def _training(tool: str) -> Iterator[tuple[str, dict[str, Any]]]:
    searched = EXPORTS[tool].searched
    models = ("llama-3.1-8b", "llama-3.1-405b", "qwen3-30b-a3b", "deepseek-v3", "gpt3-175b")
    grid = product(models, (1, 4), (1, 2, 4), (1, 2), searched["schedule"], searched["zero"], searched["precision"])
    for number, (model, tp, pp, cp, schedule, zero, precision) in enumerate(grid):
        plan = {
            "tp": tp, "pp": pp, "cp": cp, "dp": ACCELERATORS // (tp * pp * cp), "schedule": schedule, "zero": zero,
            "virtual_stages": 2 if schedule == "interleaved" and pp > 1 else 1, "precision": precision,
            "micro_batch": 1 + number % 2, "global_batch": 512, "seq": 4096, "engine": EXPORTS[tool].engine,
            "recompute": ("none", "full", "selective")[number % (2 if tool == "deepspeed" else 3)],
            "optimizer": searched["optimizer"][number % len(searched["optimizer"])], "sequence_parallel": tp > 1,
            "context_parallel": searched.get("context_parallel", ("ring",))[0],
            "offload": {"megatron": "optimizer:cpu", "torchtitan": "optimizer:cpu,params:cpu"}.get(tool)
            if number % 5 == 0 else None,
        }  # fmt: skip
        if model in ("qwen3-30b-a3b", "deepseek-v3"):
            plan |= {"ep": (1, 4)[number % 2], "etp": tp if tool == "deepspeed" and number % 2 == 0 else 1}
        yield model, plan


def _serving(tool: str) -> Iterator[tuple[str, dict[str, Any]]]:
    searched = EXPORTS[tool].searched
    layouts = ((1, 1, 1, 4), (4, 1, 2, 2), (8, 2, 1, 2), (8, 1, 1, 1), (1, 1, 16, 2))
    grid = product(("llama-3.1-8b", "mixtral-8x7b"), layouts, searched["kv_precision"], searched["scheduler"])
    for number, (model, (tp, pp, dp, replicas), kv, scheduler) in enumerate(grid):
        plan: dict[str, Any] = {
            "tp": tp, "pp": pp, "dp": dp, "ep": tp * dp if model == "mixtral-8x7b" else 1, "replicas": replicas,
            "precision": ("bf16", "fp8", "w4a16")[number % 3], "kv_precision": kv, "scheduler": scheduler,
            "engine": tool, "block_size": (16, 64)[number % 2], "prefix_cache": number % 2 == 0, "chunk": 8192,
            "max_model_len": 4096 if number % 3 else None, "kv_blocks": 1000 if number % 4 == 0 else None,
        }  # fmt: skip
        if number % 5 == 0:
            plan |= {"prefill": f"2x(tp={tp},pp={pp},dp={dp})", "decode": "1x(tp=4)", "replicas": None}
        yield model, plan
