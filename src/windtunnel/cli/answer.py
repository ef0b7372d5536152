"""``train``, ``infer``, ``simulate``, ``plan`` and ``run``: one request, one answer (or a sweep of them)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import typer

from windtunnel.cli.fields import PLANNING, Command, command, option_parameters, options_given, parameter
from windtunnel.errors import ScenarioError
from windtunnel.scenario.files import PLANS, SCENARIOS, read_scenario, save_scenario, write_file
from windtunnel.scenario.options import Options, read_options

if TYPE_CHECKING:
    from windtunnel.report.suggest import Result, Suggestion

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
    requests_out: str | None = None
    compare: str | None = None
    export_to: str | None = None


def train_command() -> Command:
    return _asking("train")


def infer_command() -> Command:
    return _asking("infer")


def simulate_command() -> Command:
    return _asking("simulate")


def plan_train_command() -> Command:
    return _asking("plan-train")


def plan_serve_command() -> Command:
    return _asking("plan-serve")


def run_command() -> Command:
    file = parameter(
        "file", str | None, typer.Argument(metavar="FILE", help="YAML with command, model, on and options")
    )
    names = ", ".join(SCENARIOS)
    about = f"Answer a scenario file: YAML with `command` (one of {names}) and that command's options."
    return command(_run_file, about, [file, *_output_parameters(_FOR)])


_ABOUT: Mapping[str, str] = {
    "train": "One training step of MODEL on a cluster: time, memory, energy, cost and what holds it back.",
    "infer": (
        "A batch of prompts that arrives at once at a serving engine: TTFT, TPOT, memory, cost and what holds it back."
    ),
    "simulate": (
        "Requests of MODEL over time on a service: latency percentiles, goodput, cost and what holds it back. "
        "Ctrl-C gives what has been simulated until then (exit code 130)."
    ),
    "plan-train": (
        "The best way to train MODEL on a cluster: every legal layout and memory choice is priced, the best shown with "
        "the command that reproduces it. Exit code 3: no plan is feasible; the nearest is shown."
    ),
    "plan-serve": (
        "The best way to serve a workload of MODEL within latency limits (--slo): layouts, engine settings and "
        "replicas, on one kind of machine or several (--on may be repeated). Exit code 3: no plan is feasible; the "
        "nearest is shown."
    ),
}

_FOR: Mapping[str, tuple[str, ...]] = {
    "explain": ("train", "infer"),
    "timeline": ("train", "simulate"),
    "requests_out": ("simulate",),
    "compare": ("simulate",),
    "sweep": ("train", "infer", "simulate"),
    "export_to": tuple(PLANS),
}
"""The commands that have an output that not all of them have."""


def _asking(name: str) -> Command:
    outputs = _output_parameters([key for key, commands in _FOR.items() if name in commands])
    options = option_parameters(SCENARIOS[name], PLANNING if name in PLANS else {})
    return command(partial(_ask, name), _ABOUT[name], [*options, *outputs])


def _output_parameters(some: Container[str]) -> list[inspect.Parameter]:
    """What can be done with an answer; of the outputs that not all commands have, ``some``."""

    def flag(key: str, about: str) -> inspect.Parameter:
        return parameter(key, bool, typer.Option(f"--{key}", help=about, rich_help_panel=_OUTPUT), False)

    def text(key: str, metavar: str, about: str) -> inspect.Parameter:
        info = typer.Option("--" + key.replace("_", "-"), metavar=metavar, help=about, rich_help_panel=_OUTPUT)
        return parameter(key, str | None, info)

    sweep = "try each value of an option: tp=1,2,4 or set.nic_gbit_per_s=100,400; may be repeated"
    compare = "simulate each value of an option and set them side by side: scheduler=vllm,chunked"
    found = [
        flag("json", "print one JSON object"),
        flag("explain", "print the operator tree, too"),
        text("timeline", "FILE", "write what runs when as a Chrome trace for ui.perfetto.dev"),
        text("requests_out", "FILE", "write the requests as Parquet, a row each"),
        text("compare", "KEY=V1,V2", compare),
        parameter(
            "sweep", list[str] | None, typer.Option("--sweep", metavar="KEY=V1,V2", help=sweep, rich_help_panel=_OUTPUT)
        ),
        text("plot", "FILE", "draw the sweep, the simulation or the plans as .png, .svg, .pdf or .html"),
        text("export_to", "FOLDER", "write the files of --export here instead of printing them"),
        text("save_scenario", "FILE", "write the YAML file that repeats this request"),
    ]
    return [p for p in found if p.name not in _FOR or p.name in some]


def _ask(name: str, values: Mapping[str, Any]) -> int:
    kind = SCENARIOS[name]
    given = options_given(kind, values)
    wanted = _read_wanted(name, values)
    if wanted.sweep or wanted.compare:
        # A swept model or cluster need not be given beside it.
        from windtunnel.cli.sweep import first_values

        given = {**first_values(kind, [*wanted.sweep, *filter(None, [wanted.compare])], given), **given}
    return answer(name, read_options(kind, given), wanted)


def _run_file(values: Mapping[str, Any]) -> int:
    if values["file"] is None:
        raise ScenarioError("FILE is missing; say which scenario file to run")
    name, options = read_scenario(values["file"])
    return answer(name, options, _read_wanted(name, values))


def _read_wanted(name: str, values: Mapping[str, Any]) -> Wanted:
    wanted = Wanted(
        json=values["json"],
        explain=values.get("explain", False),
        timeline=values.get("timeline"),
        sweep=tuple(values.get("sweep") or ()),
        plot=values["plot"],
        save_scenario=values["save_scenario"],
        requests_out=values.get("requests_out"),
        compare=values.get("compare"),
        export_to=values.get("export_to"),
    )
    for key, commands in _FOR.items():
        if getattr(wanted, key) and name not in commands:
            flag = "--" + key.replace("_", "-")
            raise ScenarioError(f"{flag} is for {', '.join(commands)}; {values['file']!r} asks for {name}")
    if wanted.sweep and wanted.compare:
        raise ScenarioError("--compare and --sweep are two ways of trying values; give one of them")
    if (wanted.sweep or wanted.compare) and (
        wanted.explain or wanted.timeline or wanted.save_scenario or wanted.requests_out
    ):
        one = ", ".join("--" + key for key in ("explain", "timeline", "requests-out"))
        raise ScenarioError(f"{one} and --save-scenario are for one answer, not for --sweep or --compare")
    return wanted


def ask(name: str, options: Options) -> Result:
    """The engine's answer; how far a simulation is is told on a terminal.

    Raises:
        ScenarioError: the request is wrong.
    """
    import windtunnel.engine as engine

    function: Callable[..., Result] = getattr(engine, name)
    if name != "simulate":
        return function(options)
    from windtunnel.cli.progress import telling

    with telling() as progress:
        return function(options, progress=progress)


def answer(name: str, options: Options, wanted: Wanted) -> int:
    """Answer, write the files asked for, and print; 3 if it does not fit in memory."""
    if wanted.sweep:
        from windtunnel.cli.sweep import run_sweep

        return run_sweep(name, options, wanted)
    if name in PLANS:
        from windtunnel.cli.plan import answer_plan

        return answer_plan(name, options, wanted)
    if name == "simulate":
        from windtunnel.cli.simulate import answer_simulation

        return answer_simulation(options, wanted)
    if wanted.plot and not getattr(options, "long_context", False):
        more = " or --long-context" if name == "infer" else ""
        raise ScenarioError(f"--plot draws a sweep; add --sweep KEY=V1,V2{more}")
    from windtunnel.cli.output import print_json, print_report

    result: Any = ask(name, options)
    if wanted.plot:
        from windtunnel.report.long_context import plot_long_context

        plot_long_context(result, wanted.plot)
    suggestions = None if result.fits else suggested(name, options, result)
    if wanted.save_scenario:
        save_scenario(options, name, wanted.save_scenario)
    if wanted.timeline:
        write_timeline(result.timeline(), wanted.timeline)
    if wanted.json:
        fields = result.to_dict()
        if suggestions is not None:
            fields["suggestions"] = [s.to_dict() for s in suggestions]
        if wanted.explain:
            fields["operators"] = operators(result, options)
        print_json(fields, result.warnings)
    else:
        from windtunnel.report.text import render

        print_report(render(result, suggestions))
        if wanted.explain:
            print_report("", *trees(result, options), width=explain_width())
    return 0 if result.feasible else 3


def suggested(
    name: str, options: Options, result: Result, short: Mapping[str, Any] = MappingProxyType({})
) -> list[Suggestion]:
    """What would make a plan fit, each tried with the options ``short`` besides."""
    from windtunnel.report.suggest import suggest

    def retry(changes: Mapping[str, Any]) -> Any:
        asked = options.model_dump(exclude_unset=True, exclude_none=True)
        return ask(name, read_options(type(options), {**asked, **short, **changes}))

    return suggest(result, retry)


def write_timeline(trace: Mapping[str, Any], path: str) -> None:
    """Write a Chrome trace.

    Raises:
        ScenarioError: the file cannot be written.
    """
    import json

    from windtunnel.report.plain import plain

    write_file(path, json.dumps(plain(trace), separators=(",", ":"), allow_nan=False))


def _evaluations(result: Any) -> dict[str, Any]:
    """The priced trees by name."""
    return dict(result.tree) if isinstance(result.tree, Mapping) else {"step": result.tree}


def cluster_of(options: Options) -> Any:
    """The cluster that a request names."""
    from windtunnel.hardware import parse_cluster

    return parse_cluster(options.on, dict(options.set))


def operators(result: Any, options: Options) -> Any:
    """The operators of a result as JSON, by phase where it has several."""
    from dataclasses import asdict

    from windtunnel.report.operators import operator_rows

    cluster = cluster_of(options)
    found = {name: [asdict(row) for row in operator_rows(tree, cluster)] for name, tree in _evaluations(result).items()}
    return found["step"] if list(found) == ["step"] else found


def trees(result: Any, options: Options) -> list[str]:
    """The operator trees of a result as text."""
    from windtunnel.report import explain

    cluster = cluster_of(options)
    found = _evaluations(result)
    return [explain(t, cluster, title="" if len(found) == 1 else name) + "\n" for name, t in found.items()]


def explain_width() -> int:
    """Columns of a tree."""
    from windtunnel.report.explanation import WIDTH

    return WIDTH
