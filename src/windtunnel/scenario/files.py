"""A whole request as one YAML file: ``command`` and that command's options, named as on the command line.

command: train
model: llama-3.1-70b
on: 64xh100-sxm
tp: 8
micro-batch: 1
set: {nic_gbit_per_s: 100}
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, get_args

import yaml

from windtunnel.errors import ScenarioError, unknown
from windtunnel.hardware.yaml_file import read_user_yaml
from windtunnel.scenario.options import InferOptions, Options, TrainOptions, asked_of, read_options
from windtunnel.scenario.plan_options import PlanServeOptions, PlanTrainOptions
from windtunnel.scenario.simulate_options import SimulateOptions

COMMANDS: Mapping[str, type[Options]] = {"train": TrainOptions, "infer": InferOptions, "simulate": SimulateOptions}
"""What predicts one plan."""

PLANS: Mapping[str, type[Options]] = {"plan-train": PlanTrainOptions, "plan-serve": PlanServeOptions}
"""What searches plans."""

SCENARIOS: Mapping[str, type[Options]] = {**COMMANDS, **PLANS}
"""What a file can ask for."""

LARGEST = 10**18
"""No option takes a larger whole number."""


def read_scenario(path: str | Path) -> tuple[str, Options]:
    """The command and the options of a scenario file.

    Raises:
        ScenarioError: a file that cannot be read, is not a mapping, or asks for what does not exist.
    """
    data = read_user_yaml(path)
    shown = _short(str(path))
    if not isinstance(data, dict):
        raise ScenarioError(f"{shown!r} holds {_kind(data)}; a scenario is a mapping with command, model and on")
    # YAML 1.1 reads the bare word `on` as true.
    given = {"on" if key is True else key: value for key, value in data.items()}
    for key, value in given.items():
        if not isinstance(key, str):
            raise ScenarioError(f"{shown!r} has {_kind(key)} where the name of an option is needed")
        _check(shown, key, value)
    command = given.pop("command", None)
    if command is None:
        raise ScenarioError(f"{shown!r} does not say which command to run; accepted: {', '.join(SCENARIOS)}")
    if not isinstance(command, str) or command not in SCENARIOS:
        raise unknown(f"command in {shown!r}:", command, SCENARIOS)
    kind = SCENARIOS[command]
    return command, read_options(kind, {key: _as_text(kind, key, value) for key, value in given.items()})


def save_scenario(options: Options, command: str, path: str | Path) -> None:
    """Write the file that repeats a request: what was asked for, defaults left out. The file appears as a whole.

    Raises:
        ScenarioError: the file cannot be written.
    """
    text = yaml.safe_dump({"command": command, **asked_of(options)}, sort_keys=False, width=10**6)
    write_file(path, text)


def write_file(path: str | Path, content: str | bytes) -> None:
    """Write a file as :func:`write_through` does.

    Raises:
        ScenarioError: the file cannot be written.
    """
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    write_through(path, lambda stream: stream.write(data))


def check_folder(path: str | Path) -> None:
    """Whether there is a folder for a file that is written when much has been computed.

    Raises:
        ScenarioError: there is none.
    """
    try:
        if Path(path).parent.is_dir() and not Path(path).is_dir():
            return
        reason = os.strerror(errno.EISDIR if Path(path).is_dir() else errno.ENOENT)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    raise ScenarioError(f"cannot write {_short(str(path))!r}: {reason}")


def write_through(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Have ``write`` fill a temporary file beside ``path`` that then takes its place, so that no half of it is ever
    seen.

    Raises:
        ScenarioError: the file cannot be written.
    """
    temporary: str | None = None
    try:
        target = Path(path)
        if target.exists() and not target.is_file():  # a device or a pipe is written to, not replaced
            with target.open("wb") as stream:
                write(stream)
            return
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:40]}.")
        with os.fdopen(handle, "wb") as stream:
            write(stream)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, target)
    except (OSError, ValueError) as error:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)
        reason = getattr(error, "strerror", None) or str(error)
        raise ScenarioError(f"cannot write {_short(str(path))!r}: {reason}") from None


def _check(shown: str, key: str, value: Any) -> None:
    """Refuse what no option takes and what could not even be printed in an error."""
    if isinstance(value, Mapping):
        for inner, v in value.items():
            if not (isinstance(inner, str) and inner.isprintable() and len(inner) <= 200):
                raise ScenarioError(f"{shown!r}: {_short(key)!r} has a key that is not a name")
            _check(shown, key, v)
    elif isinstance(value, list):
        for v in value:
            _check(shown, key, v)
    elif isinstance(value, int) and abs(value) > LARGEST:
        raise ScenarioError(f"{shown!r}: {_short(key)!r}: the number is above {LARGEST:.0e}, the largest accepted")


def _as_text(kind: type[Options], key: str, value: Any) -> Any:
    """Numbers where an option is text (``packed-lengths: 512``), as they would come from a command line."""
    field = kind.model_fields.get(key.replace("-", "_"))
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if field is not None and is_number and (field.annotation is str or str in get_args(field.annotation)):
        return str(value)
    return value


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _short(text: str) -> str:
    return text if len(text) <= 120 else text[:117] + "..."
