"""Every evaluated point, kept in a DuckDB file as it is found, so that a search which was killed goes on from there.

A file may hold several questions. The tables, which docs/plan-store.md shows to users:

- ``meta``: the format of the file, and the version that wrote it.
- ``questions``: an id, the digest of the question, the command and the question itself as JSON.
- ``chunks``: an id, the question's id, the chunk's key, its rows, its summary and the form of its columns as JSON.
- ``train_points``, ``serve_points``, … (one per command): question id, chunk id and the columns of points.

The points of a chunk and its row in ``chunks`` are committed in one transaction: a chunk is there whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from windtunnel.errors import ScenarioError
from windtunnel.planning.points import Column, Found, Table, Text
from windtunnel.planning.store_file import interrupted, number, one_line, open_file, refusal, utc_now

if TYPE_CHECKING:
    import duckdb


BATCH_ROWS = 500_000
"""Points read at once when a question is resumed."""


@dataclass(frozen=True)
class _Chunk:
    """A row of ``chunks``. ``columns``: the type of each column; of a text, the type of its codes and its names."""

    id: int
    rows: int
    summary: str
    columns: str


class Store:
    """The points of one question, in a file that no other process can open meanwhile. Closed by ``with`` or close."""

    def __init__(self, con: duckdb.DuckDBPyConnection, path: Path, command: str, question: int) -> None:
        self._con = con
        self._path = path
        self._points = f"{command}_points"
        self._question = question
        rows = con.execute(
            "select key, id, rows, summary, columns from chunks where question = ? order by id", [question]
        ).fetchall()
        self._chunks = {key: _Chunk(*rest) for key, *rest in rows}
        self._next = number(con, "select coalesce(max(id), 0) + 1 from chunks")

    @staticmethod
    def open(path: str | Path, command: str, question: Mapping[str, Any]) -> Store:
        """Open a file, or make it, for one question.

        ``question`` is everything that the points depend on, as JSON can hold it; a question that differs in
        anything is another one. A file that is refused has not been altered.

        Raises:
            ScenarioError: no such folder, a file that cannot be written, that another process has open, that is
                damaged, or that this version of windtunnel did not write.
        """
        if not re.fullmatch("[a-z]+", command):
            raise ValueError(f"{command!r} is no name of a command")
        text = json.dumps(question, sort_keys=True, separators=(",", ":"))
        con, target = open_file(path)
        try:
            return Store(con, target, command, _ask(con, command, text))
        except BaseException as error:
            con.close()
            raise _unwritten(target, error) from None

    @property
    def keys(self) -> frozenset[str]:
        """The chunks that are committed."""
        return frozenset(self._chunks)

    def commit(self, chunk: Found) -> None:
        """Keep a chunk. When this returns it is on the disk.

        Raises:
            ScenarioError: it cannot be written (a full disk), or points of other columns are there.
            ValueError: the chunk is there already.
        """
        import duckdb

        if chunk.key in self._chunks:
            raise ValueError(f"chunk {chunk.key!r} is committed already")
        rows = len(next(iter(chunk.table.values()), ()))
        entry = _Chunk(self._next, rows, json.dumps(chunk.summary), json.dumps(_forms(chunk.table)))
        try:
            self._con.execute("begin")
            if rows:
                self._insert(entry.id, chunk.table)
            self._con.execute(
                "insert into chunks values (?, ?, ?, ?, ?, ?, ?)",
                [entry.id, self._question, chunk.key, entry.rows, entry.summary, entry.columns, utc_now()],
            )
            self._con.execute("commit")
        except BaseException as error:
            with suppress(duckdb.Error, RuntimeError):
                self._con.execute("rollback")
            raise _unwritten(self._path, error) from None
        finally:
            self._con.unregister("arrays")  # not sooner: in a transaction that has failed it fails, too
        self._chunks[chunk.key] = entry
        self._next += 1

    def _insert(self, chunk: int, table: Table) -> None:
        types = {name: _sql_type(column) for name, column in table.items()}
        self._con.execute(
            f"create table if not exists {self._points} (question integer, chunk integer, "
            + ", ".join(f'"{name}" {kind}' for name, kind in types.items())
            + ")"
        )
        there = {name: kind for name, kind, *_ in self._con.execute(f"describe {self._points}").fetchall()[2:]}
        if there != types:
            raise ScenarioError(f"{str(self._path)!r} holds points of other columns; give another file")
        values = {name: column.codes if isinstance(column, Text) else column for name, column in table.items()}
        names = {name: list(column.names) for name, column in table.items() if isinstance(column, Text)}
        texts = {name: f'list_extract(${mark}::varchar[], "{name}"::integer + 1)' for mark, name in enumerate(names, 1)}
        select = ", ".join(texts.get(name, f'"{name}"') for name in table)
        columns = ", ".join(f'"{name}"' for name in table)
        self._con.register("arrays", values)
        self._con.execute(
            f"insert into {self._points} (question, chunk, {columns}) "
            f"select {self._question}, {chunk}, {select} from arrays",
            list(names.values()),
        )

    def found(self, keys: Iterable[str], *, points: bool = True) -> Iterator[Found]:
        """The committed chunks of these keys, in the order of their commits, as they were committed; without
        ``points`` their summaries alone."""
        wanted = set(keys)
        if not points:
            yield from (Found(k, {}, json.loads(c.summary)) for k, c in self._chunks.items() if k in wanted)
            return
        batch: dict[str, _Chunk] = {}
        rows = 0
        for key, chunk in self._chunks.items():
            if key not in wanted:
                continue
            if batch and rows + chunk.rows > BATCH_ROWS:
                yield from self._read(batch)
                batch, rows = {}, 0
            batch[key] = chunk
            rows += chunk.rows
        yield from self._read(batch)

    def _read(self, chunks: Mapping[str, _Chunk]) -> Iterator[Found]:
        forms = {key: json.loads(chunk.columns) for key, chunk in chunks.items()}
        names: dict[str, list[str]] = {}  # of all these chunks together
        for form in forms.values():
            for column, kind in form.items():
                if isinstance(kind, list):
                    names[column] = list(dict.fromkeys([*names.get(column, ()), *kind[1]]))
        filled = [key for key, chunk in chunks.items() if chunk.rows]
        held = self._fetch([chunks[key] for key in filled], forms[filled[0]], names) if filled else {}
        start = 0
        for key, chunk in chunks.items():
            part = slice(start, start + chunk.rows)
            start += chunk.rows
            table = {
                column: _column(kind, held[column][part] if chunk.rows else np.zeros(0), names.get(column, []))
                for column, kind in forms[key].items()
            }
            yield Found(key, table, json.loads(chunk.summary))

    def _fetch(
        self, chunks: Sequence[_Chunk], columns: Iterable[str], names: Mapping[str, list[str]]
    ) -> dict[str, Any]:
        """The columns of these chunks one after the other; of a text, the index in its ``names``, -1 for none."""
        ids = [chunk.id for chunk in chunks]
        texts = {
            column: f'coalesce(list_position(${mark}::varchar[], "{column}"), 0) - 1 as "{column}"'
            for mark, column in enumerate((column for column in columns if column in names), 1)
        }
        select = ", ".join(texts.get(column, f'"{column}"') for column in columns)
        try:
            held: dict[str, Any] = self._con.execute(
                f"select chunk, {select} from {self._points} where question = {self._question} "
                f"and chunk between {min(ids)} and {max(ids)} and chunk in ({', '.join(map(str, ids))})",
                [names[column] for column in texts],
            ).fetchnumpy()
        except Exception as error:
            raise refusal(self._path, error) from None
        if not np.array_equal(held["chunk"], np.repeat(ids, [chunk.rows for chunk in chunks])):
            raise ScenarioError(f"{str(self._path)!r} is damaged: points of its chunks are missing; give another file")
        return held

    def close(self) -> None:
        self._con.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _ask(con: duckdb.DuckDBPyConnection, command: str, text: str) -> int:
    """The id of a question, given one if it is new."""
    digest = hashlib.sha256(f"{command}\n{text}".encode()).hexdigest()[:16]
    row = con.execute("select id from questions where digest = ?", [digest]).fetchone()
    if row is not None:
        return int(row[0])
    fresh = number(con, "select coalesce(max(id), 0) + 1 from questions")
    con.execute("insert into questions values (?, ?, ?, ?, ?)", [fresh, digest, command, text, utc_now()])
    return fresh


def _unwritten(path: Path, error: BaseException) -> BaseException:
    """DuckDB's error as a user should meet it; others as they are."""
    import duckdb

    if interrupted(error):
        return KeyboardInterrupt()
    return ScenarioError(f"cannot write {str(path)!r}: {one_line(error)}") if isinstance(error, duckdb.Error) else error


def _forms(table: Table) -> dict[str, Any]:
    return {
        name: [column.codes.dtype.name, column.names] if isinstance(column, Text) else column.dtype.name
        for name, column in table.items()
    }


def _column(form: Any, values: Any, names: list[str]) -> Column:
    """A column as it was committed. DuckDB keeps NaN as null; ``names``: what the codes that were read stand for."""
    if isinstance(form, list):
        width, own = form
        code = {name: i for i, name in enumerate(own)}
        own_code = np.array([*(code.get(name, -1) for name in names), -1], dtype=width)
        return Text(own_code[values.astype(np.int64)], tuple(own))
    if isinstance(values, np.ma.MaskedArray):
        values = values.filled(np.nan)
    return np.asarray(values, dtype=form)


def _sql_type(column: Column) -> str:
    if isinstance(column, Text):
        return "VARCHAR"
    if column.dtype.kind == "i":
        return "BIGINT" if column.dtype.itemsize == 8 else "INTEGER"
    return "DOUBLE" if column.dtype.kind == "f" else "BOOLEAN"
