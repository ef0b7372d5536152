"""Serving with weights and KV cache off the device: closed forms of what arrives, who waits, and what memory holds."""

from __future__ import annotations

from typing import Any

import pytest

from windtunnel.engine import infer, simulate
from windtunnel.errors import ScenarioError
from windtunnel.scenario.options import InferOptions, read_options
from windtunnel.scenario.results import InferResult
from windtunnel.scenario.simulate_options import SimulateOptions

LAYERS = 48 * 12 * 7168**2 * 2
"""Bytes of the layers' products of opt-30b in fp16."""
TOKEN = 48 * 2 * 7168 * 2
"""Bytes of a token's keys and values."""
HOST = {"dram_gbyte": 208, "dram_gbyte_per_s": 128}
PCIE = 16e9


def served(**given: Any) -> InferResult:
    asked = {"model": "opt-30b", "on": "1xt4", "set": HOST, "engine": "zero-inference", "precision": "fp16"}
    return infer(read_options(InferOptions, {**asked, "input": 512, "output": 32, "batch": 2, **given}))


def per_token(r: InferResult) -> float:
    return r.tpot_s


def test_nothing_away_is_the_baseline() -> None:
    resident = {"model": "opt-6.7b", "engine": "flexgen"}
    assert served(**resident, block_batches=1).to_dict() == served(**resident).to_dict()


def test_every_step_waits_for_the_weights() -> None:
    r = served(offload="weights:cpu")
    assert LAYERS / PCIE < per_token(r) < 1.35 * LAYERS / PCIE
    assert r.decode.bottleneck.resource == "pcie"
    half = served(offload="weights:cpu=0.5")
    assert per_token(half) == pytest.approx(per_token(r) / 2, rel=0.1)
    # More of the link helps as long as it binds, and nothing gets slower.
    faster = served(offload="weights:cpu", set={**HOST, "pcie_gbyte_per_s": 32})
    assert per_token(faster) == pytest.approx(per_token(r) / 2, rel=0.1)


def test_drives_are_slower_than_the_host() -> None:
    times = [per_token(served(offload=f"weights:{w}", set={**HOST, "nvme_gbyte_per_s": 4})) for w in ("cpu", "nvme")]
    assert times[1] == pytest.approx(LAYERS / 4e9, rel=0.05)
    assert times[0] < times[1]


def test_fetching_ahead_hides_the_shorter_of_the_two() -> None:
    """A Flow is as long as its longer stream and one layer of the other; without it both add up."""
    many = {"input": 256, "batch": 24, "output": 2, "on": "1xa100-80gb-sxm", "set": {"pcie_gbyte_per_s": 25}}
    ahead, waiting = (served(engine=e, offload="weights:cpu", **many).ttft_s for e in ("zero-inference", "accelerate"))
    resident = served(engine="zero-inference", **many).ttft_s
    arrive = LAYERS / (0.79 * 25e9)
    assert max(arrive, resident) <= ahead <= max(arrive, resident) + (arrive + resident) / 48 + 0.05
    assert waiting == pytest.approx(resident + LAYERS / 5.4e9, rel=0.02)


def test_a_block_reads_the_weights_once() -> None:
    one = served(engine="flexgen", offload="weights:cpu,kv:cpu", batch=32)
    block = served(engine="flexgen", offload="weights:cpu,kv:cpu", batch=128, block_batches=4)
    assert block.memory_bytes["activations"] == pytest.approx(one.memory_bytes["activations"], rel=1e-3)
    assert block.output_tokens_per_second > 1.5 * one.output_tokens_per_second
    # Four batches in turn need four times the products, not four times the weights' arrival.
    assert per_token(block) < 4 * per_token(one)


def test_memory_is_where_it_is_said_to_be() -> None:
    here, away = served(model="opt-6.7b", batch=1), served(model="opt-6.7b", batch=1, offload="weights:cpu=0.25")
    layers = 32 * 12 * 4096**2 * 2
    # A quarter of the layers' weights left, but for the layer at work and the next one.
    gone = here.memory_bytes["weights"] - away.memory_bytes["weights"]
    assert gone == pytest.approx(0.25 * layers * 30 / 32, rel=0.01)
    assert away.memory_bytes["host_weights"] == pytest.approx(0.25 * layers, rel=0.01)
    cached = served(offload="weights:cpu,kv:cpu=0.5", batch=4)
    assert cached.memory_bytes["host_kv_cache"] == pytest.approx(0.5 * 4 * 544 * TOKEN)
    assert cached.memory_bytes["host_capacity"] == 208e9


def test_host_memory_can_be_what_is_lacking() -> None:
    asked = {"engine": "flexgen", "offload": "weights:cpu,kv:cpu", "batch": 160, "block_batches": 10}
    fits, lacks = served(**asked, output=8), served(**asked, set={**HOST, "dram_gbyte": 100})
    assert fits.fits
    assert not lacks.fits
    assert lacks.shortfall_bytes == pytest.approx(LAYERS + 160 * 544 * TOKEN - 100e9, rel=0.01)
    assert lacks.max_batch < 160 < fits.max_batch
    assert any(w.startswith("host:") for w in lacks.warnings)


def test_attention_goes_to_the_cache_or_the_cache_comes() -> None:
    asked = {"offload": "weights:cpu=0.01,kv:cpu", "batch": 16, "input": 1000, "output": 8}
    there = served(engine="flexgen", **asked)
    host = 16 * 1004 * TOKEN * 8.3 / (0.8 * 128e9)
    assert per_token(there) == pytest.approx(host, rel=0.35)
    assert per_token(there) > host
    comes = served(engine="zero-inference", **asked)
    cache = 16 * 1004 * TOKEN / (0.79 * PCIE)
    assert cache < per_token(comes) < 1.6 * cache
    fewer = served(engine="flexgen", techniques=["h2o"], **asked)
    assert per_token(fewer) < 0.4 * per_token(there)


def test_two_copies_of_the_cache_halve_the_batch() -> None:
    long = {"model": "opt-6.7b", "on": "1xa100-40gb-sxm", "input": 1024, "output": 1000, "batch": 1, "set": {}}
    plain, joined = (served(engine=e, **long).max_batch for e in ("transformers", "accelerate"))
    assert joined == pytest.approx(plain / 2, rel=0.1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"offload": "weights"}, "accepted: weights and kv"),
        ({"offload": "weights:disk"}, "weights:disk"),
        ({"offload": "weights:cpu,weights:cpu"}, "not understood"),
        ({"offload": "weights:cpu=0.8,weights:nvme=0.5"}, "more than 1 together"),
        ({"offload": "weights:cpu=2"}, "at most 1"),
        ({"offload": "kv:nvme", "set": {"nvme_gbyte": 0}}, "nvme_gbyte"),
        ({"engine": "vllm", "block_batches": 2}, "static batches"),
        ({"block_batches": 3}, "the 2 sequences"),
    ],
)
def test_what_cannot_be_is_said(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ScenarioError, match=said):
        served(**given)


def test_simulate_has_none_of_it() -> None:
    with pytest.raises(ScenarioError, match="offload"):
        simulate(read_options(SimulateOptions, {"model": "opt-6.7b", "on": "1xt4", "offload": "weights:cpu"}))
