"""The result file of a serving benchmark: which kind it is, by what stands in it."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from windtunnel.errors import ScenarioError
from windtunnel.scenario.text import shown
from windtunnel.serving.workload.log_runs import is_run, read_run
from windtunnel.serving.workload.log_tables import read_table_log
from windtunnel.serving.workload.logged import Log

GZIP = b"\x1f\x8b"
ACCEPTED = "vLLM's --save-detailed JSON, SGLang's --output-details JSON lines, or a CSV, JSON lines or Parquet table"


def read_log(path: Path, *, seed: int = 0, strict: bool = False) -> Log:
    """What was asked and measured, from one of

    - the JSON object that ``vllm bench serve --save-result --save-detailed`` writes,
    - the JSON lines of ``sglang.bench_serving --output-details``; of several runs the last counts,
    - a table with a row a request (:func:`~windtunnel.serving.workload.log_tables.read_table_log`).

    ``seed``: of arrival times, where the file has none and they are drawn anew. ``strict``: a malformed row of a table
    is an error.

    Raises:
        ScenarioError: the file cannot be read, or is none of these; one line that says what is missing.
    """
    where = f"replay {shown(str(path))}"
    text = _text(path, where)
    if text.startswith("["):
        raise ScenarioError(f"{where} holds a JSON list; accepted: {ACCEPTED}")
    if not text.startswith("{"):
        return read_table_log(path, strict=strict)
    lines = [line for line in text.split("\n") if line.strip()]
    first = _object(lines[0])
    if first is None:
        whole = _object(text)
        if whole is None:
            raise ScenarioError(f"{where} is no JSON; accepted: {ACCEPTED}")
        return read_run(whole, path.name, where, seed)
    if not is_run(first):
        return read_table_log(path, strict=strict)
    last = _object(lines[-1])
    if last is None:
        raise ScenarioError(f"{where}: its last line is no JSON object; accepted: {ACCEPTED}")
    log = read_run(last, path.name, where, seed)
    if len(lines) == 1:
        return log
    said = (*log.workload.warnings, f"{where} holds {len(lines):,} runs; the last is replayed")
    return replace(log, workload=replace(log.workload, warnings=said))


def _text(path: Path, where: str) -> str:
    """Of a JSON file, whole; of others no more than tells that they are none.

    Raises:
        ScenarioError: it cannot be read.
    """
    try:
        if path.exists() and not path.is_file():
            raise ScenarioError(f"{where} is no file; accepted: {ACCEPTED}")
        data = path.read_bytes()
        if data.startswith(GZIP):
            data = gzip.decompress(data)
    except FileNotFoundError:
        raise ScenarioError(f"{where} does not exist") from None
    except (OSError, EOFError, ValueError, zlib.error) as error:
        if isinstance(error, ScenarioError):
            raise
        said = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise ScenarioError(f"{where} cannot be read: {said}"[:300]) from None
    data = data.removeprefix(b"\xef\xbb\xbf").lstrip()
    return data.decode("utf-8", "replace") if data[:1] in (b"{", b"[") else ""


def _object(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
