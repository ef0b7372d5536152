"""Writes the tables of published training runs that ``windtunnel validate`` reads.

Usage: python scripts/validation_tables_train.py --data DIR [--out src/windtunnel/validation/data]

DIR holds the folders named below (see each SOURCE.md there). Every row that ``windtunnel train`` can be asked for is
in its table; each function says what it leaves out and what it had to assume.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from validation_table import OUT, Row, read, table
from windtunnel.scenario.files import write_file

GB, GIB = 1e9, 2**30
TUNING = "41 stages are printed, 1 is taken; micro-batch, rank, targets and lengths are not stated"
SQUAD = 256
"""Tokens of a document where NeMo's fine-tuning recipes pack SQuAD (about 180 to 300 with its question)."""
NEMO_DEVICES = {
    "DGX-H100": "h100-sxm", "DGX-H200": "h200-sxm", "DGX-B200": "b200-sxm", "DGX-B300": "b300-sxm",
    "DGX-GB200": "gb200", "DGX-GB300": "gb300",
}  # fmt: skip


def whole(text: str) -> int | None:
    """A whole number, or None where the table leaves it out."""
    return int(float(text)) if text not in ("", "-", "n/a") else None


def gpt(layers: int, hidden: int, heads: int, seq: int, vocab: int = 51200) -> dict[str, Any]:
    """A GPT-2 style model of these sizes."""
    sizes = {"n_layer": layers, "n_embd": hidden, "n_head": heads, "n_positions": seq, "vocab_size": vocab}
    return {"model_type": "gpt2", **sizes}


def row(label: str, group: str, source: str, seconds: float | None = None, *, fits: bool = True, **given: Any) -> Row:
    """``given``: options and ``remark``, ``config``, ``memory`` (bytes) or other measured figures."""
    measured: Row = {"measured.step_time_s": seconds, "measured.fits": fits}
    if "memory" in given:
        measured["measured.memory_bytes.total"] = given.pop("memory")
    for key in ("mfu", "hfu"):
        if key in given:
            measured[f"measured.{key}"] = given.pop(key)
    return {"label": label, "group": group, "source": source, "command": "train", **measured, **given}


def mpt(data: Path) -> Iterator[Row]:
    """All rows; a model has as many positions as the run has tokens a sequence."""
    devices = {"h100_80gb": "h100-sxm", "a100_80gb": "a100-80gb-sxm", "a100_40gb": "a100-40gb-sxm"}
    for r in read(data / "t1_llm_foundry_training" / "mpt_training.csv"):
        seq, batch, gpus = int(r["SeqLen (T)"]), int(r["GlobalBatchSize"]), int(r["n_gpus"])
        full, device, micro = r["Activation Checkpointing"] == "True", devices[r["GPU"]], int(r["MicroBatchSize"])
        yield row(
            f"mpt-{r['Model']} {r['Precision']} seq {seq}, {gpus} x {device}, micro-batch {micro} x {r['GradAccum']}"
            + (", full recomputation" if full else ""),
            f"llm-foundry/{r['Model']}",
            "llm-foundry@8c8dd48 scripts/train/benchmarking",
            batch * seq / float(r["Throughput (T/s)"]),
            config={"max_seq_len": seq}, model=f"mpt-{r['Model']}", on=f"{gpus}x{device}", engine="fsdp@2023",
            precision="fp8" if "fp8" in r["Precision"] else "bf16", micro_batch=micro, global_batch=batch, seq=seq,
            recompute="full" if full else "none",
        )  # fmt: skip


def mpt_too_large(data: Path) -> Iterator[Row]:
    """Constructed: runs that recomputed everything, without that, where the activations alone are over a quarter more
    than the device holds: 34 B for each of tokens x hidden x layers (arXiv 2205.05198, equation 1, less the scores)."""
    sizes = {"1b": (2048, 24), "3b": (2560, 32), "7b": (4096, 32), "13b": (5120, 40), "30b": (7168, 48),
             "70b": (8192, 80)}  # fmt: skip
    for r in mpt(data):
        hidden, layers = sizes.get(r["model"].removeprefix("mpt-"), (0, 0))
        capacity = (40 if r["on"].endswith("40gb-sxm") else 80) * GB
        if r["recompute"] == "full" and 34 * r["micro_batch"] * r["seq"] * hidden * layers > 1.25 * capacity:
            label = r["label"].replace("full recomputation", "kept instead")
            remark = "constructed: the run without the recomputation that it needed"
            yield {
                **r, "label": label, "measured.step_time_s": None, "measured.fits": False, "recompute": "none",
                "remark": remark,
            }  # fmt: skip


