"""``windtunnel plan`` killed at random moments, and asked again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

COMMANDS = {
    "train": "plan train llama-3.1-8b --on 64xh100-sxm --global-batch 128 --seq 4096 --cp 1,2 --tp 1,2,4,8 "
    "--pp 1,2,4,8 --micro-batch 1,2,4 --json --top 3",
    "serve": "plan serve llama-3.1-8b --on 4xh100-sxm --arrivals poisson --rate 20 --requests 1500 --input-length 512 "
    "--output-length 64 --slo ttft=1,tpot=0.05 --json --top 3",
}
ENDS = 90.0
"""Seconds in which one run ends on a busy machine."""


def run(question, store, workers, kill_after=None):
    """The answer; None if it was killed before."""
    words = [
        sys.executable,
        "-m",
        "windtunnel",
        *COMMANDS[question].split(),
        "--store",
        str(store),
        "--workers",
        str(workers),
    ]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True, env=os.environ.copy()
    )
    if kill_after is not None:
        time.sleep(kill_after)
        os.killpg(process.pid, signal.SIGKILL)
    said, _ = process.communicate(timeout=ENDS)
    return json.loads(said) if process.returncode == 0 else None


def committed(store):
    """Keys of the chunks in a store."""
    import duckdb

    if not store.exists():
        return set()
    with duckdb.connect(str(store)) as con:
        there = {name for (name,) in con.execute("select table_name from information_schema.tables").fetchall()}
        return {key for (key,) in con.execute("select key from chunks").fetchall()} if "chunks" in there else set()


@pytest.mark.parametrize(("question", "workers", "seed"), [("train", 1, 3), ("train", 2, 4), ("serve", 2, 5)])
def test_a_killed_search_goes_on_and_ends_with_the_same_answer(tmp_path, question, workers, seed):
    whole = run(question, tmp_path / "whole.duckdb", workers)
    draws, store, before = random.Random(seed), tmp_path / "killed.duckdb", set()
    for _ in range(4):
        run(question, store, workers, kill_after=draws.uniform(0.3, 2.0))
        now = committed(store)
        assert now >= before  # nothing committed is lost
        before = now
    last = run(question, store, workers)
    # Training counts chunks, serving the simulations in them.
    assert last["resumed"] == len(before) if question == "train" else last["resumed"] >= len(before)
    for field in ("best", "pareto", "evaluated", "feasible", "why_not", "obvious"):
        assert last[field] == whole[field]
