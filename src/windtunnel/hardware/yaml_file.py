"""Reading YAML that a user wrote: plain data only, bounded in size and depth, every fault as one clear line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from windtunnel.errors import ScenarioError

MAX_BYTES = 262_144
"""Largest file read. A cluster or a scenario takes a few kilobytes; this keeps a wrong path from filling memory."""

MAX_DEPTH = 20
"""Deepest nesting accepted; the deepest legitimate file has about six levels."""

# The C loader is ten times faster and part of nearly every PyYAML build. Both build plain data only.
SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_user_yaml(path: str | Path) -> Any:
    """The data of a user's YAML file. Raises :class:`ScenarioError` if it is missing, too large, deep or malformed.

    Anchors and aliases are refused: a few lines of them can stand for gigabytes of data.
    """
    shown = _short(str(path))
    try:
        file = Path(path)
        if not file.is_file():
            raise ScenarioError(f"no file {shown!r}")
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, ScenarioError):
            raise
        raise ScenarioError(f"cannot read {shown!r}: {_first_line(error)}") from None
    if len(data) > MAX_BYTES:
        raise ScenarioError(f"{shown!r} is larger than the {MAX_BYTES:,} bytes accepted")
    try:
        text = data.decode("utf-8")
        _check_shape(text, shown)
        return yaml.load(text, Loader=SafeLoader)
    except ScenarioError:
        raise
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, TypeError) as error:
        # ValueError: an impossible date, an integer of thousands of digits, bytes that are not UTF-8.
        raise ScenarioError(f"{shown!r} is not valid YAML: {_first_line(error)}") from None


def _check_shape(text: str, shown: str) -> None:
    """Walk the events, which costs no memory, before anything is built."""
    depth = 0
    for event in yaml.parse(text, Loader=SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ScenarioError(f"{shown!r} uses a YAML alias (*{event.anchor}), which is not accepted")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise ScenarioError(f"{shown!r} is nested deeper than the {MAX_DEPTH} levels accepted")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _short(text: str) -> str:
    return text if len(text) <= 120 else text[:117] + "..."


def _first_line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error) or type(error).__name__
    line = _short(str(problem).splitlines()[0])
    return f"{line} (line {mark.line + 1})" if mark is not None else line