def megatron_2021(data: Path) -> Iterator[Row]:
    """Micro-batch 1 is assumed, the table does not state it; their FLOPs count the recomputation (equation 3)."""
    for r in read(data / "t3_megatron_lm" / "weak_scaling_a100_2021.csv"):
        layers, hidden, seq, vocab = (int(r[k]) for k in ("layers", "hidden", "seq_len", "vocab"))
        batch, gpus = int(r["global_batch"]), int(r["n_gpus"])
        work = 96 * batch * seq * layers * hidden**2 * (1 + seq / (6 * hidden) + vocab / (16 * layers * hidden))
        yield row(
            f"{r['model']}, {gpus} x a100-80gb-sxm, tp {r['tp']} pp {r['pp']}",
            f"megatron-2021/{r['model']}",
            "arXiv 2104.04473, table 1",
            work / (float(r["achieved_tflops_per_gpu_hw"]) * 1e12 * gpus),
            remark="micro-batch and interleaving are not stated",
            config=gpt(layers, hidden, int(r["heads"]), seq, vocab), on=f"{gpus}xa100-80gb-sxm",
            engine="megatron@2021", precision="fp16", recompute="full", tp=int(r["tp"]), pp=int(r["pp"]),
            micro_batch=1, global_batch=batch, seq=seq,
        )  # fmt: skip


def megatron_2022(data: Path) -> Iterator[Row]:
    """Iteration times of table 5 and, for the same runs, the utilisations of table 4. Memory figures there are closed
    forms and no measurements."""
    rates = {r["model"]: r for r in read(data / "t3_megatron_lm" / "mfu_hfu_seqpar_a100.csv")}
    for r in read(data / "t4_calculon_seqpar" / "iteration_time_tab5.csv"):
        selective, seq = r["recompute_mode"] == "seqsel", int(r["seq_len"])
        rate = rates[r["model"].rpartition("-")[2].upper()] if selective else None
        printed = {} if rate is None else {"mfu": float(rate["mfu_pct"]) / 100, "hfu": float(rate["hfu_pct"]) / 100}
        yield row(
            f"{r['model']}, {r['n_gpus']} x a100-80gb-sxm, tp {r['tp']} pp {r['pp']} v {r['interleave']}, "
            + ("sequence parallel, selective" if selective else "full recomputation"),
            f"megatron-2022/{r['model']}",
            "arXiv 2205.05198, tables 4 and 5",
            float(r["measured_iteration_s"]),
            **printed,
            config=gpt(*(int(r[k]) for k in ("layers", "hidden", "heads", "seq_len"))),
            on=f"{r['n_gpus']}xa100-80gb-sxm", engine="megatron@2022", precision="fp16",
            recompute="selective" if selective else "full", sequence_parallel=selective, tp=int(r["tp"]),
            pp=int(r["pp"]), virtual_stages=int(r["interleave"]), micro_batch=int(r["microbatch"]),
            global_batch=int(r["global_batch"]), seq=seq,
        )  # fmt: skip


def _vtrain(path: Path) -> Iterator[Row]:
    for r in read(path):
        degrees = {k[0] + "p": int(r[f"{k}_parallelism"]) for k in ("tensor", "pipeline", "data")}
        layers, hidden, heads, seq = (
            int(r[k]) for k in ("n_layers", "hidden_size", "attention_heads", "sequence_length")
        )
        micro, batch = int(r["micro_batch"]), int(r["global_batch"])
        yield row(
            f"{layers} x {hidden}, {r['n_gpus']} GPUs, tp {degrees['tp']} dp {degrees['dp']} pp {degrees['pp']}, "
            f"micro-batch {micro}, batch {batch}",
            f"vtrain/{layers}x{hidden}",
            "vTrain@f8dda84",
            float(r["iteration_time_ms"]) / 1e3,
            config=gpt(layers, hidden, heads, seq), on=f"{r['n_gpus']}xa100-80gb-sxm", engine="deepspeed@2023",
            precision="fp16", recompute="full", **degrees, micro_batch=micro, global_batch=batch, seq=seq,
            set="nic_gbit_per_s=100" if int(r["n_gpus"]) > 8 else None,
        )  # fmt: skip


