"""Published training runs as requests: one function a data set, each with all rows but those its docstring names.

Every function takes the data folder and a folder for the ``config.json`` files of models that the catalogue lacks.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import windtunnel

CATALOGUE = Path(windtunnel.__file__).parent / "models" / "catalogue"
MPT_DEVICES = {"h100_80gb": "h100-sxm", "a100_80gb": "a100-80gb-sxm", "a100_40gb": "a100-40gb-sxm"}
NEMO_DEVICES = {
    "DGX-H100": "h100-sxm", "DGX-B200": "b200-sxm", "DGX-B300": "b300-sxm", "DGX-GB200": "gb200", "DGX-GB300": "gb300",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One published run: what it is called, the request that repeats it, and its measured step seconds.

    ``setup``: what stays the same where only the number of GPUs differs, by which repeated runs are recognised.
    """

    label: str
    options: dict[str, Any]
    measured_s: float
    setup: str = ""


def read(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="") as file:
        yield from csv.DictReader(file)


def config(folder: Path, name: str, content: dict[str, Any]) -> str:
    """The path of a ``config.json`` with this content."""
    path = folder / name / "config.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return str(path)


def gpt(folder: Path, layers: int, hidden: int, heads: int, seq: int, vocab: int = 51200) -> str:
    """A GPT-2 style model of these sizes."""
    sizes = {"n_layer": layers, "n_embd": hidden, "n_head": heads, "n_positions": seq, "vocab_size": vocab}
    return config(folder, f"gpt-{layers}-{hidden}-{heads}-{seq}-{vocab}", {"model_type": "gpt2", **sizes})


def changed(folder: Path, name: str, **changes: Any) -> str:
    """A catalogue model with some keys changed."""
    kept = json.loads((CATALOGUE / f"{name}.json").read_text())
    return config(folder, name + "".join(f"-{k}{v}" for k, v in changes.items()), {**kept, **changes})


def whole(text: str) -> int | None:
    """A whole number, or None where the table leaves it out."""
    return int(float(text)) if text not in ("", "-", "n/a") else None


def mpt(data: Path, folder: Path) -> Iterator[Row]:
    """The positions of an MPT model are as many as the run's tokens a sequence."""
    for r in read(data / "t1_llm_foundry_training" / "mpt_training.csv"):
        if r["Precision"] not in ("amp_bf16", "bf16"):
            continue
        seq, batch, gpus = int(r["SeqLen (T)"]), int(r["GlobalBatchSize"]), int(r["n_gpus"])
        full, device, micro = r["Activation Checkpointing"] == "True", MPT_DEVICES[r["GPU"]], int(r["MicroBatchSize"])
        yield Row(
            f"mpt-{r['Model']} seq {seq} {gpus} x {device} mb {micro}" + (" full recompute" if full else ""),
            {
                "model": changed(folder, f"mpt-{r['Model']}", max_seq_len=seq), "on": f"{gpus}x{device}",
                "engine": "fsdp@2023", "micro_batch": micro, "global_batch": batch, "seq": seq,
                "recompute": "full" if full else "none",
            },
            batch * seq / float(r["Throughput (T/s)"]),
            f"{r['Model']} {seq} {device} {micro} {full}",
        )  # fmt: skip


def megatron_2021(data: Path, folder: Path) -> Iterator[Row]:
    """Micro-batch 1 is assumed, the table does not state it; their FLOPs count the recomputation (equation 3)."""
    for r in read(data / "t3_megatron_lm" / "weak_scaling_a100_2021.csv"):
        layers, hidden, seq, vocab = (int(r[k]) for k in ("layers", "hidden", "seq_len", "vocab"))
        batch, gpus = int(r["global_batch"]), int(r["n_gpus"])
        work = 96 * batch * seq * layers * hidden**2 * (1 + seq / (6 * hidden) + vocab / (16 * layers * hidden))
        yield Row(
            f"{r['model']} {gpus} x a100-80gb-sxm tp {r['tp']} pp {r['pp']}",
            {
                "model": gpt(folder, layers, hidden, int(r["heads"]), seq, vocab), "on": f"{gpus}xa100-80gb-sxm",
                "engine": "megatron@2021", "precision": "fp16", "recompute": "full", "tp": int(r["tp"]),
                "pp": int(r["pp"]), "micro_batch": 1, "global_batch": batch, "seq": seq,
            },
            work / (float(r["achieved_tflops_per_gpu_hw"]) * 1e12 * gpus),
        )  # fmt: skip


