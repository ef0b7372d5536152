"""The training side of the front door: every wrong request is one line, every default is filled in."""

from __future__ import annotations

from typing import Any

import pytest

from windtunnel.errors import ScenarioError
from windtunnel.hardware import parse_cluster
from windtunnel.models import load_network
from windtunnel.scenario.options import TrainOptions, read_options
from windtunnel.scenario.train import TrainScenario, train_scenario


def scenario(**given: Any) -> TrainScenario:
    return train_scenario(
        read_options(TrainOptions, {"model": "llama-3.1-8b", "on": "16xh100-sxm", "seq": 4096, **given})
    )


WRONG: dict[str, tuple[dict[str, Any], list[str]]] = {
    "model": ({"model": "llama-3.1-9b"}, ["'llama-3.1-9b'", "did you mean", "llama-3.1-8b"]),
    "device": ({"on": "8xh200-sxmm"}, ["h200-sxmm", "h200-sxm"]),
    "count": ({"on": "0xh100-sxm"}, ["count", "from 1 to"]),
    "override": ({"set": {"nic_gbps": 100}}, ["nic_gbps", "nic_gbit_per_s"]),
    "override value": ({"set": {"nic_gbit_per_s": "fast"}}, ["nic_gbit_per_s", "fast"]),
    "override nan": ({"set": {"nic_gbit_per_s": float("nan")}}, ["nic_gbit_per_s", "nan"]),
    "engine": ({"engine": "megatronn"}, ["engine 'megatronn'", "megatron"]),
    "engine version": ({"engine": "megatron@1999"}, ["'megatron@1999'", "megatron@2021"]),
    "serving engine": ({"engine": "vllm"}, ["engine 'vllm'", "known: ", "megatron"]),
    "engine path": ({"engine": "../profiles/megatron"}, ["engine '../profiles/megatron'", "megatron"]),
    "engine lines": ({"engine": "a\nb"}, ["engine 'a\\nb'"]),
    "precision": ({"precision": "bf61"}, ["precision 'bf61'", "bf16"]),
    "empty precision": ({"precision": ""}, ["precision ''", "bf16, fp16, fp32, fp8, tf32"]),
    "serving precision": ({"precision": "w4a16"}, ["precision 'w4a16'", "bf16"]),
    "optimizer": ({"optimizer": "adamm"}, ["optimizer 'adamm'", "adam"]),
    "schedule": ({"schedule": "1f2b"}, ["schedule '1f2b'", "1f1b"]),
    "empty schedule": ({"schedule": ""}, ["schedule ''", "1f1b"]),
    "heads": ({"tp": 3, "on": "3xh100-sxm"}, ["tp=3", "32 attention heads", "1, 2, 4, 8, 16, 32"]),
    "kv heads": (
        {"model": "internlm-20b", "tp": 3, "on": "3xh100-sxm"}, ["tp=3", "40 attention heads", "1, 2, 4, 5, 8"]
    ),
    "too many for heads": ({"tp": 64, "on": "64xh100-sxm"}, ["tp=64", "32 attention heads"]),
    "ffn": (
        {"model": "llama-2-13b", "tp": 5, "on": "5xh100-sxm"}, ["tp=5", "feed-forward size 13824", "1, 2, 3, 4, 6, 8"],
    ),
    "stages": ({"pp": 33, "on": "33xh100-sxm"}, ["pp=33", "32 layers", "accepted: 1 to 32"]),
    "ranks": ({"tp": 8, "pp": 4}, ["tp x pp x cp = 8 x 4 x 1 = 32", "16 accelerators", "16xh100-sxm"]),
    "ranks with dp": ({"tp": 8, "dp": 4}, ["8 x 1 x 1 x 4 = 32", "16 accelerators"]),
    "odd ranks": ({"tp": 4, "on": "14xh100-sxm"}, ["tp x pp x cp = 4", "14 accelerators", "give dp"]),
    "global batch": (
        {"tp": 8, "micro_batch": 4, "global_batch": 12}, ["global_batch=12", "dp x micro_batch = 2 x 4", "8 or 16"]
    ),
    "small global batch": ({"global_batch": 3}, ["global_batch=3", "16 x 1", "near it: 16"]),
    "no experts": ({"ep": 2}, ["ep=2", "no experts", "accepted: 1"]),
    "no experts to shard": ({"etp": 2}, ["etp=2", "no experts", "tp=1"]),
    "experts": ({"model": "mixtral-8x7b", "ep": 3, "on": "3xh100-sxm"}, ["ep=3", "8 experts", "1, 2, 4, 8"]),
    "expert ranks": (
        {"model": "mixtral-8x7b", "ep": 8, "on": "4xh100-sxm"}, ["etp x ep = 1 x 8 = 8", "4 ranks", "1, 2, 4"]
    ),
    "expert size": ({"model": "mixtral-8x7b", "etp": 3, "on": "3xh100-sxm"}, ["etp=3", "expert size 14336", "1, 2"]),
    "recurrent": (
        {"model": "mamba2-2.7b", "tp": 3, "on": "3xh100-sxm"}, ["tp=3", "recurrent channels", "mamba2-2.7b"]
    ),
    "hsdp": ({"hsdp": 8}, ["hsdp=8", "zero=3", "zero is 1"]),
    "hsdp ranks": ({"hsdp": 5, "zero": 3}, ["hsdp=5", "16 data-parallel ranks"]),
    "positions": ({"model": "gpt2", "seq": 2048}, ["seq=2048", "1024 learned positions", "accepted: up to 1024"]),
    "context parts": ({"cp": 2, "seq": 4098}, ["seq=4098", "2 x cp = 4"]),
    "chunks": ({"pp": 4, "virtual_stages": 9, "global_batch": 16}, ["4 x 9", "32 layers"]),
    "chunks without interleaving": ({"pp": 4, "virtual_stages": 2, "schedule": "1f1b"}, ["virtual_stages=2", "1f1b"]),
    "interleaved batch": (
        {"pp": 4, "virtual_stages": 2, "global_batch": 24}, ["multiple of pp=4", "makes 6"],
    ),
    "dualpipe batch": ({"pp": 4, "schedule": "dualpipe", "global_batch": 16}, ["at least 2 x pp", "micro-batches 4"]),
    "dualpipe stages": (
        {"pp": 3, "schedule": "dualpipe", "on": "3xh100-sxm", "global_batch": 12}, ["even pp", "pp=3"],
    ),
    "finetune": ({"finetune": "lore:r=8"}, ["finetune 'lore'", "lora"]),
    "finetune key": ({"finetune": "lora:rank=8"}, ["lora:rank=8", "'rank'", "accepted: r, targets"]),
    "finetune of all": ({"finetune": "full:r=8"}, ["'r'", "accepted: none"]),
    "finetune part": ({"finetune": "lora:r"}, ["lora:r", "'r'", "key=value"]),
    "finetune twice": ({"finetune": "lora:r=8, r=16"}, ["key=value", "r=16"]),
    "finetune rank": ({"finetune": "lora:r=0"}, ["r '0'", "above 0"]),
    "finetune fraction": ({"finetune": "lora:r=8.5"}, ["r='8.5'", "whole number"]),
    "finetune nan": ({"finetune": "lora:r=nan"}, ["r 'nan'", "above 0"]),
    "finetune bits": ({"finetune": "qlora:bits=5"}, ["bits='5'", "accepted: 4, 8"]),
    "finetune part bits": ({"finetune": "qlora:bits=4.5"}, ["bits='4.5'", "accepted: 4, 8"]),
    "finetune targets": ({"finetune": "lora:targets=head"}, ["targets 'head'", "attention"]),
    "finetune lines": ({"finetune": "lora\n:x"}, ["'lora\\n:x'", "key=value"]),
    "finetune long": ({"finetune": "lora:" + "x" * 9999}, ["key=value", "..."]),
    "offload": ({"offload": "weights:cpu"}, ["weights:cpu", "optimizer, params and activations"]),
    "offload where": ({"offload": "params:tape"}, ["params:tape", ":cpu or :nvme"]),
    "offload twice": ({"offload": "params:cpu,params:nvme"}, ["params:nvme", "each once"]),
    "offload nothing": ({"offload": ""}, ["''", "accepted"]),
    "offload drive": ({"offload": "params:nvme", "on": "16xtpu-v4"}, ["params:nvme", "no local drive", "nvme_gbyte"]),
    "offload memory": (
        {"offload": "optimizer:cpu", "on": "1xm2-pro", "model": "gpt2", "seq": 512},
        ["optimizer:cpu", "no host memory of its own", "dram_gbyte"],
    ),
    "packed": ({"packed_lengths": "zipf:2"}, ["zipf:2", "lognormal:mean=600,cv=1.2"]),
    "packed nothing": ({"packed_lengths": ""}, ["length ''", "above 0"]),
    "packed bounds": ({"packed_lengths": "uniform:9,1"}, ["uniform:9,1", "accepted"]),
    "packed negative": ({"packed_lengths": -5}, ["length '-5'", "above 0"]),
    "packed nan": ({"packed_lengths": "lognormal:mean=nan"}, ["mean 'nan'", "above 0"]),
    "cluster file": ({"on": "16xh100-sxm/"}, ["16xh100-sxm/"]),
}  # fmt: skip


