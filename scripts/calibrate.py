"""Rebuild every shipped calibration and say how good it is.

    python scripts/calibrate.py --data DIR [--only PREFIX] [--write]

Runs ``fit_kernels.py`` and ``fit_collectives.py`` on DIR (or $WINDTUNNEL_DATA), the folder of measurement tables that
they name; ``--only`` takes the start of a kernel family's or a device's name, or ``collectives``. With ``--write`` the
constants go into ``src/windtunnel/cost/calibrations``, and a whole run also writes ``docs/calibration.md`` and its
plots. About five minutes on two cores; the same figures every time. Needs scipy, pandas and matplotlib.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import fit_collectives
import fit_kernels
from fit_collectives import Judged
from fit_kernels import Fitted

DOCS = Path(__file__).parents[1] / "docs"
IMAGES = DOCS / "images" / "calibration"
SHOWN = 1500
"""Points of a panel that are drawn one by one; of more, quantiles by size."""

HEAD = """# Calibration

This page is written by `python scripts/calibrate.py --data DIR --write`, which rebuilds every constant that the package
ships for kernels and collectives from published measurements.

**How to read it.** Errors are |predicted / measured - 1|. Every figure is of rows that the fit had not seen: rows are
put into groups (column *left out*), a model where the source names models, else a shape, and a fifth of the groups is
left out at a time; the constants that ship are fitted on all. *Bias* is the median of predicted / measured - 1.
*Constants* counts the numbers fitted; which tiles a kernel has and how sharply its limits meet are chosen among a few.
Kernels were timed back to back, so each row has one kernel's fixed cost. Rows of a few microseconds weigh less in the
fits (they are many in the tables and little of a step) and all the same here.

## Kernels

The aims are a median of 5 % and a 90th percentile of 15 %.

"""
WHY = """
### Where the aims are missed

- **Libraries switch kernels.** cuBLAS, CUTLASS and TensorRT-LLM choose among many kernels by rules of their own, not
  always well: a few tiles, of which the best or the one of the rows is taken, cannot follow every choice. Most of the
  90th percentiles of products on A100, of products in 8 bits and of expert layers are of this kind.
- **Shapes without use.** The GEMM tables cover n and k from 32 to 65,536 in all pairs. A third of their rows have a
  dimension below 512 and are mostly launch (6 to 9 us); in 8 bits the largest errors are where k is 51,200 or more
  beside a large m and n, whose operands overflow the cache.
- **Two runs of one thing.** H100's bf16 products were measured under two engines that call the same library: the two
  differ by 6 % at the 90th percentile, which no form can predict.
- **Weights in the cache.** Back to back, weights below 8 MB stay in the last-level cache and beat HBM by up to two
  times. In a model they do not, so prices keep to HBM and those rows read as too slow.
- **Decode attention of TensorRT-LLM** has kernels with and without packed query heads and with and without split keys,
  and chooses by rules that its tables do not tell; rows that beat HBM (pages shared by sequences) are left out, as are
  more than 32 query heads a KV head.
- **Prompts of 64 to 512 tokens on A100 and L40S**, calls of 30 to 300 us, have 90th percentiles of 25 to 40 %: two
  kernels of unlike tiles seem to alternate there.
- **Kernels of a few microseconds** in vidur's tables (activation, rope) were read from a clock that ticks once a
  microsecond.
- **Small tables** (A800 prompts of unlike lengths, expert layers with fewer than 250 rows, MI210) leave few groups.
- **PyTorch kernels timed call by call** (A100 and MI210 norm and softmax) hold 10 to 50 us of host time that the fit
  takes off as one constant.

"""


def kernel_table(done: Sequence[Fitted]) -> str:
    lines = [
        "| device | kernel | source | points | left out | constants | median | p90 | bias |",
        "|---|---|---|---:|---|---:|---:|---:|---:|",
    ]
    for f in sorted(done, key=lambda f: (f.target.device, f.target.section, f.target.key)):
        t, r = f.target, f.record
        held = t.rows.held
        lines.append(
            f"| {t.device} | {t.section}.{t.key} | {t.data} | {r['points']:,} | {held} | {len(t.free)} "
            f"| {r['median']:.1%} | {r['p90']:.1%} | {f.bias:+.1%} |"
        )
    return "\n".join(lines)


def collective_table(each: Sequence[Judged]) -> str:
    lines = [
        "| data | device | kind | rows | median | p90 | bias | left out | median | p90 |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for j in each:
        error = np.abs(j.ratio - 1)
        held = f"{j.out.sum()} | {_errors(error[j.out])}" if j.data.fit else "not fitted | | "
        lines.append(
            f"| {j.data.name} | {j.data.device} | {j.kind} | {len(error)} | {_errors(error)} "
            f"| {np.median(j.ratio) - 1:+.1%} | {held} |"
        )
    return "\n".join(lines)


def _errors(error: np.ndarray) -> str:
    return f"{np.median(error):.1%} | {np.quantile(error, 0.9):.1%}" if len(error) else " | "


COLLECTIVES = """
## Collectives

