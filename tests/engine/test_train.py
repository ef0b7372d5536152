"""Training answers: FLOP counts, energy, memory and the warnings beside them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.cost import effective_dtype
from windtunnel.engine.train import flops_per_token, train
from windtunnel.hardware import parse_cluster
from windtunnel.models import load_network
from windtunnel.scenario.options import TrainOptions, read_options
from windtunnel.scenario.results import TrainResult
from windtunnel.scenario.train import TrainScenario, train_scenario


def scenario(**given_: Any) -> TrainScenario:
    return train_scenario(
        read_options(TrainOptions, {"model": "llama-3.1-8b", "on": "8xh100-sxm", "seq": 2048, **given_})
    )


def trained(**given_: Any) -> TrainResult:
    return train(read_options(TrainOptions, {"model": "llama-3.1-8b", "on": "8xh100-sxm", "seq": 2048, **given_}))


def test_throughput_and_utilisation_are_one_story() -> None:
    """mfu is model FLOPs over time, devices and the precision's dense peak (PaLM, arXiv 2204.02311, appendix B)."""
    r = trained(tp=2, global_batch=64)
    assert r.tokens_per_second == pytest.approx(64 * 2048 / r.step_time_s)
    assert r.tokens_per_second_per_gpu == pytest.approx(r.tokens_per_second / 8)
    assert r.samples_per_second == pytest.approx(64 / r.step_time_s)
    network = load_network("llama-3.1-8b")
    # 6 N for the weights in products (all but the token table and norms) and 12 L h s for attention.
    weights = network.total_parameters - 128_256 * 4096 - 65 * 4096
    flops = 6 * weights + 12 * 32 * 4096 * 2048
    assert r.model_tflops_per_gpu == pytest.approx(flops * r.tokens_per_second_per_gpu / 1e12, rel=1e-9)
    peak = parse_cluster("1xh100-sxm").accelerator.peak_flops["bf16"]
    assert r.mfu == pytest.approx(r.model_tflops_per_gpu * 1e12 / float(peak))
    assert r.hfu == r.mfu


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp8", "fp32", "tf32"])
def test_utilisation_is_of_the_peak_of_the_precision(precision: str) -> None:
    r, a = trained(precision=precision), parse_cluster("1xh100-sxm").accelerator
    peak = float(a.peak_flops[effective_dtype(a, precision)])
    assert r.mfu == pytest.approx(r.model_tflops_per_gpu * 1e12 / peak)
    assert 0 < r.mfu < 1


def test_attention_in_full_or_causally() -> None:
    full, causal = trained(), trained(flops_convention="causal")
    assert (full.flops_convention, causal.flops_convention) == ("full", "causal")
    assert full.step_time_s == causal.step_time_s
    attention = 12 * 32 * 4096 * 2048
    per_gpu = (full.model_tflops_per_gpu - causal.model_tflops_per_gpu) * 1e12
    assert per_gpu / full.tokens_per_second_per_gpu == pytest.approx(attention / 2)


def test_recomputation_counts_in_hfu_alone() -> None:
    none, selective, full = (flops_per_token(scenario(recompute=r)) for r in ("none", "selective", "full"))
    assert none[0] == selective[0] == full[0] == none[1]
    assert none[1] < selective[1] < full[1] < 4 / 3 * none[0]
    assert selective[1] - none[1] == pytest.approx(4 * 32 * 4096 * 2048)


def test_packed_documents_attend_within_themselves() -> None:
    """FLOPs of attention follow the documents, so that long packed sequences do not look efficient."""
    packed, short = scenario(seq=131_072, packed_lengths="512"), scenario(seq=512)
    assert flops_per_token(packed) == pytest.approx(flops_per_token(short))
    assert flops_per_token(scenario(seq=256, packed_lengths="512")) == flops_per_token(scenario(seq=256))
    assert 0 < (trained(seq=131_072, packed_lengths="512", recompute="full").mfu or 0) < 1