def megatron_2022(data: Path, folder: Path) -> Iterator[Row]:
    for r in read(data / "t4_calculon_seqpar" / "iteration_time_tab5.csv"):
        selective, seq = r["recompute_mode"] == "seqsel", int(r["seq_len"])
        yield Row(
            f"{r['model']} {r['n_gpus']} x a100-80gb-sxm tp {r['tp']} pp {r['pp']} v {r['interleave']} "
            + ("sequence parallel, selective" if selective else "full recompute"),
            {
                "model": gpt(folder, *(int(r[k]) for k in ("layers", "hidden", "heads", "seq_len"))),
                "on": f"{r['n_gpus']}xa100-80gb-sxm", "engine": "megatron@2022", "precision": "fp16",
                "recompute": "selective" if selective else "full", "sequence_parallel": selective,
                "tp": int(r["tp"]), "pp": int(r["pp"]), "virtual_stages": int(r["interleave"]),
                "micro_batch": int(r["microbatch"]), "global_batch": int(r["global_batch"]), "seq": seq,
            },
            float(r["measured_iteration_s"]),
        )  # fmt: skip


def nemo(data: Path, folder: Path) -> Iterator[Row]:
    """Pre-training recipes; the fine-tuning tables print 41 pipeline stages for 8 GPUs, Paxml's no shard degrees."""
    models = {"README_8b": "llama-3.1-8b", "README_15b": "nemotron-4-15b", "README_175b": "gpt3-175b"}
    for r in read(data / "t9_dgxc_benchmarking" / "training_step_time.csv"):
        model = next((m for name, m in models.items() if name in r["file"]), None)
        if model is None or r["gpu"] != "H100" or "finetuning" in r["file"] or "paxml" in r["file"]:
            continue
        precision = "fp8" if "FP8" in r["table_title"] else "bf16"
        degrees = {name: whole(r[name]) or 1 for name in ("tp", "pp", "cp")}
        yield Row(
            f"{model} {precision} {r['n_gpus']} x h100-sxm tp {degrees['tp']} cp {degrees['cp']} ({r['commit']})",
            {
                "model": model, "on": f"{r['n_gpus']}xh100-sxm", "engine": "nemo", "precision": precision, **degrees,
                "virtual_stages": whole(r["vp"]), "micro_batch": whole(r["microbatch"]) or 1,
                "global_batch": whole(r["global_batch"]), "seq": whole(r["seq_len"]),
            },
            float(r["step_time_s"]),
            f"{model} {precision}",
        )  # fmt: skip


def bridge(data: Path, folder: Path) -> Iterator[Row]:
    """Pre-training rows that state their number format, of models in the catalogue; recomputation is not stated."""
    models = {
        "LLAMA3_70B": "llama-3-70b", "LLAMA3_8B": "llama-3-8b", "DeepSeekV3": "deepseek-v3",
        "GPT OSS 120B": "gpt-oss-120b", "LLAMA3.1_405B": "llama-3.1-405b", "LLAMA31_405B": "llama-3.1-405b",
        "Qwen3_30B_a3B": "qwen3-30b-a3b", "Qwen3_235B_a22B": "qwen3-235b-a22b", "GPT3-175B": "gpt3-175b",
    }  # fmt: skip
    formats = {"FP8": "fp8", "MXFP8": "fp8", "BF16": "bf16"}
    for r in read(data / "t2_megatron_bridge" / "performance_summary.csv"):
        model, device = models.get(r["model"]), NEMO_DEVICES.get(r["system"])
        precision = formats.get(r["precision"].split("-")[0].upper())
        if model is None or device is None or precision is None or "Pre-Training" not in r["task"]:
            continue
        gpus, batch, seq = int(r["n_gpus"]), int(r["gbs"]), int(r["seq_len"])
        degrees = {k: whole(r[k]) for k in ("tp", "pp", "cp", "ep")}
        yield Row(
            f"{model} {precision} {gpus} x {device} tp {r['tp']} pp {r['pp']} ep {degrees['ep'] or 1} "
            f"mb {r['mbs']} ({r['release'].split()[0]})",
            {
                "model": model, "on": f"{gpus}x{device}", "engine": "nemo", "precision": precision, **degrees,
                "virtual_stages": whole(r["vp"]), "micro_batch": int(r["mbs"]), "global_batch": batch, "seq": seq,
                "zero": 3 if "FSDP=1" in r["other_cols"] else None,
            },
            batch * seq / (float(r["tokens_per_sec_per_gpu"].replace(",", "")) * gpus),
        )  # fmt: skip


