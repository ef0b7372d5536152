"""Kernels and collectives: reading a source's layout, pricing its rows, and the errors that they may not exceed."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from windtunnel.calibration.published import READERS, Measured, operators, read_published
from windtunnel.calibration.published.experts import k1_experts
from windtunnel.cost import Runtime, make_pricer
from windtunnel.errors import ScenarioError
from windtunnel.hardware import parse_cluster
from windtunnel.ops import build
from windtunnel.validation import validate
from windtunnel.validation.kernels import FAMILY_ROWS, family_medians
from windtunnel.validation.sets import DataSet, data_sets

K1, K2, K4, K5, K6 = (READERS[name][0] for name in ("k1", "k2", "k4", "k5", "k6"))
GUARD = Path(__file__).parent / "data" / "guard_kernels.csv"
WORSE, SLACK = 1.2, 0.005
"""A family's median error may grow by a fifth and half a percentage point."""


def put(data: Path, name: str, head: str, *rows: str) -> None:
    path = data / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([head, *rows]) + "\n")


def families(data: Path, reader: str, device: str) -> dict[str, Measured]:
    found = read_published(reader, data, device)
    assert found is not None
    return {m.family: m for m in found}


def column(m: Measured, name: str) -> list[float]:
    return m.columns[name].tolist()


GEMM = "system,device,framework,version,kernel_source,gemm_dtype,m,n,k,latency_ms"
PROMPTS = (
    "system,framework,version,kernel_source,batch_size,isl,num_heads,num_key_value_heads,head_dim,window_size,"
    "attn_dtype,kv_cache_dtype,step,latency_ms"
)


@pytest.fixture
def l40s(tmp_path: Path) -> Path:
    put(
        tmp_path, f"{K1}/gemm_l40s.csv", GEMM,
        "l40s,NVIDIA L40S,TRTLLM,1.0.0,torch_flow,bfloat16,64,1024,1024,0.01",  # 2 MB of weights stay in the cache
        "l40s,NVIDIA L40S,TRTLLM,1.0.0,torch_flow,bfloat16,64,8192,4096,0.1",
        "l40s,NVIDIA L40S,VLLM,0.14.0,vllm_default,bfloat16,512,1024,1024,0.02",
        "l40s,NVIDIA L40S,VLLM,0.14.0,vllm_default,fp8,64,8192,8192,0.1",
        "l40s,NVIDIA L40S,TRTLLM,1.0.0,torch_flow,fp8,64,8192,8192,0.12",
        "l40s,NVIDIA L40S,TRTLLM,1.0.0,trt_flow,int4_wo,64,8192,8192,0.06",
    )  # fmt: skip
    put(
        tmp_path, f"{K1}/attn_context_l40s_trtllm.csv", PROMPTS,
        "l40s,TRTLLM,1.0.0,torch_flow,2,128,32,8,128,0,bfloat16,bfloat16,0,0.02",
        "l40s,TRTLLM,1.0.0,torch_flow,2,128,32,0,128,0,bfloat16,bfloat16,0,0.02",  # as many KV heads as heads
        "l40s,TRTLLM,1.0.0,torch_flow,2,1,32,8,128,0,bfloat16,bfloat16,0,0.02",
        "l40s,TRTLLM,1.0.0,torch_flow,2,128,32,8,128,64,bfloat16,bfloat16,0,0.02",
    )  # fmt: skip
    put(
        tmp_path, f"{K1}/attn_generation_l40s_trtllm.csv", PROMPTS,
        "l40s,TRTLLM,1.0.0,torch_flow,4,1,32,8,128,0,bfloat16,bfloat16,63,0.02",
        "l40s,TRTLLM,1.0.0,torch_flow,64,1,32,8,128,0,bfloat16,bfloat16,255,0.02",  # 67 MB from the cache
        "l40s,TRTLLM,1.0.0,torch_flow,4,1,32,8,128,0,bfloat16,fp8,63,0.02",
    )  # fmt: skip
    return tmp_path


def test_engine_tables_become_shapes(l40s: Path) -> None:
    found = families(l40s, "k1", "l40s")
    gemm = found["gemm.bf16"]
    assert (column(gemm, "m"), column(gemm, "n"), column(gemm, "k")) == ([64, 512], [8192, 1024], [4096, 1024])
    assert gemm.seconds.tolist() == pytest.approx([1e-4, 2e-5])
    assert gemm.labels()[0] == "m=64 n=8192 k=4096"
    assert found["gemm.fp8"].seconds.tolist() == pytest.approx([1e-4])
    assert found["gemm.fp8.trtllm"].seconds.tolist() == pytest.approx([1.2e-4])
    assert 0.5 <= found["gemm.weight_only"].weight < 0.6
    prompts = found["attention.flash2"]
    assert column(prompts, "pairs") == [2 * 128 * 129 / 2] * 2
    assert column(prompts, "kv_heads") == [8, 32]
    decodes = found["attention_decode.flash2"]
    assert (column(decodes, "sequences"), column(decodes, "context")) == ([4], [256])
    assert column(decodes, "kv_bytes_per_token") == [2 * 2 * 8 * 128]
    assert column(found["attention_decode.flash2.fp8_cache"], "kv_bytes_per_token") == [2 * 8 * 128]