def test_a_frozen_base_has_no_weight_gradients() -> None:
    """Two thirds of the dense FLOPs of full training are left."""
    full, lora = flops_per_token(scenario(seq=2048))[0], flops_per_token(scenario(finetune="lora:r=8"))[0]
    attention = 12 * 32 * 4096 * 2048
    assert lora - attention == pytest.approx((full - attention) * 2 / 3)
    assert 0 < (trained(finetune="lora:r=8", on="1xh100-sxm", micro_batch=4).hfu or 0) < 1


MACHINES = ["h100-sxm", "a100-80gb-sxm", "b200-sxm", "l40s", "mi300x", "tpu-v5p", "gb200"]


@given(
    st.sampled_from(MACHINES), st.sampled_from(["gpt2", "llama-3.1-8b", "mixtral-8x7b"]),
    st.sampled_from([1, 2, 4]), st.sampled_from([1, 2]), st.sampled_from([1, 2]),
)  # fmt: skip
def test_energy_is_within_what_the_machine_can_draw(device: str, model: str, tp: int, pp: int, dp: int) -> None:
    """At least idle, at most TDP and the node's share of the time, with the links' energy for each byte sent."""
    s = scenario(model=model, on=f"{tp * pp * dp}x{device}", tp=tp, pp=pp, seq=1024)
    r = train(s.options)
    a, c, gpus = s.cluster.accelerator, s.cluster, tp * pp * dp
    share = c.node_power_w / min(c.node_size, c.count)
    totals = r.tree.totals()
    # Nothing costs more a byte than an optical module at both ends (see cost.energy): 12 W / 50 GB/s.
    links = 2 * 12 / 50e9 * (sum(map(float, totals.messages.values())) + float(totals.bytes["pcie"])) * gpus
    assert r.energy_j <= (a.tdp_w + share) * r.step_time_s * gpus * (1 + 1e-9) + links
    assert r.energy_j >= (a.idle_w + share) * r.step_time_s * gpus * (1 - 1e-9)


def test_memory_by_stage_holds_the_worst() -> None:
    r = trained(pp=4, tp=2, on="8xh100-sxm", global_batch=16)
    totals = [m["total"] for m in r.memory_by_stage]
    assert r.memory_bytes["total"] == max(totals)
    assert sum(int(m["stages"]) for m in r.memory_by_stage) == 4
    kinds = ("weights", "gradients", "optimizer", "activations", "workspace")
    assert r.memory_bytes["total"] == pytest.approx(sum(r.memory_bytes[k] for k in kinds))


def test_what_does_not_fit_says_by_how_much() -> None:
    r = trained(model="llama-3.1-70b", on="1xh100-sxm")
    assert not r.fits
    assert r.shortfall_bytes == pytest.approx(r.memory_bytes["total"] - r.memory_bytes["capacity"])
    small = trained()
    assert small.fits
    assert small.shortfall_bytes == 0


def test_host_memory_that_is_not_there_is_warned_of() -> None:
    few = trained(model="gpt3-175b", on="8xh100-sxm", offload="optimizer:cpu", set={"dram_gbyte": 500})
    assert any("GiB of host memory a node; there are 466" in w for w in few.warnings)
    assert not any("host memory" in w for w in trained(offload="optimizer:cpu").warnings)
    disk = trained(model="gpt3-175b", on="8xh100-sxm", offload="optimizer:nvme", set={"nvme_gbyte": 500})
    assert any("GiB of storage a node" in w for w in disk.warnings)


def test_offloading_takes_time_and_says_where() -> None:
    r = trained(offload="optimizer:cpu")
    assert r.time_s["offload"] > 0
    assert "offload" not in trained().time_s
    assert r.memory_bytes["optimizer"] == 0


def test_an_answer_explains_itself() -> None:
    r = trained(tp=2, pp=2, global_batch=8)
    assert "attn" in r.explain()
    events = r.timeline()
    assert events
    assert "explain" not in r.to_dict()


def test_passes_side_by_side_hide_communication_and_no_computing():
    asked = {"model": "llama-3.1-70b", "on": "64xh100-sxm", "tp": 8, "pp": 4, "global_batch": 64, "seq": 4096}
    one, both = (train(read_options(TrainOptions, {**asked, "schedule": s})).time_s for s in ("1f1b", "dualpipe"))
    assert both["compute"] >= one["compute"] * (1 - 1e-9)
    assert both["tp_comm"] < one["tp_comm"]
