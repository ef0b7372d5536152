"""Writes docs/sanity.md: predictions beside published training runs, every row shown, nothing tuned to a row.

Usage: python scripts/sanity_table.py --data DIR [--out docs/sanity.md]

DIR holds the folders t1_llm_foundry_training, t3_megatron_lm, t4_calculon_seqpar and t9_dgxc_benchmarking (see each
SOURCE.md there).
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import windtunnel
from windtunnel.engine import train
from windtunnel.errors import ScenarioError
from windtunnel.scenario.options import TrainOptions, read_options

CATALOGUE = Path(windtunnel.__file__).parent / "models" / "catalogue"
DEVICES = {"h100_80gb": "h100-sxm", "a100_80gb": "a100-80gb-sxm", "a100_40gb": "a100-40gb-sxm"}


@dataclass(frozen=True)
class Row:
    """One published run: what it is called, the request that repeats it, and its measured step seconds."""

    label: str
    options: dict[str, object]
    measured_s: float


def gpt(folder: Path, name: str, layers: int, hidden: int, heads: int, seq: int, vocab: int = 51200) -> str:
    """A GPT-2 style config.json of these sizes."""
    path = folder / f"{name}-{layers}-{hidden}" / "config.json"
    path.parent.mkdir(exist_ok=True)
    sizes = {"n_layer": layers, "n_embd": hidden, "n_head": heads, "n_positions": seq, "vocab_size": vocab}
    path.write_text(json.dumps({"model_type": "gpt2", **sizes}))
    return str(path)


def mpt_config(folder: Path, size: str, seq: int) -> str:
    """The catalogue's MPT of this size with its learned position table as long as the run's sequences."""
    path = folder / f"mpt-{size}-{seq}" / "config.json"
    path.parent.mkdir(exist_ok=True)
    config = json.loads((CATALOGUE / f"mpt-{size}.json").read_text())
    path.write_text(json.dumps({**config, "max_seq_len": seq}))
    return str(path)


def read(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="") as file:
        yield from csv.DictReader(file)


def mpt(data: Path, folder: Path) -> Iterator[Row]:
    """MosaicML llm-foundry, PyTorch FSDP (ZeRO-3), 2023."""
    for r in read(data / "t1_llm_foundry_training" / "mpt_training.csv"):
        if r["Precision"] not in ("amp_bf16", "bf16"):
            continue
        seq, batch, gpus = int(r["SeqLen (T)"]), int(r["GlobalBatchSize"]), int(r["n_gpus"])
        yield Row(
            f"mpt-{r['Model']} seq {seq} {gpus} x {DEVICES[r['GPU']]} mb {r['MicroBatchSize']}"
            + (" full recompute" if r["Activation Checkpointing"] == "True" else ""),
            {
                "model": mpt_config(folder, r["Model"], seq), "on": f"{gpus}x{DEVICES[r['GPU']]}",
                "engine": "fsdp@2023",
                "micro_batch": int(r["MicroBatchSize"]), "global_batch": batch, "seq": seq,
                "recompute": "full" if r["Activation Checkpointing"] == "True" else "none",
            },
            batch * seq / float(r["Throughput (T/s)"]),
        )  # fmt: skip


def megatron_2021(data: Path, folder: Path) -> Iterator[Row]:
    """Megatron-LM weak scaling (arXiv 2104.04473); micro-batch 1 is assumed, the table does not state it."""
    for r in read(data / "t3_megatron_lm" / "weak_scaling_a100_2021.csv"):
        layers, hidden, seq, vocab = int(r["layers"]), int(r["hidden"]), int(r["seq_len"]), int(r["vocab"])
        batch, gpus = int(r["global_batch"]), int(r["n_gpus"])
        # Their FLOPs count the recomputation (equation 3 of the paper).
        work = 96 * batch * seq * layers * hidden**2 * (1 + seq / (6 * hidden) + vocab / (16 * layers * hidden))
        yield Row(
            f"{r['model']} {gpus} x a100-80gb-sxm tp {r['tp']} pp {r['pp']}",
            {
                "model": gpt(folder, r["model"], layers, hidden, int(r["heads"]), seq, vocab),
                "on": f"{gpus}xa100-80gb-sxm", "engine": "megatron@2021", "precision": "fp16", "recompute": "full",
                "tp": int(r["tp"]), "pp": int(r["pp"]), "micro_batch": 1, "global_batch": batch, "seq": seq,
            },
            work / (float(r["achieved_tflops_per_gpu_hw"]) * 1e12 * gpus),
        )  # fmt: skip


def megatron_2022(data: Path, folder: Path) -> Iterator[Row]:
    """Sequence parallelism and selective recomputation (arXiv 2205.05198, table 5)."""
    for r in read(data / "t4_calculon_seqpar" / "iteration_time_tab5.csv"):
        selective = r["recompute_mode"] == "seqsel"
        yield Row(
            f"{r['model']} {r['n_gpus']} x a100-80gb-sxm tp {r['tp']} pp {r['pp']} v {r['interleave']} "
            + ("sequence parallel, selective" if selective else "full recompute"),
            {
                "model": gpt(folder, r["model"], *(int(r[k]) for k in ("layers", "hidden", "heads", "seq_len"))),
                "on": f"{r['n_gpus']}xa100-80gb-sxm", "engine": "megatron@2022", "precision": "fp16",
                "recompute": "selective" if selective else "full", "sequence_parallel": selective,
                "tp": int(r["tp"]), "pp": int(r["pp"]), "virtual_stages": int(r["interleave"]),
                "micro_batch": int(r["microbatch"]), "global_batch": int(r["global_batch"]), "seq": int(r["seq_len"]),
            },
            float(r["measured_iteration_s"]),
        )  # fmt: skip


def nemo(data: Path, _: Path) -> Iterator[Row]:
    """NVIDIA DGX Cloud benchmarking recipes of 2025: NeMo on H100, BF16 and FP8, 8 to 2,048 GPUs."""
    models = {"README_8b": "llama-3.1-8b", "README_15b": "nemotron-4-15b"}
    for r in read(data / "t9_dgxc_benchmarking" / "training_step_time.csv"):
        model = next((m for name, m in models.items() if name in r["file"] and "finetuning" not in r["file"]), None)
        if model is None or r["gpu"] != "H100":
            continue
        precision = "fp8" if "FP8" in r["table_title"] else "bf16"
        degrees = {name: int(float(r[name] or 1)) for name in ("tp", "pp", "cp")}
        yield Row(
            f"{model} {precision} {r['n_gpus']} x h100-sxm tp {degrees['tp']} cp {degrees['cp']} ({r['release_date']})",
            {
                "model": model, "on": f"{r['n_gpus']}xh100-sxm", "engine": "nemo", "precision": precision, **degrees,
                "micro_batch": int(float(r["microbatch"] or 1)), "global_batch": int(float(r["global_batch"])),
                "seq": int(float(r["seq_len"])),
            },
            float(r["step_time_s"]),
        )  # fmt: skip


SETS = (
    ("Megatron-LM weak scaling, A100, 2021 (arXiv 2104.04473, table 1)", megatron_2021),
    ("Megatron-LM sequence parallelism, A100, 2022 (arXiv 2205.05198, table 5)", megatron_2022),
    ("NeMo, H100, 2025 (NVIDIA DGX Cloud benchmarking recipes)", nemo),
    ("MPT with FSDP, A100 and H100, 2023 (mosaicml/llm-foundry, scripts/train/benchmarking)", mpt),
)


def table(title: str, rows: Iterator[Row], lines: list[str]) -> None:
    """A Markdown table of one set, and its errors."""
    lines += [
        f"## {title}",
        "",
        "| run | measured s | predicted s | error | MFU | fits |",
        "|---|---:|---:|---:|---:|---|",
    ]
    errors = []
    for row in rows:
        try:
            result = train(read_options(TrainOptions, row.options))
        except ScenarioError as error:
            lines.append(f"| {row.label} | {row.measured_s:.3f} | {error} | | | |")
            continue
        error = result.step_time_s / row.measured_s - 1
        errors.append(error)
        mfu = "" if result.mfu is None else f"{100 * result.mfu:.1f} %"
        fits = "yes" if result.fits else f"no, {result.shortfall_bytes / 2**30:.1f} GiB over"
        lines.append(
            f"| {row.label} | {row.measured_s:.3f} | {result.step_time_s:.3f} | {100 * error:+.1f} % | {mfu} | {fits} |"
        )
    sizes = sorted(abs(e) for e in errors)
    p90 = sizes[min(int(0.9 * len(sizes)), len(sizes) - 1)]
    summary = (
        f"{len(errors)} rows: median error {100 * statistics.median(sizes):.1f} %, "
        f"90th percentile {100 * p90:.1f} %, bias {100 * statistics.mean(errors):+.1f} %."
    )
    lines += ["", summary, ""]
    print(title, "-", summary)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs/sanity.md"))
    given = parser.parse_args()
    lines = [
        "# A first sanity table",
        "",
        "Predicted against published training steps, every row shown and no row tuned. Kernels and collectives are",
        "fitted to kernel measurements; a handful of general constants (the matrix rate that a GPU sustains in",
        "training, the attention kernels of 2023, host time a layer) come from an earlier study that had these runs",
        "among its data, so this is a check of structure, not a validation. Written by `scripts/sanity_table.py`.",
        "",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for title, make in SETS:
            table(title, make(given.data, Path(folder)), lines)
    given.out.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
