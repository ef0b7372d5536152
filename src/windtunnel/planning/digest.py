"""A short text that stands for data: the same in every process, another for anything that differs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any


def digest(value: Any) -> str:
    """Of dataclasses, mappings, sets, sequences and plain values, nested."""
    return hashlib.sha256(repr(_plain(value)).encode()).hexdigest()[:32]


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return type(value).__name__, [(f.name, _plain(getattr(value, f.name))) for f in fields(value)]
    if isinstance(value, Mapping):
        return sorted((repr(_plain(k)), _plain(v)) for k, v in value.items())
    if isinstance(value, set | frozenset):
        return sorted(repr(_plain(v)) for v in value)
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
