"""Fits the constants of the serving engines' profiles to published runs, and says how well they hold without each.

Usage: python scripts/fit_serving_engines.py --data DIR [--engine NAME ...] [--rows N] [--write]

The runs are the tables that the package ships (those that replay a trace need DIR). A residual is ln(predicted /
measured); the loss is soft (far-off rows count little more than near ones), every group of runs counts alike, and every
constant is bounded to what its mechanism can take. The fit goes by Gauss-Newton steps with finite differences.
``left out`` is the error of a group when the constants are fitted to the others alone (with the derivatives of the last
step). ``--write`` puts the constants into the profiles; their sources there say what they were fitted to.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import re
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from windtunnel.engine.infer import infer_answer
from windtunnel.engine.replay import replayed_log
from windtunnel.engine.simulate import simulate_workload
from windtunnel.errors import ScenarioError
from windtunnel.scenario.engines import FOLDER, ServeEngine, load_engine
from windtunnel.scenario.options import InferOptions
from windtunnel.scenario.serve import infer_scenario
from windtunnel.scenario.simulate import simulate_scenario
from windtunnel.scenario.simulate_options import SimulateOptions
from windtunnel.serving.workload.build import build_workload
from windtunnel.validation.ask import figure
from windtunnel.validation.table import FOLDER as TABLES
from windtunnel.validation.table import Row, read_table

Floats = NDArray[np.float64]

STEP, SEQUENCE, LAYER = ("host_s_per_step", 0, 10e-3), ("host_s_per_sequence", 0, 500e-6), ("host_s_per_layer", 0, 1e-3)
FIRST = ("first_token_s", 0, 0.1)
SAMPLING = ("sampling_kernels", 0, 20)
BOUNDS: Mapping[str, tuple[tuple[str, float, float], ...]] = {
    "vllm": (STEP, SEQUENCE, FIRST),
    "vllm@2024": (STEP, SEQUENCE, FIRST),
    "vllm@2023": (("host_s_per_step", 0, 20e-3), SEQUENCE, LAYER),
    "sglang": (SAMPLING, FIRST),
    "tensorrt-llm": (STEP, SEQUENCE, FIRST),
    "tensorrt-llm@2024": (STEP, SEQUENCE),
    "transformers": (STEP, LAYER),
}
"""What is fitted of each profile, and how far it may go."""

WEIGHTS = {"ttft_s": 0.5}
"""A first token's time depends on the load generator, too; the other figures weigh 1."""
SCALE = 0.1
"""Residuals well above this count by their size, not by its square."""
ROUNDS = 3
AROUND = 0.02
"""Step of the finite differences, of the bounds' distance."""


@dataclass(frozen=True)
class Run:
    """A row of a table, and what it says of each metric."""

    row: Row
    metrics: tuple[str, ...]


def answer(run: Run, changed: Mapping[str, float], data: Path | None, folder: Path) -> list[float]:
    """ln(predicted / measured) of every metric with the engine's constants ``changed``; nan: no answer."""
    row = run.row
    try:
        options = row.request(folder, data)
        if isinstance(options, InferOptions):
            asked = infer_scenario(options)
            result: Any = infer_answer(replace(asked, engine=_with(asked.engine, changed)))
        else:
            assert isinstance(options, SimulateOptions)
            scenario = simulate_scenario(options)
            pools = {
                role: tuple(replace(s, engine=_with(s.engine, changed)) for s in setups)
                for role, setups in scenario.pools.items()
            }
            log = replayed_log(options)
            workload = build_workload(scenario.workload) if log is None else log.workload
            result = simulate_workload(replace(scenario, pools=pools), workload)
    except ScenarioError:
        return [math.nan] * len(run.metrics)
    found = result.to_dict()
    predicted = [figure(found, m) for m in run.metrics]
    return [math.log(p / row.measured[m]) if p else math.nan for p, m in zip(predicted, run.metrics, strict=True)]


def _with(engine: ServeEngine, changed: Mapping[str, float]) -> ServeEngine:
    """What is called directly has no server in front of it, whatever that would take."""
    kept = {k: v for k, v in changed.items() if not (k == "first_token_s" and engine.first_token_s == 0)}
    return engine.model_copy(update=kept)


def runs(name: str, data: Path | None, most: int) -> list[Run]:
    """The tables' rows of an engine, at most so many of a group. Rows with a remark are known to be odd, or assumed."""
    groups: dict[str, list[Run]] = {}
    for path in sorted(TABLES.glob("*.csv")):
        for row in read_table(path):
            if row.options.get("engine") != name or (row.needs_data and data is None) or _odd(row):
                continue
            groups.setdefault(row.group, []).append(Run(row, tuple(row.measured)))
    draw = random.Random(0)
    return [run for _, found in sorted(groups.items()) for run in draw.sample(found, min(most, len(found)))]


def _odd(row: Row) -> bool:
    words = ("multi-token prediction", "not explained", "faster than", "concurrency taken", "once a query")
    return any(word in row.remark for word in words) or row.group.startswith("MLPerf")