def vtrain_multi(data: Path) -> Iterator[Row]:
    """All rows on several nodes of 800 Gbit/s."""
    return _vtrain(data / "t5_vtrain" / "iteration_time_multi.csv")


def vtrain_single(data: Path) -> Iterator[Row]:
    """All 1,440 rows on one node."""
    return _vtrain(data / "t5_vtrain" / "iteration_time_single.csv")


def simumax(data: Path) -> Iterator[Row]:
    """A few layers of a model on one node; micro-batch 1 in all cases. Memory is what PyTorch's allocator reserved."""
    for r in read(data / "t6_simumax" / "b200_iteration_and_memory_real.csv"):
        tp, pp, cp, seq = int(r["tp"]), int(r["pp"]), int(r["cp"]), int(r["seq_len_from_case"])
        dp = 8 // (tp * pp * cp)
        models = {"llama3-70b": "llama-3-70b", "llama3-405b": "llama-3.1-405b", "deepseek_v2": "deepseek-v2",
                  "deepseek_v3": "deepseek-v3", "deepseekv2": "deepseek-v2", "deepseekv3": "deepseek-v3"}  # fmt: skip
        yield row(
            f"{r['model']}, {r['layer_num']} layers, tp {tp} pp {pp} dp {dp} cp {cp} ep {r['ep']}, seq {seq}, "
            f"{r['mbc']} micro-batches",
            f"simumax/{r['model']}",
            "SimuMax@4dcaae5 docs/b200",
            float(r["real_ms"]) / 1e3,
            memory=float(r["real_reserved_gib"]) * GIB,
            config={"num_hidden_layers": int(r["layer_num"])}, model=models[r["model"]], on="8xb200-sxm",
            engine="megatron", tp=tp, pp=pp, cp=cp, ep=int(r["ep"]), micro_batch=1, global_batch=dp * int(r["mbc"]),
            seq=seq, virtual_stages=int(r["vp_size"]),
        )  # fmt: skip


def torchtitan(data: Path) -> Iterator[Row]:
    """All rows. The H100 is a part of its own (96 GB of HBM2e at 2.4 TB/s, 500 W); memory is the allocator's."""
    hbm2e = "hbm_gbyte=95.6,hbm_gbyte_per_s=2400,tdp_watt=500"
    models = {"Llama-3.1-8B": "llama-3.1-8b", "Llama-3.1-70B": "llama-3.1-70b", "Llama-3.1-405B": "llama-3.1-405b"}
    for r in read(data / "t7_torchtitan" / "torchtitan.csv"):
        degrees = {k.lower(): int(v) for k, v in (part.split() for part in r["parallelism"].split("; "))}
        gpus, seq = int(r["n_gpus"]), int(r["seq_len"])
        batch = whole(r["global_batch"]) or int(r["local_batch"]) * degrees["fsdp"]
        device = "h200-sxm" if "H200" in r["hardware"] else "h100-sxm"
        parallelism, stages = r["parallelism"].replace("; ", ", "), degrees.get("pp", 1)
        recent = "2025" in r["source_file"] or "202506" in r["source_file"]
        engine = ("fsdp@2025" if recent else "fsdp") if r["torch_compile"] == "yes" else "fsdp@eager"
        if "AsyncTP" in r["extra"]:
            engine = "fsdp@async-tp"
        memory = {} if not r["peak_mem_gib"] else {"memory": float(r["peak_mem_gib"]) * GIB}
        yield row(
            f"{r['model']} {r['precision']}, {gpus} x {device}, {parallelism}, seq {seq}, "
            f"{r['activation_ckpt']} recomputation, {engine}" + (f", {r['extra']}" if r["extra"] else ""),
            f"torchtitan/{r['model']}",
            f"torchtitan@b5bcd76 benchmarks/{r['source_file']}",
            batch * seq / (float(r["tokens_per_sec_per_gpu"]) * gpus),
            remark="scales by row are not modelled" if "rowwise" in r["precision"] else "",
            **memory,
            model=models[r["model"]], on=f"{gpus}x{device}", engine=engine,
            precision="bf16" if r["precision"] == "bf16" else "fp8", tp=degrees.get("tp"), cp=degrees.get("cp"),
            pp=degrees.get("pp"), virtual_stages=2 if stages > 1 and "nterleaved" in r["extra"] else None,
            micro_batch=1 if stages > 1 else int(r["local_batch"]), global_batch=batch, seq=seq,
            set=hbm2e if device == "h100-sxm" else None,
            recompute="full" if r["activation_ckpt"] == "full" else "selective",
        )  # fmt: skip


