"""``plan serve`` with the real search: what it prints is true of the command that it names."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import windtunnel as wt
import windtunnel.planning

if not hasattr(windtunnel.planning, "plan_serve"):
    pytest.skip("there is no search of services", allow_module_level=True)

Run = Callable[..., Any]

ASKED = ("plan", "serve", "llama-3.1-8b", "--on", "2xh100-sxm", "--rate", "4", "--requests", "60", "--input-length",
         "400", "--output-length", "40")  # fmt: skip


def test_the_command_gives_the_figures_of_the_best(run: Run, tmp_path: Path) -> None:
    saved = tmp_path / "plan.yaml"
    asked = (*ASKED, "--slo", "ttft=1,tpot=0.05", "--top", "2", "--chunk", "2048", "--max-batch", "64")
    found = run(*asked, "--save-scenario", str(saved), "--json").json()
    best = found["best"][0]
    alone = run(*shlex.split(best["command"])[1:], "--json").json()
    for name in ("ttft_s", "tpot_s", "output_tokens_per_second", "cost_usd_per_million_tokens", "energy_j_per_token"):
        assert alone[name] == best[name], name
    again = run("run", str(saved), "--json").json()
    assert again["best"] == found["best"]
    ran = run(*asked)
    assert ran.code == 0
    for title in ("Best: ", "Limits", "Latency of the best as the rate rises"):
        assert title in ran.out
    assert best["command"] in ran.out.splitlines()


def test_limits_that_nothing_meets_are_three(run: Run) -> None:
    asked = (*ASKED, "--slo", "ttft=0.001", "--chunk", "2048", "--max-batch", "64")
    ran = run(*asked, "--json")
    assert ran.code == 3
    found = ran.json()
    binding = found["binding"]
    assert found["feasible"] == 0
    assert binding["value"] > binding["limit"] == 0.001
    assert "the nearest plan misses the TTFT p90" in run(*asked).out
    with pytest.raises(wt.Infeasible, match="TTFT p90"):
        wt.plan_serve("llama-3.1-8b", on="2xh100-sxm", rate=4, requests=60, input_length=400, output_length=40,
                      slo="ttft=0.001", chunk=2048, max_batch=64)  # fmt: skip
