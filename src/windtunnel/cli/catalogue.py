"""``models``, ``hardware`` and ``techniques``: what the catalogue holds, with sources."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import typer

from windtunnel.cli.fields import Command, command, parameter
from windtunnel.errors import ScenarioError


def models_command() -> Command:
    return command(_models, "The models that can be named, or one of them with its counts and source.", _parameters(
        "a catalogue name, or the path of a config.json or of its folder"
    ))  # fmt: skip


def hardware_command() -> Command:
    return command(_hardware, "The machines that can be named, or one of them with every figure's source.", _parameters(
        "an accelerator, node or network of the catalogue, such as h100-sxm"
    ))  # fmt: skip


def techniques_command() -> Command:
    about = "The published techniques that --with switches on, or one of them with its parameters and their sources."
    return command(_techniques, about, _parameters("a technique, such as zero"))


def _parameters(name: str) -> list[Any]:
    return [
        parameter("name", str | None, typer.Argument(metavar="[NAME]", help=name)),
        parameter("json", bool, typer.Option("--json", help="print one JSON object"), False),
    ]


def _models(values: Mapping[str, Any]) -> int:
    from windtunnel.cli.output import print_json, print_report
    from windtunnel.models import catalogue_names, describe, load_network
    from windtunnel.report.catalogue import render_model, render_models

    if values["name"] is not None:
        found = describe(load_network(values["name"]))
        if values["json"]:
            print_json(found)
        else:
            print_report(render_model(found))
        return 0
    every = [describe(load_network(name)) for name in catalogue_names()]
    if values["json"]:
        print_json({"models": every})
    else:
        print_report(render_models(every))
    return 0


def _techniques(values: Mapping[str, Any]) -> int:
    from windtunnel.cli.output import print_json, print_report
    from windtunnel.report.techniques import render_technique, render_techniques
    from windtunnel.scenario.registry import describe, technique_names

    if values["name"] is not None:
        found = describe(values["name"])
        if values["json"]:
            print_json(found)
        else:
            print_report(render_technique(found))
        return 0
    every = []
    for name in technique_names():
        try:
            every.append(describe(name))
        except ScenarioError as error:  # another package's
            print(f"warning: {error}", file=sys.stderr)
    if values["json"]:
        print_json({"techniques": every})
    else:
        print_report(render_techniques(every))
    return 0


def _hardware(values: Mapping[str, Any]) -> int:
    from windtunnel.cli.output import print_json, print_report
    from windtunnel.hardware import accelerator_names, describe, fabric_names, node_names
    from windtunnel.report.catalogue import render_hardware, render_machine

    if values["name"] is not None:
        found = _described(values["name"])
        if values["json"]:
            print_json(found)
        else:
            print_report(render_machine(found))
        return 0
    every = {
        "accelerators": [_described(name) for name in accelerator_names()],
        "nodes": [describe(name) for name in node_names()],
        "fabrics": [describe(name) for name in fabric_names()],
    }
    if values["json"]:
        print_json(every)
    else:
        print_report(render_hardware(every))
    return 0


def _described(name: str) -> dict[str, Any]:
    """A machine with ``calibrated``: which kernel families were fitted on this very device."""
    from windtunnel.cost import load_calibration
    from windtunnel.hardware import describe, load_accelerator

    found = describe(name)
    if found["kind"] == "accelerator":
        found["calibrated"] = dict(load_calibration(load_accelerator(found["name"])).calibrated)
    return found
