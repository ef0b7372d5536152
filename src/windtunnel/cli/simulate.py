"""``simulate``: one simulation with the files asked for, or variants of it side by side."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from windtunnel.cli import DONE, INFEASIBLE, INTERRUPTED
from windtunnel.errors import ScenarioError
from windtunnel.scenario.files import check_folder, save_scenario
from windtunnel.scenario.options import Options

if TYPE_CHECKING:
    from windtunnel.cli.answer import Wanted
    from windtunnel.scenario.simulation import SimulateResult

MOST_VARIANTS = 8
"""Columns of a comparison that can be read beside each other."""

SHORT = {"requests": 16}
"""The workload on which it is tried whether a change would make a model fit."""

APART = ("fleet", "prefill", "decode")
"""Options that give engines a layout of their own, which no suggestion changes."""


def answer_simulation(options: Options, wanted: Wanted) -> int:
    """Simulate, write the files asked for, and print; 3 if the model does not fit, 130 with a partial answer if it was
    interrupted.

    Raises:
        ScenarioError: the request is wrong, or a file cannot be written.
    """
    from windtunnel.cli.answer import ask, suggested
    from windtunnel.cli.output import print_json, print_report

    for path in (wanted.plot, wanted.timeline, wanted.requests_out, wanted.save_scenario):
        if path:
            check_folder(path)
    if wanted.plot:
        from windtunnel.report.figure import check_plot

        check_plot(wanted.plot)
    if wanted.compare:
        return _compare(options, wanted)
    result: Any = ask("simulate", options)
    suggestions = None
    if not result.fits and not any(getattr(options, key, None) for key in APART):
        suggestions = suggested("simulate", options, result, SHORT)
    if wanted.save_scenario:
        save_scenario(options, "simulate", wanted.save_scenario)
    _write_files(result, wanted)
    if wanted.json:
        fields = result.to_dict()
        if suggestions is not None:
            fields["suggestions"] = [s.to_dict() for s in suggestions]
        print_json(fields, result.warnings)
    else:
        from windtunnel.report.text import render

        print_report(render(result, suggestions))
        if result.replay is not None:
            from windtunnel.report.side_by_side import render_replay

            print_report(render_replay(result.replay))
    if result.partial:
        return _interrupted()
    return DONE if result.feasible else INFEASIBLE


def _write_files(result: SimulateResult, wanted: Wanted) -> None:
    """The picture, the timeline and the requests; those with nothing in them are told instead."""
    asked = {"plot": wanted.plot, "timeline": wanted.timeline, "requests-out": wanted.requests_out}
    empty = "the model does not fit" if not result.fits else "no request was completed" if not result.completed else ""
    if empty:
        for flag in (flag for flag, path in asked.items() if path):
            print(f"--{flag}: nothing was written, since {empty}", file=sys.stderr)
        return
    if wanted.plot:
        from windtunnel.report.plot_simulation import plot_run

        plot_run(result, wanted.plot)
    if wanted.timeline:
        from windtunnel.cli.answer import write_timeline
        from windtunnel.report.serving_timeline import serving_timeline

        trace = serving_timeline(result.outcome, result.workload)
        write_timeline(trace, wanted.timeline)
        print(f"--timeline shows: {trace['otherData']['shown']}", file=sys.stderr)
    if wanted.requests_out:
        from windtunnel.report.requests_table import write_requests

        write_requests(result.outcome, result.workload, wanted.requests_out)


def _compare(options: Options, wanted: Wanted) -> int:
    """Each value of an option on the same workload and seed."""
    from windtunnel.cli.answer import ask
    from windtunnel.cli.sweep import parse_sweeps, with_values

    assert wanted.compare is not None
    ((key, values),) = parse_sweeps(type(options), [wanted.compare], "--compare").items()
    if len(values) > MOST_VARIANTS:
        raise ScenarioError(
            f"--compare {key} has {len(values)} values; at most {MOST_VARIANTS} are set side by side: use --sweep"
        )
    variants = [with_values(options, {key: value}) for value in values]
    runs: list[tuple[Any, Any]] = []
    for value, asked in zip(values, variants, strict=True):
        try:
            runs.append((value, ask("simulate", asked)))
        except ScenarioError as error:
            raise ScenarioError(f"--compare {key}={value}: {error}") from None
        if runs[-1][1].partial:
            break
    if wanted.plot and any(r.completed for _, r in runs):
        from windtunnel.report.plot_simulation import plot_variants

        plot_variants(key, runs, wanted.plot)
    return show_variants(key, runs, as_json=wanted.json)


def show_variants(key: str, runs: Sequence[tuple[Any, Any]], *, as_json: bool) -> int:
    """Print simulations side by side; 3 if none fits, 130 if the last was interrupted."""
    from windtunnel.cli.output import print_json, print_report
    from windtunnel.report.side_by_side import render_variants, variants_to_dict

    if as_json:
        print_json(variants_to_dict(key, runs), dict.fromkeys(w for _, r in runs for w in r.warnings))
    else:
        print_report(render_variants(key, runs))
    if any(r.partial for _, r in runs):
        return _interrupted()
    return DONE if any(r.feasible for _, r in runs) else INFEASIBLE


def _interrupted() -> int:
    print("windtunnel: interrupted: the answer is partial", file=sys.stderr)
    return INTERRUPTED
