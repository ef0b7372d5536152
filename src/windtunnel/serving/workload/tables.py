"""A trace's file as columns of text: CSV, JSON lines and Parquet, plain or compressed with gzip or zstd.

What kind of file it is, its first bytes say. A CSV file is read line by line (a row never spans two), so that a bad
line costs one row and is known by its number.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from windtunnel.errors import ScenarioError
from windtunnel.scenario.text import shown
from windtunnel.serving.workload.requests import Ints

if TYPE_CHECKING:
    import polars as pl

PARQUET = b"PAR1"
SEPARATORS = (",", "\t", ";")


@dataclass(frozen=True, slots=True, eq=False)
class LeftOut:
    """Rows that are not used, and why. ``lines``: their numbers in the file, from 1."""

    why: str
    lines: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """``columns``: text, null where nothing is given. ``lines`` [rows]: where each row stands in the file.

    ``left_out``: rows that are not there at all. ``row``: what ``lines`` count ("line", or "row" of a Parquet file).
    """

    columns: pl.DataFrame
    lines: Ints
    left_out: tuple[LeftOut, ...]
    row: str = "line"


def read_table(path: Path) -> Table:
    """The file at ``path``.

    Raises:
        ScenarioError: it is missing, no file, empty, damaged, or neither of the three kinds.
    """
    data = _bytes(path)
    try:
        if data.startswith(PARQUET):
            return _parquet(data)
        lines = _text_lines(data)
        first = lines.drop_nulls().head(1).to_list()
        if not first or not first[0].strip():
            raise ScenarioError(f"trace {shown(str(path))} is empty")
        return _json_lines(lines) if first[0].lstrip().startswith("{") else _csv(lines)
    except ScenarioError:
        raise
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # polars' panics are no Exceptions
        said = " ".join(str(error).split())[:120]
        raise ScenarioError(
            f"trace {shown(str(path))} cannot be read as CSV, JSON lines or Parquet, plain or gz or zst: {said}"
        ) from None


def _bytes(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise ScenarioError(f"trace {shown(str(path))} is a folder; a CSV, JSON lines or Parquet file is needed")
        if not path.exists():
            raise ScenarioError(f"trace {shown(str(path))} does not exist")
        if not path.is_file():
            raise ScenarioError(f"trace {shown(str(path))} is not a plain file")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, ScenarioError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise ScenarioError(f"trace {shown(str(path))} cannot be read: {reason}") from None


def _text_lines(data: bytes) -> pl.Series:
    """[lines] text, null for an empty one; polars undoes the compression."""
    import polars as pl

    try:
        frame = pl.read_csv(
            data,
            has_header=False,
            new_columns=["line"],
            separator="\x00",  # stands in no text: each line is one field
            quote_char=None,
            encoding="utf8-lossy",
            infer_schema=False,
            truncate_ragged_lines=True,
        )
    except pl.exceptions.NoDataError:
        return pl.Series([], dtype=pl.String)
    return frame["line"]


def _csv(lines: pl.Series) -> Table:
    import polars as pl

    frame = lines.to_frame().with_row_index("number", offset=1)
    frame = frame.filter(pl.col("line").str.strip_chars().str.len_bytes() > 0)
    head = str(frame["line"][0]).lstrip("\ufeff")
    separator = max(SEPARATORS, key=head.count)
    names = _header(head, separator)
    frame = frame.slice(1)
    field = f'(?:"[^"{separator}]*"|[^"{separator}]*)'  # with no separator in it, and so where quotes mean nothing
    simple = frame["line"].str.contains(f"^{field}(?:{separator}{field})*$")
    plain, rest = frame.filter(simple).with_columns(pl.col("line").str.replace_all('"', "")), frame.filter(~simple)
    fields = plain["line"].str.split(separator)
    ragged = fields.list.len() != len(names)
    whole = plain.filter(~ragged)
    columns = whole["line"].str.split_exact(separator, len(names) - 1).struct.unnest()
    columns.columns = names
    numbers, bad = whole["number"], [plain.filter(ragged)["number"]]
    if len(rest):
        rows = [next(csv.reader([line], delimiter=separator), []) for line in rest["line"]]
        fits = np.array([len(row) == len(names) for row in rows], dtype=bool)
        more = pl.DataFrame(
            [row for row, fit in zip(rows, fits, strict=True) if fit],
            schema=dict.fromkeys(names, pl.String),
            orient="row",
        )
        order = pl.concat([numbers, rest["number"].filter(pl.Series(fits))])
        columns = pl.concat([columns, more]).with_columns(order.alias("")).sort("").drop("")
        numbers = order.sort()
        bad.append(rest["number"].filter(pl.Series(~fits)))
    why = f"not the {len(names)} fields of the header"
    return Table(_trimmed(columns), _ints(numbers), _left_out(why, np.sort(_ints(pl.concat(bad)))))


def _header(line: str, separator: str) -> list[str]:
    """Names of columns, each once: a second one of the same name is not reachable."""
    names: list[str] = []
    for name in next(csv.reader([line], delimiter=separator)):
        name = name.strip()
        while name in names or not name:
            name += "_"
        names.append(name)
    return names


def _trimmed(columns: pl.DataFrame) -> pl.DataFrame:
    """Without blanks around fields; nothing at all is null."""
    import polars as pl

    stripped = pl.all().str.strip_chars()
    return columns.select(pl.when(stripped.str.len_bytes() > 0).then(stripped))


def _json_lines(lines: pl.Series) -> Table:
    """One object a line. Numbers and texts are values; true, objects and so on are not; a list is its items."""
    import polars as pl

    objects: list[dict[str, Any]] = []
    numbers: list[int] = []
    broken: list[int] = []
    names: dict[str, None] = {}
    for number, line in enumerate(lines, start=1):
        if line is None or not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict):
            objects.append(found)
            numbers.append(number)
            names.update(dict.fromkeys(found))
        else:
            broken.append(number)
    columns = pl.DataFrame({name: pl.Series([_value(x.get(name)) for x in objects], dtype=pl.String) for name in names})
    why = "not a JSON object"
    return Table(_trimmed(columns), np.array(numbers, dtype=np.int64), _left_out(why, broken))


def _value(found: Any) -> str | None:
    if isinstance(found, str):
        return found.encode("utf-8", "replace").decode()  # JSON can escape half a character
    if isinstance(found, bool) or found is None:
        return None if found is None else "true or false"
    if isinstance(found, int | float):
        return repr(found)
    if isinstance(found, list):
        return " ".join(filter(None, (_value(x) for x in found if not isinstance(x, list))))
    return "an object"


def _parquet(data: bytes) -> Table:
    import polars as pl

    frame = pl.read_parquet(data)
    columns: list[pl.Expr] = []
    for name, kind in frame.schema.items():
        if isinstance(kind, pl.List):
            columns.append(pl.col(name).cast(pl.List(pl.String)).list.join(" "))
        elif kind.is_numeric() or kind.is_temporal() or kind == pl.String or isinstance(kind, pl.Categorical):
            columns.append(pl.col(name).cast(pl.String))
    lines = np.arange(1, len(frame) + 1, dtype=np.int64)
    return Table(_trimmed(frame.select(columns)), lines, (), "row")


def _ints(numbers: pl.Series) -> Ints:
    return numbers.to_numpy().astype(np.int64)


def _left_out(why: str, lines: Iterable[int] | Sequence[int]) -> tuple[LeftOut, ...]:
    found = np.asarray(lines, dtype=np.int64)
    return (LeftOut(why, found),) if len(found) else ()
