"""The Python calls."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import windtunnel as wt
import windtunnel.planning
from windtunnel.cli import main
from windtunnel.scenario.plans import PlanResult


def test_train_is_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    step = wt.train("gpt2", on="8xa100-80gb-sxm", micro_batch=2, global_batch=16, seq=1024)
    line = "train gpt2 --on 8xa100-80gb-sxm --micro-batch 2 --global-batch 16 --seq 1024 --json"
    assert main(line.split()) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(step.to_dict()))
    assert step.bottleneck.resource
    assert "attn" in step.explain()
    assert step.timeline()["traceEvents"]


def test_infer_is_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    served = wt.infer("gpt2", on="1xa100-80gb-sxm", batch=4, input=100, output=10, set={"hbm_gbyte_per_s": 1000})
    line = "infer gpt2 --on 1xa100-80gb-sxm --batch 4 --input 100 --output 10 --set hbm_gbyte_per_s=1000 --json"
    assert main(line.split()) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(served.to_dict()))
    assert served.ttft_s > 0
    assert "decode" in served.explain()


def test_errors_are_two() -> None:
    with pytest.raises(wt.ScenarioError, match="'gpt5'"):
        wt.train("gpt5", on="8xh100-sxm")
    with pytest.raises(wt.ScenarioError, match="unknown option 'layers'"):
        wt.train("gpt2", on="8xh100-sxm", layers=3)
    with pytest.raises(wt.Infeasible, match="does not fit") as error:
        wt.train("llama-3.1-70b", on="8xh100-sxm", tp=8, seq=4096)
    assert error.value.result.fits is False
    assert error.value.result.shortfall_bytes > 0
    with pytest.raises(wt.Infeasible):
        wt.infer("llama-3.1-405b", on="8xh100-sxm", tp=8)


def test_a_search_is_the_command(
    train_plans: PlanResult, serve_plans: PlanResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def answering(result: PlanResult) -> Callable[..., PlanResult]:
        return lambda options, **_: (asked.append(options), result)[1]

    monkeypatch.setattr(windtunnel.planning, "plan_train", answering(train_plans), raising=False)
    monkeypatch.setattr(windtunnel.planning, "plan_serve", answering(serve_plans), raising=False)
    found = wt.plan_train("gpt2", on="8xh100-sxm", tp=[1, 2], sequence_parallel=True, global_batch=16)
    assert found is train_plans
    assert wt.plan_serve(Path("gpt2"), on=["1xt4", "1xl4"], slo="ttft=1") is serve_plans
    assert (asked[0].tp, asked[0].sequence_parallel, asked[0].global_batch) == ("1,2", "on", 16)
    assert (asked[1].model, asked[1].on) == ("gpt2", ["1xt4", "1xl4"])
    with pytest.raises(wt.ScenarioError, match="unknown option 'tpp'"):
        wt.plan_train("gpt2", on="8xh100-sxm", tpp=1)


def test_a_search_without_a_plan_is_infeasible(nothing_found: PlanResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windtunnel.planning, "plan_train", lambda options, **_: nothing_found, raising=False)
    with pytest.raises(wt.Infeasible, match=r"96\.0 GiB against a limit of 80\.0 GiB") as error:
        wt.plan_train("llama-3.1-8b", on="64xa100-80gb-sxm")
    assert error.value.result is nothing_found


def test_a_path_is_a_model(tmp_path: Path) -> None:
    config = {
        "model_type": "gpt2",
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "vocab_size": 50257,
        "n_positions": 1024,
    }
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    same = wt.train(file, on="1xh100-sxm", seq=512).step_time_s
    assert same == pytest.approx(wt.train("gpt2", on="1xh100-sxm", seq=512).step_time_s)


def test_names() -> None:
    assert set(wt.__all__) <= set(dir(wt))
    assert isinstance(wt.__version__, str)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = wt.trian


def test_importing_costs_nothing() -> None:
    code = "import sys, windtunnel; windtunnel.ScenarioError; print({'numpy', 'pydantic', 'yaml'} & set(sys.modules))"
    source = str(Path(wt.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": source}, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "set()\n", done.stderr


def test_a_search_that_finds_nothing_says_what_is_missed() -> None:
    with pytest.raises(wt.Infeasible, match="is feasible: the nearest plan misses the memory") as caught:
        wt.plan_train("llama-3.1-405b", on="8xh100-sxm", global_batch=8, tp=8, pp=1, cp=1)
    assert caught.value.result.binding["ratio"] > 1
