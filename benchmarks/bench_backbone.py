"""How fast predictions are: ``pytest benchmarks/bench_backbone.py`` prints the figures, none is asserted on.

Targets: one ``train`` under 5 ms warm, a million decode shapes of a 70B model under 1 s on one core, the whole
process under 0.6 s.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np

from windtunnel.cost import Runtime, make_pricer
from windtunnel.engine import train
from windtunnel.ops.fold import Evaluation
from windtunnel.parallel.iteration import iteration
from windtunnel.scenario.batch import Batch
from windtunnel.scenario.options import InferOptions, TrainOptions, read_options
from windtunnel.scenario.serve import infer_scenario

TRAIN = {
    "model": "llama-3.1-70b", "on": "64xh100-sxm", "tp": 8, "pp": 2, "micro_batch": 1, "global_batch": 512, "seq": 8192,
}  # fmt: skip


def test_train_prediction(benchmark: Any) -> None:
    options = read_options(TrainOptions, TRAIN)
    assert benchmark(train, options).step_time_s > 0


def _price(batch: Batch) -> np.ndarray:
    scenario = infer_scenario(read_options(InferOptions, {"model": "llama-3.1-70b", "on": "8xh100-sxm", "tp": 8}))
    tree = iteration(scenario.network, scenario.plan, scenario.engine, batch).tree
    return np.asarray(Evaluation(tree, make_pricer(scenario.cluster, Runtime(graphs=True))).seconds())


def test_million_decode_shapes_on_a_grid(benchmark: Any) -> None:
    """1,000 batch sizes x 1,000 contexts: what depends on the batch alone is priced a thousand times, not a million."""
    n = np.arange(1.0, 1001.0)[:, None]
    context = np.linspace(100.0, 100_000.0, 1000)[None, :]
    batch = Batch(tokens=n, sequences=n, decode_sequences=n, decode_context=n * context)
    assert benchmark.pedantic(_price, (batch,), rounds=3, warmup_rounds=1).shape == (1000, 1000)


def test_million_decode_shapes_at_random(benchmark: Any) -> None:
    """A million unrelated (tokens, context) pairs, in pieces that stay in the cache."""
    rng = np.random.default_rng(0)
    n = rng.integers(1, 1000, 1_000_000).astype(float)
    context = n * rng.integers(100, 100_000, n.size)

    def run() -> float:
        total = 0.0
        for i in range(0, n.size, 16_384):
            part = slice(i, i + 16_384)
            total += float(
                _price(Batch(n[part], n[part], decode_sequences=n[part], decode_context=context[part])).sum()
            )
        return total

    assert benchmark.pedantic(run, rounds=2, warmup_rounds=1) > 0


def test_whole_process(benchmark: Any) -> None:
    command = [
        sys.executable,
        "-m",
        "windtunnel",
        "train",
        "llama-3.1-70b",
        "--on",
        "64xh100-sxm",
        "--tp",
        "8",
        "--pp",
        "2",
    ]
    benchmark.pedantic(subprocess.run, (command,), {"check": True, "capture_output": True}, rounds=5, warmup_rounds=1)


def test_help(benchmark: Any) -> None:
    command = [sys.executable, "-m", "windtunnel", "--help"]
    benchmark.pedantic(subprocess.run, (command,), {"check": True, "capture_output": True}, rounds=5, warmup_rounds=1)
