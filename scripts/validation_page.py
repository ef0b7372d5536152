"""Writes docs/validation.md, docs/validation-rows.md and their pictures: every measured run beside its prediction.

    python scripts/validation_page.py --data DIR [--out docs]

DIR holds the measurements that are not shipped. Needs matplotlib (the extra ``plot``).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
from PIL import Image

from windtunnel.report.words import metric_name
from windtunnel.validation import validate
from windtunnel.validation.residual import Residual
from windtunnel.validation.scores import WORST, Score, by_metric, constant_mfu, fits, scores
from windtunnel.validation.validate import SetResult

matplotlib.use("Agg")
from matplotlib import pyplot as plt

KINDS = {"train": "Training", "serve": "Serving", "kernel": "Kernels", "collective": "Collectives"}
INTRODUCTION = """\
# Validation

Every measured run that is at hand, predicted through the ordinary commands, and how far off the predictions are. All
rows are shown, good and bad. `windtunnel validate` prints the same figures; the tables of published runs are part of
the package, so it works everywhere, and `windtunnel validate NAME --json` gives each worst row with the command line
that repeats it. Kernels, collectives and request logs are not shipped: they need the folder of measurements (`--data`).

**How to read it.** An error is |predicted / measured - 1|. *Bias* is the mean of predicted / measured - 1. *Covered* is
the share of measurements inside the 80 % interval that the prediction carries, and *width* the median of its upper over
its lower end. For both, the interval is taken from runs of other models and sources only: a group (a model in a source)
is never judged by itself. For a kernel a group is a model, a weight's shape, heads of attention or a size, as its
source tells them apart, and the interval is that of the same family's other groups on the same device.