def nemo_launcher(data: Path) -> Iterator[Row]:
    """All rows: pre-training, and fine-tuning on one node or two. The rank of adapters is not stated (32 assumed), nor
    is interleaving: stages are cut into chunks of a layer, as in NeMo's recipes."""
    layers = {"GPT3-175B": 96, "LLAMA2-13B": 40, "LLAMA2-70B": 80, "LLAMA3-70B": 80, "Nemotron-22B": 40}
    nemotron = {"num_key_value_heads": 32, "hidden_size": 4096, "num_attention_heads": 32, "intermediate_size": 16384}
    models: dict[str, tuple[str | None, dict[str, Any] | None]] = {
        "GPT3-175B": ("gpt3-175b", None),
        "GPT3-5B": (None, gpt(24, 4096, 32, 2048)),
        "GPT3-20B": (None, gpt(44, 6144, 48, 2048)),
        "LLAMA2-7B": ("llama-2-7b", None),
        "LLAMA2-13B": ("llama-2-13b", None),
        "LLAMA2-70B": ("llama-2-70b", None),
        "LLAMA3-8B": ("llama-3-8b", None),
        "LLAMA3-70B": ("llama-3-70b", None),
        # Sizes from the launcher's own configurations, in agreement with the printed FLOPs.
        "Nemotron-8B": ("nemotron-4-15b", nemotron),
        "Nemotron-22B": ("nemotron-4-15b", {"num_hidden_layers": 40, "num_key_value_heads": 48}),
    }
    for r in read(data / "t2_megatron_bridge" / "nemo_launcher_h100_fp8.csv"):
        gpus, batch, seq, mode = int(r["n_gpus"]), int(r["gbs"]), int(r["seq_len"]), r["mode"]
        model, config = models[r["model"]]
        pp = int(r["pp"])
        remarks = ["rank and targets of the adapters are not stated"] if mode == "LoRA" else []
        remarks += ["lengths of the packed documents are not stated"] if mode else []
        remarks += ["interleaving is not stated"] if pp > 1 else []
        tuned = {"SFT": None, "LoRA": "lora:r=32,targets=attention", "": None}[mode]
        yield row(
            f"{r['model']} {mode or 'pre-training'}, {gpus} x h100-sxm, tp {r['tp']} pp {r['pp']}",
            f"nemo-launcher/{r['model']}",
            "NeMo-Framework-Launcher@26e42fa examples/README.md",
            batch * seq / (float(r["tokens_per_sec_per_gpu"]) * gpus),
            remark="; ".join(remarks),
            config=config, model=model, on=f"{gpus}xh100-sxm", engine="nemo", precision="fp8", tp=int(r["tp"]),
            pp=pp, virtual_stages=layers[r["model"]] // pp if pp > 1 else None, cp=whole(r["cp"]),
            micro_batch=int(r["mbs"]), global_batch=batch, seq=seq,
            finetune=tuned, packed_lengths=SQUAD if mode else None,
        )  # fmt: skip


def dgxc(data: Path) -> Iterator[Row]:
    """Left out: Paxml, whose degrees of sharding are not stated, and which no profile describes. The fine-tuning tables
    print 41 pipeline stages for 8 GPUs: none are taken, with micro-batch 1."""
    models = {
        "llama3.1/README_8b": "llama-3.1-8b", "README_70b": "llama-3.1-70b", "README_405b": "llama-3.1-405b",
        "finetuning/README_8b": "llama-3-8b", "README_15b": "nemotron-4-15b", "README_340b": "nemotron-4-340b",
        "README_175b": "gpt3-175b",
    }  # fmt: skip
    for r in read(data / "t9_dgxc_benchmarking" / "training_step_time.csv"):
        model = next((m for name, m in models.items() if name in r["file"]), None)
        if model is None or "paxml" in r["file"]:
            continue
        tuning = "finetuning" in r["file"]
        precision = "fp8" if "FP8" in r["table_title"] else "bf16"
        degrees = {name: whole(r[name]) or 1 for name in ("tp", "pp", "cp")}
        adapters = "LORA" in r["table_title"].upper()
        if tuning:
            degrees["pp"] = 1
        device = {"H100": "h100-sxm", "GB200": "gb200", "B200": "b200-sxm"}[r["gpu"]]
        kind = " LoRA" if adapters else " SFT" if tuning else ""
        yield row(
            f"{model}{kind} {precision}, {r['n_gpus']} x {device}, tp {degrees['tp']} cp {degrees['cp']} "
            f"({r['commit']})",
            f"dgxc/{model}{kind}",
            f"dgxc-benchmarking@{r['commit']} {r['file']}",
            float(r["step_time_s"]),
            remark=TUNING if tuning else "",
            model=model, on=f"{r['n_gpus']}x{device}", engine="nemo", precision=precision, **degrees,
            virtual_stages=whole(r["vp"]), micro_batch=whole(r["microbatch"]) or 1,
            global_batch=whole(r["global_batch"]), seq=whole(r["seq_len"]),
            finetune="lora:r=16,targets=attention" if adapters else None,
            packed_lengths=SQUAD if tuning else None,
        )  # fmt: skip


