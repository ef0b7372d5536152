"""How many training plans a second: ``python benchmarks/bench_plan_train.py`` prints a table; nothing is asserted.

Each question is asked in a process of its own, as a user asks it: ``seconds`` is what the answer says of the search,
``from start`` until the process has ended. Targets, on two cores: GPT-3 175B on 4,096 GPUs under 3 s with at least
500,000 plans a second, Llama-3.1-405B on 16,384 under 10 s.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from windtunnel.engine import train
from windtunnel.scenario.options import TrainOptions, read_options

QUESTIONS = {
    "GPT-3 175B, 4,096 A100": "gpt3-175b --on 4096xa100-80gb-sxm --global-batch 4096 --seq 2048",
    "Llama-3.1-405B, 16,384 H100": "llama-3.1-405b --on 16384xh100-sxm --global-batch 2048 --seq 8192",
    "Mixtral-8x7B, 512 H100": "mixtral-8x7b --on 512xh100-sxm --global-batch 1024 --seq 4096",
    "Llama-3.1-8B, 64 H100": "llama-3.1-8b --on 64xh100-sxm --global-batch 256 --seq 8192",
}


def ask(question: str, *more: str) -> tuple[dict, float]:
    """(the answer, seconds from start to end)."""
    began = time.perf_counter()
    words = [sys.executable, "-m", "windtunnel", "plan", "train", *question.split(), *more, "--json"]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return json.loads(said), time.perf_counter() - began


def one_by_one() -> float:
    """Plans a second that ``train`` answers, warm."""
    asked = {"model": "gpt3-175b", "on": "4096xa100-80gb-sxm", "tp": 8, "pp": 16, "global_batch": 4096, "seq": 2048}
    options = read_options(TrainOptions, asked)
    train(options)
    began = time.perf_counter()
    for _ in range(50):
        train(options)
    return 50 / (time.perf_counter() - began)


def main() -> None:
    heads = ("plans", "laid out", "seconds", "plans/s", "from start")
    print(f"{'question':30} {'workers':>8} {heads[0]:>12} {heads[1]:>9} {heads[2]:>8} {heads[3]:>11} {heads[4]:>11}")

    def row(name: str, workers: str, answer: dict, whole: float) -> None:
        plans, seconds = answer["evaluated"], answer["seconds"]
        laid_out = answer["search"]["laid_out"]
        rate = plans / seconds
        print(f"{name:30} {workers:>8} {plans:12,} {laid_out:9,} {seconds:8.2f} {rate:11,.0f} {whole:9.2f} s")

    for name, question in QUESTIONS.items():
        for workers in ("1", "2"):
            row(name, workers, *ask(question, "--workers", workers))
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "points.duckdb")
        first = next(iter(QUESTIONS))
        row(f"{first}, stored", "1", *ask(QUESTIONS[first], "--store", store))
        row("  and asked again", "1", *ask(QUESTIONS[first], "--store", store))
    print(f"train, plan by plan: {one_by_one():,.0f} plans/s")


if __name__ == "__main__":
    main()
