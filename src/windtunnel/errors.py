"""The two errors that a user can meet, and how names are suggested."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class ScenarioError(ValueError):
    """The request is wrong (exit code 2): one line that names the offending value and what would be accepted."""


class Infeasible(Exception):
    """The request is right but cannot be met (exit code 3). ``result`` holds the full answer."""

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


def unknown(kind: str, name: object, accepted: Iterable[str]) -> ScenarioError:
    """An error for an unknown name, with the close ones first and otherwise all of them."""
    names = sorted(accepted)
    text = str(name)
    shown = text if len(text) <= 80 else text[:77] + "..."
    close = get_close_matches(text.lower(), names, n=3, cutoff=0.6)
    if close:
        return ScenarioError(f"unknown {kind} {shown!r}; did you mean {', '.join(close)}?")
    return ScenarioError(f"unknown {kind} {shown!r}; known: {', '.join(names)}")