def megatron_bridge(data: Path) -> Iterator[Row]:
    """All pre-training rows. Neither recomputation nor the format of gradients is stated; routing is balanced by
    force. Releases measure the same setup again: they differ by 5 to 30 %."""
    models = {
        "LLAMA3_70B": "llama-3-70b", "LLAMA3_8B": "llama-3-8b", "DeepSeekV3": "deepseek-v3",
        "GPT OSS 120B": "gpt-oss-120b", "LLAMA3.1_405B": "llama-3.1-405b", "LLAMA31_405B": "llama-3.1-405b",
        "Qwen3_30B_a3B": "qwen3-30b-a3b", "Qwen3_235B_a22B": "qwen3-235b-a22b", "GPT3-175B": "gpt3-175b",
        "Nemotron_3_Nano": "nemotron-3-nano-30b-a3b",
    }  # fmt: skip
    for r in read(data / "t2_megatron_bridge" / "performance_summary.csv"):
        name, _, note = r["model"].partition(" (")
        model, device = models.get(name), NEMO_DEVICES.get(r["system"])
        if model is None or device is None or "Pre-Training" not in r["task"]:
            continue
        fp8 = "FP8" in r["precision"].upper()
        gpus, batch, seq, release = int(r["n_gpus"]), int(r["gbs"]), int(r["seq_len"]), r["release"].split()[0]
        degrees = {k: whole(r[k]) for k in ("tp", "pp", "cp", "ep")}
        stated = "not stated" not in r["precision"]
        remarks = [
            "" if stated else "the number format is not stated, one of FP8",
            f"({note}" if note else "",
            f"{r['variant']}" if r["variant"] else "",
        ]
        yield row(
            f"{model} {r['precision'] if stated else 'fp8'}, {gpus} x {device}, tp {r['tp']} pp {r['pp']} "
            f"ep {degrees['ep'] or 1} micro-batch {r['mbs']} batch {batch} "
            f"({', '.join(x for x in (release, note.rstrip(')'), r['variant']) if x)})",
            f"megatron-bridge/{model}",
            f"Megatron-Bridge@067f987 docs, {r['release']}",
            batch * seq / (float(r["tokens_per_sec_per_gpu"].replace(",", "")) * gpus),
            remark="; ".join(x for x in remarks if x),
            model=model, on=f"{gpus}x{device}", engine="nemo", precision="fp8" if fp8 else "bf16", **degrees,
            virtual_stages=whole(r["vp"]), micro_batch=int(r["mbs"]), global_batch=batch, seq=seq,
            zero=3 if "FSDP=" in r["other_cols"] and "FSDP=0" not in r["other_cols"] else None,
        )  # fmt: skip


