"""``calibrate``: fit constants to measurements, from a file or made here."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer

from windtunnel.cli.fields import Command, command, option_parameters, options_given, parameter
from windtunnel.errors import ScenarioError
from windtunnel.scenario.files import COMMANDS

if TYPE_CHECKING:
    from windtunnel.calibration.measure import Measured
    from windtunnel.calibration.result import Fitted

ABOUT = (
    "Fit constants to measurements and write a file for --calibration: from a table of kernels or a log of your own "
    "(--from), or from kernels timed on this machine (--measure), which then predicts a small transformer and runs it. "
    "A log needs the options that say what ran, as train and simulate take them: MODEL, --on, --tp, --engine ..."
)

LOGS = ("train", "simulate")
"""The commands whose options say what a log is of."""

USE_WIDTH = 500
"""Columns of lines that are to be copied: none is broken."""


def calibrate_command() -> Command:
    def option(flag: str, metavar: str, about: str) -> Any:
        # `from` is a word of Python's.
        name = "source" if flag == "--from" else flag.strip("-")
        return parameter(name, str | None, typer.Option(flag, metavar=metavar, help=about))

    def switch(flag: str, about: str) -> Any:
        return parameter(flag.strip("-"), bool, typer.Option(flag, help=about), False)

    threads = typer.Option("--threads", metavar="N", min=1, max=4096, help="with --measure on a CPU, PyTorch's threads")
    fields: dict[str, Any] = {}
    for name in LOGS:
        for p in option_parameters(COMMANDS[name]):
            fields.setdefault(p.name, p)
    own = [
        option("--from", "FILE", "measurements: a table of kernels, a serving benchmark's results, a training log ..."),
        option("--on", "DEVICE", "the accelerator that was measured, such as h100-sxm; of a log, the cluster"),
        switch("--measure", "time kernels on this machine with PyTorch (extra torch)"),
        option("--device", "cpu|cuda", "what to measure here; by default cpu"),
        parameter("threads", int | None, threads),
        switch("--quick", "with --measure, fewer shapes: under a minute"),
        option("--out", "FILE", "the calibration file to write"),
        switch("--json", "print one JSON object"),
    ]
    mine = {p.name for p in own}
    return command(_calibrate, ABOUT, [*own, *(p for name, p in fields.items() if name not in mine)])


OWN = ("source", "on", "measure", "device", "threads", "quick", "out", "json")
"""What is not of the scenario of a log."""


def _scenario(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options given that say what a log is of."""
    found: dict[str, Any] = {}
    for name in LOGS:
        found |= options_given(COMMANDS[name], {k: v for k, v in values.items() if k not in OWN})
    return found


def _calibrate(values: Mapping[str, Any]) -> int:
    from windtunnel.scenario.files import check_folder

    if values["measure"] == (values["source"] is not None):
        raise ScenarioError("calibrate takes one of --from FILE and --measure")
    if values["out"]:
        check_folder(values["out"])
    if values["measure"]:
        _alone(values, "--measure")
        return _measure(values)
    for key in ("device", "threads", "quick"):
        if values[key]:
            raise ScenarioError(f"--{key} is for --measure; --from reads what was measured elsewhere")
    return _from_file(values)


def _from_file(values: Mapping[str, Any]) -> int:
    """What kind of file it is decides what is fitted."""
    from windtunnel.calibration.layout import is_kernel_table

    if not is_kernel_table(values["source"]):
        return _from_log(values)
    _alone(values, "a table of kernels")
    return _from_kernels(values)


def _alone(values: Mapping[str, Any], what: str) -> None:
    given = next(iter(_scenario(values)), None)
    if given is not None:
        name = "MODEL" if given == "model" else "--" + given.replace("_", "-")
        raise ScenarioError(f"{name} is for a log of a run; {what} takes --on, --out and --json")


def _from_log(values: Mapping[str, Any]) -> int:
    from windtunnel.calibration.logs import calibrate_from_log
    from windtunnel.cli.output import print_json, print_report
    from windtunnel.report.calibration_log import render_log_calibration

    given = _scenario(values)
    if values["on"]:
        given["on"] = values["on"]
    found = calibrate_from_log(values["source"], given)
    if values["out"]:
        found.write(values["out"])
    shown = {**found.to_dict(), "out": values["out"]}
    if values["json"]:
        print_json(shown, found.warnings)
        return 0
    print_report(render_log_calibration(shown))
    if values["out"]:
        print_report(f"\nUse it with: --engine {found.engine} --calibration {values['out']}", width=USE_WIDTH)
    return 0


