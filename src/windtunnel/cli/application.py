"""The commands and their help. Only the module of the command that was asked for is imported."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from windtunnel.errors import ScenarioError

COMMANDS: Mapping[str, tuple[str, str]] = {
    "train": ("answer", "Time, memory, energy and cost of a training step, and what holds it back."),
    "infer": ("answer", "The same for a batch of prompts on a serving engine."),
    "simulate": ("answer", "Requests over time on a service: latencies, goodput, cost and what holds it back."),
    "plan": ("", "Search the best way to train or to serve a model on a cluster."),
    "plan train": ("answer", "The best layout and memory choices of a training step."),
    "plan serve": ("answer", "The best layout, engine settings and replicas for a workload and its latency limits."),
    "run": ("answer", "Answer a scenario file, as --save-scenario writes it."),
    "explain": (
        "explain",
        "What a step is made of, operator by operator; --against sets a profiler's trace beside it.",
    ),
    "compare": ("compare", "Say, operator by operator, why two scenario files differ."),
    "calibrate": ("calibrate", "Fit constants to measured kernels, or measure this machine and fit them."),
    "validate": ("validate", "The errors against every measured run that is at hand."),
    "techniques": ("catalogue", "The published techniques that --with switches on, or one of them."),
    "study": ("", "Papers' claims, published against predicted."),
    "study list": ("study", "The studies that can be run."),
    "study run": ("study", "Run some studies, or all of them, and compare with what was published."),
    "models": ("catalogue", "The models that can be named, or one of them."),
    "hardware": ("catalogue", "The accelerators, nodes and networks that can be named, or one of them."),
}
"""Name to module of ``windtunnel.cli`` (whose attribute of the command's name makes it) and one line of help. A name of
two words is a command of the group that the first names."""

GROUPS = frozenset(name.partition(" ")[0] for name in COMMANDS if " " in name)

ABOUT = "Predicts the time, memory, energy and cost of training and serving large AI models, and what holds them back."


def run(arguments: list[str]) -> int:
    """Run the command line ``arguments`` and return the exit code.

    Raises:
        ScenarioError: anything wrong with the request, the usage included.
    """
    wanted = _wanted(arguments)
    everything = any(name.endswith("_COMPLETE") for name in os.environ if name.startswith("_WINDTUNNEL"))
    app = application(frozenset(COMMANDS) if everything else frozenset({wanted}))
    try:
        asked = app(arguments or ["--help"], prog_name="windtunnel", standalone_mode=False)
    except Exception as error:
        # Usage errors come from typer's own copy of click, or from click itself before typer 0.20 or so.
        say = getattr(error, "format_message", None)
        if say is None:
            raise
        raise ScenarioError(_usage(say(), wanted)) from None
    except SystemExit:  # typer ends so when nobody reads its help any more (`| head`)
        return 0
    return asked() if callable(asked) else 0


def _wanted(arguments: list[str]) -> str | None:
    """The command that is asked for: "train", "plan train", or None."""
    words = [a for a in arguments if not a.startswith("-")][:2]
    both = " ".join(words)
    return both if both in COMMANDS else words[0] if words else None


def application(loaded: frozenset[str | None] = frozenset(COMMANDS)) -> typer.Typer:
    """The whole command line; the commands that are not ``loaded`` have their line of help only."""
    help_names = {"help_option_names": ["-h", "--help"]}
    app = typer.Typer(help=ABOUT, pretty_exceptions_enable=False, context_settings=help_names)
    app.callback(invoke_without_command=True)(_top)
    groups = {}
    for name, (module, line) in COMMANDS.items():
        first, _, second = name.partition(" ")
        if name in GROUPS:
            groups[name] = typer.Typer(help=line, context_settings=help_names)
            app.command(name, short_help=line)(_stub)  # keeps its place in the list; the group replaces it
            app.add_typer(groups[name], name=name, short_help=line)
            continue
        function = _stub
        if name in loaded:
            made = importlib.import_module(f"windtunnel.cli.{module}")
            function = getattr(made, f"{name.replace(' ', '_')}_command")()
        where = groups[first] if second else app
        where.command(second or name, short_help=line, help=None if name in loaded else line)(function)
    return app


def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        import windtunnel

        typer.echo(f"windtunnel {windtunnel.__version__}")


def _stub() -> None:
    """Stands for a command that was not asked for."""


def _usage(message: str, command: Any) -> str:
    """A usage error as one line that says where to look."""
    line = " ".join(message.split()).replace("?.", "?")
    known = command if command in COMMANDS else ""
    end = "" if line.endswith((".", "?")) else "."
    return f"{line}{end} See: windtunnel {known + ' ' if known else ''}--help"