class Fit:
    """One engine's runs and the pool that answers them."""

    def __init__(self, name: str, every: Sequence[Run], pool: ProcessPoolExecutor, data: Path | None) -> None:
        self.name, self.every, self.pool, self.data = name, every, pool, data
        self.bounds = BOUNDS[name]
        self.low, self.high = (np.array([b[i] for b in self.bounds], float) for i in (1, 2))
        engine = load_engine(name, "serve")
        self.start = np.array([getattr(engine, key) for key, _, _ in self.bounds])
        labels = [(r.row.group, m) for r in every for m in r.metrics]
        self.groups = np.array([g for g, _ in labels])
        self.metrics = np.array([m.partition(".")[0] for _, m in labels])
        count = {g: int(np.sum(self.groups == g)) for g in set(self.groups.tolist())}
        self.weight = np.array(
            [WEIGHTS.get(m, 1.0) / math.sqrt(count[g]) for g, m in zip(self.groups, self.metrics, strict=True)]
        )

    def errors(self, x: Floats) -> Floats:
        """ln(predicted / measured) of every figure."""
        changed = {key: float(v) for (key, _, _), v in zip(self.bounds, x, strict=True)}
        one = partial(answer, changed=changed, data=self.data, folder=Path(tempfile.gettempdir()))
        return np.array([e for found in self.pool.map(one, self.every, chunksize=4) for e in found])

    def loss(self, errors: Floats, use: NDArray[np.bool_] | None = None) -> float:
        z = (errors / SCALE) ** 2
        soft = 2 * (np.sqrt(1 + z) - 1) * self.weight**2
        return float(np.nansum(soft if use is None else soft[use]))

    def slopes(self, x: Floats, errors: Floats) -> Floats:
        """[figures, constants]"""
        found = []
        for i in range(len(x)):
            by = AROUND * (self.high[i] - self.low[i])
            moved = x.copy()
            moved[i] = x[i] + by if x[i] + by <= self.high[i] else x[i] - by
            found.append((self.errors(moved) - errors) / (moved[i] - x[i]))
        return np.nan_to_num(np.stack(found, axis=1))

    def solve(self, x: Floats, errors: Floats, slopes: Floats, use: NDArray[np.bool_], reach: float = 1.0) -> Floats:
        """Where the straight lines through ``x`` have the least loss, within ``reach`` of the bounds' distance."""
        use = use & np.isfinite(errors)
        width = self.high - self.low

        def residuals(u: Floats) -> Floats:
            return np.asarray(self.soft(errors[use] + slopes[use] @ (width * u - x)) * self.weight[use])

        low, high = np.maximum(self.low, x - reach * width) / width, np.minimum(self.high, x + reach * width) / width
        start = np.clip(x / width, low + 1e-9, high - 1e-9)
        return np.asarray(least_squares(residuals, start, bounds=(low, high)).x * width)

    @staticmethod
    def soft(errors: Floats) -> Floats:
        """Signed roots of the soft loss."""
        z = (errors / SCALE) ** 2
        return np.asarray(np.sign(errors) * np.sqrt(2 * (np.sqrt(1 + z) - 1)))

    def run(self) -> Floats:
        """Fits, prints, and gives the constants."""
        x, everything = self.start.copy(), np.ones(len(self.groups), bool)
        before = errors = self.errors(x)
        reach = 0.5
        slopes = self.slopes(x, errors)
        for _ in range(ROUNDS):
            tried = self.solve(x, errors, slopes, everything, reach)
            found = self.errors(tried)
            if self.loss(found) >= self.loss(errors):
                reach /= 4
                continue
            x, errors = np.where(tried < 1e-3 * self.high, self.low, tried), found
            slopes = self.slopes(x, errors)
        self.report(x, before, errors, slopes)
        return x

    def report(self, x: Floats, before: Floats, after: Floats, slopes: Floats) -> None:
        print(f"\n{self.name}: {len(self.every)} runs, loss {self.loss(before):.3f} to {self.loss(after):.3f}")
        for (key, _, _), was, now in zip(self.bounds, self.start, x, strict=True):
            print(f"  {key}: {was:.6g} to {now:.6g}")
        print(f"  {'group':50}{'metric':28}{'rows':>5}{'before':>9}{'after':>9}{'bias':>9}{'left out':>10}")
        for group in sorted(set(self.groups.tolist())):
            others = self.groups != group
            held = after
            if others.any():
                held = after + slopes @ (self.solve(x, after, slopes, others) - x)
            for metric in sorted(set(self.metrics[~others].tolist())):
                use = ~others & (self.metrics == metric)
                cells = [100 * float(np.nanmedian(np.abs(np.expm1(e[use])))) for e in (before, after, held)]
                bias = 100 * float(np.nanmedian(np.expm1(after[use])))
                print(
                    f"  {group:50}{metric:28}{int(use.sum()):5}{cells[0]:8.1f}%{cells[1]:8.1f}%{bias:+8.1f}%"
                    f"{cells[2]:9.1f}%"
                )


def write(name: str, found: Mapping[str, float]) -> None:
    """Put the constants into the profile's file, two digits of each."""
    path = FOLDER / f"{name}.yaml"
    text = path.read_text()
    for key, value in found.items():
        line = f"{key}: {float(f'{value:.2g}'):.1e}\n"
        text, count = re.subn(rf"^{key}: .*\n", line, text, flags=re.MULTILINE)
        if not count:
            text = text.replace("sources:\n", line + "sources:\n", 1)
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--engine", action="append", choices=sorted(BOUNDS))
    parser.add_argument("--rows", type=int, default=30, help="of a group, at most")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    if given.data is None:
        print("replayed traces: not available")
    with ProcessPoolExecutor(given.workers) as pool:
        for name in given.engine or BOUNDS:
            every = runs(name, given.data, given.rows)
            if not every:
                print(f"{name}: not available")
                continue
            fit = Fit(name, every, pool, given.data)
            constants = fit.run()
            if given.write:
                write(name, {key: float(v) for (key, _, _), v in zip(fit.bounds, constants, strict=True)})


if __name__ == "__main__":
    main()
