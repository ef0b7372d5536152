"""Evaluated points as columns: what the evaluation of one chunk of a search gives, and how texts are held."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Text:
    """A column of texts, coded: row i's is ``names[codes[i]]``, and there is none where the code is -1.

    A code of one byte costs a fraction of a Python string to send between processes and to keep.
    """

    codes: Array
    """Whole numbers in [-1, len(names)); int8 is the smallest."""

    names: tuple[str, ...]
    """Each once."""

    def __len__(self) -> int:
        return len(self.codes)

    def values(self) -> Array:
        """The texts, as an array of objects; None where there is none."""
        return np.array([*self.names, None], dtype=object)[self.codes]

    @staticmethod
    def of(values: Array) -> Text:
        """Code an array of str (or of objects that are str or None)."""
        texts = values.tolist()
        names = sorted({text for text in texts if text is not None})
        code: dict[str | None, int] = {None: -1} | {name: i for i, name in enumerate(names)}
        width = np.min_scalar_type(-max(len(names), 1))
        return Text(np.fromiter((code[text] for text in texts), width, len(texts)), tuple(names))


KEPT = ("float64", "float32", "int64", "int32", "int16", "int8", "bool")
"""Types of the columns that are no text."""

Column = Array | Text
Table = dict[str, Column]
"""Columns of one length, by name: floats, whole numbers, booleans, texts."""


@dataclass(frozen=True, eq=False)
class Found:
    """What a chunk gave. Whether it was just evaluated or comes from a store cannot be told from it."""

    key: str
    table: Table
    summary: dict[str, Any]


def found(key: str, table: Mapping[str, Column], summary: Mapping[str, Any]) -> Found:
    """A chunk's result in the form in which it is kept: texts coded, the summary as JSON gives it back.

    Raises:
        ValueError: columns of unequal length, of a kind that is not kept, or badly named; text codes without a name.
        TypeError: a summary that JSON cannot hold.
    """
    columns = {name: _column(name, column) for name, column in table.items()}
    if len({len(column) for column in columns.values()}) > 1:
        raise ValueError(f"columns of unequal length: { {name: len(column) for name, column in columns.items()} }")
    return Found(key, columns, json.loads(json.dumps(dict(summary))))


def _column(name: str, column: Column) -> Column:
    if not name.isidentifier() or name.lower() in ("question", "chunk"):
        raise ValueError(f"{name!r} cannot name a column of points")
    if isinstance(column, Text):
        codes = column.codes
        if codes.ndim != 1 or codes.dtype.kind != "i" or len(set(column.names)) < len(column.names):
            raise ValueError(f"column {name!r}: codes are signed whole numbers, and each name is given once")
        if len(codes) and not -1 <= codes.min() <= codes.max() < len(column.names):
            raise ValueError(f"column {name!r}: a code has no name")
        return column
    if column.ndim == 1 and column.dtype.kind in "UO":
        return Text.of(column)
    if column.ndim != 1 or column.dtype.name not in KEPT:
        raise ValueError(f"column {name!r} is {column.ndim}-dimensional {column.dtype}; kept: {', '.join(KEPT)}, text")
    return column
