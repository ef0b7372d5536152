"""Serving answers: latency, throughput, what fits, energy."""

from __future__ import annotations

from typing import Any

import pytest

from windtunnel.engine.infer import infer
from windtunnel.scenario.options import InferOptions, read_options
from windtunnel.scenario.results import InferResult
from windtunnel.scenario.serve import infer_scenario


def served(**given_: Any) -> InferResult:
    return infer(read_options(InferOptions, {"model": "llama-3.1-8b", "on": "1xh100-sxm", "input": 512, **given_}))


def test_throughput_is_tokens_over_the_time_of_all() -> None:
    r = served(on="4xh100-sxm", tp=2, dp=2, batch=32, output=64)
    seconds = 32 * 64 / r.output_tokens_per_second
    assert r.total_tokens_per_second == pytest.approx(32 * (512 + 64) / seconds)
    assert r.output_tokens_per_second_per_gpu == pytest.approx(r.output_tokens_per_second / 4)
    assert seconds >= r.e2e_s * (1 - 1e-12)
    assert r.e2e_s == pytest.approx(r.ttft_s + 63 * r.tpot_s)


def test_replicas_serve_side_by_side() -> None:
    one, two = served(on="2xh100-sxm", batch=8), served(on="2xh100-sxm", batch=8, replicas=2)
    assert two.output_tokens_per_second == pytest.approx(2 * one.output_tokens_per_second)
    same = ("ttft_s", "tpot_s", "e2e_s", "output_tokens_per_second_per_gpu", "energy_j_per_token")
    same += ("cost_usd_per_million_tokens", "memory_bytes", "max_batch")
    assert {k: getattr(two, k) for k in same} == {k: getattr(one, k) for k in same}


def test_the_first_token_comes_when_the_prompt_has_run() -> None:
    """The engine is called directly: no server is in front of it."""
    r = served()
    assert r.ttft_s == pytest.approx(sum(r.prefill.time_s.values()))
    assert r.tpot_s == pytest.approx(sum(r.decode.time_s.values()), rel=1e-3)


def test_one_output_token_has_no_time_between_tokens() -> None:
    r = served(output=1)
    assert r.tpot_s == 0
    assert r.e2e_s == r.ttft_s


