"""What a tool accepts, and what a launch script says."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent / "schemas"


@cache
def schema(tool: str) -> Mapping[str, Any]:
    """A tool's schema."""
    return json.loads((FOLDER / f"{tool}.json").read_text(encoding="utf-8"))


def refusal(entry: Mapping[str, Any], value: Any) -> str:
    """Why an option does not take a value: text of a command line, or a value of a configuration file; else ""."""
    kind = entry["type"]
    if "choices" in entry and str(value) not in entry["choices"]:
        return f"{value!r} is none of {entry['choices']}"
    text = isinstance(value, str)
    fits = {
        "int": bool(re.fullmatch(r"-?[0-9]+", value)) if text else type(value) is int,
        "float": bool(re.fullmatch(r"-?[0-9.]+(e-?[0-9]+)?", value)) if text else type(value) in (int, float),
        "bool": type(value) is bool,
        "dict": isinstance(value, dict),
        "json": text and isinstance(json.loads(value), dict) if kind == "json" else False,
        "str": text,
        "list": text or isinstance(value, list),
        "any": True,
    }[kind]
    return "" if fits else f"{value!r} is no {kind}"


@dataclass(frozen=True)
class Command:
    """``program``: the words before its options; ``options``: None where one stands alone; ``rest``: other words."""

    program: tuple[str, ...]
    options: Mapping[str, str | None]
    rest: tuple[str, ...]


def commands(text: str, start: str) -> list[Command]:
    """The commands of a script in which the word ``start`` stands: options behind it, the words up to it before."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removesuffix("&"), comments=True)
        if start in words:
            at = words.index(start) + 1
            found.append(_command(tuple(words[:at]), words[at:]))
    return found


def _command(program: tuple[str, ...], words: list[str]) -> Command:
    options: dict[str, str | None] = {}
    rest = []
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            rest.append(word)
            continue
        assert word not in options, f"{word} is written twice"
        alone = not words or words[0].startswith("--") or words[0].startswith(("$@", "activation-checkpoint:"))
        options[word] = None if alone else words.pop(0)
    return Command(program, options, tuple(rest))


class Checks:
    """What a test asks of the schemas."""

    schema = staticmethod(schema)
    commands = staticmethod(commands)
    refusal = staticmethod(refusal)

    def options(self, tool: str, options: Mapping[str, str | None]) -> None:
        """Every option is one of the tool's, with a value that it takes."""
        accepted = schema(tool)["accepted"]
        for name, value in options.items():
            assert name in accepted, f"{tool} has no {name}"
            entry = accepted[name]
            assert (value is None) == (entry["type"] == "flag"), (name, value, entry)
            if value is not None and "$" not in value:
                assert not refusal(entry, value), f"{tool} {name}: {refusal(entry, value)}"
                if entry["type"] == "list":
                    ast.parse(value, mode="eval")

    def fields(self, tool: str, fields: Mapping[str, Any], before: str = "") -> None:
        """Every field of a configuration file is one of the tool's, with a value that it takes."""
        accepted = schema(tool)["accepted"]
        for name, value in fields.items():
            where = f"{before}{name}"
            assert where in accepted, f"{tool} has no {where}"
            assert not refusal(accepted[where], value), f"{tool} {where}: {refusal(accepted[where], value)}"
            if isinstance(value, dict) and where != "optimizer.params":
                self.fields(tool, value, f"{where}.")


@pytest.fixture(scope="session")
def checks() -> Checks:
    """The schemas, and how to ask them."""
    return Checks()
