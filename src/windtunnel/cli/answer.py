"""``train``, ``infer`` and ``run``: one request, one answer (or a sweep of them)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from windtunnel.cli.fields import Command, command, option_parameters, options_given, parameter
from windtunnel.errors import ScenarioError
from windtunnel.scenario.files import COMMANDS, read_scenario, save_scenario, write_file
from windtunnel.scenario.options import Options, read_options

if TYPE_CHECKING:
    from windtunnel.scenario.results import InferResult, TrainResult

_OUTPUT = "Output"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to do with an answer."""

    json: bool = False
    explain: bool = False
    timeline: str | None = None
    sweep: tuple[str, ...] = ()
    plot: str | None = None
    save_scenario: str | None = None


def train_command() -> Command:
    return command(partial(_ask, "train"), _about("train"), [*option_parameters(COMMANDS["train"]), *_wanted("train")])


def infer_command() -> Command:
    return command(partial(_ask, "infer"), _about("infer"), [*option_parameters(COMMANDS["infer"]), *_wanted("infer")])


def run_command() -> Command:
    file = parameter(
        "file", str | None, typer.Argument(metavar="FILE", help="YAML with command, model, on and options")
    )
    about = "Answer a scenario file: YAML with `command: train` or `infer`, and that command's options."
    return command(_run_file, about, [file, *_wanted("train")])


def _about(name: str) -> str:
    if name == "train":
        return "One training step of MODEL on a cluster: time, memory, energy, cost and what holds it back."
    return (
        "A batch of prompts that arrives at once at a serving engine: TTFT, TPOT, memory, cost and what holds it back."
    )


def _wanted(name: str) -> list[inspect.Parameter]:
    def flag(key: str, about: str) -> inspect.Parameter:
        return parameter(key, bool, typer.Option(f"--{key}", help=about, rich_help_panel=_OUTPUT), False)

    def text(key: str, metavar: str, about: str) -> inspect.Parameter:
        info = typer.Option("--" + key.replace("_", "-"), metavar=metavar, help=about, rich_help_panel=_OUTPUT)
        return parameter(key, str | None, info)

    sweep = "try each value of an option: tp=1,2,4 or set.nic_gbit_per_s=100,400; may be repeated"
    found = [
        flag("json", "print one JSON object"),
        flag("explain", "print the operator tree, too"),
        text("timeline", "FILE", "write the step as a Chrome trace for ui.perfetto.dev") if name == "train" else None,
        parameter(
            "sweep", list[str] | None, typer.Option("--sweep", metavar="KEY=V1,V2", help=sweep, rich_help_panel=_OUTPUT)
        ),
        text("plot", "FILE", "draw the sweep as .png, .svg or .pdf"),
        text("save_scenario", "FILE", "write the YAML file that repeats this request"),
    ]
    return [p for p in found if p is not None]


def _ask(name: str, values: Mapping[str, Any]) -> int:
    kind = COMMANDS[name]
    given = options_given(kind, values)
    wanted = _read_wanted(values)
    if wanted.sweep:
        # A swept model or cluster need not be given beside it.
        from windtunnel.cli.sweep import first_values

        given = {**first_values(kind, wanted.sweep, given), **given}
    return answer(name, read_options(kind, given), wanted)


def _run_file(values: Mapping[str, Any]) -> int:
    if values["file"] is None:
        raise ScenarioError("FILE is missing; say which scenario file to run")
    name, options = read_scenario(values["file"])
    wanted = _read_wanted(values)
    if wanted.timeline and name != "train":
        raise ScenarioError(f"--timeline is for a training step; {values['file']!r} asks for {name}")
    return answer(name, options, wanted)


def _read_wanted(values: Mapping[str, Any]) -> Wanted:
    wanted = Wanted(
        json=values["json"],
        explain=values["explain"],
        timeline=values.get("timeline"),
        sweep=tuple(values["sweep"] or ()),
        plot=values["plot"],
        save_scenario=values["save_scenario"],
    )
    if wanted.plot and not wanted.sweep:
        raise ScenarioError("--plot draws a sweep; add --sweep KEY=V1,V2")
    if wanted.sweep and (wanted.explain or wanted.timeline or wanted.save_scenario):
        raise ScenarioError("--explain, --timeline and --save-scenario are for one answer, not for --sweep")
    return wanted


def ask(name: str, options: Options) -> TrainResult | InferResult:
    """The engine's answer.

    Raises:
        ScenarioError: the request is wrong.
    """
    import windtunnel.engine as engine

    function: Callable[[Options], TrainResult | InferResult] = getattr(engine, name)
    return function(options)


def answer(name: str, options: Options, wanted: Wanted) -> int:
    """Answer, write the files asked for, and print; 3 if it does not fit in memory."""
    if wanted.sweep:
        from windtunnel.cli.sweep import run_sweep

        return run_sweep(name, options, wanted)
    from windtunnel.cli.output import print_json, print_report

    result = ask(name, options)
    suggestions = None
    if not result.fits:
        from windtunnel.report.suggest import suggest

        def retry(changes: Mapping[str, Any]) -> Any:
            asked = options.model_dump(exclude_unset=True, exclude_none=True)
            return ask(name, read_options(type(options), {**asked, **changes}))

        suggestions = suggest(result, retry)
    if wanted.save_scenario:
        save_scenario(options, name, wanted.save_scenario)
    if wanted.timeline:
        _write_timeline(result, wanted.timeline)
    if wanted.json:
        fields = result.to_dict()
        if suggestions is not None:
            fields["suggestions"] = [s.to_dict() for s in suggestions]
        if wanted.explain:
            fields["operators"] = _rows(result, options)
        print_json(fields, result.warnings)
    else:
        from windtunnel.report.text import render

        print_report(render(result, suggestions))
        if wanted.explain:
            print_report("", *_trees(result, options), width=_explain_width())
    return 0 if result.feasible else 3


def _write_timeline(result: Any, path: str) -> None:
    import json

    from windtunnel.report.plain import plain

    write_file(path, json.dumps(plain(result.timeline()), separators=(",", ":"), allow_nan=False))


def _evaluations(result: Any) -> dict[str, Any]:
    """The priced trees by name."""
    return dict(result.tree) if isinstance(result.tree, Mapping) else {"step": result.tree}


def _cluster(options: Options) -> Any:
    from windtunnel.hardware import parse_cluster

    return parse_cluster(options.on, dict(options.set))


def _rows(result: Any, options: Options) -> Any:
    from dataclasses import asdict

    from windtunnel.report.operators import operator_rows

    cluster = _cluster(options)
    found = {name: [asdict(row) for row in operator_rows(tree, cluster)] for name, tree in _evaluations(result).items()}
    return found["step"] if list(found) == ["step"] else found


def _trees(result: Any, options: Options) -> list[str]:
    from windtunnel.report import explain

    cluster = _cluster(options)
    trees = _evaluations(result)
    return [explain(t, cluster, title="" if len(trees) == 1 else name) + "\n" for name, t in trees.items()]


def _explain_width() -> int:
    from windtunnel.report.explanation import WIDTH

    return WIDTH
