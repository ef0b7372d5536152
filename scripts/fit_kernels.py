"""Fit the kernel constants of ``src/windtunnel/cost/calibrations`` on published kernel measurements.

    python scripts/fit_kernels.py --data DIR [--only gemm] [--write]

DIR holds the measurement tables by source: k1_aiconfigurator (ai-dynamo/aiconfigurator 095f58a, Apache-2.0), k2_vidur
(microsoft/vidur 7d47513, MIT), k3_llmcompass (PrincetonUniversity/LLMCompass 2e015fd, BSD-3-Clause),
k4_infersim_h20_h800 (alibaba/InferSim f2293da, Apache-2.0), k5_frontier_h800_a800 (NetX-lab/Frontier a4b22df, MIT),
k6_llmservingsim_kernels (casys-kaist/LLMServingSim 5daddb2, MIT), s4_splitwise (Mutinifni/splitwise-sim 8f99e7d, MIT).

The prices come from the package itself, so what is fitted is what is used. Rows are grouped by model where the source
names some, else by shape; the errors printed and recorded are those of groups left out of the fit, a fifth of them at a
time, and the constants written are fitted on all. ``--write`` puts them into the YAML files; entries that are not
fitted here stay as they are.
"""

from __future__ import annotations

import argparse
import zlib
from dataclasses import dataclass
from itertools import product as combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy.optimize import least_squares

from kernel_targets import NUISANCE, Target, rates, targets
from windtunnel.calibration.published import Measured
from windtunnel.cost import calibration
from windtunnel.cost.calibration import FOLDER, load_calibration
from windtunnel.cost.gemm import gemm_kernel
from windtunnel.models.dtypes import BYTES
from windtunnel.ops import build

SUSTAINED = (
    "products reach 0.79 of peak on A100 and 0.70 on H100 inside training runs (joint fits of the step times of "
    "llm-foundry, Megatron-LM, calculon and vTrain), over the benchmark's 0.83"
)

# --- the fit --------------------------------------------------------------------------------------------------------


FOLDS = 5
MOST_ROWS = 3000
"""Of a table: more add nothing to a dozen constants."""


@dataclass
class Fitted:
    """An entry, its record, the bias of its predictions and, by row of the table, predicted over measured seconds when
    the row's group was left out."""

    target: Target
    entry: Any
    record: dict[str, Any]
    bias: float
    measured: np.ndarray
    ratio: np.ndarray


def fit(t: Target) -> Fitted:
    """The entry with the smallest robust error, and what it predicts of groups left out; prints a line."""
    rows = t.rows
    if len(rows) > MOST_ROWS:
        rows = rows.take(np.random.RandomState(1).choice(len(rows), MOST_ROWS, replace=False))
    order = sorted(set(rows.group), key=lambda name: zlib.crc32(name.encode()))
    folds = min(FOLDS, len(order))
    fold_of = {name: i % folds for i, name in enumerate(order)}
    fold = np.array([fold_of[name] for name in rows.group])
    tried = [_least(t, rows, dict(zip(t.choices, picked, strict=True))) for picked in combinations(*t.choices.values())]
    _, entry = min(tried, key=lambda each: each[0])
    chosen = {name: getattr(entry, name) for name in t.choices}
    ratio = np.empty(len(rows))
    for i in range(folds):
        left, out = np.flatnonzero(fold != i), rows.take(np.flatnonzero(fold == i))
        without = _least(t, rows.take(left), chosen)[1]
        ratio[fold == i] = t.predict(without, out) / out.seconds
    record = _record(t.device, t.data, len(t.rows), np.abs(ratio - 1))
    bias = float(np.median(ratio - 1))
    shown = ((k, getattr(entry, k)) for k in (*t.choices, *t.free))
    constants = " ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in shown)
    _print(t.device, f"{t.section}.{t.key}", record, bias, constants)
    return Fitted(t, entry, record, bias, rows.seconds, ratio)


