"""How fast requests are simulated: a million of the Azure conversation trace's lengths on one A100.

    python benchmarks/bench_simulate.py [--largest 10000000]

Prints, for each number of requests, the loop's requests and events a second and nanoseconds an event, the seconds of
the whole call, and the process's memory; then what a user waits for, from start to exit, in processes of their own.
Machines differ and are noisy: compare figures of one run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

import windtunnel as wt

SERVICE = {
    "model": "llama-3.1-8b",
    "on": "1xa100-80gb-sxm",
    "scheduler": "chunked",
    "chunk": 2048,
    "input_length": "trace:azure-conv-2023",
    "output_length": "trace:azure-conv-2023",
}
LOAD = 0.85
"""Of the requests a second that the engine does when all of them are there at once."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=int, default=1_000_000)
    largest = parser.parse_args().largest
    most = wt.simulate(**SERVICE, rate="inf", requests=20_000).requests_per_second
    print(f"throughput with all requests at once: {most:.3f} requests/s; rate {LOAD * most:.3f}/s")
    # Before this process grows: a child's peak of memory starts with its parent's.
    for requests in (10_000, 1_000_000):
        for label, folder in (("", None), (" (first run: nothing compiled yet)", tempfile.mkdtemp())):
            seconds, memory = from_start_to_exit(LOAD * most, requests, folder)
            print(f"{requests:,} requests from start to exit{label}: {seconds:.2f} s, {memory:.0f} MB")
    print(f"{'requests':>12} {'loop s':>8} {'requests/s':>12} {'events/s':>12} {'ns/event':>9} {'call s':>8} {'MB':>7}")
    requests = 10_000
    while requests <= largest:
        began = time.perf_counter()
        result = wt.simulate(**SERVICE, rate=LOAD * most, requests=requests)
        whole = time.perf_counter() - began
        wall, events = result.simulator["wall_s"], result.simulator["events"]
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{requests:>12,} {wall:>8.3f} {requests / wall:>12,.0f} {events / wall:>12,.0f} "
            f"{1e9 * wall / events:>9.0f} {whole:>8.2f} {memory:>7.0f}"
        )
        requests *= 10


def from_start_to_exit(rate: float, requests: int, cache: str | None) -> tuple[float, float]:
    """(seconds, MB) of the command in a process of its own. ``cache``: an empty folder to compile into."""
    environment = dict(os.environ) | ({} if cache is None else {"XDG_CACHE_HOME": cache})
    options = [f"--{k.replace('_', '-')}={v}" for k, v in SERVICE.items() if k != "model"]
    command = [sys.executable, "-m", "windtunnel", "simulate", str(SERVICE["model"]), *options]
    began = time.perf_counter()
    process = subprocess.Popen(
        [*command, f"--rate={rate}", f"--requests={requests}", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    answer = json.loads(process.stdout.read())
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0
    assert answer["completed"] == requests
    return time.perf_counter() - began, used.ru_maxrss / 1024


if __name__ == "__main__":
    main()
