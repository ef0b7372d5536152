"""``--sweep``: every combination of the given values; a point that is wrong or does not fit is a row that says so."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

from windtunnel.cli import INTERRUPTED
from windtunnel.cli.fields import as_field, scalar
from windtunnel.errors import ScenarioError, unknown
from windtunnel.scenario.files import check_folder
from windtunnel.scenario.options import WORDS, Options, read_options

if TYPE_CHECKING:
    from windtunnel.cli.answer import Wanted
    from windtunnel.report.table import Point

MOST = 2000
"""Points of one sweep; ``plan`` searches more."""

FEW = 20
"""Points from which on progress is told."""

PREFIX = "set."
"""A swept hardware figure: ``set.nic_gbit_per_s=100,400``."""


def parse_sweeps(kind: type[Options], texts: Iterable[str], flag: str = "--sweep") -> dict[str, list[str]]:
    """``["tp=1,2,4"]`` as {"tp": ["1", "2", "4"]}. Values are separated by commas, or by semicolons if there is one
    (``finetune=full;qlora:r=16,bits=4``); techniques that are on together have a plus sign between them
    (``with=none;galore;galore:rank=256+zero``).

    Raises:
        ScenarioError: a text of another form, an unknown option, or one swept twice.
    """
    found: dict[str, list[str]] = {}
    for text in texts:
        key, equals, rest = text.partition("=")
        key = key.strip().replace("-", "_")
        key = "techniques" if key == WORDS["techniques"] else key
        values = [v.strip() for v in rest.split(";" if ";" in rest else ",")]
        if not equals or not key or not all(values):
            raise ScenarioError(f"{flag} {text!r} is not KEY=V1,V2, such as tp=1,2,4")
        if key.startswith(PREFIX) and len(key) > len(PREFIX):
            pass
        elif key not in kind.model_fields or key == "set":
            raise unknown(
                f"option to {flag.removeprefix('--')}", key, [*(f for f in kind.model_fields if f != "set"), "set.KEY"]
            )
        if key in found:
            raise ScenarioError(f"{flag} {key} is given twice; give all its values at once")
        found[key] = list(dict.fromkeys(values))
    points = prod(len(v) for v in found.values())
    if points > MOST:
        raise ScenarioError(f"{flag} asks for {points:,} points; at most {MOST:,} are accepted")
    return found


def first_values(kind: type[Options], texts: Iterable[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """The first of the swept values of options that are not given otherwise."""
    swept = parse_sweeps(kind, texts)
    return {k: as_field(kind, k, v[0]) for k, v in swept.items() if k in ("model", "on") and k not in given}


def run_sweep(name: str, options: Options, wanted: Wanted) -> int:
    """Compute every point, print the table or the JSON, draw the plot. 0 if any point works, else the first's code."""
    from windtunnel.cli.output import print_json, print_report
    from windtunnel.report.table import render_sweep, sweep_to_dict

    if wanted.plot:
        from windtunnel.report.figure import check_plot

        check_plot(wanted.plot)
        check_folder(wanted.plot)
    swept = parse_sweeps(type(options), wanted.sweep)
    points = list(_points(name, options, swept))
    works = any(p.works for p in points)
    if wanted.plot and works:
        _draw(name, points, wanted.plot)
    if not works and all(p.result is None for p in points):
        # Nothing to show: the request itself is wrong.
        raise ScenarioError(points[0].error or "")
    warnings = dict.fromkeys(w for p in points if p.result is not None for w in p.result.warnings)
    if wanted.json:
        print_json(sweep_to_dict(points), warnings)
    else:
        print_report(render_sweep(points))
        if wanted.plot and not works:
            print("nothing was drawn: no point fits", file=sys.stderr)
    if interrupted(points[-1].result):
        print(f"windtunnel: interrupted: point {len(points)} is partial, those after it are left out", file=sys.stderr)
        return INTERRUPTED
    return 0 if works else points[0].code


def _draw(name: str, points: Sequence[Point], path: str) -> None:
    if name == "simulate":
        from windtunnel.report.plot_simulation import plot_rates

        plot_rates(points, path)
    else:
        from windtunnel.report.plot import plot_sweep

        plot_sweep(points, path)


def interrupted(result: Any) -> bool:
    """Whether a simulation was stopped before its end."""
    return bool(getattr(result, "partial", False))


def _points(name: str, options: Options, swept: Mapping[str, Sequence[str]]) -> Iterator[Point]:
    """Every combination, told as it goes on a terminal."""
    whole = prod(len(values) for values in swept.values())
    told = sys.stderr.isatty() and (whole > FEW or name == "simulate")
    for i, combination in enumerate(product(*swept.values()), start=1):
        found = _point(name, options, dict(zip(swept, combination, strict=True)))
        yield found
        if interrupted(found.result):
            return
        if told:
            print(f"\r{i} of {whole} points", end="\n" if i == whole else "", file=sys.stderr, flush=True)


def _point(name: str, options: Options, values: Mapping[str, str]) -> Point:
    from windtunnel.cli.answer import ask
    from windtunnel.report.table import Point, point

    shown = {k: scalar(v) for k, v in values.items()}
    try:
        asked = with_values(options, values)
        shown = {k: v if k.startswith(PREFIX) else _told(getattr(asked, k)) for k, v in shown.items()}
        return point(shown, ask(name, asked))
    except ScenarioError as error:
        return Point(shown, None, str(error), 2)


def with_values(options: Options, values: Mapping[str, str]) -> Options:
    """The same request with some options (``set.KEY``: a hardware figure) given by their texts.

    Raises:
        ScenarioError: a value that is not accepted.
    """
    kind = type(options)
    given = options.model_dump(exclude_unset=True, exclude_none=True)
    changed: dict[str, Any] = {k: as_field(kind, k, v) for k, v in values.items() if not k.startswith(PREFIX)}
    if "techniques" in changed:
        changed["techniques"] = [t for t in changed["techniques"].split("+") if t != "none"]
    figures = {k.removeprefix(PREFIX): scalar(v) for k, v in values.items() if k.startswith(PREFIX)}
    if figures:
        changed["set"] = {**options.set, **figures}
    return read_options(kind, {**given, **changed})


def _told(value: Any) -> Any:
    """Infinity as the word that asks for it: JSON has no such number; techniques as they are asked for."""
    if isinstance(value, list):
        return "+".join(value) or "none"
    return "inf" if value == math.inf else value
