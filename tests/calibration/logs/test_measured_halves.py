"""Measured logs: constants fitted on one half predict the other half better than the shipped ones."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from windtunnel.calibration.logs.constants import serve_constants, target, train_constants
from windtunnel.calibration.logs.fit import Observations, fit
from windtunnel.calibration.logs.observe import observe_serving, observe_training
from windtunnel.calibration.logs.serving_logs import read_requests
from windtunnel.calibration.logs.training_logs import read_runs
from windtunnel.scenario.engines import ServeEngine, TrainEngine, load_engine
from windtunnel.scenario.train import train_scenario

RUNS = 32
"""Of t5's 1,440, so that the test is quick."""

BLOCKS = 8


def medians(log: Observations, constants: Any) -> tuple[float, float]:
    """Median error of all observations by the shipped constants, and of each half by constants fitted on the other."""
    first = log.block < BLOCKS // 2
    fitted = np.empty(len(log.measured))
    for half in (first, ~first):
        values = fit(log, constants, half).values
        assert values, "nothing is identified"
        fitted[~half] = log.predict(values)[~half]
    shipped, other = (np.abs(np.expm1(log.errors(p))) for p in (log.predict({}), fitted))
    return float(np.median(shipped)), float(np.median(other))


@pytest.mark.parametrize(
    ("card", "device", "batch"), [("RTXPRO6000", "rtx-pro-6000", 128), ("RTX4090", "rtx-4090", 256)]
)
def test_half_of_a_vllm_run_predicts_the_other_half(
    measured_data: Path, tmp_path: Path, card: str, device: str, batch: int
) -> None:
    path = measured_data / "s5_llmservingsim_vllm" / f"requests_{card}_Llama-3.1-8B.csv"
    if not path.is_file():
        pytest.skip(f"{path.name} is not there")
    given = {"model": "llama-3.1-8b", "on": f"1x{device}", "engine": "vllm", "max_batch": batch, "chunk": 2048}
    runs = read_requests(path, given)
    engine = load_engine("vllm", "serve")
    assert isinstance(engine, ServeEngine)
    log = observe_serving(runs, target("vllm", None, path.name), tmp_path, BLOCKS)
    shipped, fitted = medians(log, serve_constants(engine, [r.options for r in runs]))
    print(f"{card}: shipped {shipped:.1%}, fitted on the other half {fitted:.1%}")
    assert fitted < shipped


def test_half_of_vtrains_runs_predicts_the_other_half(measured_data: Path, tmp_path: Path) -> None:
    path = measured_data / "t5_vtrain" / "iteration_time_single.csv"
    if not path.is_file():
        pytest.skip(f"{path.name} is not there")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = np.random.default_rng(7).permutation(len(rows))[:RUNS]
    table = tmp_path / "runs.csv"
    table.write_text("model,on,tp,pp,dp,micro_batch,global_batch,seq,step_time_ms\n" + "".join(
        f"{gpt(tmp_path, r)},{r['n_gpus']}xa100-80gb-sxm,{r['tensor_parallelism']},{r['pipeline_parallelism']},"
        f"{r['data_parallelism']},{r['micro_batch']},{r['global_batch']},{r['sequence_length']},"
        f"{r['iteration_time_ms']}\n"
        for r in (rows[i] for i in chosen)
    ))  # fmt: skip
    runs = read_runs(table, {"engine": "deepspeed@2023", "precision": "fp16", "recompute": "full"})
    engine = load_engine("deepspeed@2023", "train")
    assert isinstance(engine, TrainEngine)
    aim = target(engine.name, None, path.name, [train_scenario(r.options) for r in runs])
    log = observe_training(runs, aim, tmp_path, BLOCKS)
    shipped, fitted = medians(log, train_constants(engine))
    print(f"vTrain: shipped {shipped:.1%}, fitted on the other half {fitted:.1%}")
    assert fitted < shipped


def gpt(folder: Path, row: dict[str, str]) -> str:
    """The config.json of a GPT of the row's sizes, beside the table."""
    sizes = {
        "n_layer": int(row["n_layers"]), "n_embd": int(row["hidden_size"]), "n_head": int(row["attention_heads"]),
        "n_positions": int(row["sequence_length"]), "vocab_size": 51200,
    }  # fmt: skip
    path = folder / "gpt-{n_layer}-{n_embd}-{n_head}-{n_positions}".format(**sizes) / "config.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"model_type": "gpt2", **sizes}))
    return f"{path.parent.name}/config.json"
