"""``validate``: the error against every measured data set."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import typer

from windtunnel.cli.fields import Command, command, parameter


def validate_command() -> Command:
    def option(name: str, kind: Any, metavar: str | None, about: str, default: Any = None) -> Any:
        return parameter(name, kind, typer.Option("--" + name, metavar=metavar, help=about), default)

    names = "data sets, or kinds of them: kernel, collective, train, serve (all by default)"
    data = "folder of the measurements that are not shipped (default: the environment's WINDTUNNEL_DATA)"
    return command(
        _validate,
        "Predict every measured run that is at hand with the ordinary commands, and show the errors.",
        [
            parameter("names", list[str] | None, typer.Argument(metavar="[DATASET]...", help=names)),
            option("data", str | None, "DIR", data),
            option("workers", int | None, "N", "processes (default: one a processor)"),
            option("json", bool, None, "print one JSON object", False),
        ],
    )


def _validate(values: Mapping[str, Any]) -> int:
    from windtunnel.cli.output import print_json, print_report
    from windtunnel.errors import ScenarioError
    from windtunnel.report.validation import render_validation
    from windtunnel.validation import validate

    if values["workers"] is not None and values["workers"] < 1:
        raise ScenarioError(f"workers={values['workers']}: it should be at least 1")
    found = validate(*(values["names"] or ()), data=values["data"], workers=values["workers"], told=_teller()).to_dict()
    if values["json"]:
        print_json(found)
    else:
        print_report(render_validation(found))
    return 0


def _teller() -> Any:
    """Progress on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        return None

    def told(name: str, done: int, rows: int) -> None:
        end = "\n" if done == rows else ""
        print(f"\r{name}: {done:,} of {rows:,}", end=end, file=sys.stderr, flush=True)

    return told
