"""``explain``: what a step is made of, operator by operator, and how far that is from a profiler's trace."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import typer

from windtunnel.cli.fields import Command, command, option_parameters, options_given, parameter
from windtunnel.errors import ScenarioError, unknown
from windtunnel.scenario.files import COMMANDS, read_scenario
from windtunnel.scenario.options import Options, read_options

EXPLAINED = ("train", "infer")
PHASES = ("prefill", "decode")
_OUTPUT = "Output"


def explain_command() -> Command:
    what = "train or infer, with MODEL and that command's options; or a scenario file that asks for one of them"
    first = parameter("what", str | None, typer.Argument(metavar="train|infer|FILE", help=what, show_default=False))
    fields: dict[str, inspect.Parameter] = {}
    for name in EXPLAINED:
        for p in option_parameters(COMMANDS[name]):
            fields.setdefault(p.name, p)

    def text(name: str, metavar: str, about: str, kind: Any = str | None) -> inspect.Parameter:
        return parameter(name, kind, typer.Option(f"--{name}", metavar=metavar, help=about, rich_help_panel=_OUTPUT))

    outputs = [
        text("against", "TRACE.json", "compare with a trace of torch.profiler (.json or .json.gz), one rank's"),
        text("steps", "N", "how many steps the trace holds, where it has no ProfilerStep spans", int | None),
        text("phase", "|".join(PHASES), "which iterations of infer the trace holds"),
        parameter("json", bool, typer.Option("--json", help="print one JSON object", rich_help_panel=_OUTPUT), False),
    ]
    about = (
        "Operator by operator, what a predicted step is made of; with --against, beside what a PyTorch profiler "
        "measured: by kind of kernel, by shape of matrix product, and the step as a whole."
    )
    return command(_explain, about, [first, *fields.values(), *outputs])


def _explain(values: Mapping[str, Any]) -> int:
    name, options = _asked(values)
    _check(name, values)
    trace = None
    if values["against"] is not None:
        from windtunnel.validation.profile import read_trace

        trace = read_trace(values["against"])  # before the prediction: it is what may be wrong
    from windtunnel.cli.answer import ask

    result: Any = ask(name, options)
    if trace is None:
        _show_tree(result, options, as_json=values["json"])
    else:
        _show_against(name, result, options, trace, values)
    return 0 if result.feasible else 3


def _asked(values: Mapping[str, Any]) -> tuple[str, Options]:
    """(command, options) of what is to be explained."""
    what = values["what"]
    if what is None:
        raise ScenarioError("say what to explain: windtunnel explain train MODEL --on CLUSTER, infer, or a FILE")
    own = {"what", "against", "steps", "phase", "json"}
    given = {k: v for k, v in values.items() if k not in own and v is not None}
    if what in EXPLAINED:
        kind = COMMANDS[what]
        wrong = next((k for k in given if k not in kind.model_fields), None)
        if wrong is not None:
            raise ScenarioError(f"{what} has no option --{wrong.replace('_', '-')}; see: windtunnel {what} --help")
        return what, read_options(kind, options_given(kind, given))
    if given:
        if not what.endswith((".yaml", ".yml")):
            raise unknown("command to explain", what, EXPLAINED)
        named = "MODEL" if "model" in given else f"--{next(iter(given)).replace('_', '-')}"
        raise ScenarioError(f"{what!r} holds the whole request; {named} is not accepted beside a file")
    name, options = read_scenario(what)
    if name not in EXPLAINED:
        raise ScenarioError(f"{what!r} asks for {name}; explain takes {' or '.join(EXPLAINED)}")
    return name, options


def _check(name: str, values: Mapping[str, Any]) -> None:
    for key in ("steps", "phase"):
        if values[key] is not None and values["against"] is None:
            raise ScenarioError(f"--{key} says what a trace holds; add --against TRACE.json")
    if values["steps"] is not None and values["steps"] < 1:
        raise ScenarioError(f"steps={values['steps']}: it should be at least 1")
    phase = values["phase"]
    if phase is not None and phase not in PHASES:
        raise unknown("phase", phase, PHASES)
    if phase is not None and name == "train":
        raise ScenarioError("--phase is for infer; a training step has one trace")
    if phase is None and name == "infer" and values["against"] is not None:
        raise ScenarioError("say with --phase prefill or --phase decode which iterations the trace holds")


def _show_tree(result: Any, options: Options, *, as_json: bool) -> None:
    from windtunnel.cli.answer import explain_width, operators, trees
    from windtunnel.cli.output import print_json, print_report

    if as_json:
        print_json({"operators": operators(result, options), "warnings": result.warnings}, result.warnings)
    else:
        print_report(*trees(result, options), width=explain_width())


def _show_against(name: str, result: Any, options: Options, trace: Any, values: Mapping[str, Any]) -> None:
    from windtunnel.cli.answer import cluster_of
    from windtunnel.cli.output import print_json, print_report
    from windtunnel.report.against import render_against
    from windtunnel.validation.profile import against

    phase = values["phase"]
    tree = result.tree[phase] if phase else result.tree
    plan = result.plan
    world = 1
    for axis in ("tp", "pp", "dp", "cp"):
        world *= int(plan.get(axis, 1))
    found = against(trace, tree, cluster_of(options), steps=values["steps"], world=world)
    found["warnings"] += result.warnings
    if values["json"]:
        print_json(found, found["warnings"])
        return
    what = f"{phase} of {result.model}" if phase else f"training {result.model}"
    print_report(render_against(found, f"{values['against']} beside {what} on {result.on}"))
