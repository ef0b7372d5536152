"""What the programs that write tables of published runs share: reading sources, and the tables' layout.

The layout is that of ``windtunnel.validation.table``.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import windtunnel

Row = dict[str, Any]
OUT = Path(windtunnel.__file__).parent / "validation" / "data"
FIRST = ("label", "group", "source", "command", "remark", "config")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return json.dumps(value, separators=(",", ":"))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def table(rows: list[Row]) -> str:
    """CSV text; measured figures in the order in which rows have them, the first being a set's main one. A label met
    before (a repeated measurement) gets a number, since labels are unique."""
    seen: dict[str, int] = {}
    for r in rows:
        count = seen[r["label"]] = seen.get(r["label"], 0) + 1
        if count > 1:
            r["label"] += f" ({count})"
    keys = {k for r in rows for k, v in r.items() if v is not None and v != ""}
    order = list(dict.fromkeys(k for r in rows for k in r if k in keys))
    measured = [k for k in order if k.startswith("measured.")]
    names = [*FIRST, *measured, *(k for k in order if k not in FIRST and k not in measured)]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([cell(r.get(k)) for k in names] for r in rows)
    return file.getvalue()
