"""What a long context costs: its four costs trace back to the bytes of a user's KV cache."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import windtunnel as wt
from windtunnel.engine import infer
from windtunnel.errors import ScenarioError
from windtunnel.scenario.options import InferOptions, read_options

KV = 2 * 60 * 8 * 128 * 2
"""Bytes of a token of yi-34b."""


def found(**given: Any) -> Any:
    asked = {"model": "yi-34b", "on": "2xa100-80gb-sxm", "tp": 2, "input": 50_000, "output": 250, "long_context": True}
    return infer(read_options(InferOptions, {**asked, **given}))


def test_every_cost_follows_the_cache() -> None:
    report = found().long_context
    short, asked, over = report["short"], report["asked"], report["ratio"]
    assert (short["context"], asked["context"]) == (4096, 50_000)
    assert asked["kv_bytes"] == 50_000 * KV
    assert short["kv_bytes"] == 4096 * KV
    assert over["switch_s"] == pytest.approx(over["kv_bytes"], rel=0.01)
    assert over["users"] == pytest.approx(1 / over["kv_bytes"], rel=0.15)
    assert over["prefill_s"] > over["kv_bytes"]  # attention grows with the square
    assert over["decode_alone_s_per_token"] > 1
    assert 0 < asked["kv_of_decode"] < 1
    contexts = [at["context"] for at in report["sweep"]]
    assert contexts == [4096, 8192, 16384, 32768, 50_000]


def test_a_switch_is_the_cache_over_the_link_twice() -> None:
    asked = found(set={"pcie_gbyte_per_s": 32}).long_context["asked"]
    assert asked["switch_s"] == pytest.approx(2 * asked["kv_bytes"] / 2 / (0.79 * 32e9), rel=0.01)


def test_the_prompt_and_one_users_token_are_those_of_the_answer() -> None:
    r = found()
    asked = r.long_context["asked"]
    assert asked["prefill_s"] == pytest.approx(r.ttft_s)
    assert asked["decode_alone_s_per_token"] == pytest.approx(r.tpot_s, rel=1e-3)
    assert asked["users"] == r.max_batch


def test_decoding_is_not_faster_than_memory() -> None:
    for at in found().long_context["sweep"]:
        read = (2 * 34e9 + at["users"] * at["kv_bytes"]) / 2
        assert at["decode_s_per_token"] >= read / 2039e9


def test_sessions_add_up() -> None:
    report = found(rounds=3).long_context
    asked = report["asked"]
    answers = 3 * 250 * asked["decode_s_per_token"] / asked["users"]
    assert 3600 / asked["sessions_per_hour"] == pytest.approx(asked["prefill_s"] + answers)
    more = 3600 / asked["sessions_per_hour_switching"] - 3600 / asked["sessions_per_hour"]
    assert more == pytest.approx(3 * asked["switch_s"])


def test_a_cache_a_fifth_as_large_serves_five_times_the_users() -> None:
    plain, h2o = (found(techniques=t).long_context["asked"] for t in ([], ["h2o"]))
    assert h2o["kv_bytes"] == pytest.approx(plain["kv_bytes"] / 5)
    assert h2o["users"] >= 5 * plain["users"]
    assert h2o["switch_s"] < plain["switch_s"] / 4.9


def test_contexts_in_any_layout() -> None:
    for given in ({"pp": 2, "tp": 1}, {"dp": 2, "tp": 1, "model": "llama-3.1-8b"}, {"engine": "transformers"}):
        report = found(input=8192, **given).long_context
        assert [at["context"] for at in report["sweep"]] == [4096, 8192]
        assert all(math.isfinite(v) for at in report["sweep"] for v in at.values())
    same = found(input=4096).long_context
    assert same["ratio"] == dict.fromkeys(same["ratio"], 1.0)


def test_it_is_there_when_asked_for() -> None:
    assert wt.infer("llama-3.1-8b", on="1xh100-sxm").long_context is None
    with pytest.raises(ScenarioError, match="short_context=4096"):
        found(input=1000)


def test_the_command_prints_and_draws_it(run: Any, tmp_path: Path) -> None:
    asked = ("infer", "llama-3.1-8b", "--on", "1xh100-sxm", "--input", "30000", "--long-context")
    said = run(*asked)
    assert said.code == 0
    assert "Long context" in said.out
    assert "30,000 tokens take" in said.out
    assert run(*asked, "--json").json()["long_context"]["asked"]["context"] == 30_000
    plain = run("infer", "gpt2", "--on", "1xh100-sxm", "--plot", str(tmp_path / "a.svg"))
    assert plain.code == 2
    assert "--long-context" in plain.err
    pytest.importorskip("matplotlib")
    assert run(*asked, "--plot", str(tmp_path / "a.svg")).code == 0
    assert "<svg" in (tmp_path / "a.svg").read_text()
