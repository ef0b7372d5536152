"""Writes the tables of published serving results that the package ships, in its own layout.

Usage: python scripts/validation_tables_serve.py --data DIR [--out src/windtunnel/validation/data]

DIR holds the folders s1 to s8 (see each SOURCE.md there); a table whose folder is absent is left as it is, with the
line ``not available``. A row is one run of ``infer`` or ``simulate``: ``label``, ``group`` (the source and model that
cross-validation leaves out together), ``source``, ``command``, ``remark``, ``config`` (JSON of keys changed in the
model's config.json), ``measured.METRIC`` (dotted paths in the command's JSON) and options as on the command line, empty
where nothing is said. ``{data}`` stands for DIR in options that name a file.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from validation_table import OUT, Row, read, table
from windtunnel.scenario.files import write_file


def number(text: str) -> float | None:
    return float(text) if text not in ("", "nan") else None


# s6: InferenceX and NVIDIA's gap analysis, collected by AIConfigurator.

S6 = "ai-dynamo/aiconfigurator@095f58a silicon_sample.csv"
S6_MODELS = {
    "Qwen/Qwen3-32B": "qwen3-32b", "meta-llama/Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "openai/gpt-oss-120b": "gpt-oss-120b", "meta-llama/Llama-3.1-70B": "llama-3.3-70b",
    "Qwen/Qwen3-235B-A22B-FP8": "qwen3-235b-a22b", "deepseek-ai/DeepSeek-R1": "deepseek-r1",
}  # fmt: skip
ENGINES = {"trtllm": "tensorrt-llm", "vllm": "vllm", "sglang": "sglang"}
TURNS = 10
"""Requests for each client of a closed loop, as InferenceX's harness asks."""


def between(nominal: int) -> str:
    """Lengths of InferenceX's harness: a random share of the nominal one, 0.8 to 1."""
    return f"uniform:{round(0.8 * nominal)},{nominal}"


def closed_loop(folder: Path) -> Iterator[Row]:
    """Rows with one latency pair are kept once: the source repeats some under the product of all degrees as tp."""
    seen: set[tuple[str, ...]] = set()
    rows = read(folder / "agg.csv")
    for r in sorted(rows, key=lambda r: float(r["tp_size"]) * float(number(r["attention_dp_size"]) or 1)):
        what = tuple(r[k] for k in ("model_path", "isl", "osl", "silicon_ttft_ms", "silicon_tpot_ms"))
        if what in seen:
            continue
        seen.add(what)
        yield _closed_row(r)


