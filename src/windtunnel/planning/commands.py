"""A plan as the line that repeats it on a command line."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from windtunnel.scenario.options import WORDS


def command_line(command: str, options: Mapping[str, Any]) -> str:
    """``windtunnel COMMAND MODEL --on …`` of options as Python has them; None is left out."""
    words = ["windtunnel", *command.split(), str(options["model"]), "--on", str(options["on"])]
    for key, value in options.items():
        name = WORDS.get(key, key)
        flag = "--" + name.replace("_", "-")
        if name in ("model", "on") or value is None:
            continue
        if isinstance(value, Mapping):
            words += [part for figure, own in value.items() for part in (flag, f"{figure}={_text(own)}")]
        elif isinstance(value, list | tuple):
            words += [part for own in value for part in (flag, own)]
        elif isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        else:
            words += [flag, _text(value)]
    return shlex.join(words)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        whole = value.is_integer() and abs(value) <= 1e15
        return f"{value:.0f}" if whole else repr(value)
    return str(value)