def test_memory_is_what_is_held() -> None:
    r = served(batch=10, output=128)
    each = 2 * 32 * 8 * 128 * 2 * 640  # 640 tokens are forty whole blocks of sixteen
    assert r.memory_bytes["kv_cache"] == 10 * each
    total = sum(r.memory_bytes[k] for k in ("weights", "kv_cache", "activations"))
    assert r.memory_bytes["total"] == pytest.approx(total)
    assert r.memory_bytes["total"] <= r.memory_bytes["capacity"]
    assert r.max_batch == int(r.kv_capacity_tokens // 640)
    spread = served(on="2xh100-sxm", dp=2, batch=10, output=128)
    assert spread.memory_bytes["kv_cache"] == 5 * each
    assert spread.max_batch == 2 * r.max_batch


def test_more_requests_than_places_wait() -> None:
    few = served(batch=64, output=128, max_batch=8)
    assert any("8 of 64 requests run at once" in w for w in few.warnings)
    assert few.fits
    alone = served(batch=8, output=128, max_batch=8)
    assert few.tpot_s == pytest.approx(alone.tpot_s, rel=0.2)
    assert few.ttft_s > 3 * alone.ttft_s
    assert few.memory_bytes["kv_cache"] == alone.memory_bytes["kv_cache"]
    assert not any("run at once" in w for w in alone.warnings)


def test_a_small_cache_lets_in_what_it_holds() -> None:
    """Each request takes 40 blocks: of 100 two run at once."""
    r = served(batch=5, output=128, kv_blocks=100)
    assert (r.max_batch, r.kv_capacity_tokens, r.fits) == (2, 1600, True)
    assert any("2 of 5 requests" in w for w in r.warnings)
    tiny = served(output=128, kv_blocks=39)
    assert (tiny.max_batch, tiny.fits) == (0, False)
    block = 2 * 32 * 8 * 128 * 2 * 16
    assert tiny.shortfall_bytes == pytest.approx(block)
    assert served(output=128, kv_blocks=40).fits


def test_given_blocks_must_be_there() -> None:
    huge = served(kv_blocks=10**6)
    assert not huge.fits
    assert huge.shortfall_bytes > 1e12
    # A model that does not fit does not fit with blocks either.
    assert not served(model="llama-3.1-70b", kv_blocks=100).fits


@pytest.mark.parametrize("blocks", [None, 100])
def test_a_model_that_does_not_fit_is_answered_all_the_same(blocks: int | None) -> None:
    r = served(model="llama-3.1-70b", kv_blocks=blocks)
    assert not r.fits
    assert r.shortfall_bytes > 60e9
    assert r.memory_bytes["total"] > r.memory_bytes["capacity"]
    assert r.ttft_s > 0


def test_a_static_batch_fits_whole_or_not_at_all() -> None:
    most = served(engine="transformers", batch=1, input=4096).max_batch
    assert 64 < most < 256
    fits, over = (served(engine="transformers", batch=b, input=4096) for b in (most // 2, most + 1))
    assert fits.fits
    assert not over.fits
    each = fits.memory_bytes["kv_cache"] / (most // 2)
    assert over.memory_bytes["kv_cache"] == pytest.approx(each * (most + 1))
    assert over.memory_bytes["total"] > 0.95 * over.memory_bytes["capacity"]
    # Engines that admit as places come free run the same requests.
    assert served(engine="vllm", batch=most + 1, input=4096).fits


def test_static_batches_beyond_the_largest_follow_each_other() -> None:
    r = served(engine="transformers", batch=300, input=16, output=8)
    assert r.fits
    assert any("256 of 300 requests run at once" in w for w in r.warnings)


def test_prompts_that_run_whole_need_room_for_it() -> None:
    """A static engine's activations follow its batch, not a limit that it does not have."""
    one, many = (served(engine="transformers", batch=b, input=1000) for b in (1, 32))
    assert one.memory_bytes["activations"] < 3e9
    grown = many.memory_bytes["activations"] - one.memory_bytes["activations"]
    assert grown == pytest.approx(2 * 31 * 1000 * (2 * 4096 + 3 * 14_336))  # residual, input and the gated MLP


def test_pipelines_trade_latency_for_room() -> None:
    single, piped = served(on="4xh100-sxm"), served(on="4xh100-sxm", pp=4)
    assert piped.max_batch > 3 * single.max_batch
    # One request meets all layers in turn: nothing is gained, sends are added.
    assert single.tpot_s < piped.tpot_s < 1.3 * single.tpot_s
    many = served(on="4xh100-sxm", pp=4, batch=64)
    assert many.output_tokens_per_second > 2 * served(on="1xh100-sxm", batch=16).output_tokens_per_second


@pytest.mark.parametrize("device", ["h100-sxm", "a100-80gb-sxm", "l40s", "mi300x", "tpu-v5p"])
@pytest.mark.parametrize("given_", [{}, {"batch": 64, "input": 4096}, {"tp": 2}, {"pp": 2}, {"dp": 2, "batch": 3}])
def test_energy_is_within_what_the_machine_can_draw(device: str, given_: dict[str, int]) -> None:
    gpus = given_.get("tp", 1) * given_.get("pp", 1) * given_.get("dp", 1)
    asked = {"on": f"{gpus}x{device}", "output": 64, **given_}
    cluster = infer_scenario(read_options(InferOptions, {"model": "llama-3.1-8b", **asked})).cluster
    r = served(**asked)
    tokens = given_.get("batch", 1) * 64
    seconds = tokens / r.output_tokens_per_second
    watts = r.energy_j_per_token * tokens / seconds / gpus
    share = cluster.node_power_w / min(cluster.node_size, cluster.count)
    # What goes over links is a few watts more (cost.energy).
    assert watts <= (cluster.accelerator.tdp_w + share) * 1.02
    assert watts >= (cluster.accelerator.idle_w + share) * (1 - 1e-9)


def test_a_pipeline_does_not_work_more_for_being_one() -> None:
    """One request on four stages: the same work spread over four devices that mostly idle."""
    single, piped = served(), served(on="4xh100-sxm", pp=4)
    cluster = infer_scenario(read_options(InferOptions, {"model": "llama-3.1-8b", "on": "4xh100-sxm"})).cluster
    waiting = 3 * (cluster.accelerator.tdp_w + cluster.node_power_w / 4) * piped.e2e_s / 128
    assert piped.energy_j_per_token < single.energy_j_per_token + waiting
    alone = cluster.node_power_w - cluster.node_power_w / 4  # a single device pays for its node alone
    assert piped.energy_j_per_token > single.energy_j_per_token - alone * single.e2e_s / 128


def test_phases_explain_themselves() -> None:
    r = served(batch=4)
    text = r.explain()
    assert text.startswith("prefill\n")
    assert "\ndecode\n" in text
    assert r.decode.bottleneck.resource == "hbm"
    assert served(batch=64, input=4096).prefill.bottleneck.resource == "tensor"
    assert set(r.tree) == {"prefill", "decode"}