def maxtext(data: Path) -> Iterator[Row]:
    """TPU v5e pods of 256, several of them over the data-centre network: weights sharded inside a pod, replicas
    between pods. Step time from the printed FLOP/s by MaxText's count (attention in full)."""
    for r in read(data / "t11_maxtext_tpu" / "maxtext_tpu_mfu.csv"):
        hidden, heads, mlp, layers, vocab, seq = (
            int(r[k]) for k in ("emb_dim", "heads", "mlp_dim", "layers", "vocab", "seq_len")
        )
        chips, tp, each = int(r["chips_total"]), int(r["ici_tensor"]), int(r["per_device_batch"])
        # 128 a head; attention's four products and the gated MLP's three, then the shared table.
        weights = layers * (4 * hidden * heads * 128 + 3 * hidden * mlp) + vocab * hidden
        flops = 6 * weights + 12 * layers * seq * heads * 128
        offloaded = "offloaded" in r["remat_policy"]
        slices = int(r["num_slices"])
        yield row(
            f"{r['model']}, {slices} x {r['accelerator_type']}, tp {tp}, {each} sequences a chip, {r['remat_policy']}",
            f"maxtext/{r['model']}",
            f"maxtext@04262f3 MaxText/{r['source'].partition('@')[0]}",
            each * seq * flops / (float(r["tflops_per_chip"]) * 1e12),
            remark="products' outputs are kept on the host; their offload is taken for all activations"
            if offloaded else "",
            config={
                "model_type": "llama", "hidden_size": hidden, "num_attention_heads": heads, "head_dim": 128,
                "num_key_value_heads": heads, "intermediate_size": mlp, "num_hidden_layers": layers,
                "vocab_size": vocab, "max_position_embeddings": seq, "tie_word_embeddings": True,
            },
            on=f"{chips}xtpu-{r['tpu']}", engine="maxtext", tp=tp, zero=3,
            hsdp=chips // slices // tp if slices > 1 else None, micro_batch=each * tp, global_batch=each * chips,
            seq=seq, recompute="none" if offloaded else "full", offload="activations:cpu" if offloaded else None,
        )  # fmt: skip


LITGPT: dict[tuple[str, str], tuple[str | None, dict[str, Any] | None]] = {
    ("phi-1.5", "1.3 B"): ("phi-2", {"hidden_size": 2048, "num_hidden_layers": 24, "intermediate_size": 8192}),
    ("StableLM Alpha", "3 B"): (
        None,
        {
            "model_type": "gpt_neox", "vocab_size": 50432, "hidden_size": 4096, "num_hidden_layers": 16,
            "num_attention_heads": 32, "intermediate_size": 16384, "max_position_embeddings": 4096,
            "use_parallel_residual": True, "tie_word_embeddings": False, "attention_bias": True,
        },
    ),
    ("Llama 2", "7 B"): ("llama-2-7b", None),
    ("Llama 2", "13 B"): ("llama-2-13b", None),
}  # fmt: skip


def litgpt(data: Path) -> Iterator[Row]:
    """LoRA (rank 8 on queries and values, in place of which all of attention's products are asked for) on one GPU.
    Left out: several GPUs, of which the number is not stated. Two micro-batches that the table lacks are constructed:
    its own growth with the micro-batch takes them past 40 GB."""
    source = "litgpt@2685705 tutorials/resource-tables.md"
    formats = {"": "lora:r=8,targets=attention", "bnb.nf4": "qlora:r=8,bits=4,targets=attention",
               "bnb.nf4-dq": "qlora:r=8,bits=4,targets=attention"}  # fmt: skip

    def one(size: str, name: str, quantization: str, micro: int, **given: Any) -> Row:
        model, config = LITGPT[name, size]
        return row(
            f"{name} {size}, {quantization or '16 bits'}, micro-batch {micro}",
            f"litgpt/{name} {size}",
            source,
            config=config, model=model, on="1xa100-40gb-sxm", engine="fsdp@litgpt", micro_batch=micro,
            global_batch=micro, seq=1304, finetune=formats[quantization], **given,
        )  # fmt: skip

    for r in read(data / "t14_litgpt_memory" / "finetune_memory_a100_40gb.csv"):
        if "1 GPU" in r["task"] and "LoRA" in r["task"]:
            used = r["max_gpu_ram"]
            figures = {"memory": float(used.split()[0]) * GB} if used.endswith("GB") else {"fits": False}
            micro = int(float(r["microbatch"]))
            remark = "the quantisation constants are quantised, too" if r["quantization"] == "bnb.nf4-dq" else ""
            yield one(r["size"], r["model"], r["quantization"], micro, remark=remark, **figures)
    for size, micro in (("7 B", 4), ("13 B", 2)):
        grown = "constructed: above 40 GB by the growth from smaller micro-batches and models"
        yield one(size, "Llama 2", "", micro, fits=False, remark=grown)


