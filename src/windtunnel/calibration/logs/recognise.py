"""Which kind of log a file is, by what stands in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from windtunnel.calibration.logs.training_logs import MEGATRON_STEP, STEP_TIMES, TITAN_STEP, without_colours
from windtunnel.serving.workload.layouts import INPUT, OUTPUT, plain

Kind = Literal["serving run", "requests", "megatron", "torchtitan", "training runs"]

HEAD = 1 << 20
"""Bytes in which a training log must have its first step."""

RUN_KEYS = frozenset({"input_lens", "request_rate", "mean_ttft_ms", "request_throughput"})
"""Of a serving benchmark's result; one of them is enough."""


def recognise(path: str | Path) -> Kind | None:
    """The kind of log that the file holds, None if it is none that is known (or cannot be read).

    ``serving run``: JSON of ``vllm bench serve`` or JSON lines of ``sglang.bench_serving``; ``requests``: a table with
    a row a request; ``megatron`` and ``torchtitan``: what these print; ``training runs``: a CSV with a row a run.
    """
    try:
        with Path(path).open("rb") as stream:
            head = stream.read(HEAD).decode("utf-8-sig", "replace")
    except (OSError, ValueError):
        return None
    text = head.lstrip()
    first = text.partition("\n")[0]
    if text.startswith("{"):
        if any(f'"{key}"' in text for key in RUN_KEYS):
            return "serving run"
        try:
            row = json.loads(first)
        except ValueError:
            return None
        return "requests" if isinstance(row, dict) and _has_tokens(list(row)) else None
    columns = [name.strip().strip('"') for name in first.split(",")]
    if any(name in STEP_TIMES for name in columns):
        return "training runs"
    if _has_tokens(columns) or head.startswith("PAR1"):  # Parquet
        return "requests"
    bare = without_colours(head)
    if MEGATRON_STEP.search(bare):
        return "megatron"
    return "torchtitan" if TITAN_STEP.search(bare) else None


def _has_tokens(columns: list[str]) -> bool:
    names = {plain(name) for name in columns}
    return not names.isdisjoint(INPUT) and not names.isdisjoint(OUTPUT)
