"""``study list`` and ``study run``: papers' claims, published against predicted."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import typer

from windtunnel.cli.fields import Command, command, parameter
from windtunnel.errors import ScenarioError


def study_list_command() -> Command:
    return command(_list, "The studies that can be run, with their papers and claims.", [_json()])


def study_run_command() -> Command:
    picture = "draw published against predicted; of one study, where its technique helps and where it stops"
    return command(
        _run,
        "Run studies: each one's claim in its paper's setup, published against predicted.",
        [
            parameter("names", list[str] | None, typer.Argument(metavar="[NAME]...", help="studies, as listed")),
            parameter("all", bool, typer.Option("--all", help="run every study"), False),
            parameter("workers", int | None, typer.Option("--workers", metavar="N", help="processes (default: all)")),
            parameter("plot", str | None, typer.Option("--plot", metavar="FILE", help=picture)),
            _json(),
        ],
    )


def _json() -> Any:
    return parameter("json", bool, typer.Option("--json", help="print one JSON object"), False)


def _list(values: Mapping[str, Any]) -> int:
    from windtunnel.cli.output import print_json, print_report
    from windtunnel.report.studies import render_list
    from windtunnel.studies import load_study, study_names
    from windtunnel.studies.study import listed

    found = [listed(load_study(name)) for name in study_names()]
    if values["json"]:
        print_json({"studies": found})
    else:
        print_report(render_list(found))
    return 0


def _run(values: Mapping[str, Any]) -> int:
    from windtunnel.cli.output import print_json, print_report
    from windtunnel.report.studies import render_studies
    from windtunnel.studies import run_studies, study_names

    names = values["names"] or []
    if values["all"] == bool(names):
        raise ScenarioError("study run takes names of studies, or --all; windtunnel study list shows them")
    names = list(study_names()) if values["all"] else names
    _check(values["plot"], names)
    found = run_studies(names, workers=values["workers"], told=_teller())
    if values["plot"]:
        _draw(found["studies"], values["plot"])
    if values["json"]:
        print_json(found)
    else:
        print_report(render_studies(found, details=len(names) == 1))
    return 0


def _check(path: str | None, names: list[str]) -> None:
    """What is wrong with a picture, before anything is computed."""
    if path is None:
        return
    from windtunnel.report.figure import check_plot
    from windtunnel.scenario.files import check_folder
    from windtunnel.studies import load_study

    check_plot(path)
    check_folder(path)
    if len(names) == 1 and load_study(names[0]).sweep is None:
        raise ScenarioError(f"--plot: the study {names[0]} has no sweep to draw")


def _draw(rows: list[Mapping[str, Any]], path: str) -> None:
    from windtunnel.report.plot_studies import plot_studies, plot_sweep
    from windtunnel.studies import load_study
    from windtunnel.studies.study import swept

    if len(rows) > 1:
        plot_studies(rows, path)
    else:
        plot_sweep(swept(load_study(rows[0]["name"])), path)


def _teller() -> Any:
    """Progress on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        return None

    def told(name: str, done: int, whole: int) -> None:
        print(f"\r{done} of {whole}: {name:30}", end="\n" if done == whole else "", file=sys.stderr, flush=True)

    return told
