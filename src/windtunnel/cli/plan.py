"""``plan train`` and ``plan serve``: one search with the files asked for."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windtunnel.cli import DONE, INFEASIBLE, INTERRUPTED
from windtunnel.errors import ScenarioError
from windtunnel.scenario.files import check_folder, save_scenario, write_file

if TYPE_CHECKING:
    from windtunnel.cli.answer import Wanted
    from windtunnel.scenario.plan_options import PlanServeOptions, PlanTrainOptions
    from windtunnel.scenario.plans import PlanResult

    PlanOptions = PlanTrainOptions | PlanServeOptions

LINE_WIDTH = 4000
"""Columns of a line that is to be copied: none is broken."""


def answer_plan(name: str, options: Any, wanted: Wanted) -> int:
    """Search, write the files asked for, and print; 3 if no plan is feasible, 130 if it was interrupted.

    Raises:
        ScenarioError: the request is wrong, or a file cannot be written.
    """
    _check(options, wanted)
    try:
        result = _search(name, options)
    except KeyboardInterrupt:
        if options.store is None:
            raise
        print("windtunnel: interrupted: the same command resumes from its store", file=sys.stderr)
        return INTERRUPTED
    if wanted.save_scenario:
        save_scenario(options, name, wanted.save_scenario)
    _write_files(result, options, wanted)
    if wanted.json:
        from windtunnel.cli.output import print_json

        fields = result.to_dict()
        if options.export is not None:
            fields["export"] = {"tool": options.export, "files": dict(result.exported)}
        print_json(fields, result.warnings)
    else:
        _print(result, options, wanted)
    return DONE if result.feasible else INFEASIBLE


def _search(name: str, options: PlanOptions) -> PlanResult:
    from windtunnel import planning
    from windtunnel.cli.progress import telling

    search: Callable[..., PlanResult] = getattr(planning, name.replace("-", "_"))
    with telling("planning") as progress:
        return search(options, progress=progress)


def _check(options: PlanOptions, wanted: Wanted) -> None:
    """What would be found out only when the search is done."""
    for path in filter(None, (wanted.plot, wanted.save_scenario)):
        check_folder(path)
    if wanted.plot:
        from windtunnel.report.figure import check_plot

        check_plot(wanted.plot)
    if wanted.export_to is None:
        return
    if options.export is None:
        raise ScenarioError("--export-to says where the files of --export go; add --export TOOL")
    folder = Path(wanted.export_to)
    try:
        if folder.is_dir() or (not folder.exists() and folder.parent.is_dir()):
            return
        reason = os.strerror(errno.ENOTDIR if folder.exists() else errno.ENOENT)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    raise ScenarioError(f"cannot write into {wanted.export_to!r}: {reason}")


def _write_files(result: PlanResult, options: PlanOptions, wanted: Wanted) -> None:
    """The picture and the exported files; what is not written, since no plan is feasible, is told instead."""
    if not result.feasible:
        for flag in (f for f, asked in (("plot", wanted.plot), ("export", options.export)) if asked):
            print(f"--{flag}: nothing was written, since no plan is feasible", file=sys.stderr)
        return
    if wanted.plot:
        from windtunnel.report.plot_plan import plot_plans

        plot_plans(result, wanted.plot, options)
    if wanted.export_to is not None:
        folder = Path(wanted.export_to)
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise ScenarioError(f"cannot write into {wanted.export_to!r}: {error.strerror}") from None
        for name, text in result.exported.items():
            write_file(folder / name, text)


def _print(result: PlanResult, options: PlanOptions, wanted: Wanted) -> None:
    from rich.text import Text

    from windtunnel.cli.output import print_report
    from windtunnel.report.plan import render_findings, render_headline, render_runnable, reproduce

    print_report(render_headline(result, options))
    print_report(reproduce(result.best[0] if result.best else result.nearest), width=LINE_WIDTH)
    print_report(render_runnable(result))
    print_report(reproduce(result.runnable), width=LINE_WIDTH)
    print_report(render_findings(result, options))
    if wanted.export_to is not None:
        for name in result.exported:
            print(f"wrote {Path(wanted.export_to) / name}", file=sys.stderr)
    else:
        for name, text in result.exported.items():
            print_report("", Text(f"{options.export}: {name}", style="bold"), "")
            print(text.rstrip("\n"))  # as it is, tabs and all
