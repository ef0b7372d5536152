"""Writes docs/serving-runs.md: simulations beside two sets of measured serving runs, in full.

Usage: python scripts/serving_runs.py --data DIR [--out docs]

DIR holds the folders s5_llmservingsim_vllm and s3_apex_plus (see each SOURCE.md there). All runs and rows are shown,
good and bad; nothing is fitted here.
"""

from __future__ import annotations

import argparse
import csv
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import windtunnel as wt
from windtunnel.engine.simulate import simulate_workload
from windtunnel.scenario.options import read_options
from windtunnel.scenario.simulate import simulate_scenario
from windtunnel.scenario.simulate_options import SimulateOptions
from windtunnel.scenario.simulation import SimulateResult
from windtunnel.serving.outcome import PS
from windtunnel.serving.replayed import STATISTICS
from windtunnel.serving.workload.requests import Workload

VLLM = "vLLM 0.19 on workstation GPUs, 2026 (casys-kaist/LLMServingSim, bench/examples)"
APEX = "vLLM 0.6 on 8 x H100, 2024 (microsoft/apex_plus, vllm/results)"
DEVICES = {"RTX4090": "rtx-4090", "RTXPRO6000": "rtx-pro-6000"}
BLOCKS = {"RTX4090_Llama-3.1-8B": 2589}
LATENCIES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "e2e_s": "E2E"}
MOMENTS = 16

INTRODUCTION = """\
# Simulated serving runs

Two sets of measured serving runs in full: each statistic of vLLM's replays and their course over time, and each engine
of the runs under Poisson arrivals. The simulations have the requests of each at their own times and the engine as its
settings are stated. [Validation](validation.md) has the errors and intervals of these sets ([s5-replays] and
[s3-apex], where the engines of one run are taken together) and of all others.

[s5-replays]: validation.md#s5-replays
[s3-apex]: validation.md#s3-apex

**Nothing on this page is held out.** What was chosen by these runs:

- `first_token_s` and `host_s_per_sequence` of `vllm`, and these and `host_s_per_step` of `vllm@2024`, were fitted by
  `scripts/fit_serving_engines.py` to the first and the second set, among others. The `mixed_attention` of 1.35 and the
  kernels of both workstation GPUs were fitted to kernel measurements of the same authors, engine and machines as the
  first set.
- The 2,589 cache blocks of the RTX 4090 are not stated by the run. They were derived from the memory utilization in its
  settings; the capacity that the memory model finds by itself is shown beside them. What that sets aside beside weights
  and cache (`workspace_bytes`) was chosen by this run.

What it says:

- Queueing and cache pressure are right where the step time is: the RTX 4090's run has 230 requests in the queue and
  preemptions. At saturation an error in step time or in cache capacity is a multiple of that in TTFT.
- Steps of dense models in bf16 and fp8 at tensor-parallel degrees 1 to 8 are within 10 % in every row, and so are the
  first tokens of bf16 prompts in every row whose measurement is not in doubt (remarks 2 and 3 below).

What it does not explain:

1. First tokens of the fp8 model come about a fifth earlier than measured, also in rows that are not in doubt.
2. As the RTX PRO 6000's run ends, batches of 35 to 60 sequences take longer than predicted, larger ones do not. Perhaps
   it is contexts of unequal length, of which the longest ends the attention kernel; they are not in the model.
3. `queue` counts from a request's arrival, vLLM's own figure from when the scheduler took it in between two steps, so
   short queues cannot be compared.

No run has a prefix cache, swapping, disaggregated pools, autoscaling or failures.

Written by `scripts/serving_runs.py`.
"""

APEX_NOTES = """\
Means alone were published, a row an engine. Each of several engines served a round-robin share of the trace. Answers
are scaled to the tokens that were served (0 to 1.5 % fewer than the trace asks for). TPOT is the seconds of decoding of
all requests over all their tokens, as in the table where that can be checked. Custom all-reduce was off
(`--disable-custom-all-reduce`), so the simulations use NCCL's. Sums of request latencies are not compared: in the rows
marked 2 and 3 they exceed what TTFT and TPOT add up to by 3 to 50 s a request (marked 2: twice as much at half the
rate).

1. The trace of these runs (803 requests) is not at hand. Stand-in: arrivals and lengths of the trace of 512 requests,
   repeated as far as needed, lengths scaled to the tokens served.
2. TTFT not explained: one engine of the same layout, at four times the load, answered in 0.09 s (the row 2TP).
3. TTFT is 10 to 22 ms lower than in rows of the same layout at half the load: perhaps another harness.

Chunked prefill is off in vLLM 0.6 for contexts up to 32,768 tokens. Llama's 131,072 would turn it on; the caches of two
GPUs do not hold as much, so the runs must have limited it, which is assumed for all rows.
"""


