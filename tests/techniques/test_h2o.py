"""H2O: neutral parameters change nothing, the ideal limit is the closed form, physics holds, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from windtunnel.engine import infer, simulate
from windtunnel.errors import ScenarioError
from windtunnel.scenario.options import InferOptions, read_options
from windtunnel.scenario.results import InferResult
from windtunnel.scenario.simulate_options import SimulateOptions
from windtunnel.scenario.simulation import SimulateResult

KV = 2 * 32 * 32 * 128 * 2
"""Bytes of a token of opt-6.7b."""


def served(**given: Any) -> InferResult:
    asked = {"model": "opt-6.7b", "on": "1xa100-80gb-sxm", "batch": 16, "input": 1024, "output": 256, **given}
    return infer(read_options(InferOptions, asked))


def simulated(**given: Any) -> SimulateResult:
    asked = {"model": "opt-6.7b", "on": "1xa100-80gb-sxm", "arrivals": "poisson", "rate": 4, "requests": 60, **given}
    return simulate(read_options(SimulateOptions, {"input_length": "800", "output_length": "200", **asked}))


def test_a_share_of_one_changes_nothing() -> None:
    for run in (served, simulated):
        plain, neutral = (run(techniques=t).to_dict() for t in ([], ["h2o:share=1"]))
        assert neutral["plan"].pop("with") == ["h2o:share=1"]
        assert {**plain, "simulator": 0} == {**neutral, "simulator": 0}


def test_a_fifth_of_the_cache_holds_five_times_the_sequences() -> None:
    plain, h2o = served(), served(techniques="h2o")
    assert h2o.max_batch == pytest.approx(5 * plain.max_batch, rel=0.02)
    assert h2o.memory_bytes["kv_cache"] == pytest.approx(plain.memory_bytes["kv_cache"] / 5)
    fixed = served(techniques="h2o:tokens=256")
    assert fixed.memory_bytes["kv_cache"] == pytest.approx(plain.memory_bytes["kv_cache"] / 5)
    one, shared = simulated(), simulated(techniques="h2o")
    assert shared.kv_cache["capacity_tokens"] == pytest.approx(5 * one.kv_cache["capacity_tokens"], rel=0.001)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.8])
def test_a_decode_step_is_never_faster_than_weights_and_cache_can_be_read(share: float) -> None:
    r = served(techniques=f"h2o:share={share}", batch=32)
    assert r.tpot_s >= (r.memory_bytes["weights"] + 32 * share * 1024 * KV) / 2039e9


def test_less_is_read_and_bookkeeping_is_paid_for() -> None:
    long = {"input": 1500, "output": 500, "batch": 32}
    times = [served(techniques=f"h2o:share={s}", **long).decode.time_s["attention_decode"] for s in (0.1, 0.4, 0.9)]
    assert times == sorted(times)
    few, many = (served(techniques=f"h2o:kernels={k}") for k in (1, 20))
    assert few.decode.time_s["elementwise"] < many.decode.time_s["elementwise"]
    # A prompt's scores are summed up: it does not become faster.
    assert served(techniques="h2o").ttft_s > served().ttft_s


@pytest.mark.parametrize("what", ["h2o", "h2o:tokens=300"])
def test_the_event_loops_agree(what: str) -> None:
    loops = [simulated(techniques=what, loop=loop) for loop in ("compiled", "python", "naive")]
    fields = [(r.makespan_s, r.tpot_s, r.ttft_s, r.kv_cache) for r in loops]
    assert fields[0] == fields[1] == fields[2]
    assert loops[0].tpot_s["mean"] < simulated().tpot_s["mean"]


def test_what_it_refuses() -> None:
    with pytest.raises(ScenarioError, match="keeps no tokens"):
        served(model="mamba2-2.7b", techniques="h2o")
    with pytest.raises(ScenarioError, match="prefixes cannot share"):
        simulated(techniques="h2o", prefix_cache=True)
    with pytest.raises(ScenarioError, match="share="):
        served(techniques="h2o:share=1.5")


@pytest.mark.parametrize("model", ["llama-3.1-8b", "deepseek-v2-lite", "gpt-oss-20b", "jamba-v0.1"])
def test_it_serves_every_kind_of_attention(model: str) -> None:
    long = {"model": model, "on": "2xh200-sxm", "tp": 2, "input": 30_000, "output": 64, "batch": 8}
    plain, h2o = served(**long), served(techniques="h2o", **long)
    assert h2o.max_batch > 2 * plain.max_batch
    assert sum(h2o.decode.time_s.values()) < sum(plain.decode.time_s.values())


def test_a_disaggregated_service_sends_what_is_kept() -> None:
    pools = {"on": "2xa100-80gb-sxm", "prefill": "1x(tp=1)", "decode": "1x(tp=1)"}
    slow = {**pools, "set": {"scale_up_gbyte_per_s": 1.0}, "kv_transfer": "whole", "rate": 0.2, "requests": 10}
    plain, h2o = simulated(**slow), simulated(techniques="h2o", **slow)
    sent = 800 * KV / 1e9
    assert plain.e2e_s["mean"] - h2o.e2e_s["mean"] > 0.6 * sent
