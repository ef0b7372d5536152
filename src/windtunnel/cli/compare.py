"""``compare``: two scenario files side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from windtunnel.cli.fields import Command, command, parameter
from windtunnel.errors import ScenarioError


def compare_command() -> Command:
    parameters = [
        parameter(
            "a", str | None, typer.Argument(metavar="A.yaml", help="a scenario file, as --save-scenario writes it")
        ),
        parameter("b", str | None, typer.Argument(metavar="B.yaml", help="another, of the same command")),
        parameter("json", bool, typer.Option("--json", help="print one JSON object"), False),
    ]
    return command(_compare, "Say, operator by operator, why the answers to two scenario files differ.", parameters)


def _compare(values: Mapping[str, Any]) -> int:
    from windtunnel.cli.answer import ask
    from windtunnel.cli.output import print_json, print_report
    from windtunnel.cli.simulate import show_variants
    from windtunnel.report.compare import compare, render_comparison
    from windtunnel.scenario.files import COMMANDS, read_scenario

    paths = [values["a"], values["b"]]
    if None in paths:
        raise ScenarioError("compare needs two scenario files: windtunnel compare A.yaml B.yaml")
    asked = [read_scenario(path) for path in paths]
    name = asked[0][0]
    for path, (what, _) in zip(paths, asked, strict=True):
        if what not in COMMANDS:
            raise ScenarioError(f"{path!r} asks for {what}; compare takes {', '.join(COMMANDS)}")
    if asked[0][0] != asked[1][0]:
        said = " and ".join(f"{path!r} asks for {name}" for path, (name, _) in zip(paths, asked, strict=True))
        raise ScenarioError(f"{said}; two files of one command can be compared")
    answers: list[Any] = [ask(name, options) for _, options in asked]
    a, b = answers
    if name == "simulate":
        return show_variants("file", [(paths[0], a), (paths[1], b)], as_json=values["json"])
    figures = [{f"set.{key}": value for key, value in options.set.items()} for _, options in asked]
    found = compare(a, b, (figures[0], figures[1]))
    if values["json"]:
        fields = found.to_dict()
        print_json(fields, fields["warnings"])
    else:
        print_report(render_comparison(found, (paths[0], paths[1])))
    return 0