def _closed_row(r: dict[str, str]) -> Row:
    tp, batch = int(r["tp_size"]), int(r["batch_size"])
    concurrency = int(number(r["concurrency"]) or batch)
    dp = max(int(number(r["attention_dp_size"]) or 1), concurrency // batch)
    if dp > 1 and tp > 1:  # as many attention-data-parallel ranks as devices
        tp = max(tp // dp, 1)
    ep = max(int(r["moe_ep_size"]), 1)
    etp = max(int(r["moe_tp_size"]), 1)
    if r["source_group"].startswith("20") and ep > 1 and etp > 1:
        tp, etp = etp, 1  # InferenceX's rows state tp x ep as tp, and tp as that of experts
    if ep * etp != tp * dp:
        tp, ep, etp = (tp, ep, tp * dp // ep) if tp * dp % ep == 0 else (tp, 1, tp * dp)
    model = S6_MODELS[r["model_path"]]
    experts = model in ("gpt-oss-120b", "qwen3-235b-a22b", "deepseek-r1")
    given, made = int(r["isl"]), int(r["osl"])
    harness = "gap" if r["source_group"].startswith("nvidia_gap") else "InferenceX"
    fixed = harness == "gap"
    precision = "fp8" if r["precision"] == "fp8" else "bf16" if r["precision"] == "" else None
    if model in ("gpt-oss-120b", "deepseek-r1"):
        precision = None  # the checkpoint's own
    system = r["system"].replace("_", "-")
    engine = ENGINES[r["backend"]]
    return {
        "label": f"{model} {precision or 'own'} {tp * dp}x{system} {engine} {r['backend_version'] or 'unstated'} "
        f"tp{tp} "
        f"dp{dp} ep{ep} {given}/{made} c{concurrency}",
        "group": f"{harness}/{model}", "source": f"{S6}: {r['source_group'].removesuffix('.csv')}",
        "command": "simulate",
        "remark": _closed_remark(r, fixed),
        "measured.tpot_s.mean": float(r["silicon_tpot_ms"]) / 1e3,
        "measured.ttft_s.mean": float(r["silicon_ttft_ms"]) / 1e3,
        "model": model, "on": f"{tp * dp}x{system}", "tp": tp, "dp": dp if dp > 1 else "",
        "ep": ep if experts else "", "etp": etp if experts and etp > 1 else "", "precision": precision or "",
        "engine": engine, "arrivals": f"closed:concurrency={concurrency}", "requests": TURNS * concurrency,
        "input_length": given if fixed else between(given), "output_length": made if fixed else between(made),
        # In NVIDIA's runs first tokens come as if an iteration took one prompt beside all that decode.
        "chunk": given + concurrency if fixed and engine != "sglang" else "",
        "kv_precision": "fp8" if model == "llama-3.3-70b" and engine == "vllm" else "",
    }  # fmt: skip


def _closed_remark(r: dict[str, str], fixed: bool) -> str:
    """What is assumed of a row, or known of it."""
    if r["model_path"].startswith("deepseek") and r["backend_version"] == "1.1.0rc2.post2":
        return "multi-token prediction, to judge by the time a token takes; the source does not say"
    if r["model_path"].startswith("meta-llama/Llama-3.1-70B") and r["backend"] == "vllm":
        return "an fp8 cache, to judge by what fits"
    if not r["concurrency"]:
        return "concurrency taken to be the batch"
    return "one prompt an iteration, inferred from the latencies" if fixed and r["backend"] != "sglang" else ""


# s2: TensorRT-LLM's own tables.

S2 = "NVIDIA/TensorRT-LLM"
S2_MODELS = {
    "GPT-J 6B": "gpt-j-6b", "LLaMA 7B": "llama-7b", "LLaMA 70B": "llama-2-70b", "Falcon 180B": "falcon-180b",
    "Mistral 7B": "mistral-7b-v0.1", "Mixtral 8x7B": "mixtral-8x7b", "Llama 3.3 70B": "llama-3.3-70b",
    "Llama 3.1 8B": "llama-3.1-8b",
}  # fmt: skip
S2_DEVICES = {"H100": "h100-sxm", "H200": "h200-sxm", "A100": "a100-80gb-sxm", "L40S": "l40s"}
OLD = "tensorrt-llm@2024"


def maximum_load(folder: Path) -> Iterator[Row]:
    for r in read(folder / "throughput_v1_2025_2026.csv"):
        model, device, tp = S2_MODELS[r["model"]], S2_DEVICES[r["gpu"]], int(r["tp_or_dep"])
        given, made = int(r["input_len"]), int(r["output_len"])
        yield {
            "label": f"{model} fp8 {tp}x{device} {given}/{made}", "group": f"TensorRT-LLM 1.0/{model}",
            "source": f"{S2}@00f3768 docs/source/performance/perf-overview.md, {r['trtllm_version']}",
            "command": "simulate", "remark": "", "measured.output_tokens_per_second": float(r["total_output_tok_s"]),
            "model": model, "on": f"{tp}x{device}", "tp": tp, "precision": "fp8", "kv_precision": "fp8",
            "engine": "tensorrt-llm", "rate": "inf", "requests": int(r["num_requests"]), "input_length": given,
            "output_length": made,
        }  # fmt: skip


def static_batches(folder: Path) -> Iterator[Row]:
    for r in read(folder / "throughput_2023_2024.csv"):
        total = r["unit_as_stated"] == "Throughput (out tok/s)"
        yield _old(r, int(r["output_len"])) | {
            "label": f"{_old_label(r)} batch {r['batch_size']} {r['input_len']}/{r['output_len']}",
            "measured.output_tokens_per_second": float(r["throughput_out_tok_s_per_gpu"])
            * (1 if total else int(r["tp"])),
        }


def first_tokens(folder: Path) -> Iterator[Row]:
    for r in read(folder / "first_token_latency_2023_2024.csv"):
        yield _old(r, 1) | {
            "label": f"{_old_label(r)} first token of {r['input_len']}",
            "measured.ttft_s": float(r["latency_ms"]) / 1e3,
        }


def _old_label(r: dict[str, str]) -> str:
    device = S2_DEVICES[r["gpu"]]
    return f"{S2_MODELS[r['model']]} {r['precision'].lower()} {r['tp']}x{device} {r['trtllm_version']}"


def _old(r: dict[str, str], output: int) -> Row:
    model, device = S2_MODELS[r["model"]], S2_DEVICES[r["gpu"]]
    precision = r["precision"].lower()
    ungrouped = model in ("mistral-7b-v0.1", "falcon-180b") or (
        model == "llama-2-70b" and r["trtllm_version"][0] != "0"
    )
    remark = "decoding kernels of the version read the cache once a query head" if ungrouped and output > 1000 else ""
    return {
        "group": f"TensorRT-LLM 2023-24/{model}",
        "source": f"{S2} docs/source/performance.md, {r['trtllm_version']}", "command": "infer",
        "remark": remark, "model": model, "on": f"{r['tp']}x{device}", "tp": int(r["tp"]), "precision": precision,
        "kv_precision": "fp8" if precision == "fp8" else "", "engine": OLD, "batch": int(r["batch_size"]),
        "input": int(r["input_len"]), "output": output,
    }  # fmt: skip


# s1: MLPerf Inference v4.1, closed division, Llama 2 70B.

S1 = "mlcommons/inference_results_v4.1@198fc46"
S1_DEVICES = {
    "NVIDIA H100-SXM-80GB": ("h100-sxm", 2), "NVIDIA H200-SXM-141GB": ("h200-sxm", 1),
    "NVIDIA H200-SXM-141GB-CTS": ("h200-sxm", 1), "NVIDIA H100-NVL-94GB": ("h100-nvl", 2),
    "NVIDIA H100-PCIe-80GB": ("h100-pcie", 2), "NVIDIA L40S": ("l40s", 4), "NVIDIA B200-SXM-180GB": ("b200-sxm", 1),
    "AMD Instinct MI300X-NPS1-SPX-192GB-750W": ("mi300x", 1), "AMD MI300X-NPS1-SPX-192GB-750W": ("mi300x", 1),
}  # fmt: skip
"""Device, and the tensor-parallel degree taken (submissions do not state it): what holds fp8 weights and a cache."""
PROMPTS = "uniform:20,568"
"""OpenOrca prompts: the mean is published with the benchmark, the spread is assumed (at most 1,024)."""


def mlperf(folder: Path) -> Iterator[Row]:
    """The 99.9 rows repeat the 99 ones where the same engine ran: figures that are equal are kept once."""
    seen: set[tuple[str, ...]] = set()
    for i, r in enumerate(read(folder / "mlperf_inference_llm.csv")):
        if not r["model"].startswith("llama2-70b") or r["accelerator"] not in S1_DEVICES:
            continue
        what = (r["submitter"], r["platform"], r["scenario"], r["tokens_per_sec"])
        if what in seen:
            continue
        seen.add(what)
        device, tp = S1_DEVICES[r["accelerator"]]
        count = int(float(r["accelerators_per_node"])) * int(float(r["n_nodes"] or 1))
        tp = min(tp, count)
        tokens, samples = float(r["tokens_per_sec"]), float(r["samples_per_sec"])
        offline = r["scenario"] == "Offline"
        row: Row = {
            "label": f"{r['scenario']} {r['model'].removeprefix('llama2-')} {count}x{device} {r['submitter']} {i}",
            "group": f"MLPerf v4.1/{device}", "source": f"{S1} closed/{r['submitter']}",
            "command": "simulate",
            "remark": "layout and spread of lengths assumed" + ("; reduced power" if "MaxQ" in r["platform"] else ""),
            "model": "llama-2-70b", "on": f"{count}x{device}", "tp": tp, "replicas": count // tp, "precision": "fp8",
            "kv_precision": "fp8", "engine": "vllm@2024" if "vLLM" in r["framework"] else OLD,
            "input_length": PROMPTS, "output_length": f"uniform:10,{2 * tokens / samples - 10:.0f}",
            "requests": min(24576, max(3000 * count, 6000)) if offline else 2000 * count,
        }  # fmt: skip
        if offline:
            row |= {"rate": "inf", "measured.output_tokens_per_second": tokens}
        else:
            row |= {
                "arrivals": "poisson", "rate": samples, "measured.tpot_s.mean": float(r["tpot_mean_ns"]) / 1e9,
                "measured.ttft_s.mean": float(r["ttft_mean_ns"]) / 1e9,
            }  # fmt: skip
        yield row


# s4: Splitwise.


def splitwise(folder: Path) -> Iterator[Row]:
    """64 sequences do not fit on two devices: what those rows say is of something else."""
    for r in read(folder / "prompt_token_latency.csv"):
        if r["tensor_parallel"] == "2" and r["batch_size"] == "64":
            continue
        device, tp = r["hardware"] + "-sxm" if r["hardware"].startswith("a100") else "h100-sxm", r["tensor_parallel"]
        yield {
            "label": f"{r['model']} {tp}x{device} batch {r['batch_size']} {r['prompt_size']}/{r['token_size']}",
            "group": f"Splitwise/{r['model']} {device} tp{tp}", "command": "infer",
            "source": "Mutinifni/splitwise-sim@8f99e7d data/perf_model.csv (arXiv 2311.18677)",
            "remark": "",
            "measured.tpot_s": float(r["token_time_ms"]) / 1e3, "measured.ttft_s": float(r["prompt_time_ms"]) / 1e3,
            "model": "llama-2-70b", "on": f"{tp}x{device}", "tp": int(tp), "precision": "fp16",
            "engine": "vllm@2023", "batch": int(r["batch_size"]), "input": int(r["prompt_size"]),
            "output": int(r["token_size"]),
            # The prompt's time is that of the whole batch, which ran at once.
            "chunk": max(int(r["batch_size"]) * int(r["prompt_size"]), 2560),
        }  # fmt: skip


# s8: one stream at a time.

S8_ENGINES = {
    "transformers (pytorch)": "transformers", "vllm": "vllm@2024", "Nvidia TensorRT-LLM": OLD,
    "DeepSpeed": "deepspeed-inference",
}  # fmt: skip


def single_stream(folder: Path) -> Iterator[Row]:
    for r in read(folder / "single_stream_7b.csv"):
        if "Tokens" not in r["preceding_text"] or r["engine"] not in S8_ENGINES:
            continue
        model = "mistral-7b-v0.1" if "Mistral" in r["section"] else "llama-2-7b"
        for column, precision in (("float16", "fp16"), ("float32", "fp32"), ("int4", "w4a16")):
            found = re.match(r"[\d.]+", r[column])
            hf = r["engine"].startswith("transformers")
            # vLLM's and TensorRT-LLM's float32 columns show the speed of half precision; Transformers' int4 is nf4.
            if found is None or (column == "float32" and not hf) or (column == "int4" and r["engine"] != "vllm"):
                continue
            yield {
                "label": f"{model} {precision} {r['engine']}", "group": f"PremAI/{model} {r['engine']}",
                "source": "premAI-io/benchmarks@16338c3 README.md", "command": "infer",
                "remark": "faster than the memory reads the weights" if S8_ENGINES[r["engine"]] == OLD else "",
                "measured.output_tokens_per_second": float(found[0]), "model": model, "on": "1xa100-80gb-sxm",
                "precision": precision, "engine": S8_ENGINES[r["engine"]], "batch": 1, "input": 32, "output": 512,
            }  # fmt: skip


# s3 and s5: replayed traces, which stay in the data folder.


def apex(folder: Path) -> Iterator[Row]:
    """Engines of one run are taken together: a round-robin router deals them the trace."""
    runs: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for r in read(folder / "vllm_sglang_h100_results.csv"):
        found = re.match(r"(?:(\d)DP)?(\d)TP", r["config"])
        if r["engine"].startswith("vllm") and found is not None:
            key = r["model"], r["workload"], r["poisson_rate_rps"], found[1] or "1", found[2]
            runs.setdefault(key, []).append(r)
    for (model, workload, rate, replicas, tp), rows in runs.items():
        llama = "Llama" in model
        name = f"trace_{'llama' if llama else 'mistral'}_{workload}_{rate.replace('0.', '0')}.csv"
        share, trace = [int(r["n_requests"]) for r in rows], len(read(folder / name))
        served = round(sum(share) * int(replicas) / len(rows))
        remark = "the trace is shorter than the run: repeated" if served > trace else ""
        if tp == "2" and not llama and replicas == "4":
            remark = "TTFT not explained: another engine of this layout answers in 0.09 s at four times the load"
        short = "llama-3.1-70b" if llama else "mistral-large"

        def mean(key: str, rows: list[dict[str, str]] = rows, share: list[int] = share) -> float:
            return sum(float(r[key]) * n for r, n in zip(rows, share, strict=True)) / sum(share)

        yield {
            "label": f"{short} {workload} {rate}/s {replicas} x tp{tp}", "group": f"APEX+/{short}",
            "source": "microsoft/apex_plus@8769096 vllm/results", "command": "simulate", "remark": remark,
            "measured.tpot_s.mean": mean("tpot_mean_s"), "measured.ttft_s.mean": mean("ttft_mean_s"), "model": short,
            "on": f"{int(tp) * int(replicas)}xh100-sxm", "tp": int(tp), "replicas": int(replicas),
            "precision": rows[0]["precision"].partition(" ")[0], "kv_precision": "bf16", "engine": "vllm@2024",
            "all_reduce": "nccl",
            "trace": f"{{data}}/s3_apex_plus/{name}", "requests": served,
        }  # fmt: skip


S5_DEVICES = {"RTX4090": "rtx-4090", "RTXPRO6000": "rtx-pro-6000"}


def replays(folder: Path) -> Iterator[Row]:
    import numpy as np

    for r in read(folder / "runs.csv"):
        device, model = S5_DEVICES[r["run"].partition("_")[0]], r["model"].rpartition("/")[2].lower()
        requests = read(folder / f"requests_{r['run']}.csv")
        tp, dp = int(r["tp"]), int(r["dp"])
        row: Row = {
            "label": f"{model} {tp * dp}x{device}", "group": f"LLMServingSim/{model} {device}",
            "source": "casys-kaist/LLMServingSim@5daddb2 bench/examples", "command": "simulate", "remark": "",
            "model": model, "on": f"{tp * dp}x{device}", "tp": tp, "engine": "vllm",
            "chunk": int(r["max_num_batched_tokens"]), "max_batch": int(r["max_num_seqs"]),
            "replay": f"{{data}}/s5_llmservingsim_vllm/requests_{r['run']}.csv",
        }  # fmt: skip
        for metric, values in _latencies(requests).items():
            row[f"measured.{metric}.mean"] = round(float(np.mean(values)), 6)
            row[f"measured.{metric}.p90"] = round(float(np.percentile(values, 90)), 6)
        yield row


def _latencies(requests: list[dict[str, str]]) -> dict[str, list[float]]:
    """Seconds; answers of one token have no time per token."""
    ttft = [float(r["ttft_ms"]) / 1e3 for r in requests]
    e2e = [t + float(r["decode_ms"]) / 1e3 for t, r in zip(ttft, requests, strict=True)]
    tpot = [float(r["tpot_ms"]) / 1e3 for r in requests if int(r["output_tokens"]) > 1]
    return {"ttft_s": ttft, "tpot_s": tpot, "e2e_s": e2e}


TABLES: dict[str, tuple[str, Callable[[Path], Iterator[Row]]]] = {
    "s1-mlperf": ("s1_mlperf_inference", mlperf),
    "s2-maximum-load": ("s2_tensorrt_llm", maximum_load),
    "s2-static-batches": ("s2_tensorrt_llm", static_batches),
    "s2-first-tokens": ("s2_tensorrt_llm", first_tokens),
    "s3-apex": ("s3_apex_plus", apex),
    "s4-splitwise": ("s4_splitwise", splitwise),
    "s5-replays": ("s5_llmservingsim_vllm", replays),
    "s6-closed-loop": ("s6_inferencex_silicon", closed_loop),
    "s8-single-stream": ("s8_premai_a100", single_stream),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for name, (folder, make) in TABLES.items():
        if not (given.data / folder).is_dir():
            print(f"{name}: not available")
            continue
        rows = list(make(given.data / folder))
        write_file(given.out / f"{name}.csv", table(rows))
        print(f"{name}: {len(rows)} rows")


if __name__ == "__main__":
    main()