def test_a_row_is_priced_as_the_package_prices_its_operator(l40s: Path) -> None:
    gemm = families(l40s, "k1", "l40s")["gemm.fp8"]
    (op,) = operators(gemm)
    price = make_pricer(parse_cluster("1xl40s"), Runtime(graphs=True))
    alone = price(build.gemm("", 64.0, 8192.0, 8192.0, dtype="fp8", weight=1.0, act=2.0)).seconds
    assert price(op).seconds == pytest.approx([alone])


def test_layers_are_cut_by_tensor_parallelism(tmp_path: Path) -> None:
    products = "attn_pre_proj_ms,attn_post_proj_ms,mlp_up_proj_ms,mlp_down_proj_ms"
    put(
        tmp_path, f"{K2}/linear_ops_h100.csv",
        "model,num_tokens,num_tensor_parallel_workers,n_head,n_kv_head,n_embd,n_expanded_embd,vocab_size,emb_ms,"
        f"input_layernorm_ms,attn_rope_ms,mlp_act_ms,add_ms,{products}",
        "Llama-2-70b-hf,512,2,64,8,8192,28672,32000,0.1,0.02,0.02,0.1,0.003,0.2,0.2,0.9,0.5",
    )  # fmt: skip
    found = families(tmp_path, "k2", "h100-sxm")
    gemm = found["gemm.bf16"]
    assert column(gemm, "n") == [(8192 + 2 * 1024) / 2, 8192, 28672, 8192]
    assert column(gemm, "k") == [8192, 4096, 8192, 14336]
    assert len(set(gemm.group)) == 4
    assert column(found["pointwise.rope"], "bytes") == [4 * 512 * 72 * 128 / 2]
    assert "pointwise.elementwise" not in found, "3 us are too near the clock's tick"


def test_expert_layers_hold_their_small_kernels(tmp_path: Path) -> None:
    head = "system,framework,version,kernel_source,moe_dtype,num_tokens,hidden_size,inter_size,topk,num_experts,"
    row = "h200_sxm,TRTLLM,1.3,moe_torch_flow_{},bfloat16,64,4096,1536,8,128,{},{},{},0.2"
    put(
        tmp_path, f"{K1}/moe_h200_sxm_trtllm.csv", head + "moe_tp_size,moe_ep_size,distribution,latency_ms",
        row.format("cutlass", 2, 1, "balanced"), row.format("nongated", 1, 1, "power_law_1.2"),
        row.format("cutlass", 1, 8, "balanced"),
    )  # fmt: skip
    even, skewed = (
        k1_experts(tmp_path, "h200-sxm", "h200_sxm_trtllm", "bfloat16", balanced=balanced) for balanced in (True, False)
    )
    assert (column(even, "rows"), column(even, "active_experts"), column(even, "inter")) == ([512], [128], [768])
    assert (column(even, "ups"), column(skewed, "ups")) == ([2], [1])
    assert 120 < column(skewed, "active_experts")[0] < 128
    kinds = [op.kind for op in operators(even)]
    assert kinds == ["elementwise", "grouped_gemm", "activation", "grouped_gemm", "elementwise"]
    assert sum(np.sum(op.flops) for op in operators(even)) == 2 * 512 * 4096 * 768 * 3


def test_latent_decodes_share_one_head(tmp_path: Path) -> None:
    head = "gpu,shape_tag,dtype,kv_dtype,batch_size,kv_len,latency_us,mfu"
    put(tmp_path, f"{K4}/mla_decode.csv", head, "h800,128-512-64,bf16,bf16,8,1024,30,0.1")
    put(
        tmp_path,
        f"{K4}/mha_decode.csv",
        head,
        "h800,32-4-128,bf16,bf16,8,1024,20,0.1",
        "h20,32-4-128,bf16,bf16,8,1,9,0",
    )
    put(
        tmp_path,
        f"{K4}/mla_prefill.csv",
        "gpu,shape_tag,dtype,seq_len,latency_us,mfu",
        "h800,128-128-64,bf16,1024,120,0",
    )
    put(tmp_path, f"{K4}/gemm.csv", "gpu,m,k,n,latency_us,mfu", "h800,16,7168,1536,16,0.01")
    experts = "gpu,num_local_experts,hidden_size,intermediate_size,tokens_per_expert,up_proj_us,down_proj_us"
    put(
        tmp_path, f"{K4}/grouped_gemm_decode.csv", experts, "h800,256,7168,2048,1,1297,721"
    )  # not all experts were read
    put(tmp_path, f"{K4}/grouped_gemm_prefill.csv", experts, "h800,256,7168,2048,32,3249,1541")
    found = families(tmp_path, "k4", "h800")
    decodes = found["attention_decode.flash3"]
    assert column(decodes, "kv_heads") == [4, 1]
    assert column(decodes, "kv_bytes_per_token") == [2 * 2 * 4 * 128, 2 * 576]
    assert column(decodes, "context") == [8192, 8192]
    assert column(found["grouped_gemm.fp8"], "rows") == [8192, 8192]
    result = validate("k4-h800", data=tmp_path).to_dict()["datasets"][0]
    assert (result["available"], result["kind"], result["metrics"]["attention_decode.flash3"]["rows"]) == (
        True, "kernel", 2,
    )  # fmt: skip