@pytest.mark.parametrize(("given", "words"), WRONG.values(), ids=WRONG)
def test_wrong_requests_are_one_clear_line(given: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ScenarioError) as caught:
        scenario(**given)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 1500
    for word in words:
        assert word in text


def test_errors_are_the_same_every_time() -> None:
    """Which of several wrong layers is named does not depend on the order of a set."""
    texts = set()
    for _ in range(3):
        with pytest.raises(ScenarioError) as caught:
            scenario(model="jamba-v0.1", tp=3, on="3xh100-sxm")
        texts.add(str(caught.value))
    assert len(texts) == 1
    first = load_network("jamba-v0.1").blocks[0].mixer
    assert str(getattr(first, "inner", "")) in texts.pop()


def test_key_value_heads_may_be_copied_but_not_split_unevenly() -> None:
    assert scenario(tp=16).plan.layout.tp == 16  # eight key/value heads, two copies of each
    with pytest.raises(ScenarioError, match=r"tp=4 .* 10 key/value heads .* accepted: 1, 2, 5, 10, 20, 40"):
        scenario(model="phi-4", tp=4)


def test_defaults_are_filled_in_and_said() -> None:
    s = train_scenario(read_options(TrainOptions, {"model": "llama-3.1-8b", "on": "16xh100-sxm", "tp": 2, "pp": 2}))
    assert (s.plan.layout.dp, s.plan.seq, s.plan.global_batch) == (4, 4096, 32)
    assert s.plan.micro_batches == 8
    assert (s.plan.schedule, s.plan.zero, s.plan.precision, s.plan.recompute) == ("1f1b", 1, "bf16", "none")
    assert s.plan.sequence_parallel  # as Megatron does
    assert any("seq was not given: 4096" in w for w in s.warnings)
    assert any("global_batch was not given: 32" in w for w in s.warnings)


