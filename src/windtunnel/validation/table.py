"""Tables of published results in the package's own layout: a row a run, as the command that repeats it.

Columns: ``label`` (unique), ``group`` (source/model), ``source``, ``command`` (train, infer or simulate), ``remark``,
``config`` (JSON of config.json keys, over those of the catalogue's ``model`` or alone), ``measured.METRIC`` for each
measured figure (METRIC is the path in the command's JSON, SI units; ``measured.fits`` is true or false), and options of
the command as on its command line, with underscores. An empty cell was not measured, or not given.
"""

from __future__ import annotations

import csv
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windtunnel.errors import ScenarioError
from windtunnel.models.lookup import FOLDER as CATALOGUE
from windtunnel.scenario.files import COMMANDS, write_file
from windtunnel.scenario.options import Options, read_options

FOLDER = Path(__file__).parent / "data"
MEASURED = "measured."
DATA = "{data}"
"""Stands in a cell for the folder of measured data."""
_OWN = ("label", "group", "source", "command", "remark", "config")


@dataclass(frozen=True, slots=True)
class Row:
    """One published run. ``options``: text, as on the command line; ``fits``: whether it ran, where that is said."""

    label: str
    group: str
    source: str
    command: str
    options: Mapping[str, str]
    measured: Mapping[str, float]
    fits: bool | None = None
    remark: str = ""
    config: str = ""

    @property
    def needs_data(self) -> bool:
        return any(DATA in value for value in self.options.values())

    def line(self) -> str:
        """The command line that repeats the row (without its ``config``, which is in the table)."""
        words = [f"windtunnel {self.command} {self.options.get('model') or 'config.json'}"]
        for key, value in self.options.items():
            flag = "--" + key.replace("_", "-")
            if key == "model":
                continue
            if key == "set":
                words += [f"--set {part.strip()}" for part in value.split(",")]
            elif value.lower() in ("true", "false"):
                words.append(flag if value.lower() == "true" else f"--no-{flag[2:]}")
            else:
                words.append(f"{flag} {value}")
        return " ".join(words)

    def request(self, folder: Path, data: Path | None) -> Options:
        """The request, with files that it needs written to ``folder``.

        Raises:
            ScenarioError: the row asks for what the command does not take.
        """
        given: dict[str, Any] = {k: v.replace(DATA, str(data)) for k, v in self.options.items()}
        if self.config:
            given["model"] = _config(folder, given.get("model"), self.config)
        if "set" in given:
            pairs = (part.partition("=") for part in given["set"].split(","))
            given["set"] = {key.strip(): float(value) for key, _, value in pairs}
        for key, value in given.items():
            if isinstance(value, str) and value.lower() in ("true", "false"):
                given[key] = value.lower() == "true"
        return read_options(COMMANDS[self.command], given)


def _config(folder: Path, model: str | None, changes: str) -> str:
    """The path of a ``config.json``, its folder named so that the same content is the same model."""
    base = json.loads((CATALOGUE / f"{model}.json").read_text()) if model else {}
    name = f"{model or 'config'}-{zlib.crc32(changes.encode()):08x}"
    path = folder / name / "config.json"
    if not path.exists():  # written whole: another process may want the same file
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps({**base, **json.loads(changes)}))
    return str(path)


def read_table(path: Path) -> list[Row]:
    """The rows of a table.

    Raises:
        ScenarioError: a row that the layout does not allow, named with its line.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        return [_row(cells, f"{path.name}, line {reader.line_num}") for cells in reader]


def _row(cells: Mapping[str, str], where: str) -> Row:
    for name in ("label", "group", "command"):
        if not cells.get(name):
            raise ScenarioError(f"{where}: no {name}")
    if cells["command"] not in COMMANDS:
        raise ScenarioError(f"{where}: command {cells['command']!r}; accepted: {', '.join(COMMANDS)}")
    measured, fits = {}, None
    for key, text in cells.items():
        if not key.startswith(MEASURED) or not text:
            continue
        metric = key.removeprefix(MEASURED)
        if metric == "fits":
            fits = text.lower() == "true"
        else:
            measured[metric] = _positive(text, f"{where}, {key}")
    options = {k: v for k, v in cells.items() if k not in _OWN and not k.startswith(MEASURED) and v}
    return Row(
        cells["label"], cells["group"], cells.get("source", ""), cells["command"], options, measured, fits,
        cells.get("remark", ""), cells.get("config", ""),
    )  # fmt: skip


def _positive(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ScenarioError(f"{where}: {text!r} is no number") from None
    if not 0 < value < float("inf"):
        raise ScenarioError(f"{where}: {text!r} is not above 0")
    return value