def _from_kernels(values: Mapping[str, Any]) -> int:
    from windtunnel.calibration.fit import fit_table
    from windtunnel.calibration.layout import read_table
    from windtunnel.calibration.result import write_calibration
    from windtunnel.cli.output import print_json, print_report
    from windtunnel.hardware import parse_cluster

    if not values["on"]:
        raise ScenarioError("--on is missing; say which accelerator was measured, such as --on h100-sxm")
    on = values["on"]
    cluster = replace(parse_cluster(on), count=1)
    fitted = fit_table(read_table(values["source"], cluster.accelerator.name), cluster, _name(values["source"]))
    if values["out"]:
        write_calibration(fitted, values["out"])
    if values["json"]:
        print_json({**fitted.to_dict(), "out": values["out"]}, fitted.warnings)
    else:
        print_report(*_families(fitted, f"{fitted.device} fitted to {fitted.data}"), *_notes(fitted.warnings))
        if values["out"]:
            print_report(f"\nUse it with: --on {on} --calibration {values['out']}", width=USE_WIDTH)
    return 0


def _measure(values: Mapping[str, Any]) -> int:
    from windtunnel.calibration.measure import cluster_path, measure
    from windtunnel.calibration.result import write_calibration
    from windtunnel.cli.output import print_json, print_report
    from windtunnel.scenario.files import write_file

    def tell(line: str) -> None:
        print(line, file=sys.stderr)

    device: Any = values["device"] or "cpu"
    if device == "cpu" and values["on"]:
        raise ScenarioError("--on names a CUDA device that its driver's name does not tell; a CPU is described itself")
    found = measure(device, quick=values["quick"], on=values["on"], threads=values["threads"], tell=tell)
    written: dict[str, str | None] = {"out": values["out"], "cluster_file": None}
    if values["out"]:
        write_calibration(found.fitted, values["out"])
        if found.machine.file is not None:
            path = cluster_path(values["out"])
            write_file(path, found.machine.text())
            written["cluster_file"] = path
    if values["json"]:
        print_json({**found.to_dict(), **written}, found.fitted.warnings)
        return 0
    title = f"{found.machine.description}: {found.kernels} kernels in {found.dtype}, PyTorch {found.torch_version}"
    print_report(*_families(found.fitted, title), *_notes(found.fitted.warnings), *_check(found))
    if values["out"]:
        on = written["cluster_file"] or f"1x{found.machine.on}"
        options = f"--on {on} --calibration {values['out']} --precision {found.dtype}"
        print_report("", "Use it with:", width=USE_WIDTH)
        print_report(f"  infer {options} --engine pytorch-generate", width=USE_WIDTH)
        print_report(f"  train {options} --engine pytorch", width=USE_WIDTH)
    return 0


def _name(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]


def _families(fitted: Fitted, title: str) -> list[Any]:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("family")
    for name in ("points", "held out", "median", "p90", "before"):
        table.add_column(name, justify="right")
    table.add_column("fitted", overflow="fold")
    for f in fitted.families:
        values = ", ".join(f"{name} {_figure(name, value, f.error.get(name))}" for name, value in f.values.items())
        table.add_row(
            f.name, str(f.points), str(f.held_out), f"{f.median:.1%}", f"{f.p90:.1%}", f"{f.median_before:.0%}", values
        )
    lines = [
        table,
        "",
        "median, p90: of |predicted/measured - 1| on the held-out shapes (on all where none were held out);",
        "before: the median with the constants that the device had.",
        "",
    ]
    kept = {f.name: [n for n, why in f.kept.items() if why != "not fitted"] for f in fitted.families}
    lines.append("Kept as they were, since these rows do not tell them:")
    lines += [f"  {name}: {', '.join(names)}" for name, names in kept.items() if names]
    if fitted.left_out:
        lines.append(f"{fitted.left_out} rows of other devices were left out.")
    return lines


def _figure(name: str, value: Any, error: float | None) -> str:
    """A constant with its standard error, seconds in microseconds."""
    if not isinstance(value, int | float):
        return ", ".join("x".join(map(str, pair)) for pair in value)
    scale, unit = (1e6, " us") if name.endswith("_s") else (1.0, "")
    spread = "" if error is None else f" ± {error * scale:.2g}"
    return f"{value * scale:.3g}{spread}{unit}"


def _notes(warnings: Any) -> list[str]:
    return [f"Note: {warning}" for warning in warnings]


def _check(found: Measured) -> list[Any]:
    from rich.table import Table

    from windtunnel.calibration.selfcheck import summary

    table = Table(title="\nA small transformer, predicted and run", title_justify="left", box=None, pad_edge=False)
    table.add_column("phase")
    for name in ("batch", "tokens", "predicted", "measured", "error"):
        table.add_column(name, justify="right")
    for c in found.checked:
        table.add_row(
            c.case.phase, str(c.case.batch), str(c.case.tokens), f"{c.predicted_s * 1e3:.2f} ms",
            f"{c.measured_s * 1e3:.2f} ms", f"{c.error:+.1%}",
        )  # fmt: skip
    s = summary(found.checked)
    by_phase = ", ".join(f"{phase} {error:.1%}" for phase, error in s["median_error_by_phase"].items())
    line = f"median error {s['median_error']:.1%}, p90 {s['p90_error']:.1%} over {s['shapes']} shapes ({by_phase})"
    return [table, "", line]
