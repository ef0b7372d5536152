"""What techniques cost the tunnel itself: answers with each of them switched on, and all studies.

    python benchmarks/bench_techniques.py

Prints, for no technique and for each, milliseconds of a training step's and of a batch's answer (the best of some),
and of a simulation the seconds of the loop and of all else (its price list, most of all), with nanoseconds an event.
Then the seconds of all studies on two processes. Machines differ and are noisy: compare figures of one run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import windtunnel as wt
from windtunnel.scenario.registry import technique_class, technique_names

TRAIN = {"model": "llama-3.1-70b", "on": "64xa100-80gb-sxm", "tp": 8, "pp": 4, "global_batch": 64, "seq": 4096}
INFER = {"model": "mixtral-8x7b", "on": "8xh100-sxm", "tp": 4, "ep": 4, "batch": 16}
SERVICE = {
    "model": "mixtral-8x7b", "on": "8xh100-sxm", "tp": 4, "ep": 4, "replicas": 2, "rate": 12, "requests": 50_000,
    "input_length": "trace:azure-conv-2023", "output_length": "trace:azure-conv-2023",
}  # fmt: skip
TIMES = 7


def milliseconds(call: Callable[..., Any], asked: dict[str, Any]) -> str:
    """Of the fastest of some calls; the reason's first words where it is refused."""
    best = float("inf")
    try:
        for _ in range(TIMES):
            began = time.perf_counter()
            call(**asked)
            best = min(best, time.perf_counter() - began)
    except (wt.ScenarioError, wt.Infeasible) as error:
        return " ".join(str(error).split()[1:4])
    return f"{1e3 * best:.2f}"


def simulated(asked: dict[str, Any]) -> str:
    """Seconds beside the loop, in the loop, and nanoseconds an event."""
    began = time.perf_counter()
    try:
        ran = wt.simulate(**asked).simulator
    except (wt.ScenarioError, wt.Infeasible) as error:
        return " ".join(str(error).split()[1:4])
    whole = time.perf_counter() - began
    return f"{whole - ran['wall_s']:8.2f} {ran['wall_s']:8.3f} {1e9 * ran['wall_s'] / ran['events']:8.0f}"


def main() -> None:
    wt.simulate(**{**SERVICE, "requests": 1000})  # compiled by now
    print(f"{'technique':<28} {'train ms':>22} {'infer ms':>22} {'rest s':>8} {'loop s':>8} {'ns/event':>8}")
    for name in (None, *technique_names()):
        known = ("train", "infer", "simulate") if name is None else technique_class(name).about.commands
        on = {} if name is None else {"techniques": [name]}
        cells = [
            milliseconds(wt.train, {**TRAIN, **on}) if "train" in known else "",
            milliseconds(wt.infer, {**INFER, **on}) if "infer" in known else "",
            simulated({**SERVICE, **on}) if "simulate" in known else "",
        ]
        print(f"{name or 'none':<28} {cells[0]:>22} {cells[1]:>22} {cells[2]}", flush=True)
    began = time.perf_counter()
    found = wt.study(workers=2)
    print(f"{len(found['studies'])} studies on two processes: {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
