"""The end of ``calibrate --measure``: a small transformer's prefill, decode and training step, predicted from the
fitted constants and run.

The predictions are those of ``infer`` and ``train`` for the decoder's ``config.json`` on the machine's cluster file
with the fitted calibration, so everything between a kernel and a step is in them. No shape here is one of the grid.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np

from windtunnel.calibration.clock import Call, Clock, repeats
from windtunnel.calibration.decoder import Decoder, Sizes
from windtunnel.engine.infer import infer_answer
from windtunnel.engine.train import train_answer
from windtunnel.models.dtypes import BYTES
from windtunnel.scenario.options import InferOptions, TrainOptions, read_options
from windtunnel.scenario.serve import infer_scenario
from windtunnel.scenario.train import train_scenario

Phase = Literal["prefill", "decode", "train"]

TORCH_NAMES = {"fp32": "float32", "bf16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class Case:
    """``tokens``: of a prompt or of a training sequence; in decode, the context before the new token."""

    phase: Phase
    batch: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Checked:
    """Seconds of one case, predicted and measured."""

    case: Case
    predicted_s: float
    measured_s: float

    @property
    def error(self) -> float:
        """Predicted over measured, less 1."""
        return self.predicted_s / self.measured_s - 1.0

    def to_dict(self) -> dict[str, Any]:
        return {
            "phase": self.case.phase,
            "batch": self.case.batch,
            "tokens": self.case.tokens,
            "predicted_s": self.predicted_s,
            "measured_s": self.measured_s,
            "error": self.error,
        }


SMALL = Sizes(hidden=512, layers=4, heads=8, kv_heads=2, intermediate=1408, vocab=8192)
LARGE = Sizes(hidden=768, layers=8, heads=12, kv_heads=4, intermediate=2048, vocab=16384)
CASES: tuple[Case, ...] = (
    Case("prefill", 1, 64), Case("prefill", 1, 256), Case("prefill", 2, 192), Case("prefill", 4, 128),
    Case("prefill", 1, 512), Case("decode", 1, 128), Case("decode", 2, 512), Case("decode", 4, 256),
    Case("decode", 8, 400), Case("decode", 16, 128), Case("train", 1, 128), Case("train", 2, 64),
    Case("train", 2, 192), Case("train", 1, 384),
)  # fmt: skip


def case_calls(clock: Clock, sizes: Sizes, dtype: str, cases: Sequence[Case]) -> list[Call]:
    """What runs each case with PyTorch, on one decoder."""
    torch = clock.torch
    made = Decoder(torch, sizes, device=clock.device, dtype=getattr(torch, TORCH_NAMES[dtype]))
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-6, fused=True)
    return [_call(clock, made, optimizer, case) for case in cases]


def _call(clock: Clock, made: Decoder, optimizer: Any, case: Case) -> Call:
    torch = clock.torch

    def draw(length: int) -> Any:
        return torch.randint(0, made.sizes.vocab, (case.batch, length), device=clock.device)

    if case.phase == "train":
        inputs, targets = draw(case.tokens), draw(case.tokens)

        def train() -> None:
            made.loss(inputs, targets).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return train
    if case.phase == "prefill":
        prompt = draw(case.tokens)

        def prefill() -> Any:
            with torch.no_grad():
                return made.forward(prompt, last=True).argmax(-1)

        return prefill
    token, caches = draw(1), made.cache(case.batch, case.tokens + 64)

    def decode() -> Any:
        with torch.no_grad():
            return made.step(token, caches, case.tokens).argmax(-1)

    return decode


def predict_case(case: Case, config: str, on: str, calibration: str, dtype: str, host: Mapping[str, float]) -> float:
    """Seconds that ``infer`` or ``train`` answers. ``host``: what of the engines' host times was measured here."""
    width = BYTES[dtype]
    # The decoder's parameters are of the number format that it computes in, and so are their gradients and moments.
    state = {"gradient_bytes": width, "optimizer_traffic_bytes": 7 * width}
    common: dict[str, Any] = {"model": config, "on": on, "calibration": calibration, "precision": dtype}
    if case.phase == "train":
        asked = {**common, "engine": "pytorch", "micro_batch": case.batch, "global_batch": case.batch}
        scenario = train_scenario(read_options(TrainOptions, {**asked, "seq": case.tokens}))
        return train_answer(replace(scenario, engine=scenario.engine.model_copy(update={**state, **host}))).step_time_s
    asked = {**common, "engine": "pytorch-generate", "batch": case.batch, "input": case.tokens, "output": 2}
    served = infer_scenario(read_options(InferOptions, asked))
    issue = {k: v for k, v in host.items() if k in type(served.engine).model_fields}
    answer = infer_answer(replace(served, engine=served.engine.model_copy(update=issue)))
    return float(answer.ttft_s if case.phase == "prefill" else answer.tpot_s)


def write_config(sizes: Sizes, dtype: str, folder: str) -> str:
    """The decoder's ``config.json`` in ``folder``; its path."""
    path = Path(folder) / "config.json"
    path.write_text(json.dumps(sizes.config(TORCH_NAMES[dtype])), encoding="utf-8")
    return str(path)


def host_times(clock: Clock, sizes: Sizes, dtype: str, rounds: int) -> dict[str, float]:
    """Host seconds to issue one layer on a GPU, and its backward pass over that: of passes so small that the device
    waits for the host. Nothing on a CPU, where calling an operator and running it are one."""
    if clock.device == "cpu":
        return {}
    deep = replace(sizes, layers=4 * sizes.layers)
    cases = (Case("prefill", 1, 8), Case("train", 1, 8))
    calls = [call for s in (deep, sizes) for call in case_calls(clock, s, dtype, cases)]
    _, seconds = repeats(clock, [], calls, rounds)
    many, many_back, few, few_back = (median(s) for s in seconds)
    forward, both = ((m - f) / (deep.layers - sizes.layers) for m, f in ((many, few), (many_back, few_back)))
    return {"host_s_per_layer": forward, "host_backward_ratio": max(both / forward - 1.0, 0.1)}


def summary(checked: Sequence[Checked]) -> dict[str, Any]:
    """Median, p90 and bias over all cases, and the median by phase."""
    errors = np.array([abs(c.error) for c in checked])
    phases = dict.fromkeys(c.case.phase for c in checked)
    return {
        "shapes": len(checked),
        "median_error": float(np.median(errors)),
        "p90_error": float(np.quantile(errors, 0.9)),
        "bias": float(np.median([c.error for c in checked])),
        "median_error_by_phase": {
            p: float(np.median([abs(c.error) for c in checked if c.case.phase == p])) for p in phases
        },
    }