@dataclass(frozen=True)
class Line:
    """A row of the second set and its answer; ``notes``: numbers of the remarks that concern it."""

    label: str
    notes: str
    ttft_s: float
    tpot_s: float
    result: SimulateResult

    @property
    def simulated_tpot_s(self) -> float:
        outcome, tokens = self.result.outcome, self.result.workload.output_tokens
        return float((outcome.finish - outcome.first).sum() / PS / tokens.sum())

    def off(self) -> tuple[float, float]:
        """Errors of mean TTFT and TPOT."""
        ttft = self.result.ttft_s["mean"]
        assert ttft is not None
        return ttft / self.ttft_s - 1, self.simulated_tpot_s / self.tpot_s - 1


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def column(rows: Sequence[dict[str, str]], name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([float(r[name]) for r in rows])


def vllm_runs(folder: Path) -> Iterator[tuple[str, SimulateResult, list[dict[str, str]]]]:
    """(name, answer, samples a second) of every run with settings in runs.csv."""
    for r in read(folder / "runs.csv"):
        tp, dp, blocks = int(r["tp"]), int(r["dp"]), BLOCKS.get(r["run"])
        asked: dict[str, Any] = {
            "on": f"{tp * dp}x{DEVICES[r['run'].partition('_')[0]]}", "tp": tp, "dp": dp,
            "ep": tp * dp if r["ep"] == "True" else 1, "engine": "vllm", "chunk": int(r["max_num_batched_tokens"]),
            "max_batch": int(r["max_num_seqs"]), "replay": str(folder / f"requests_{r['run']}.csv"), "loop": "python",
        }  # fmt: skip
        model = r["model"].rpartition("/")[2].lower().removesuffix("-instruct-2507")
        samples = read(folder / f"timeseries_{r['run']}.csv")
        name = f"{model} on {asked['on']}"
        if blocks is not None:
            yield f"{name}, {blocks:,} cache blocks", wt.simulate(model, kv_blocks=blocks, **asked), samples
            name += ", cache as the memory model has it"
        yield name, wt.simulate(model, **asked), samples


def share(r: dict[str, str], trace: Sequence[dict[str, str]], dp: int) -> tuple[Workload, bool]:
    """What one engine of ``dp`` served, and whether it is the trace's own requests."""
    arrival, prompts, answers = (column(trace, n) for n in ("start_offset_s", "context_tokens", "generated_tokens"))
    number, n = int(float(r["dp_replica"] or 0)), int(r["n_requests"])
    rows = np.arange(n) * dp + number
    own = int(rows[-1]) < len(trace) and float(prompts[rows].sum()) == float(r["trace_prompt_tokens"])
    turn, at = np.divmod(rows, len(trace))
    times = arrival[at] + turn * arrival[-1] * (1 + 1 / len(trace))
    lengths = []
    for tokens, served in ((prompts[at], r["served_prompt_tokens"]), (answers[at], r["served_output_tokens"])):
        lengths.append(np.maximum(np.rint(tokens * (float(served) / tokens.sum())), 1).astype(np.int64))
    return Workload(r["source_file"], times - times[0], *lengths), own


def apex_runs(folder: Path) -> Iterator[Line]:
    for r in read(folder / "vllm_sglang_h100_results.csv"):
        found = re.match(r"(?:(\d)DP)?(\d)TP", r["config"])
        if not r["engine"].startswith("vllm") or found is None:
            continue
        dp, tp = int(found[1] or 1), int(found[2])
        family, model, precision = (
            ("llama", "llama-3.1-70b", "bf16") if "Llama" in r["model"] else ("mistral", "mistral-large", "fp8")
        )
        trace = read(folder / f"trace_{family}_{r['workload']}_{r['poisson_rate_rps'].replace('0.', '0')}.csv")
        workload, own = share(r, trace, dp)
        asked = {
            "model": model, "on": f"{tp}xh100-sxm", "tp": tp, "engine": "vllm@2024", "precision": precision,
            "kv_precision": "bf16", "all_reduce": "nccl", "loop": "python",
        }  # fmt: skip
        scenario = simulate_scenario(read_options(SimulateOptions, asked))
        late = "2" if precision == "fp8" and (dp, tp) == (4, 2) else ""
        other = "3" if dp == 1 and tp < 8 else ""
        label = f"{model} {precision} {r['poisson_rate_rps']}/s {r['config']}"
        notes = ", ".join(filter(None, ("" if own else "1", late, other)))
        yield Line(
            label, notes, float(r["ttft_mean_s"]), float(r["tpot_mean_s"]), simulate_workload(scenario, workload)
        )


def spread(errors: Sequence[float]) -> str:
    """Rows, median, 90th percentile and bias as cells."""
    sizes = np.abs(errors)
    median, high = statistics.median(sizes.tolist()), float(np.percentile(sizes, 90))
    return f"{len(errors)} | {100 * median:.1f} % | {100 * high:.1f} % | {100 * statistics.mean(errors):+.1f} %"


def error(percent: float | None) -> str:
    return "" if percent is None else f"{percent:+.1f} %"


def seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def latencies(result: SimulateResult) -> list[str]:
    lines = ["| metric | statistic | measured s | simulated s | error |", "|---|---|---:|---:|---:|"]
    for metric, name in LATENCIES.items():
        found = result.replay.metrics[metric]
        lines += [
            f"| {name} | {s} | {seconds(found.measured[s])} | {seconds(found.simulated[s])} | "
            f"{error(found.error_percent[s])} |"
            for s in STATISTICS
        ]
    rate = result.replay.metrics["output_tokens_per_second"]
    lines.append(
        f"| output tokens/s | | {rate.measured['mean']:.0f} | {rate.simulated['mean']:.0f} | "
        f"{error(rate.error_percent['mean'])} |"
    )
    return lines


def over_time(result: SimulateResult, samples: Sequence[dict[str, str]]) -> list[str]:
    """Measured and simulated state at a few moments, and how far apart they are on average."""
    times, series = column(samples, "t"), result.series
    state: dict[str, tuple[Any, Any]] = {
        name: (column(samples, name), np.interp(times, series["t_s"], series[name], right=0.0))
        for name in ("running", "waiting")
    }
    cache = column(samples, "kv_cache_pct")
    if cache.any():
        state["cache %"] = cache, 100 * np.interp(times, series["t_s"], series["kv_fraction"], right=0.0)
    lines = [
        "| second | " + " | ".join(f"{name}: measured | simulated" for name in state) + " |",
        "|---:|" + "---:|---:|" * len(state),
    ]
    for i in np.unique(np.linspace(0, len(times) - 1, MOMENTS).astype(int)):
        cells = (f"{side[i]:.0f}" for pair in state.values() for side in pair)
        lines.append(f"| {times[i]:.0f} | " + " | ".join(cells) + " |")
    apart = (f"{name} {np.abs(a - b).mean():.1f} (of {a.mean():.1f})" for name, (a, b) in state.items())
    lines += ["", f"Mean distance over all seconds: {', '.join(apart)}."]
    if not cache.any():
        lines[-1] += " The run did not record its cache use."
    return lines


def vllm_pages(folder: Path) -> tuple[list[str], list[str]]:
    """(lines of the summary, of the set's part)."""
    part = [
        f"## {VLLM}", "",
        "300 ShareGPT requests at about 10 a second, bf16, 2,048 tokens an iteration; replayed with `--replay`.", "",
    ]  # fmt: skip
    errors: dict[str, list[float]] = {name: [] for name in LATENCIES}
    for name, result, samples in vllm_runs(folder):
        part += [f"### {name}", "", *latencies(result), ""]
        pool = result.pools[0]
        part += [
            f"Cache of {pool['kv_capacity_tokens']:,.0f} tokens, {result.preemptions} preemptions, "
            f"{pool['batch_mean']:.1f} sequences an iteration.", "", *over_time(result, samples), "",
        ]  # fmt: skip
        for metric in LATENCIES:
            errors[metric] += [e / 100 for e in result.replay.metrics[metric].error_percent.values() if e is not None]
    return [f"| {VLLM} | {n}, each statistic below | {spread(errors[m])} |" for m, n in LATENCIES.items()], part


def apex_pages(folder: Path) -> tuple[list[str], list[str]]:
    lines = list(apex_runs(folder))
    part = [
        f"## {APEX}", "", APEX_NOTES,
        "| engine | notes | TTFT measured ms | simulated | error | TPOT measured ms | simulated | error |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for line in lines:
        (ttft, tpot), now = line.off(), line.result.ttft_s["mean"]
        assert now is not None
        part.append(
            f"| {line.label} | {line.notes} | {1e3 * line.ttft_s:.1f} | {1e3 * now:.1f} | {error(100 * ttft)} | "
            f"{1e3 * line.tpot_s:.2f} | {1e3 * line.simulated_tpot_s:.2f} | {error(100 * tpot)} |"
        )
    heads = []
    for family, name in (("llama", "Llama-3.1-70B bf16"), ("mistral", "Mistral-Large fp8")):
        errors = [line.off() for line in lines if line.label.startswith(family)]
        heads += [
            f"| {APEX} | {name}, mean {m} | {spread([e[i] for e in errors])} |" for i, m in enumerate(("TTFT", "TPOT"))
        ]
    return heads, [*part, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    given = parser.parse_args()
    first, runs = vllm_pages(given.data / "s5_llmservingsim_vllm")
    second, rows = apex_pages(given.data / "s3_apex_plus")
    heads = ["| set | figure | rows | median | 90th percentile | bias |", "|---|---|---:|---:|---:|---:|"]
    page = [INTRODUCTION, *heads, *first, *second, "", *runs, *rows]
    (given.out / "serving-runs.md").write_text("\n".join(page))
    print("\n".join([*first, *second]))


if __name__ == "__main__":
    main()
