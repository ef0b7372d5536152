"""Writes the statistics of published traces, src/windtunnel/serving/workload/data/*.yaml, and prints what they keep.

    python scripts/workload_stats.py --data DIR [--write]

DIR holds the data sets: folders r1_azure_llm_2023, r2_mooncake, r3_length_samples and r4_servegen_alibaba. Lengths are
kept as quantiles at equally spaced normal scores, so that both tails are followed; arrivals as the number of requests
in each window of the trace, with the coefficient of variation of the gaps in expected arrivals (that is, once the
windows' rates are taken out); shared prefixes as in ``published.Prefixes``.

Of Alibaba's traces only quantiles and rates of windows are public. Quantiles beyond the last one given are a straight
line in log(tokens) to an end that makes the mean come out as published. The cv of all arrivals is that of a
superposition of independent renewal processes over long windows, sqrt(sum of rate · cv^2 / sum of rates), the clients
that are not given taken for Poisson ones: the median over windows, since few of them, with a cv of hundreds, would hide
what is usual.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import polars as pl
import yaml

from windtunnel.serving.workload.published import LENGTH_SCORES, PREFIX_SCORES, statistics
from windtunnel.serving.workload.reader import read_trace
from windtunnel.serving.workload.requests import Floats
from windtunnel.serving.workload.synthetic import synthesised
from windtunnel.serving.workload.traces import Trace

TARGET = Path(__file__).parents[1] / "src/windtunnel/serving/workload/data"
AZURE = "Azure/AzurePublicDataset, AzureLLMInferenceTrace_{}.csv, commit b469a11; Patel et al., Splitwise, ISCA 2024"
MOONCAKE = "kvcache-ai/Mooncake, FAST25-release/traces/{}_trace.jsonl, commit 3b5a594; Qin et al., Mooncake, FAST 2025"
FILES: dict[str, tuple[str, str, str, float, float]] = {
    # name: (file, source, licence, seconds of a window, seconds of the times' grid)
    "azure-conv-2023": ("r1_azure_llm_2023/conv.csv", AZURE.format("conv"), "CC-BY-4.0", 10, 0),
    "azure-code-2023": ("r1_azure_llm_2023/code.csv", AZURE.format("code"), "CC-BY-4.0", 5, 0),
    "mooncake-conversation": (
        "r2_mooncake/conversation_trace.csv", MOONCAKE.format("conversation"), "Apache-2.0", 60, 3,
    ),
    "mooncake-synthetic": ("r2_mooncake/synthetic_trace.csv", MOONCAKE.format("synthetic"), "Apache-2.0", 60, 0),
    "arxiv-summarization": (
        "r3_length_samples/arxiv_summarization.csv",
        "microsoft/vidur, data/processed_traces, commit 7d47513 (first 20,000 rows); Llama 2 tokens", "MIT", 0, 0,
    ),
    "lmsys": (
        "r3_length_samples/lmsys.csv",
        "efeslab/Nanoflow, datasets/traces, commit d6b381e (every 5th row); Llama 2 tokens", "Apache-2.0", 0, 0,
    ),
    "sharegpt": (
        "r3_length_samples/sharegpt.csv",
        "efeslab/Nanoflow, datasets/traces, commit d6b381e (every 2nd row, first 20,000); Llama 2 tokens",
        "Apache-2.0", 0, 0,
    ),
}  # fmt: skip
ALIBABA = ("m-large", "m-mid", "m-small", "deepseek-r1")
SERVEGEN = "alibaba/ServeGen, {}, commit f891d11: quantiles over clients' windows, each weighing the same; rates summed"
NORMAL = NormalDist()


def levels(scores: Floats) -> Floats:
    """The probabilities of normal scores."""
    return np.array([NORMAL.cdf(float(z)) for z in scores])


def rounded(values: Sequence[float] | Floats, digits: int = 4) -> list[float | int]:
    """To so many significant digits; whole numbers as such."""
    short = [float(f"{x:.{digits}g}") for x in values]
    return [int(x) if x == int(x) else x for x in short]


def mean_of(quantiles: Floats) -> float:
    """The mean of a variable with these quantiles at LENGTH_SCORES, in whole tokens."""
    z = np.linspace(-5, 5, 200_001)
    density = np.exp(-z * z / 2)
    return float((np.rint(np.interp(z, LENGTH_SCORES, quantiles)) * density).sum() / density.sum())


def ranks(values: Floats) -> Floats:
    return pl.Series(values).rank("average").to_numpy()


def correlation(a: Floats, b: Floats) -> float:
    """Spearman's rank correlation."""
    return round(float(np.corrcoef(ranks(a), ranks(b))[0, 1]), 4)