def test_the_engine_decides_what_is_not_given() -> None:
    assert scenario(engine="fsdp").plan.zero == 3
    assert scenario(engine="fsdp", zero=1).plan.zero == 1
    assert scenario(engine="megatron@2021").plan.eager_attention
    assert not scenario(engine="megatron@2021", flash_attention=True).plan.eager_attention
    assert scenario(flash_attention=False).plan.eager_attention
    assert not scenario(engine="fsdp", tp=2).plan.sequence_parallel
    assert scenario(engine="fsdp", tp=2, sequence_parallel=True).plan.sequence_parallel
    assert not scenario(sequence_parallel=True).plan.sequence_parallel  # nothing to split at tp=1


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"dp": 4}, "12 of 16 accelerators are not used"),
        ({"sequence_parallel": True}, "does nothing at tp=1"),
        ({"tp": 16}, "tp=16 spans nodes of 8"),
        ({"seq": 200_000}, "beyond the 131072 positions"),
    ],
)
def test_odd_requests_are_warned_of(given: dict[str, Any], word: str) -> None:
    assert any(word in w for w in scenario(**given).warnings)


def test_precision_follows_what_the_device_has() -> None:
    assert "bf16" not in parse_cluster("v100-sxm").accelerator.peak_flops
    assert scenario(model="opt-1.3b", on="8xv100-sxm", seq=2048).plan.precision == "fp16"
    assert scenario(model="opt-1.3b", seq=2048).plan.precision == "bf16"
    for precision, held in {"bf16": 2.0, "fp16": 2.0, "fp8": 2.0, "fp32": 4.0, "tf32": 4.0}.items():
        assert scenario(precision=precision).plan.weight_bytes == held


def test_expert_layers_have_degrees_of_their_own() -> None:
    whole = scenario(model="mixtral-8x7b", tp=4).plan.layout
    assert (whole.ep, whole.etp, whole.edp) == (1, 4, 4)
    spread = scenario(model="mixtral-8x7b", tp=4, ep=4).plan.layout
    assert (spread.etp, spread.edp) == (4, 1)
    unsplit = scenario(model="mixtral-8x7b", tp=8, ep=8).plan.layout
    assert (unsplit.etp, unsplit.edp) == (1, 2)  # etp = tp would need 64 ranks
    dense = scenario(tp=4).plan.layout
    assert (dense.etp, dense.edp) == (4, 4)


def test_finetuning_and_offloading_are_read() -> None:
    f = scenario(finetune="qlora: r=32 , bits=8, targets=mlp").plan.finetune
    assert (f.kind, f.r, f.bits, f.targets) == ("qlora", 32, 8, "mlp")
    assert scenario(finetune="lora").plan.finetune.bits == 16
    p = scenario(offload="optimizer:cpu, params:nvme").plan
    assert (p.offload_optimizer, p.offload_params, p.offload_activations) == ("cpu", "nvme", "")
    assert scenario(offload="params:nvme", on="16xtpu-v4", set={"nvme_gbyte": 4000}).plan.offload_params == "nvme"


def test_packed_documents_are_as_long_as_a_token_sees_them() -> None:
    assert scenario().plan.document_tokens is None
    assert scenario(packed_lengths="512").plan.document_tokens == 512
    assert scenario(packed_lengths="lognormal:mean=500,cv=2").plan.document_tokens == pytest.approx(500 * (1 + 2**2))
    # E[l^2] / E[l] of a uniform distribution on [a, b] is (a^2 + ab + b^2) / 3 over (a + b) / 2.
    assert scenario(packed_lengths="uniform:100,900").plan.document_tokens == pytest.approx((1e4 + 9e4 + 81e4) / 1500)
