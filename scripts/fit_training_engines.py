"""Fits the constants of training engines, and of the power limit, to the tables of published runs.

Usage: python scripts/fit_training_engines.py [--write] [--rounds N] [--sample N] [--workers N]

Every constant is general (of a device family or a framework) and held to physical bounds; the loss is robust, each
set counts the same, and the setups of a set the same within it. Errors are also given for each group (source and
model) with the constants fitted without it, by the linearised fit. Beside them stands what one MFU a set, device and
number format would score. The tables are the package's own: no data folder is needed.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
import tempfile
import zlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import lsq_linear

from windtunnel import engine
from windtunnel.cost import sustained
from windtunnel.errors import ScenarioError
from windtunnel.hardware import parse_cluster
from windtunnel.scenario import engines
from windtunnel.scenario.files import write_file
from windtunnel.validation.sets import find
from windtunnel.validation.table import Row


@dataclass(frozen=True)
class Constant:
    """``where``: an engine profile, or one of ``TABLES`` with a family of devices."""

    where: str
    key: str
    low: float
    high: float


CONSTANTS = (
    Constant("power", "ampere", 0.8, 2.6),
    Constant("power", "hopper", 0.7, 2.2),
    Constant("power", "blackwell", 0.7, 2.6),
    Constant("narrow", "hopper", 0.4, 1.0),
    Constant("narrow", "blackwell", 0.4, 1.0),
    Constant("deepspeed", "host_s_per_layer", 0.3e-3, 2e-3),
    Constant("deepspeed", "host_s_per_step", 1e-3, 0.2),
    Constant("megatron", "interference", 0.02, 0.9),
    Constant("megatron", "expert_passes", 1.0, 10.0),
    Constant("megatron", "expert_host_s", 1e-4, 1.5e-3),
)
"""Left as they are, because no set tells them apart: interference of FSDP and DeepSpeed, host time of Megatron-LM and
of FSDP, the backward pass's share of it."""
TABLES = {"power": sustained.WATT_PER_TFLOPS, "narrow": sustained.NARROW}
SHARED = {"hopper": ("hopper", "ada")}
"""One process, one constant."""
LEFT_OUT = ("maxtext",)
"""Sets on devices of which no kernel was measured."""
SCALE = 0.06
"""Errors (log) above this count linearly."""


def current(c: Constant) -> float:
    if c.where in TABLES:
        return TABLES[c.where][c.key]
    return float(getattr(engines.load_engine(c.where, "train"), c.key))


def put(values: Sequence[float]) -> None:
    """Make the constants hold in this process."""
    for c, value in zip(CONSTANTS, values, strict=True):
        if c.where in TABLES:
            for family in SHARED.get(c.key, (c.key,)):
                TABLES[c.where][family] = value
        else:
            engines._raw(c.where)[c.key] = value
    engines.load_engine.cache_clear()


def answer(row: Row, values: Sequence[float], folder: Path) -> tuple[float, float, str] | None:
    """(log of predicted over measured step time, log of the measured MFU, device and format); None if refused."""
    if tuple(values) != getattr(answer, "now", None):
        put(values)
        answer.now = tuple(values)  # type: ignore[attr-defined]
    try:
        options = row.request(folder, None)
        result = engine.train(options)
    except ScenarioError:
        return None
    seconds = row.measured["step_time_s"]
    device = parse_cluster(options.on, dict(options.set)).accelerator.name
    mfu = math.log(result.mfu * result.step_time_s / seconds) if result.mfu else 0.0
    return math.log(result.step_time_s / seconds), mfu, f"{device} {result.plan['precision']}"


def setup(row: Row) -> str:
    """What stays the same where only the number of GPUs, the batch or the release differs."""
    left = {k: v for k, v in row.options.items() if k not in ("on", "global_batch", "dp", "hsdp")}
    return f"{row.group} {sorted(left.items())} {row.options['on'].partition('x')[2]}"


def figures(errors: Sequence[float]) -> str:
    sizes = [abs(math.expm1(e)) for e in errors]
    return f"{100 * statistics.median(sizes):5.1f} {100 * float(np.percentile(sizes, 90)):5.1f}"


def constant_mfu(found: Sequence[tuple[float, float, str]], weights: np.ndarray[Any, Any]) -> list[float]:
    """Errors of step times by one MFU for each device and number format: the median over setups."""
    result = [0.0] * len(found)
    for key in {f[2] for f in found}:
        at = [i for i, f in enumerate(found) if f[2] == key]
        order = sorted(at, key=lambda i: found[i][1])
        half = np.searchsorted(np.cumsum(weights[order]), weights[order].sum() / 2)
        middle = found[order[int(half)]][1]
        for i in at:
            result[i] = found[i][1] - middle
    return result


