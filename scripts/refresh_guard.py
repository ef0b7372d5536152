"""Rewrites tests/validation/data/guard.csv: the errors of a fixed part of the validation, which a change may not spoil.

    python scripts/refresh_guard.py [--data DIR]

Run it after a change that is meant to move predictions, and look at the difference before keeping it. With DIR, the
folder of measurements that are not shipped, also guard_kernels.csv: medians of kernels and collectives.
"""

from __future__ import annotations

import argparse
import csv
import zlib
from pathlib import Path

from windtunnel.calibration.published import read_published
from windtunnel.validation.ask import answer_rows
from windtunnel.validation.kernels import family_medians
from windtunnel.validation.sets import data_sets
from windtunnel.validation.table import Row

FOLDER = Path(__file__).parents[1] / "tests" / "validation" / "data"
ROWS = 8
"""Of each set, those whose labels have the least checksums: a fixed choice that nobody made."""


def chosen(rows: list[Row]) -> list[Row]:
    usable = [row for row in rows if row.measured and not row.needs_data]
    return sorted(usable, key=lambda row: zlib.crc32(row.label.encode()))[:ROWS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path)
    data = parser.parse_args().data
    with (FOLDER / "guard.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("dataset", "label", "metric", "error"))
        for name, dataset in data_sets().items():
            for r in answer_rows(chosen(dataset.rows()), None).residuals:
                table.writerow((name, r.label, r.metric, f"{r.error:+.4f}"))
    if data is not None:
        write_kernels(data)


def write_kernels(data: Path) -> None:
    with (FOLDER / "guard_kernels.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("dataset", "metric", "median"))
        for name, dataset in data_sets().items():
            measured = read_published(dataset.reader, data, dataset.device) if dataset.reader else None
            for metric, median in family_medians(measured or ()).items():
                table.writerow((name, metric, f"{median:.4f}"))


if __name__ == "__main__":
    main()