def simumax(data: Path, folder: Path) -> Iterator[Row]:
    """A few layers of Llama 3 70B on one node; the micro-batch is 1 in its cases."""
    for r in read(data / "t6_simumax" / "b200_iteration_and_memory_real.csv"):
        tp, pp, cp = int(r["tp"]), int(r["pp"]), int(r["cp"])
        dp = 8 // (tp * pp * cp)
        model = changed(folder, "llama-3-70b", num_hidden_layers=int(r["layer_num"]))
        yield Row(
            f"{r['model']}, {r['layer_num']} layers, tp {tp} pp {pp} dp {dp}, {r['mbc']} micro-batches",
            {
                "model": model, "on": "8xb200-sxm", "engine": "megatron", "tp": tp, "pp": pp, "cp": cp,
                "ep": int(r["ep"]), "micro_batch": 1, "global_batch": dp * int(r["mbc"]),
                "seq": int(r["seq_len_from_case"]), "virtual_stages": int(r["vp_size"]),
            },
            float(r["real_ms"]) / 1e3,
        )  # fmt: skip


def torchtitan(data: Path, folder: Path) -> Iterator[Row]:
    """Compiled runs; the H100 is a part of its own (96 GB of HBM2e at 2.4 TB/s, 500 W).

    Its selective recomputation works on single operators and keeps less than Megatron's, the nearest that can be
    asked for. Left out: async TP, which is not modelled yet, and runs without compilation, which the profile does not
    describe.
    """
    hbm2e = {"hbm_gbyte": 96, "hbm_gbyte_per_s": 2400, "tdp_watt": 500}
    models = {"Llama-3.1-8B": "llama-3.1-8b", "Llama-3.1-70B": "llama-3.1-70b", "Llama-3.1-405B": "llama-3.1-405b"}
    for r in read(data / "t7_torchtitan" / "torchtitan.csv"):
        if r["torch_compile"] != "yes" or "AsyncTP" in r["extra"]:
            continue
        degrees = {k.lower(): int(v) for k, v in (part.split() for part in r["parallelism"].split("; "))}
        gpus, seq = int(r["n_gpus"]), int(r["seq_len"])
        batch = whole(r["global_batch"]) or int(r["local_batch"]) * degrees["fsdp"]
        device = "h200-sxm" if "H200" in r["hardware"] else "h100-sxm"
        yield Row(
            f"{r['model']} {r['precision']} {gpus} x {device} {r['parallelism']} seq {seq} {r['activation_ckpt']}",
            {
                "model": models[r["model"]], "on": f"{gpus}x{device}", "engine": "fsdp",
                "precision": "bf16" if r["precision"] == "bf16" else "fp8", "tp": degrees.get("tp"),
                "cp": degrees.get("cp"), "pp": degrees.get("pp"), "micro_batch": int(r["local_batch"]),
                "global_batch": batch, "seq": seq, "set": hbm2e if device == "h100-sxm" else None,
                "recompute": "full" if r["activation_ckpt"] == "full" else "selective",
            },
            batch * seq / (float(r["tokens_per_sec_per_gpu"]) * gpus),
        )  # fmt: skip


def _vtrain(path: Path, folder: Path) -> Iterator[Row]:
    for r in read(path):
        degrees = {k[0] + "p": int(r[f"{k}_parallelism"]) for k in ("tensor", "pipeline", "data")}
        layers, hidden, heads, seq = (
            int(r[k]) for k in ("n_layers", "hidden_size", "attention_heads", "sequence_length")
        )
        micro, batch = int(r["micro_batch"]), int(r["global_batch"])
        yield Row(
            f"{layers} x {hidden}, {r['n_gpus']} GPUs, tp {degrees['tp']} dp {degrees['dp']} pp {degrees['pp']}, "
            f"mb {micro}, batch {batch}",
            {
                "model": gpt(folder, layers, hidden, heads, seq), "on": f"{r['n_gpus']}xa100-80gb-sxm",
                "engine": "deepspeed@2023", "precision": "fp16", "recompute": "full", **degrees,
                "micro_batch": micro, "global_batch": batch, "seq": seq,
            },
            float(r["iteration_time_ms"]) / 1e3,
        )  # fmt: skip


def vtrain_multi(data: Path, folder: Path) -> Iterator[Row]:
    return _vtrain(data / "t5_vtrain" / "iteration_time_multi.csv", folder)


def vtrain_single(data: Path, folder: Path) -> Iterator[Row]:
    return _vtrain(data / "t5_vtrain" / "iteration_time_single.csv", folder)
