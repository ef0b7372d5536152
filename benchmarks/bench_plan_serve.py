"""How long `plan serve` takes: ``python benchmarks/bench_plan_serve.py`` prints a table; nothing is asserted.

Each question is asked in a process of its own, as a user asks it: ``seconds`` is what the answer says of the search,
``from start`` until the process has ended. Target, on two cores: Llama-3.1-70B over four device types with the Azure
conversation trace at 20 requests/s in under two minutes. (Where WINDTUNNEL_DATA does not name the folder of data sets,
the trace is drawn after its statistics.)
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

FOUR = "--on 64xh100-sxm --on 64xh200-sxm --on 64xa100-80gb-sxm --on 64xl40s"
AZURE = "llama-3.1-70b --trace azure-conv-2023 --rate 20 --slo ttft=1.0,tpot=0.05"
SMALL = "llama-3.1-8b --on 8xl40s --rate 20 --requests 5000 --slo ttft=1.0,tpot=0.05"
QUESTIONS = {
    "70B, four device types": f"{AZURE} {FOUR}",
    "the same, colocated": f"{AZURE} {FOUR} --deployment colocated",
    "the same, the highest rate": f"{AZURE} {FOUR} --deployment colocated --objective throughput",
    "70B, H100 alone": f"{AZURE} --on 64xh100-sxm",
    "8B on 8 L40S": SMALL,
}


def ask(question: str, *more: str) -> tuple[dict, float]:
    """(the answer, seconds from start to end)."""
    began = time.perf_counter()
    words = [sys.executable, "-m", "windtunnel", "plan", "serve", *question.split(), *more, "--json"]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return json.loads(said), time.perf_counter() - began


def main() -> None:
    heads = f"{'question':28} {'workers':>7} {'plans':>6} {'simulations':>11} {'seconds':>8} {'from start':>10}"
    print(f"{heads}   best")
    for name, question in QUESTIONS.items():
        for workers in ("1", "2"):
            answer, whole = ask(question, "--workers", workers)
            plans, simulated, seconds = answer["evaluated"], answer["search"]["simulations"], answer["seconds"]
            best = answer["best"][0]["command"].split("--rate")[0].removeprefix("windtunnel simulate ")
            print(f"{name:28} {workers:>7} {plans:6} {simulated:11} {seconds:8.1f} {whole:8.1f} s   {best}", flush=True)


if __name__ == "__main__":
    main()
