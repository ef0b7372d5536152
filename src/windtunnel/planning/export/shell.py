"""Shell text: commands whose words are quoted, and how a script is laid out."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

Options = Mapping[str, Any]
"""Name with its dashes to a value; True: the option stands alone; None or False: it is left out."""


HERE = 'HERE=$(cd "$(dirname "$0")" && pwd)'
"""The folder of the script, where its other files lie."""


class Expanded(str):
    """A word whose ``$NAME`` the shell fills in: it stands in double quotes. It must hold nothing else special."""


def word(value: Any) -> str:
    """A value as one word of a command; a mapping as JSON."""
    if isinstance(value, Expanded):
        return f'"{value}"'
    if isinstance(value, Mapping):
        return shlex.quote(json.dumps(value))
    return shlex.quote(str(value))


def command(program: Sequence[Any], options: Options, after: Sequence[Any] = ()) -> str:
    """One command, an option on each line."""
    lines = [" ".join(word(w) for w in program)]
    for name, value in options.items():
        if value is None or value is False:
            continue
        if value is True:
            lines.append(name)
        elif isinstance(value, list | tuple):
            lines.append(" ".join([name, *(word(v) for v in value)]))
        else:
            lines.append(f"{name} {word(value)}")
    lines += [word(w) for w in after]
    return " \\\n  ".join(lines)


def comment(text: str) -> str:
    """Text as comment lines; what cannot be printed is replaced."""
    clean = "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
    return "\n".join(f"# {line}".rstrip() for line in clean.split("\n"))


def script(about: Sequence[str], settings: Sequence[str], body: Sequence[str]) -> str:
    """A bash script: comments, variables, commands."""
    head = ["#!/usr/bin/env bash", *(comment(line) for line in about), "set -euo pipefail"]
    return "\n".join([*head, "", *settings, "", *body]) + "\n"
