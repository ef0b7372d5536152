"""What studies ask the engine: the commands by name, with plain keyword arguments."""

from __future__ import annotations

from typing import Any

from windtunnel import engine
from windtunnel.scenario.options import InferOptions, TrainOptions, read_options
from windtunnel.scenario.results import InferResult, TrainResult
from windtunnel.scenario.simulate_options import SimulateOptions
from windtunnel.scenario.simulation import SimulateResult


def train(**options: Any) -> TrainResult:
    """``windtunnel train``; an answer that does not fit is an answer."""
    return engine.train(read_options(TrainOptions, options))


def infer(**options: Any) -> InferResult:
    """``windtunnel infer``."""
    return engine.infer(read_options(InferOptions, options))


def simulate(**options: Any) -> SimulateResult:
    """``windtunnel simulate``."""
    return engine.simulate(read_options(SimulateOptions, options))
