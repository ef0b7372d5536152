"""Studies as pictures: published against predicted, and where a technique stops helping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from windtunnel.report.figure import Table, check_plot, save_figure
from windtunnel.report.studies import figure

_COLOURS = {"reproduced": "C2", "direction": "C1", "missed": "C3"}

LABEL = 38
"""Letters of a line of an axis's name."""


def _short(value: float) -> str:
    """A figure as a tick has room for: 32000 as 32k."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def plot_studies(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Each study's figure over the published one, with the band that counts as reproduced (of a ratio the band is in
    its logarithm).

    Raises:
        ScenarioError: matplotlib is missing, the suffix is unknown, or the file cannot be written.
    """
    check_plot(path)
    from matplotlib import ticker  # type: ignore[import-not-found,unused-ignore]
    from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]

    drawn = [r for r in rows if r["published"] is not None]
    picture = Figure(figsize=(8.0, 0.8 + 0.34 * max(len(drawn), 1)), layout="constrained")
    axis = picture.subplots()
    for place, row in enumerate(reversed(drawn)):
        published = row["published"]
        low, high = published if isinstance(published, list) else (published, published)
        axis.plot([low, high], [place, place], color="0.6", linewidth=6, solid_capstyle="round")
        axis.plot(low, place, "|", color="0.2", markersize=12)
        axis.plot(high, place, "|", color="0.2", markersize=12)
        axis.plot(row["predicted"], place, "o", color=_COLOURS.get(row["verdict"], "C0"))
    axis.set_yticks(range(len(drawn)), [r["name"] for r in reversed(drawn)])
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 3, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_locator(ticker.NullLocator())
    axis.set_xlabel("published (grey) and predicted (dot: green reproduced, orange direction, red missed)")
    axis.grid(axis="x", alpha=0.3)
    cells = [[r["name"], figure(r["published"]), figure(r["predicted"]), r["verdict"] or ""] for r in rows]
    save_figure(picture, path, Table("Studies", ("study", "published", "predicted", "verdict"), cells))


def plot_sweep(swept: Mapping[str, Any], path: str | Path) -> None:
    """What a technique gains over the variable that decides; at 1 it has stopped helping.

    Raises:
        ScenarioError: matplotlib is missing, the suffix is unknown, or the file cannot be written.
    """
    check_plot(path)
    from matplotlib import ticker  # type: ignore[import-not-found,unused-ignore]
    from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]

    picture = Figure(figsize=(6.4, 3.6), layout="constrained")
    axis = picture.subplots()
    values, gain = swept["values"], swept["gain"]
    axis.axhline(1.0, color="0.4", linewidth=1, linestyle="--")
    axis.plot(values, gain, marker="o")
    if swept["logarithmic"]:
        axis.set_xscale("log")
        axis.xaxis.set_minor_locator(ticker.NullLocator())
    axis.set_xticks(values, [_short(v) for v in values])
    axis.set_xlabel(swept["variable"])
    axis.set_ylabel("\n".join(wrap(swept["metric"], LABEL)))
    axis.set_ylim(0, 1.08 * max(*gain, 1.0))
    axis.set_title(swept["name"], fontsize="medium")
    axis.grid(alpha=0.3)
    cells = [[f"{v:g}", f"{g:.3g}"] for v, g in zip(values, gain, strict=True)]
    save_figure(picture, path, Table(swept["title"], (swept["variable"], swept["metric"]), cells))
