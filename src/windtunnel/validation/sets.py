"""The measured data sets: what each is and where it comes from.

Each is a file in ``data``, NAME.yaml, which holds the fields of :class:`DataSet`, and its table NAME.csv. Kernels and
collectives have no table: the file names what reads their rows in the folder of measurements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from windtunnel.errors import unknown
from windtunnel.validation.table import FOLDER, Row, read_table

KINDS = ("kernel", "collective", "train", "serve")


@dataclass(frozen=True, slots=True)
class DataSet:
    """``title``: a line; ``source``: citation; ``note``: what to know when reading its errors.

    ``reader`` and ``device``: what reads its rows (a key of ``calibration.published.READERS``), and of which device.
    """

    name: str
    kind: str
    title: str
    source: str
    note: str = ""
    reader: str = ""
    device: str = ""

    def rows(self) -> list[Row]:
        """The rows of its table; none if a reader has them."""
        return [] if self.reader else read_table(FOLDER / f"{self.name}.csv")


@cache
def data_sets() -> Mapping[str, DataSet]:
    """All sets by name, kind by kind."""
    found = [_read(path) for path in sorted(FOLDER.glob("*.yaml"))]
    return {s.name: s for s in sorted(found, key=lambda s: KINDS.index(s.kind))}


def _read(path: Path) -> DataSet:
    fields: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return DataSet(name=path.stem, **fields)


def find(names: tuple[str, ...]) -> list[DataSet]:
    """The sets of these names, or of these kinds; all of them if none is named.

    Raises:
        ScenarioError: an unknown name.
    """
    known = data_sets()
    if not names:
        return list(known.values())
    found: dict[str, DataSet] = {}
    for name in names:
        if name in KINDS:
            found |= {s.name: s for s in known.values() if s.kind == name}
        elif name in known:
            found[name] = known[name]
        else:
            raise unknown("data set", name, (*KINDS, *known))
    return list(found.values())


def data_folder(given: str | None, environment: Mapping[str, str]) -> Path | None:
    """The folder of measured data: ``--data``, else WINDTUNNEL_DATA, else none."""
    text = given or environment.get("WINDTUNNEL_DATA")
    return Path(text) if text else None