def lengths(tokens: Floats) -> dict[str, Any]:
    found = np.quantile(tokens, levels(LENGTH_SCORES), method="median_unbiased")
    return {"mean": round(float(tokens.mean()), 2), "quantiles": rounded(found)}


def rhythm(trace: Trace, window_s: float, tick_s: float) -> dict[str, Any]:
    assert trace.arrival_s is not None
    span = float(trace.arrival_s[-1])
    windows = max(round(span / window_s), 1)
    edges = np.linspace(0, span, windows + 1)
    counts, _ = np.histogram(trace.arrival_s, edges)
    gaps = np.diff(np.interp(trace.arrival_s, edges, np.concatenate([[0], np.cumsum(counts)])))
    # Times on a coarse grid say nothing of the gaps: those are taken for Poisson's.
    cv = 1.0 if tick_s else round(float(gaps.std() / gaps.mean()), 4)
    assert trace.rate is not None
    return {
        "rate": round(trace.rate, 5),
        "window_s": round(span / windows, 5),
        "profile": counts.tolist(),
        "cv": cv,
        "tick_s": tick_s,
    }


def prefixes(trace: Trace) -> dict[str, Any]:
    assert trace.blocks is not None
    assert trace.block_offsets is not None
    rows = [x.tolist() for x in np.split(trace.blocks, trace.block_offsets[1:-1])]
    common = 0
    while len({x[common] if len(x) > common else -1 for x in rows}) == 1:
        common += 1
    last: dict[int, int] = {}
    known, distance = [], []
    for number, row in enumerate(rows):
        shared = next((i for i, block in enumerate(row) if block not in last), len(row))
        known.append(shared)
        if shared > common:
            distance.append(number - last[row[shared - 1]])
        last.update(dict.fromkeys(row, number))
    counts, hits = np.array([len(x) for x in rows]), np.array(known)
    share = np.maximum(hits - common, 0) / np.maximum(counts - common, 1)
    at = levels(PREFIX_SCORES)
    return {
        "block_tokens": trace.block_tokens,
        "common": common,
        "share": rounded(np.quantile(share, at)),
        "rank_correlation": correlation(share, trace.input_tokens.astype(float)),
        "distance": rounded(np.quantile(distance, at)),
        "hit_rate": round(float(hits.sum() / counts.sum()), 4),
    }


def of_file(name: str, folder: Path) -> dict[str, Any]:
    file, source, licence, window_s, tick_s = FILES[name]
    trace = read_trace(folder / file, strict=True)
    inputs, outputs = trace.input_tokens.astype(float), trace.output_tokens.astype(float)
    found: dict[str, Any] = {
        "source": source,
        "licence": licence,
        "file": file,
        "requests": len(trace),
        "input": lengths(inputs),
        "output": lengths(outputs),
        "rank_correlation": correlation(inputs, outputs),
    }
    if trace.arrival_s is not None:
        found["rhythm"] = rhythm(trace, window_s, tick_s)
    if trace.blocks is not None:
        found["prefixes"] = prefixes(trace)
    return found