The aim is a median of 8 %. Left out are blocks of sizes (a factor of four) of a kind and a number of ranks, a fifth of
them; *not fitted* sets are shown for what they are: L40S with 4 and 8 GPUs comes from a bad PCIe host, the A100 sets
between nodes from a fabric of 6 to 8 GB/s, TensorRT-LLM's own all-reduce starts in 3 us where vLLM's and SGLang's,
which are fitted, take 5.

"""


def page(done: Sequence[Fitted], each: Sequence[Judged], images: Sequence[str]) -> str:
    plots = "\n\n".join(f"![Predicted over measured by size: {name}](images/calibration/{name}.png)" for name in images)
    said = (
        "\n\n## Residuals by size\n\nPredicted over measured seconds of rows left out, by measured seconds. Tables "
        f"of up to {SHOWN:,} rows are drawn point by point; of longer ones the 10th, 50th and 90th percentile by size."
        "\n\n"
    )
    return (
        HEAD
        + kernel_table(done)
        + "\n"
        + WHY.rstrip()
        + "\n"
        + COLLECTIVES
        + collective_table(each)
        + said
        + plots
        + "\n"
    )


def draw(name: str, panels: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> None:
    """One picture of (title, measured seconds, predicted over measured) panels."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(3.1 * columns, 2.3 * rows), squeeze=False, sharey=True)
    for axis, (title, seconds, ratio) in zip(axes.flat, panels, strict=False):
        if len(seconds) <= SHOWN:
            axis.plot(seconds, ratio, ".", markersize=2, alpha=0.5, color="tab:blue")
        else:
            edges = np.unique(np.quantile(seconds, np.linspace(0, 1, 25)))
            at = np.clip(np.searchsorted(edges, seconds, side="right") - 1, 0, len(edges) - 2)
            parts = [at == i for i in range(len(edges) - 1) if (at == i).any()]
            middle = [np.median(seconds[part]) for part in parts]
            low, mid, high = ([np.quantile(ratio[part], q) for part in parts] for q in (0.1, 0.5, 0.9))
            axis.fill_between(middle, low, high, alpha=0.3, color="tab:blue", linewidth=0)
            axis.plot(middle, mid, color="tab:blue", linewidth=1)
        axis.axhline(1.0, color="black", linewidth=0.5)
        axis.set(xscale="log", ylim=(0.4, 1.8))
        axis.set_title(title, fontsize=8)
        axis.tick_params(labelsize=7)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    figure.supxlabel("measured seconds", fontsize=8)
    figure.supylabel("predicted / measured", fontsize=8)
    figure.tight_layout()
    IMAGES.mkdir(parents=True, exist_ok=True)
    figure.savefig(IMAGES / f"{name}.png", dpi=75)
    pyplot.close(figure)


def write_page(done: Sequence[Fitted], each: Sequence[Judged]) -> None:
    pictures: dict[str, list[tuple[str, np.ndarray, np.ndarray]]] = {}
    for f in done:
        pictures.setdefault(f.target.device, []).append((f"{f.target.section}.{f.target.key}", f.measured, f.ratio))
    for j in each:
        if j.data.fit:
            pictures.setdefault("collectives-" + j.data.device, []).append(
                (f"{j.data.name} {j.kind}", j.measured, j.ratio)
            )
    for name, panels in pictures.items():
        draw(name, panels)
    (DOCS / "calibration.md").write_text(page(done, each, list(pictures)), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("WINDTUNNEL_DATA"), help="folder of the tables")
    parser.add_argument("--only", default="", help="start of a kernel family's or a device's name, or collectives")
    parser.add_argument("--write", action="store_true", help="write the constants, and after a whole run the page")
    args = parser.parse_args()
    if args.data is None or not Path(args.data).is_dir():
        print("measurement tables: not available (--data DIR or WINDTUNNEL_DATA)")
        return
    data = Path(args.data)
    done: list[Fitted] = []
    each: list[Judged] = []
    if not (args.only and "collectives".startswith(args.only)):
        done = fit_kernels.fit_all(data, args.only, keep=args.write)
    if "collectives".startswith(args.only):
        _, each = fit_collectives.fit_and_judge(data, keep=args.write)
    if args.write and not args.only:
        write_page(done, each)


if __name__ == "__main__":
    main()
