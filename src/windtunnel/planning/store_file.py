"""The DuckDB file of a store: made whole, and looked at before it is touched, so that a refused one stays as it was."""

from __future__ import annotations

import os
import re
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from windtunnel.errors import ScenarioError
from windtunnel.scenario.files import check_folder

if TYPE_CHECKING:
    import duckdb

FORMAT = 1
"""Raised when the tables, or what their columns mean, change. Files of another format are refused."""

ROW_GROUP = 16_384
"""Rows that DuckDB packs together. Chunks of fewer go through its log, and so are written twice; with its own 122,880
most would, and the store would take twice the time."""

_TABLES = """
create table meta (format integer, windtunnel varchar, created timestamp);
create table questions (id integer, digest varchar, command varchar, request varchar, asked timestamp);
create table chunks (id integer, question integer, key varchar, rows bigint, summary varchar, columns varchar,
                     committed timestamp);
"""


def version() -> str:
    """The version of this package, which a store is kept for."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("windtunnel")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"


def open_file(path: str | Path) -> tuple[duckdb.DuckDBPyConnection, Path]:
    """A connection whose current database is the store's file, made if there is none, and the file's own path.

    Raises:
        ScenarioError: as :meth:`windtunnel.planning.store.Store.open` says.
    """
    check_folder(path)
    target = Path(path).resolve()  # of a symbolic link, the file is what is made and locked
    check_folder(target)
    if not target.exists():
        _make(target)
    _check(target)
    return _attach(target), target


def _attach(path: Path, *, read_only: bool = False) -> duckdb.DuckDBPyConnection:
    """A connection whose current database is the file, taken for a DuckDB file whatever its name and content.

    Opening a file for reading alone alters neither it nor the log that a killed process left beside it.
    """
    import duckdb

    # No extension is ever loaded: DuckDB would fetch one for a file of SQLite.
    con = duckdb.connect(config={"autoinstall_known_extensions": False, "autoload_known_extensions": False})
    quoted = str(path).replace("'", "''")
    try:
        how = "read_only" if read_only else f"row_group_size {ROW_GROUP}"
        con.execute(f"attach '{quoted}' as store (type duckdb, {how})")
        con.execute("use store")
    except Exception as error:
        con.close()
        raise refusal(path, error) from None
    return con


def _check(path: Path) -> None:
    """Refuse a file that this version did not write, or that is damaged, without altering it.

    Everything is read: DuckDB keeps a checksum with every block, and looks at it when the block is read.
    """
    shown = str(path)
    if not path.is_file():
        raise ScenarioError(f"{shown!r} is no file")
    if not (os.access(path, os.R_OK | os.W_OK) and os.access(path.parent, os.W_OK)):  # the log lies beside the file
        raise ScenarioError(f"cannot write {shown!r}: Permission denied")
    con = _attach(path, read_only=True)
    try:
        tables = {name for (name,) in con.execute("select table_name from duckdb_tables()").fetchall()}
        if not {"meta", "questions", "chunks"} <= tables or tables - _own(tables):
            raise ScenarioError(f"{shown!r} is a DuckDB file that windtunnel did not write; give another file")
        written = con.execute("select format, windtunnel from meta").fetchall()
        if written != [(FORMAT, version())]:
            which = ", ".join(f"{name} (format {number})" for number, name in written)
            raise ScenarioError(
                f"{shown!r} was written by windtunnel {which or 'unknown'}; this is {version()} "
                f"(format {FORMAT}): give another file, or go on with that version"
            )
        for name in sorted(_own(tables)):
            con.execute(f"select {', '.join(_sums(con, name))} from {name}").fetchall()
        for name in sorted(_own(tables) - {"meta", "questions", "chunks"}):
            lost = number(
                con,
                f"select count(*) from (select chunk, count(*) as n from {name} group by chunk) as points "
                "full join (select chunks.id, rows from chunks join questions on questions.id = chunks.question "
                f"where command || '_points' = '{name}' and rows > 0) as kept on points.chunk = kept.id "
                "where n is distinct from rows",
            )
            if lost:
                raise ScenarioError(f"{shown!r} is damaged: {lost} chunks do not have all their points")
    except ScenarioError:
        raise
    except Exception as error:  # a damaged file can raise whatever DuckDB's reader comes upon
        raise refusal(path, error) from None
    finally:
        con.close()


def _own(tables: set[str]) -> set[str]:
    return {name for name in tables if name in ("meta", "questions", "chunks") or re.fullmatch("[a-z]+_points", name)}


def _sums(con: duckdb.DuckDBPyConnection, table: str) -> list[str]:
    """One aggregate per column that cannot be answered from statistics alone, so that every block is read."""
    return [f'bit_xor(hash("{name}"))' for name, *_ in con.execute(f"describe {table}").fetchall()]


def _make(path: Path) -> None:
    """Make the file under another name first, so that a process killed meanwhile leaves no half of a store.

    Raises:
        ScenarioError: it cannot be written, or the log of a file that is gone lies there.
    """
    log = Path(f"{path}.wal")
    if log.exists():
        raise ScenarioError(f"{str(log)!r} is the log of a store that is not there; put the store back, or remove it")
    try:
        folder = tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name[:40]}.")
    except OSError as error:
        raise ScenarioError(f"cannot write {str(path)!r}: {error.strerror}") from None
    new = Path(folder, "new")
    try:
        con = _attach(new)
        try:
            con.execute("begin")
            con.execute(_TABLES)
            con.execute("insert into meta values (?, ?, ?)", [FORMAT, version(), utc_now()])
            con.execute("commit")
        finally:
            con.close()
        try:
            os.link(new, path)  # unlike a renaming, never over the store that another process has just made
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            os.rename(new, path)
    except OSError as error:
        raise ScenarioError(f"cannot write {str(path)!r}: {error.strerror}") from None
    finally:
        new.unlink(missing_ok=True)
        os.rmdir(folder)


def refusal(path: Path, error: Exception) -> BaseException:
    """What DuckDB's reader came upon, as a user should meet it."""
    shown, text = str(path), str(error)
    held = re.search(r"lock is held .*\(PID (\d+)\)", text)
    if interrupted(error):
        return KeyboardInterrupt()
    if held:
        said = f"{shown!r} is in use by process {held[1]}; wait until it ends, or give another file"
    elif "already attached" in text:
        said = f"{shown!r} is open in this process already"
    elif "not a valid DuckDB" in text:
        said = f"{shown!r} is no DuckDB file; give another file"
    elif "Permission denied" in text or "Cannot open file" in text:
        said = f"cannot open {shown!r}: {one_line(error)}"
    else:
        said = f"{shown!r} is damaged, or of another version of DuckDB; give another file ({one_line(error)})"
    return ScenarioError(said)


def interrupted(error: BaseException) -> bool:
    """Whether it stands for Ctrl-C, which DuckDB takes from Python while a query runs."""
    return type(error) is RuntimeError and "interrupted" in str(error)


def one_line(error: Exception) -> str:
    """The first line of an error, at most 200 characters of it."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line if len(line) <= 200 else line[:197] + "..."


def utc_now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def number(con: duckdb.DuckDBPyConnection, query: str) -> int:
    row = con.execute(query).fetchone()
    assert row is not None
    return int(row[0])