def _least(t: Target, rows: Measured, chosen: dict[str, Any]) -> tuple[float, Any]:
    """(robust cost, entry) of the constants that are free, beside the ``chosen`` ones."""
    base = t.base.model_copy(update=chosen)
    measured = rows.seconds
    # Kernels of a few microseconds are many in the tables and little of a step.
    weight = np.clip(measured / 10e-6, 0.4, 1.0)
    low, start, high = (np.array([bound[i] for bound in t.free.values()]) for i in range(3))

    def residual(x: np.ndarray) -> np.ndarray:
        trial = base.model_copy(update=dict(zip(t.free, low + x * (high - low), strict=True)))
        return weight * np.log(t.predict(trial, rows) / measured)

    x0 = (start - low) / (high - low)
    found = least_squares(residual, x0, bounds=(0, 1), loss="soft_l1", f_scale=0.1, diff_step=1e-4, max_nfev=60)
    values = {
        name: float(f"{v:.3g}") if v > 1e-3 * h else 0.0
        for name, v, h in zip(t.free, low + found.x * (high - low), high, strict=True)
    }
    return found.cost, base.model_copy(update=values)


def _record(device: str, data: str, points: int, errors: np.ndarray) -> dict[str, Any]:
    median, p90 = (round(float(np.quantile(errors, q)), 3) for q in (0.5, 0.9))
    return {"device": device, "data": data, "points": points, "median": median, "p90": p90}


def _print(device: str, name: str, record: dict[str, Any], bias: float, constants: str) -> None:
    errors = f"{record['median']:6.1%} {record['p90']:6.1%} {bias:+6.1%}"
    print(f"{device:13} {name:26} {record['points']:6} {errors}  {constants}", flush=True)


def s4_power(data: Path) -> pd.DataFrame:
    """Runs of Llama-2-70B; at prompts of 8,192 the mean power covers mostly idle time: left out."""
    d = pd.read_csv(data / "s4_splitwise/prompt_token_latency.csv")
    return d[(d.average_power > 0) & (d.prompt_size < 8192)]