def test_collectives_of_hosts_and_bad_machines_are_left_out(tmp_path: Path) -> None:
    put(
        tmp_path, f"{K1}/nccl_half.csv",
        "system,device,nccl_version_dir,op_name,num_gpus,message_bytes,latency_ms,latency_ms_min,latency_ms_max,n_repeats",
        "l40s,NVIDIA L40S,2.27.3,alltoall,2,1048576,0.1,0.1,0.1,1",
        "l40s,NVIDIA L40S,2.27.3,alltoall,8,1048576,9,9,9,1",  # a bad host
    )  # fmt: skip
    put(
        tmp_path, f"{K1}/custom_allreduce_bf16.csv",
        "system,device,framework,version,kernel_source,num_gpus,message_bytes,latency_ms",
        "l40s,NVIDIA L40S,TRTLLM,1.0.0,TRTLLM,2,65536,0.01",
        "l40s,NVIDIA L40S,vLLM,0.14.0,vLLM_custom_eager,2,65536,0.05",
        "l40s,NVIDIA L40S,vLLM,0.14.0,vLLM_custom_graph,2,65536,0.012",
    )  # fmt: skip
    found = families(tmp_path, "k1-collectives", "l40s")
    assert {name: m.seconds[0] for name, m in found.items()} == pytest.approx(
        {"all_to_all": 1e-4, "all_reduce.custom.trtllm": 1e-5, "all_reduce.custom": 1.2e-5}
    )
    assert [len(m) for m in found.values()] == [1, 1, 1]
    assert found["all_reduce.custom"].runtime.all_reduce == "custom"


def test_without_its_folder_a_set_is_not_available(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WINDTUNNEL_DATA", raising=False)
    for data in (None, tmp_path):
        for entry in validate("kernel", "collective", data=data).to_dict()["datasets"]:
            assert (entry["available"], entry["rows"], entry["metrics"]) == (False, 0, {})
            assert entry["note"].startswith("not available")


def test_files_that_are_missing_or_of_another_layout(l40s: Path) -> None:
    put(l40s, f"{K1}/gemm_l40s.csv", "system,m,n", "l40s,1,2")
    with pytest.raises(ScenarioError, match="k1_aiconfigurator is not as its source has it: "):
        validate("k1-l40s", data=l40s)
    (l40s / K1 / "gemm_l40s.csv").unlink()
    (entry,) = validate("k1-l40s", data=l40s).to_dict()["datasets"]
    assert not entry["available"]


def test_every_set_with_a_reader_says_whose_rows_it_reads() -> None:
    for s in data_sets().values():
        assert bool(s.reader) == (s.kind in ("kernel", "collective")) == bool(s.device)
        assert not s.reader or s.reader in READERS
        assert s.device in ("", parse_cluster(f"1x{s.device or 'l40s'}").accelerator.name)


# --- the measurements themselves ------------------------------------------------------------------------------------

READ = {name: s for name, s in data_sets().items() if s.reader}


@cache
def guarded() -> Mapping[str, Mapping[str, float]]:
    found: dict[str, dict[str, float]] = {}
    with GUARD.open(newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["dataset"], {})[row["metric"]] = float(row["median"])
    return found


def test_every_set_of_kernels_is_guarded() -> None:
    assert set(guarded()) == set(READ)


@pytest.mark.parametrize("dataset", READ.values(), ids=list(READ))
def test_kernels_stay_as_near(dataset: DataSet, measured_data: Path) -> None:
    measured = read_published(dataset.reader, measured_data, dataset.device)
    assert measured is not None
    before, now = guarded()[dataset.name], family_medians(measured)
    assert set(now) == set(before)
    assert np.isfinite(list(now.values())).all()
    worse = {m for m in now if now[m] > WORSE * before[m] + SLACK}
    table = [f"{m:45} {100 * before[m]:6.1f} % {100 * now[m]:6.1f} %{'  worse' * (m in worse)}" for m in now]
    assert not worse, "\n".join([f"{dataset.name}: median before, now", *table])


def test_a_set_answers_as_json(measured_data: Path) -> None:
    (entry,) = json.loads(json.dumps(validate("k4-h800", data=measured_data).to_dict()))["datasets"]
    first = entry["metrics"]["gemm.fp8_block"]
    assert entry["rows"] == first["rows"] > 100
    assert 0.7 <= first["coverage"] <= 0.9
    assert first["width"] > 1
    assert first["groups"] > 3
    assert len(first["worst"]) == 5


def test_a_median_is_of_rows_spread_over_the_family(l40s: Path) -> None:
    gemm = families(l40s, "k1", "l40s")["gemm.bf16"]
    many = gemm.take(np.arange(2).repeat(FAMILY_ROWS))
    assert family_medians([many]) == pytest.approx(family_medians([gemm]))