def published_lengths(row: dict[str, Any]) -> dict[str, Any]:
    """Quantiles at LENGTH_SCORES from the few that are published."""
    given = {float(key[1:]) / 100: max(float(x), 1.0) for key, x in row.items() if key.startswith("p")}
    z = np.array([NORMAL.inv_cdf(p) for p in given])
    logs = np.log(list(given.values()))

    def quantiles(end: float) -> Floats:
        found: Floats = np.exp(np.interp(LENGTH_SCORES, [*z, LENGTH_SCORES[-1]], [*logs, end]))
        return found

    low, high = float(logs[-1]), float(logs[-1]) + 3
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_of(quantiles(middle)) < row["mean"] else (low, middle)
    return {"mean": row["mean"], "quantiles": rounded(quantiles(low))}


def of_alibaba(category: str, folder: Path) -> dict[str, Any]:
    folder = folder / "r4_servegen_alibaba"
    rows = pl.read_csv(folder / "length_quantiles.csv").filter(pl.col("model_category") == category)
    by_field = {row["field"]: row for row in rows.to_dicts()}
    total = pl.read_csv(folder / f"{category}_aggregate_rate.csv")
    clients = pl.read_csv(folder / f"{category}_top3_clients.csv")
    weight = pl.col("rate_rps") * pl.col("interarrival_cv") ** 2
    known = clients.group_by("window_start_s").agg(pl.col("rate_rps").sum(), weight.sum().alias("squares"))
    joined = total.join(known, on="window_start_s")
    squares = joined["squares"] + joined["total_rate_rps"] - joined["rate_rps"]
    cvs = np.sqrt((squares / joined["total_rate_rps"]).to_numpy())
    hours = total.group_by(pl.col("window_start_s") // 3600).agg(pl.col("total_rate_rps").mean()).sort("window_start_s")
    at = np.arange(int(hours["window_start_s"].to_numpy().max()) + 1)
    rates = np.interp(at, hours["window_start_s"].to_numpy(), hours["total_rate_rps"].to_numpy())
    kind = "reason" if category == "deepseek-r1" else "language"
    return {
        "source": SERVEGEN.format(f"data/{kind}/{category}"),
        "licence": "Apache-2.0",
        "input": published_lengths(by_field["input_tokens"]),
        "output": published_lengths(by_field["output_tokens"]),
        "rank_correlation": 0.0,  # not published
        "rhythm": {
            "rate": round(float(rates.mean()), 4),
            "window_s": 3600,
            "profile": rounded(rates),
            "cv": round(float(np.median(cvs)), 4),
            "tick_s": 0,
        },
    }


def dumped(found: dict[str, Any]) -> str:
    """YAML with each list on lines of its own, 120 characters at most."""
    head = "# Written by scripts/workload_stats.py; see there what is kept of a trace.\n"
    return head + yaml.dump(found, sort_keys=False, default_flow_style=None, width=118, allow_unicode=True)


def report(name: str) -> None:
    """What comes out of the statistics, beside what the trace was."""
    kept = statistics(name)
    made = synthesised(kept, kept.requests or 100_000, seed=0)
    line = (
        f"{name}: input {made.input_tokens.mean():.1f} ({kept.input_mean}), "
        f"output {made.output_tokens.mean():.1f} ({kept.output_mean}), "
        f"rank correlation {correlation(made.input_tokens.astype(float), made.output_tokens.astype(float))} "
        f"({kept.rank_correlation})"
    )
    if made.arrival_s is not None:
        gaps = np.diff(made.arrival_s)
        line += f", rate {made.rate:.4g}, cv {gaps.std() / gaps.mean():.3g}"
    if made.blocks is not None and kept.prefixes is not None:
        line += f", hit rate {1 - (made.blocks.max() + 1) / len(made.blocks):.4f} ({kept.prefixes.hit_rate})"
    print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--write", action="store_true", help="write the YAML files; else only report")
    given = parser.parse_args()
    if given.write:
        TARGET.mkdir(exist_ok=True)
        for name in FILES:
            (TARGET / f"{name}.yaml").write_text(dumped(of_file(name, given.data)))
        for category in ALIBABA:
            (TARGET / f"alibaba-{category}.yaml").write_text(dumped(of_alibaba(category, given.data)))
    for name in [*FILES, *(f"alibaba-{x}" for x in ALIBABA)]:
        report(name)


if __name__ == "__main__":
    main()