def fit_power(data: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """Fractions of (TDP - idle) on A100: mean power of whole runs, and the higher of prompts' and tokens' power.

    Utilisations are the useful work of prompts and tokens over the datasheet's rates in the measured times.
    """
    a, d = rates("a100-80gb-sxm").accelerator, s4_power(data)
    work = 2 * 69e9 / d.tensor_parallel  # FLOPs a token, and bytes of fp16 weights
    prompt, token, run = d.prompt_time_ms * 1e-3, d.token_time_ms * 1e-3, d.e2e_time_ms * 1e-3
    peak, bandwidth = a.peak_flops["fp16"], a.hbm.bandwidth_bytes_per_s
    idle = a.idle_w / a.tdp_w
    test = np.array([zlib.crc32(str(i).encode()) % 5 == 0 for i in d.index])

    def power(x: np.ndarray, tokens: pd.Series, seconds: pd.Series) -> pd.Series:
        used = x[0] + x[1] * work * tokens / seconds / peak + x[2] * work / seconds / bandwidth
        return np.minimum(idle + (1 - idle) * used, 1.0)

    def ratios(x: np.ndarray) -> np.ndarray:
        p, t = power(x, d.prompt_size * d.batch_size, prompt), power(x, d.batch_size, token)
        mean = (prompt * p + (run - prompt) * t) / run
        return np.stack([mean / d.average_power, np.maximum(p, t) / np.minimum(d.peak_power, 1.0)])

    found = least_squares(
        lambda x: (ratios(x) - 1)[:, ~test].ravel(), [0.2, 1.0, 0.7], bounds=([0, 0, 0], [1, 2, 2]), loss="soft_l1",
        f_scale=0.1,
    )  # fmt: skip
    held = (ratios(found.x) - 1)[:, test]
    record = _record("a100-80gb-sxm", "splitwise-sim@8f99e7d, Llama-2-70B", 2 * len(d), np.abs(held))
    values = dict(zip(("active", "tensor", "hbm"), (round(float(v), 3) for v in found.x), strict=True))
    _print("a100-80gb-sxm", "energy", record, float(np.median(held)), " ".join(f"{k}={v}" for k, v in values.items()))
    return values, record


# --- writing --------------------------------------------------------------------------------------------------------


def write(done: list[Fitted]) -> None:
    for file in sorted({f.target.file for f in done}):
        path = FOLDER / f"{file}.yaml"
        data = yaml.safe_load(path.read_text())
        for f in (f for f in done if f.target.file == file):
            t, entry, record = f.target, f.entry, f.record
            place = data.setdefault("devices", {}).setdefault(t.device, {}) if t.own else data["kernels"]
            table = place.setdefault(t.section, {})
            kept = {k: v for k, v in table.get(t.key, {}).items() if k == "sustained"}
            # All fields, so that nothing of a parent's shows through.
            new = entry.model_dump(mode="json", exclude={*NUISANCE, "source", "fit", "sustained"})
            source = f"fit by scripts/fit_kernels.py on {t.data}" + (f"; sustained: {SUSTAINED}" if kept else "")
            table[t.key] = {**new, **kept, "source": source, "fit": record}
        path.write_text(yaml.safe_dump(data, sort_keys=False, width=120))


BEST = {
    ("ampere", "a100-80gb-pcie", "bf16"): 252.9e12,
    ("ampere", "a100-40gb-pcie", "bf16"): 252.9e12,
    ("blackwell", "b200-sxm", "bf16"): 1745e12,
    ("blackwell", "b200-sxm", "fp8"): 3432.5e12,
    ("blackwell", "b200-sxm", "fp4"): 5590e12,
}
"""Best products measured of devices without a table, FLOP/s, by (file, device, format)."""


def write_best() -> None:
    """Compute fractions with which the largest products of those devices reach the best that was measured."""
    for (file, device, key), best in BEST.items():
        path = FOLDER / f"{file}.yaml"
        data = yaml.safe_load(path.read_text())
        own = file == "ampere"
        table = (data["devices"][device] if own else data["kernels"])["gemm"][key]
        lowest, highest = 0.05, 1.0
        for _ in range(20):
            table["compute"] = (lowest + highest) / 2
            path.write_text(yaml.safe_dump(data, sort_keys=False, width=120))
            calibration.forget()
            rates.cache_clear()
            product = build.gemm(
                "", 16384, 16384, 16384, dtype=key, weight=BYTES.get(key, 0.5), act=BYTES.get(key, 0.5)
            )
            entry = load_calibration(rates(device).accelerator).gemm
            seconds = gemm_kernel(rates(device), entry)(product).seconds
            lowest, highest = (
                (lowest, table["compute"]) if product.flops / seconds > best else (table["compute"], highest)
            )
        table["compute"] = float(f"{lowest:.3g}")
        path.write_text(yaml.safe_dump(data, sort_keys=False, width=120))
    calibration.forget()


def write_power(values: dict[str, float], record: dict[str, Any]) -> None:
    path = FOLDER / "generic.yaml"
    data = yaml.safe_load(path.read_text())
    data["kernels"]["energy"] |= {**values, "vector": values["tensor"], "fit": record}
    path.write_text(yaml.safe_dump(data, sort_keys=False, width=120))


def fit_all(data: Path, only: str = "", *, keep: bool = False) -> list[Fitted]:
    """Everything whose family or device begins with ``only``; ``keep``: written to the YAML files."""
    print(f"{'device':13} {'kernel':26} {'points':>6} {'median':>6} {'p90':>6} {'bias':>6}  constants")
    done = []
    for t in targets(data):
        if t.section.startswith(only) or t.device.startswith(only):
            done.append(fit(t))
            if keep:  # at once: expert layers are fitted on top of the streams' constants
                write(done[-1:])
                calibration.forget()
    if "energy".startswith(only):
        values, record = fit_power(data)
        if keep:
            write_power(values, record)
    if keep:
        write_best()
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the measurement tables")
    parser.add_argument("--only", default="", help="start of a kernel family's or a device's name")
    parser.add_argument("--write", action="store_true", help="put the constants into the package's YAML files")
    args = parser.parse_args()
    fit_all(args.data, args.only, keep=args.write)


if __name__ == "__main__":
    main()
