"""Writes docs/sanity.md and docs/sanity-vtrain.md: predictions beside every published training set at hand.

Usage: python scripts/sanity_table.py --data DIR [--out docs]

DIR holds the folders that ``sanity_sets.py`` reads (see each SOURCE.md there). All sets and rows are shown, good and
bad, with what a constant MFU would score on the same rows.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import sanity_sets as sets
from windtunnel.engine import train
from windtunnel.errors import ScenarioError
from windtunnel.scenario.options import TrainOptions, read_options
from windtunnel.scenario.results import TrainResult

Rows = Callable[[Path, Path], Iterator[sets.Row]]

MAIN: tuple[tuple[str, Rows], ...] = (
    ("Megatron-LM weak scaling, A100, 2021 (arXiv 2104.04473, table 1)", sets.megatron_2021),
    ("Megatron-LM sequence parallelism, A100, 2022 (arXiv 2205.05198, table 5)", sets.megatron_2022),
    ("MPT with FSDP, A100 and H100, 2023 (mosaicml/llm-foundry, scripts/train/benchmarking)", sets.mpt),
    ("Megatron-DeepSpeed, A100, several nodes, 2023 (vTrain, arXiv 2312.12391)", sets.vtrain_multi),
    ("NeMo, H100, 2025 (NVIDIA DGX Cloud benchmarking recipes)", sets.nemo),
    ("torchtitan with FSDP2, H100 and H200, 2024 and 2025 (pytorch/torchtitan, benchmarks)", sets.torchtitan),
    ("Megatron-Bridge, H100 and Blackwell, 2025 and 2026 (NVIDIA performance summaries)", sets.bridge),
    ("Megatron-LM, a few layers on 8 x B200, 2026 (SimuMax)", sets.simumax),
)
VTRAIN = "Megatron-DeepSpeed, A100, one node, 2023 (vTrain, arXiv 2312.12391)"

INTRODUCTION = """\
# A first sanity table

Predictions beside the published training runs that were at hand and can be asked for, with all their rows, the bad ones
too. It is **not a validation**: there is no held-out data in it.

- Kernels and collectives are fitted to kernel measurements. General constants (the matrix rate that a GPU sustains in
  training, the attention kernels of 2023, host time a layer, bytes a logit) come from an earlier study that had several
  of these runs among its data.
- Profiles were written while these tables could be seen. One value was chosen by them: with 10 bytes a logit
  `fsdp@2023` called 25 MPT runs too large that had run; 6 and 4 called none so, and 4 is what its loss function is
  taken to hold.
- Every run in these tables did run, so each `no` under *fits* is an error. Some are of the request: Megatron-Bridge's
  tables do not state what was recomputed, nor the format of gradients, and torchtitan's recomputation of single
  operators keeps less than the `selective` that stands for it here.
- The last column of the summary is what one constant MFU, the set's own median for each device and number format, would
  score on the same rows. Where it scores better, the set is too uniform to tell a good model from a bad one.
- *Setups* counts rows that differ in more than the number of GPUs or the release.

What it says: dense models on A100, and on H100 at its full power, have median errors of 3 to 10 %, with tails of a
third where small models are split over a node (host time) and up to a half over several nodes. Far too fast are

- Blackwell, whose kernels are not calibrated: by 7 to 40 % in dense models;
- most mixtures of experts, by 20 to 70 %: what routing costs beside its kernels is not modelled;
- torchtitan's runs on an H100 held to 500 W, by 18 to 29 % and more: a lower power limit does not lower the clock here;
- its context parallelism over 131,072 tokens and more, by 45 %, which is not yet explained.

Left out: async tensor parallelism, runs without compilation, fine-tuning and JAX (Paxml, MaxText on TPU), which no
profile describes; models that the catalogue lacks; rows that do not state their number format.

Written by `scripts/sanity_table.py`.
"""


@dataclass(frozen=True)
class Line:
    """A row and its answer; ``result`` None where the request was refused, with the reason in ``error``."""

    row: sets.Row
    result: TrainResult | None
    error: str = ""

    @property
    def off(self) -> float:
        assert self.result is not None
        return self.result.step_time_s / self.row.measured_s - 1


def ask(rows: Iterator[sets.Row]) -> list[Line]:
    lines = []
    for row in rows:
        options = {k: v for k, v in row.options.items() if v is not None}
        try:
            lines.append(Line(row, train(read_options(TrainOptions, options))))
        except ScenarioError as error:
            lines.append(Line(row, None, str(error)))
    return lines


def spread(errors: list[float]) -> tuple[float, float]:
    """(median, 90th percentile) of the sizes of errors."""
    sizes = sorted(abs(e) for e in errors)
    return statistics.median(sizes), sizes[min(int(0.9 * len(sizes)), len(sizes) - 1)]


def constant_mfu(lines: list[Line]) -> list[float]:
    """Errors of the step time that a constant MFU gives: the median of the measured ones, by device and format."""
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for line in lines:
        if line.result is not None and line.result.mfu:
            # Predicted MFU times predicted over measured seconds is the measured MFU by the same FLOPs and peak.
            measured = line.result.mfu * line.result.step_time_s / line.row.measured_s
            device = str(line.row.options["on"]).partition("x")[2]
            groups[device, str(line.result.plan["precision"])].append(measured)
    return [mfu / statistics.median(found) - 1 for found in groups.values() for mfu in found]


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def summary(title: str, lines: list[Line]) -> str:
    answered = [line for line in lines if line.result is not None]
    errors = [line.off for line in answered]
    (median, p90), (flat, flat_p90) = spread(errors), spread(constant_mfu(answered))
    setups = len({line.row.setup or line.row.label.rpartition(" (")[0] or line.row.label for line in answered})
    print(f"{title}: {len(errors)} rows, {percent(median)} / {percent(p90)}")
    return (
        f"| {title} | {len(errors)} | {setups} | {percent(median)} | {percent(p90)} | "
        f"{100 * statistics.mean(errors):+.1f} % | {percent(flat)} / {percent(flat_p90)} |"
    )


def table(lines: list[Line]) -> list[str]:
    shown = ["| run | measured s | predicted s | error | MFU | fits |", "|---|---:|---:|---:|---:|---|"]
    for line in lines:
        r, measured = line.result, line.row.measured_s
        if r is None:
            shown.append(f"| {line.row.label} | {measured:.3f} | refused: {line.error} | | | |")
            continue
        mfu = "" if r.mfu is None else percent(r.mfu)
        fits = "yes" if r.fits else f"no, {r.shortfall_bytes / 2**30:.1f} GiB over"
        error = f"{100 * line.off:+.1f} %"
        shown.append(f"| {line.row.label} | {measured:.3f} | {r.step_time_s:.3f} | {error} | {mfu} | {fits} |")
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        answers = [(title, ask(make(given.data, folder))) for title, make in MAIN]
        single = ask(sets.vtrain_single(given.data, folder))
    heads = [
        "| set | rows | setups | median | 90th percentile | bias | constant MFU |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    page = [INTRODUCTION, *heads, *(summary(title, lines) for title, lines in answers), summary(VTRAIN, single), ""]
    page += ["The 1,440 rows on one node have [a page of their own](sanity-vtrain.md).", ""]
    for title, lines in answers:
        page += [f"## {title}", "", *table(lines), ""]
    (given.out / "sanity.md").write_text("\n".join(page))
    own = [
        f"# {VTRAIN}",
        "",
        "See [the summary](sanity.md) for what these tables are and are not.",
        "",
        *table(single),
        "",
    ]
    (given.out / "sanity-vtrain.md").write_text("\n".join(own))


if __name__ == "__main__":
    main()
