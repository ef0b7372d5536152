"""The answer of ``simulate``, through the front door, on real models and machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import windtunnel as wt
from windtunnel.engine.simulate import simulate
from windtunnel.errors import Infeasible, ScenarioError
from windtunnel.hardware import parse_cluster
from windtunnel.scenario.engines import ServeEngine, load_engine
from windtunnel.scenario.options import read_options
from windtunnel.scenario.simulate_options import SimulateOptions
from windtunnel.scenario.simulation import SimulateResult
from windtunnel.serving.compiled.build import available
from windtunnel.serving.outcome import PS, Status

SMALL: dict[str, Any] = {"model": "llama-3.1-8b", "on": "1xa100-80gb-sxm", "loop": "python"}
LENGTHS = {"input_length": "lognormal:mean=700,cv=1", "output_length": "exponential:mean=80"}


def run(**options: Any) -> SimulateResult:
    given = {**SMALL, **options}
    if "trace" not in given:
        given = {**LENGTHS, **given}
    return simulate(read_options(SimulateOptions, given))


@pytest.mark.parametrize(
    ("model", "on", "options", "batch", "prompt", "answer"),
    [
        ("llama-3.1-8b", "1xa100-80gb-sxm", {"chunk": 512}, 64, 1000, 100),
        ("llama-3.1-70b", "8xh100-sxm", {"tp": 8, "engine": "sglang"}, 100, 2000, 200),
        ("llama-3.1-70b", "8xh100-sxm", {"tp": 4, "pp": 2}, 64, 1000, 100),
        ("mixtral-8x7b", "8xh100-sxm", {"tp": 2, "dp": 4, "ep": 8}, 64, 1000, 100),
        ("llama-2-7b", "1xa100-80gb-sxm", {"engine": "transformers", "max_batch": 16}, 32, 512, 64),
        ("llama-2-70b", "4xa100-80gb-sxm", {"tp": 4, "engine": "vllm@2023"}, 20, 600, 100),
        ("gemma-2-9b", "1xh100-sxm", {}, 16, 3000, 300),
        ("mamba2-2.7b", "1xh100-sxm", {}, 40, 800, 60),
    ],
)
def test_equal_requests_at_once_are_what_infer_says(
    model: str, on: str, options: dict[str, Any], batch: int, prompt: int, answer: int
) -> None:
    """Two ways to the same times: a layout priced in one call, and the event loop on its price list."""
    laid_out = wt.infer(model, on=on, batch=batch, input=prompt, output=answer, **options)
    lived = run(
        model=model, on=on, rate="inf", requests=batch, input_length=str(prompt), output_length=str(answer), **options
    )
    assert lived.completed == batch
    assert lived.ttft_s["mean"] == pytest.approx(laid_out.ttft_s, rel=0.005)
    assert lived.tpot_s["mean"] == pytest.approx(laid_out.tpot_s, rel=0.006)
    tokens = laid_out.output_tokens_per_second
    assert lived.output_tokens_per_second == pytest.approx(tokens, rel=0.005)
    assert lived.energy_j_per_token == pytest.approx(laid_out.energy_j_per_token, rel=0.08)


DEPLOYMENTS: dict[str, dict[str, Any]] = {
    "one": {"rate": 5},
    "overload": {"rate": 60},
    "stopped": {"rate": 20, "duration": 10},
    "small-cache": {"rate": 20, "kv_blocks": 400},
    "swap": {"rate": 20, "kv_blocks": 400, "preemption": "swap"},
    "queue-limit": {"rate": 60, "max_queue": 5},
    "impatient": {"rate": 60, "timeout": 2},
    "closed": {"arrivals": "closed:concurrency=16,think=0.5"},
    "sessions": {"arrivals": "sessions:turns=3,think=2", "rate": 4, "prefix_cache": True},
    "replicas": {"on": "4xa100-80gb-sxm", "replicas": 4, "router": "least-loaded", "rate": 20},
    "dense-dp": {"on": "2xa100-80gb-sxm", "dp": 2, "rate": 10},
    "fleet": {"on": "3xa100-80gb-sxm", "fleet": "1x(tp=2)+1x(max-batch=8)", "rate": 10, "router": "power-of-two"},
    "apart": {"on": "4xa100-80gb-sxm", "prefill": "2x()", "decode": "2x()", "rate": 10},
    "unequal": {"on": "4xa100-80gb-sxm", "prefill": "1x(tp=2)", "decode": "2x()", "rate": 8, "kv_transfer": "whole"},
    "failing": {
        "on": "2xa100-80gb-sxm", "replicas": 2, "rate": 10, "replica_mtbf_hours": 0.005, "replica_restart_s": 5,
    },
    "scaling": {"on": "4xa100-80gb-sxm", "autoscale": "min=1,max=4,target=0.1,interval=2,from=nvme", "rate": 20},
    "pipeline": {"on": "2xa100-80gb-sxm", "pp": 2, "rate": 5},
}  # fmt: skip


@pytest.fixture(scope="module", params=list(DEPLOYMENTS))
def deployed(request: pytest.FixtureRequest) -> tuple[str, SimulateResult]:
    return request.param, run(requests=250, **DEPLOYMENTS[request.param])


def test_every_request_has_one_end(deployed: tuple[str, SimulateResult]) -> None:
    _, result = deployed
    assert result.requests == result.completed + result.rejected + result.unfinished == 250
    outcome = result.outcome
    done = outcome.status == Status.COMPLETED
    assert np.count_nonzero(done) == result.completed
    assert np.all(outcome.start[done] >= outcome.arrival[done])
    assert np.all(outcome.first[done] > outcome.start[done])
    assert np.all(outcome.finish[done] >= outcome.first[done])
    assert np.all(outcome.finish[done] <= outcome.end)


def test_littles_law(deployed: tuple[str, SimulateResult]) -> None:
    """The integral of the number in the system is the sum of times in it, to 1e-9."""
    name, result = deployed
    outcome = result.outcome
    came = outcome.arrival >= 0
    done = outcome.status == Status.COMPLETED
    if name in ("impatient", "failing", "queue-limit"):  # those who leave without an answer leave at times of their own
        pytest.skip("requests that are turned away")
    rejected = came & (outcome.status > Status.COMPLETED)
    left = np.where(done, outcome.finish, np.where(rejected, outcome.arrival, outcome.end))
    inside = (left - outcome.arrival)[came]
    assert outcome.queue_integral_s == pytest.approx(inside.sum() / PS, rel=1e-9)


def test_no_resource_and_no_accelerator_does_more_than_it_can(deployed: tuple[str, SimulateResult]) -> None:
    _, result = deployed
    assert all(0 <= share <= 1 for share in result.utilization.values())
    paid = sum(p["accelerator_hours"] for p in result.pools) * 3600
    cluster = parse_cluster(result.on, {})
    sharers = min(cluster.node_size, cluster.count)
    most = paid * (cluster.accelerator.tdp_w + cluster.node_power_w / sharers)
    assert 0 < result.energy_j < 1.05 * most  # what links draw comes on top
    assert result.cost_usd is not None
    assert result.cost_usd > 0
    assert all(0 <= p["busy_fraction"] <= 1 and 0 <= p["kv_peak_fraction"] <= 1 for p in result.pools)


def test_deployments_do_what_they_say() -> None:
    found = {name: run(requests=250, **options) for name, options in DEPLOYMENTS.items()}
    assert found["stopped"].unfinished > 0
    assert found["stopped"].makespan_s == pytest.approx(10)
    assert found["queue-limit"].rejected_by_reason["queue_full"] > 0
    assert found["impatient"].timed_out > 0
    assert found["impatient"].queue_s["max"] <= 2 + 0.05  # in the queue of the engine, which the front end feeds
    assert found["small-cache"].preemptions > 0
    assert found["swap"].preemptions > 0
    assert found["sessions"].kv_cache["hit_rate"] > 0.2
    assert found["dense-dp"].pools[0]["replicas"] == 2
    assert found["apart"].outcome.transfer_mean_s > 0
    assert found["unequal"].outcome.transfer_mean_s > found["apart"].outcome.transfer_mean_s
    assert found["failing"].outcome.failures > 0
    assert found["scaling"].outcome.cold_starts > 0
    assert found["replicas"].ttft_s["p99"] < found["overload"].ttft_s["p99"]


@pytest.mark.parametrize("loop", ["naive", "compiled"])
@pytest.mark.parametrize(
    "name", ["one", "small-cache", "swap", "impatient", "closed", "fleet", "apart", "failing", "stopped"]
)
def test_loops_give_the_same_answer(loop: str, name: str) -> None:
    if loop == "compiled" and not available():
        pytest.skip("there is no C compiler")
    options: dict[str, Any] = {**DEPLOYMENTS[name], "requests": 300, "slo": "ttft=1,tpot=0.05"}
    one, other = run(**options), run(**options, **{"loop": loop})
    for field in ("ttft_s", "tpot_s", "itl_s", "e2e_s", "queue_s", "preemptions", "makespan_s", "batch"):
        assert getattr(one, field) == getattr(other, field), field
    assert one.energy_j == pytest.approx(other.energy_j, rel=1e-9)


def test_the_same_seed_gives_the_same_answer_and_another_one_another() -> None:
    def answer(seed: int) -> dict[str, Any]:
        fields = run(rate=8, requests=200, seed=seed).to_dict()
        fields.pop("simulator")
        return fields

    assert answer(3) == answer(3)
    assert answer(3)["ttft_s"] != answer(4)["ttft_s"]


def test_a_clock_that_stops_before_anything_has_happened() -> None:
    result = run(rate=4, requests=20, duration=1e-6)
    assert result.unfinished == 20
    assert result.ttft_s["p50"] is None


def test_a_scheduler_that_runs_nothing_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "idle_policy.py").write_text("class Idle:\n    def schedule(self, turn):\n        pass\n")
    monkeypatch.chdir(tmp_path)
    result = run(rate=4, requests=20, scheduler="idle_policy:Idle")
    assert result.unfinished == 20
    assert any("ran nothing" in warning for warning in result.warnings)


def test_a_request_longer_than_the_cache_is_turned_away_with_a_reason() -> None:
    result = run(rate=5, requests=20, kv_blocks=100, input_length="uniform:100,4000")
    assert result.rejected_by_reason["too_long"] > 0
    assert result.completed + result.rejected == 20


def test_an_interrupted_run_says_so() -> None:
    told = 0

    def interrupt(fraction: float) -> None:
        nonlocal told
        told += 1
        if told == 3:
            raise KeyboardInterrupt

    options = read_options(SimulateOptions, {**SMALL, **LENGTHS, "rate": 10, "requests": 5000})
    result = simulate(options, progress=interrupt)
    assert result.partial
    assert 0 < result.completed < 5000
    assert result.completed + result.rejected + result.unfinished == 5000


@pytest.mark.parametrize("loop", ["python", "auto"])
def test_the_series_is_what_the_requests_say(loop: str) -> None:
    """Bursts and silence: at every sampled time at which nobody is in the service, nothing waits or runs."""
    options = {"arrivals": "bursty:on=10,off=60", "rate": 3, "requests": 300, "on": "2xa100-80gb-sxm", "replicas": 2}
    result = run(**options, loop=loop)
    outcome, times = result.outcome, np.array(result.series["t_s"])
    inside = (outcome.arrival[None, :] < PS * times[:, None]) & (PS * times[:, None] < outcome.finish[None, :])
    idle = inside.sum(axis=1) == 0
    assert idle.sum() > 20
    assert not np.array(result.series["running"])[idle].any()
    assert not np.array(result.series["kv_fraction"])[idle].any()
    assert np.corrcoef(np.array(result.series["running"]), inside.sum(axis=1))[0, 1] > 0.9


def test_a_model_that_does_not_fit() -> None:
    result = run(model="llama-3.1-70b", rate=1, requests=10)
    assert not result.fits
    assert result.shortfall_bytes > 0
    with pytest.raises(Infeasible):
        wt.simulate("llama-3.1-70b", on="1xa100-80gb-sxm", rate=1, requests=10)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scheduler": "chunkd"}, "chunked"),
        ({"router": "nearest"}, "round-robin"),
        ({"prefill": "1x()"}, "decode"),
        ({"prefill": "1x()", "decode": "1x()", "replicas": 2}, "replicas"),
        ({"replicas": 3}, "accelerators"),
        ({"fleet": "1x(speed=2)"}, "speed"),
        ({"autoscale": "min=3,max=2"}, "max"),
        ({"autoscale": "min=1,max=9"}, "accelerators"),
        ({"slo": "ttft=fast"}, "ttft"),
        ({"arrivals": "poison"}, "poisson"),
        ({"rate": -1}, "rate"),
        ({"eviction": "random"}, "lru"),
        ({"replica_restart_s": 3}, "replica_mtbf_hours"),
        ({"scheduler": "nowhere_at_all:Mine"}, "nowhere_at_all"),
        ({"model": "bert-large"}, "decoder"),
        ({"cache_tiers": "host:1GB", "prefix_cache": False}, "cache_tiers"),
    ],
)
def test_wrong_requests_are_told_in_one_line(options: dict[str, Any], said: str) -> None:
    given = {"rate": 2, "requests": 5, "prefix_cache": True, **options}
    if given["prefix_cache"] and "eviction" in given:
        given |= {"arrivals": "sessions:turns=2,think=1"}
    with pytest.raises(ScenarioError) as error:
        run(**given)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_server_is_in_front_of_an_engine_that_is_asked_over_time() -> None:
    """Requests that are all there at time 0 are a list that the engine is called with."""
    asked: dict[str, Any] = {
        "on": "1xh100-sxm", "requests": 1, "input_length": 500, "output_length": 10, "engine": "vllm",
    }  # fmt: skip
    served = load_engine("vllm", "serve")
    assert isinstance(served, ServeEngine)
    direct, over_time = (wt.simulate("llama-3.1-8b", rate=rate, **asked) for rate in (float("inf"), 1.0))
    assert direct.ttft_s["mean"] is not None
    assert over_time.ttft_s["mean"] == pytest.approx(direct.ttft_s["mean"] + served.first_token_s)


@pytest.mark.parametrize("loop", ["python", "naive", "compiled"])
def test_no_batch_overtakes_another_in_a_pipeline(loop: str) -> None:
    """Batches that take turns leave the last stage in the order in which they came, however long their prompts are."""
    if loop == "compiled" and not available(compile=True):
        pytest.skip("no C compiler")
    found = run(model="llama-3.1-70b", on="4xh100-sxm", pp=4, engine="orca", rate=3, requests=60, loop=loop)
    assert found.completed == 60
    log = found.outcome.iterations
    order = np.argsort(log.start, kind="stable")
    ends = log.end[order]
    assert len(ends) > 100
    assert (np.diff(ends) >= 0).all()