SETS: dict[str, tuple[Callable[[Path], Iterator[Row]], str, str, str]] = {
    "mpt": (
        mpt,
        "MPT with FSDP, 8 to 512 A100 and H100, 2023",
        "mosaicml/llm-foundry@8c8dd48, scripts/train/benchmarking/README.md",
        "The kernels of flash attention of 2023 are told by the engine profile; runs at 8,192 tokens of 30b are slow.",
    ),
    "mpt-too-large": (
        mpt_too_large,
        "Constructed: MPT runs without the recomputation that they needed",
        "mosaicml/llm-foundry@8c8dd48, scripts/train/benchmarking/README.md",
        "Activations by the closed form of arXiv 2205.05198 are over 1.25 times the device's memory: none can fit.",
    ),
    "megatron-2021": (
        megatron_2021,
        "Megatron-LM weak scaling, 32 to 3,072 A100, 2021",
        "Narayanan et al., arXiv 2104.04473, table 1",
        "Micro-batch 1 and no interleaving are assumed; the table does not state them.",
    ),
    "megatron-2022": (
        megatron_2022,
        "Megatron-LM with sequence parallelism and selective recomputation, 8 to 512 A100, 2022",
        "Korthikanti et al., arXiv 2205.05198, tables 4 and 5, as calculon@caa4b11 records them",
        "",
    ),
    "vtrain-multi": (
        vtrain_multi,
        "Megatron-DeepSpeed, 64 to 512 A100, 2023",
        "VIA-Research/vTrain@f8dda84, arXiv 2312.12391",
        "",
    ),
    "vtrain-single": (
        vtrain_single,
        "Megatron-DeepSpeed, 8 A100, the whole space of layouts, 2023",
        "VIA-Research/vTrain@f8dda84, arXiv 2312.12391",
        "Rows bound by the host differ by a third between batches, not monotonically.",
    ),
    "simumax": (
        simumax,
        "Megatron-LM, a few layers on 8 B200, time and peak memory, 2026",
        "MooreThreads/SimuMax@4dcaae5, docs/b200",
        "Sequences of 4,096 tokens are the tool's default where a case does not state them.",
    ),
    "torchtitan": (
        torchtitan,
        "torchtitan with FSDP2, H100 of 500 W and H200, time and peak memory, 2024 and 2025",
        "pytorch/torchtitan@b5bcd76, benchmarks",
        "Its H100 has 96 GB of HBM2e at 2.4 TB/s.",
    ),
    "nemo-launcher": (
        nemo_launcher,
        "NeMo in FP8, 8 to 512 H100, pre-training and fine-tuning, 2024 and 2025",
        "NVIDIA/NeMo-Framework-Launcher@26e42fa, examples/README.md",
        "Tuned configurations near one utilisation: a constant MFU does nearly as well.",
    ),
    "dgxc": (
        dgxc,
        "NeMo, 8 to 2,048 H100, weak scaling in BF16 and FP8, 2025",
        "NVIDIA/dgxc-benchmarking, README files at commits e6afea3 and 8f5cbb3",
        "Few setups at many sizes, tuned to near one utilisation: a constant MFU does as well.",
    ),
    "megatron-bridge": (
        megatron_bridge,
        "Megatron-Bridge, dense and mixtures of experts, H100 and Blackwell, 2025 and 2026",
        "NVIDIA-NeMo/Megatron-Bridge@067f987, docs/performance-summary.md and its archive",
        "Recomputation and the format of gradients are not stated; releases of one setup differ by 5 to 100 %.",
    ),
    "maxtext": (
        maxtext,
        "MaxText, 256 to 8,192 TPU v5e, 2024",
        "AI-Hypercomputer/maxtext@04262f3, MaxText/configs/v5e",
        "No kernel was calibrated on a TPU.",
    ),
    "litgpt": (
        litgpt,
        "LitGPT LoRA and QLoRA, peak memory on one A100 of 40 GB, 2023",
        "Lightning-AI/litgpt@2685705, tutorials/resource-tables.md",
        "Alpaca's longest sequence (1,304 tokens) is taken; measured is what PyTorch's allocator gave out at most.",
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    for name, (make, title, source, note) in SETS.items():
        try:
            rows = list(make(given.data))
        except FileNotFoundError:
            print(f"{name}: not available")
            continue
        given.out.mkdir(parents=True, exist_ok=True)
        write_file(given.out / f"{name}.csv", table(rows))
        fields = {"kind": "train", "title": title, "source": source, "note": note}
        lines = [f"{k}: {json.dumps(v, ensure_ascii=False) if k != 'kind' else v}" for k, v in fields.items() if v]
        write_file(given.out / f"{name}.yaml", "\n".join(lines) + "\n")
        print(f"{name}: {len(rows)} rows")


if __name__ == "__main__":
    main()
