"""Traces written as ``export_chrome_trace`` writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest


class Recorder:
    """A trace in the making. All times in microseconds."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = [{"ph": "M", "name": "process_name", "pid": 1, "args": {"name": "python"}}]
        self.calls = 0

    def event(self, cat: str, name: str, ts: float, dur: float, *, tid: int = 1, **args: Any) -> None:
        at = {"ph": "X", "cat": cat, "name": name, "pid": 1, "tid": tid, "ts": 1e12 + ts, "dur": dur}
        self.events.append({**at, "args": args})

    def step(self, n: int, ts: float, dur: float) -> None:
        self.event("user_annotation", f"ProfilerStep#{n}", ts, dur)

    def kernel(
        self,
        name: str,
        ts: float,
        dur: float,
        *,
        op: str = "",
        launched: float | None = None,
        dims: Sequence[Sequence[int]] | None = None,
        cat: str = "kernel",
        device: int = 0,
    ) -> None:
        """A kernel that the operator ``op`` launched at ``launched``, by default just before it began."""
        self.calls += 1
        at = ts - 2.0 if launched is None else launched
        if op:
            shapes = {} if dims is None else {"Input Dims": dims}
            self.event("cpu_op", op, at, 1.0, **{"External id": self.calls}, **shapes)
        self.event("cuda_runtime", "cudaLaunchKernel", at + 0.2, 0.5, correlation=self.calls)
        self.event(
            cat, name, ts, dur, tid=7, correlation=self.calls, device=device, stream=7, **{"External id": self.calls}
        )

    def write(self, path: Path, **head: Any) -> Path:
        path.write_text(json.dumps({"schemaVersion": 1, **head, "traceEvents": self.events}))
        return path


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()