def solve(j: np.ndarray[Any, Any], e: np.ndarray[Any, Any], w: np.ndarray[Any, Any], x: np.ndarray[Any, Any]) -> Any:
    """The step in the logs of the constants: robust (iteratively reweighted), damped, inside the bounds."""
    low = np.log([c.low for c in CONSTANTS]) - x
    high = np.log([c.high for c in CONSTANTS]) - x
    step = np.zeros(len(x))
    for _ in range(8):
        left = np.abs(e + j @ step)
        rows = np.sqrt(w / np.maximum(left / SCALE, 1.0))
        damped = np.vstack([j * rows[:, None], 0.02 * np.eye(len(x))])
        target = np.concatenate([-e * rows, np.zeros(len(x))])
        step = lsq_linear(damped, target, (np.minimum(low, -1e-9), np.maximum(high, 1e-9))).x
    return np.clip(step, -0.5, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--sample", type=int, default=6, help="of a set over 400 rows, one row in this many")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    rows: list[tuple[str, Row]] = []
    for s in find(("train",)):
        own = [r for r in s.rows() if "step_time_s" in r.measured]
        kept = [r for r in own if len(own) < 400 or zlib.crc32(r.label.encode()) % given.sample == 0]
        rows += [(s.name, r) for r in kept]
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(given.workers) as pool:

        def ask(values: Sequence[float]) -> list[tuple[float, float, str] | None]:
            one = partial(answer, values=tuple(values), folder=Path(name))
            return list(pool.map(one, [r for _, r in rows], chunksize=20))

        start = [min(max(current(c), c.low), c.high) for c in CONSTANTS]
        first = ask(start)
        rows = [r for r, f in zip(rows, first, strict=True) if f is not None]
        before = [f for f in first if f is not None]
        sets, setups = [n for n, _ in rows], [f"{n} {setup(r)}" for n, r in rows]
        per_setup, per_set = Counter(setups), {n: len({s for s in setups if s.startswith(n + " ")}) for n in set(sets)}
        weights = np.array([1 / per_setup[s] / per_set[n] for s, n in zip(setups, sets, strict=True)])
        fitted = np.array([0.0 if n in LEFT_OUT else 1.0 for n in sets]) * weights

        def loss(errors: np.ndarray[Any, Any]) -> float:
            a = np.abs(errors) / SCALE
            return float(fitted @ np.where(a < 1, a * a, 2 * a - 1))

        x = np.log(start)
        e = np.array([f[0] for f in before])
        jacobian = np.zeros((len(rows), len(x)))
        for _ in range(given.rounds):
            for i in range(len(x)):
                moved = x.copy()
                moved[i] += 0.05 if x[i] + 0.05 <= math.log(CONSTANTS[i].high) else -0.05
                there = np.array([f[0] for f in ask(np.exp(moved)) if f is not None])
                jacobian[:, i] = (there - e) / (moved[i] - x[i])
            step, scale = solve(jacobian, e, fitted, x), 1.0
            while scale > 0.05:
                tried = np.clip(
                    x + scale * step, np.log([c.low for c in CONSTANTS]), np.log([c.high for c in CONSTANTS])
                )
                there = np.array([f[0] for f in ask(np.exp(tried)) if f is not None])
                if loss(there) < loss(e):
                    break
                scale /= 2
            else:
                break
            print(f"loss {loss(e):.3f} -> {loss(there):.3f}", flush=True)
            done = loss(e) - loss(there) < 0.005 * loss(e)
            x, e = tried, there
            if done:
                break
        after = [f for f in ask(np.exp(x)) if f is not None]
    held_out = e.copy()
    groups = [r.group for _, r in rows]
    for group in set(groups):
        out = np.array([g == group for g in groups])
        if fitted[out].sum() > 0:
            held_out[out] = e[out] + jacobian[out] @ solve(jacobian, e, np.where(out, 0.0, fitted), x)
    flat = {i: v for n in set(sets) for i, v in _flat(n, sets, before, weights)}
    print(f"{'set':16s} rows setups | before      | after       | group left out | constant MFU   (median, p90 %)")
    for n in dict.fromkeys(sets):
        at = [i for i, s in enumerate(sets) if s == n]
        print(
            f"{n:16s} {len(at):4d} {per_set[n]:6d} | {figures([before[i][0] for i in at])} | "
            f"{figures([after[i][0] for i in at])} | {figures([held_out[i] for i in at])}    | "
            f"{figures([flat[i] for i in at])}"
        )
    for c, was, now in zip(CONSTANTS, start, np.exp(x), strict=True):
        at_bound = " (at its bound)" if min(now / c.low, c.high / now) < 1.001 else ""
        slope = float(np.sqrt((jacobian[:, CONSTANTS.index(c)] ** 2 * fitted).sum()))
        print(f"{c.where}.{c.key}: {was:.4g} -> {now:.4g}{at_bound}, weight {slope:.3f}")
        if given.write:
            save(c, float(f"{now:.3g}"))


def _flat(
    name: str, sets: Sequence[str], before: Sequence[tuple[float, float, str]], weights: np.ndarray[Any, Any]
) -> list[tuple[int, float]]:
    at = [i for i, s in enumerate(sets) if s == name]
    return list(zip(at, constant_mfu([before[i] for i in at], weights[at]), strict=True))


def save(c: Constant, value: float) -> None:
    """Write the constant where it stands."""
    if c.where in TABLES:
        path = Path(sustained.__file__)
        name = {"power": "WATT_PER_TFLOPS", "narrow": "NARROW"}[c.where]
        text = path.read_text()
        for family in SHARED.get(c.key, (c.key,)):
            text = re.sub(rf'^({name} = .*"{family}": )[0-9.]+', rf"\g<1>{value}", text, flags=re.M)
    else:
        path = engines.FOLDER / f"{c.where}.yaml"
        text = path.read_text()
        shown = f"{value}" if value >= 1e-2 else f"{value * 1e3:.3g}e-3"
        pattern = rf"^{c.key}: .*$"
        if re.search(pattern, text, re.M):
            text = re.sub(pattern, f"{c.key}: {shown}", text, count=1, flags=re.M)
        else:
            text = text.replace("sources:\n", f"{c.key}: {shown}\nsources:\n  {c.key}: fitted\n")
    write_file(path, text)


if __name__ == "__main__":
    main()
