"""Published traces by name: from the folder of data sets where there is one, else as statistics that ship with the
package.

``scripts/workload_stats.py`` makes the statistics. The folder is named by the environment variable
``WINDTUNNEL_DATA``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from windtunnel.errors import unknown
from windtunnel.hardware.yaml_file import SafeLoader
from windtunnel.serving.workload.requests import Floats

LENGTH_SCORES: Floats = np.linspace(-4, 4, 201)
"""Where the quantiles of lengths are kept: at these values of a standard normal variable, so close in both tails."""

PREFIX_SCORES: Floats = np.linspace(-3, 3, 41)
"""The same for what prompts share."""


@dataclass(frozen=True, slots=True, eq=False)
class Prefixes:
    """What the prompts of a trace have in common with earlier ones, in blocks.

    ``common``: leading blocks of every prompt. ``share`` [41]: quantiles of the fraction of the blocks after them that
    an earlier request had, too; ``rank_correlation``: of that fraction with the prompt's length. ``distance`` [41]:
    quantiles of how many requests ago the last of them was used, over requests that have any. ``hit_rate``: of all
    blocks, those that an unbounded prefix cache would have held.
    """

    block_tokens: int
    common: int
    share: Floats
    rank_correlation: float
    distance: Floats
    hit_rate: float


@dataclass(frozen=True, slots=True, eq=False)
class Rhythm:
    """When requests come: ``rate`` a second on average, its course ``profile`` [windows of ``window_s``] (in any unit),
    the coefficient of variation of the gaps under it, and the grid that times stand on (0: none)."""

    rate: float
    window_s: float
    profile: Floats
    cv: float
    tick_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """A published trace in figures.

    ``input``, ``output`` [201]: quantiles of tokens at :data:`LENGTH_SCORES`; ``rank_correlation``: Spearman's, of the
    two. ``requests``: rows of the trace; None where only figures of it are public. ``rhythm``: None where the data have
    no times; ``prefixes``: None where nothing is known of what prompts share. ``file``: in the folder of data sets.
    """

    name: str
    source: str
    licence: str
    requests: int | None
    input: Floats
    output: Floats
    input_mean: float
    output_mean: float
    rank_correlation: float
    rhythm: Rhythm | None
    prefixes: Prefixes | None
    file: str | None


@lru_cache
def names() -> tuple[str, ...]:
    """Names of all published traces that can be asked for."""
    found = files(__package__).joinpath("data").iterdir()
    return tuple(sorted(x.name.removesuffix(".yaml") for x in found if x.name.endswith(".yaml")))


@lru_cache
def statistics(name: str) -> Statistics:
    """The figures of a published trace.

    Raises:
        ScenarioError: an unknown name, with close ones.
    """
    if name not in names():
        raise unknown("trace", name, names())
    text = files(__package__).joinpath("data", f"{name}.yaml").read_text(encoding="utf-8")
    data: dict[str, Any] = yaml.load(text, SafeLoader)
    rhythm, prefixes = data.get("rhythm"), data.get("prefixes")
    return Statistics(
        name=name,
        source=data["source"],
        licence=data["licence"],
        requests=data.get("requests"),
        input=np.array(data["input"]["quantiles"], dtype=float),
        output=np.array(data["output"]["quantiles"], dtype=float),
        input_mean=data["input"]["mean"],
        output_mean=data["output"]["mean"],
        rank_correlation=data["rank_correlation"],
        rhythm=None if rhythm is None else Rhythm(**{**rhythm, "profile": np.array(rhythm["profile"], dtype=float)}),
        prefixes=None
        if prefixes is None
        else Prefixes(**{**prefixes, "share": np.array(prefixes["share"]), "distance": np.array(prefixes["distance"])}),
        file=data.get("file"),
    )


def data_file(found: Statistics) -> Path | None:
    """The trace itself, where the folder of data sets has it."""
    folder = os.environ.get("WINDTUNNEL_DATA")
    if not folder or found.file is None:
        return None
    path = Path(folder) / found.file
    return path if path.is_file() else None