**What is not held out.** Kernel and collective constants are fitted to kernel measurements. Constants of the engines
(host time, overlap, buffers) are fitted to the runs on this page, a few for each engine, over all its rows: see
[how they were fitted](engines.md). So the errors of an engine's own sets are those of a fit with few parameters, not of
a forecast; the intervals, by groups left out, are the fairer figure.
"""


def percent(value: float | None, sign: bool = False) -> str:
    if value is None:
        return ""
    return f"{100 * value:+.1f} %" if sign else f"{100 * value:.1f} %"


def summary(results: Sequence[SetResult]) -> Iterator[str]:
    yield "| set | metric | rows | models and sources | median | p90 | bias | covered | width | constant MFU |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for s in results:
        flat = constant_mfu(s.answers.residuals)
        for metric, found in scores(s.answers).items():
            simple = f"{percent(flat[0])} / {percent(flat[1])}" if flat and metric == "step_time_s" else ""
            yield (
                f"| [{s.dataset.name}](#{s.dataset.name}) | {metric_name(metric)} | {found.rows:,} | {found.groups} | "
                f"{percent(found.median_ape)} | {percent(found.p90_ape)} | {percent(found.bias, sign=True)} | "
                f"{percent(found.coverage)} | {'' if found.width is None else f'x {found.width:.2f}'} | {simple} |"
            )


def medians(results: Sequence[SetResult]) -> Iterator[str]:
    """The median over sets of their medians, metric by metric."""
    by_name: dict[str, list[Score]] = {}
    for s in results:
        for metric, found in scores(s.answers).items():
            by_name.setdefault(metric.removesuffix("_per_gpu"), []).append(found)
    for metric, found in by_name.items():
        if len(found) > 1:
            middle = [sorted(getattr(f, name) for f in found)[len(found) // 2] for name in ("median_ape", "p90_ape")]
            yield (
                f"- {metric_name(metric)}: median of {len(found)} sets' medians {percent(middle[0])}, of their 90th "
                f"percentiles {percent(middle[1])}"
            )


def memory(results: Sequence[SetResult]) -> Iterator[str]:
    yield "| set | ran | said not to fit | did not fit | said to fit |"
    yield "|---|---:|---:|---:|---:|"
    for s in results:
        found = fits(s.answers.verdicts)
        if found is not None:
            counts = (found.ran, len(found.false_no), found.failed, len(found.false_yes))
            yield f"| {s.dataset.name} | {' | '.join(map(str, counts))} |"


COLUMNS = 5
"""Panels beside each other."""
MANY = 1000
"""Points of a panel from which they are drawn small and faint."""


def picture(s: SetResult, folder: Path) -> str:
    """A panel for each metric, measured against predicted, all points, with lines at 0 and ±20 %."""
    panels = by_metric(s.answers.residuals)
    columns = min(len(panels), COLUMNS)
    lines = -(-len(panels) // columns)
    size = 3.4 if lines == 1 else 2.3
    figure, axes = plt.subplots(
        lines, columns, figsize=(size * columns, size * lines), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (metric, found) in zip(axes.flat, panels.items(), strict=False):
        devices = sorted({str(r.kind["device"]) for r in found})
        marker = {"s": 9 if lines == 1 else 4, "alpha": 0.5}
        if len(found) >= MANY:
            marker = {"s": 3, "alpha": 0.3, "linewidths": 0}
        for i, device in enumerate(devices):
            of = [r for r in found if r.kind["device"] == device]
            axis.scatter(
                [r.measured for r in of], [r.predicted for r in of], color=f"C{i % 10}", label=device, **marker
            )
        ends = [f(v for r in found for v in (r.measured, r.predicted)) for f in (min, max)]
        for factor, style in ((1.0, "-"), (0.8, ":"), (1.2, ":")):
            axis.plot(ends, [factor * e for e in ends], color="gray", linestyle=style, linewidth=0.8)
        axis.set(xscale="log", yscale="log")
        axis.set_title(metric_name(metric), fontsize=10 if lines == 1 else 6)
        if lines > 1:
            axis.tick_params(labelsize=5)
        if lines == 1 or len(devices) > 1:
            axis.legend(fontsize=6)
    figure.suptitle(s.dataset.name, fontsize=9)
    figure.supxlabel("measured", fontsize=8)
    figure.supylabel("predicted", fontsize=8)
    path = folder / f"{s.dataset.name}.png"
    figure.savefig(path, dpi=100 if lines == 1 else 80, metadata={"Software": None})
    plt.close(figure)
    if lines > 1:  # 32 colours show as much, in a third of the bytes
        Image.open(path).convert("RGB").quantize(32, dither=Image.Dither.NONE).save(path, optimize=True)
    return path.name


def section(s: SetResult, image: str) -> Iterator[str]:
    yield f"## {s.dataset.name}"
    yield ""
    yield f"{s.dataset.title}. Source: {s.dataset.source}."
    if s.dataset.note:
        yield ""
        yield s.dataset.note
    yield ""
    yield f"![{s.dataset.name}, measured against predicted](images/validation/{image})"
    yield ""
    yield "| worst rows | metric | measured | predicted | error | known reason |"
    yield "|---|---|---:|---:|---:|---|"
    by_name = scores(s.answers)
    shown = WORST if len(by_name) <= COLUMNS else 1
    for metric, found in by_name.items():
        for r in found.worst[:shown]:
            yield f"| {r.label} | {metric_name(metric)} | {figures(r)} | {r.remark} |"
    if s.answers.refused:
        yield ""
        yield f"Without an answer: {len(s.answers.refused)} rows, such as {s.answers.refused[0].label}: "
        yield f"{s.answers.refused[0].why}."
    yield ""


def figures(r: Residual) -> str:
    return f"{r.measured:.4g} | {r.predicted:.4g} | {percent(r.error, sign=True)}"


def rows(results: Sequence[SetResult]) -> Iterator[str]:
    yield "# All rows"
    yield ""
    yield "Measured and predicted, in SI units; see [the summary](validation.md) for what the sets are. Kernels and"
    yield "collectives, which are not shipped, are left out: `windtunnel validate NAME --json` has the worst of them."
    for s in results:
        if s.dataset.reader:
            continue
        yield ""
        yield f"## {s.dataset.name}"
        yield ""
        yield "| run | metric | measured | predicted | error |"
        yield "|---|---|---:|---:|---:|"
        for r in s.answers.residuals:
            yield f"| {r.label} | {metric_name(r.metric)} | {figures(r)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    given = parser.parse_args()
    images = given.out / "images" / "validation"
    images.mkdir(parents=True, exist_ok=True)
    asked = validate(data=given.data).sets
    results = [s for s in asked if s.answers.residuals]
    page = [INTRODUCTION]
    for kind, title in KINDS.items():
        of = [s for s in results if s.dataset.kind == kind]
        if of:
            page += [f"**{title}**", "", *summary(of), "", *medians(of), ""]
    page += ["**Memory verdicts** on runs that ran and plans that did not fit", "", *memory(asked), ""]
    for s in results:
        page += section(s, picture(s, images))
    page.append("Written by `scripts/validation_page.py`.\n")
    (given.out / "validation.md").write_text("\n".join(page))
    (given.out / "validation-rows.md").write_text("\n".join(rows(results)) + "\n")


if __name__ == "__main__":
    main()
