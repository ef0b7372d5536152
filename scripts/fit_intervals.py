"""Rewrites the intervals that predictions carry, from the residuals of every measured run.

    python scripts/fit_intervals.py --data DIR

DIR holds the measurements that are not shipped. Writes ``engine/residuals.json`` and ``validation/held_out.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from windtunnel.validation import validate
from windtunnel.validation.intervals import fit_classes, write_classes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True)
    given = parser.parse_args()
    found = validate("train", "serve", data=given.data)
    classes, held = fit_classes(r for s in found.sets for r in s.answers.residuals)
    write_classes(classes, held)
    for key, band in classes.items():
        print(f"{key:60} {band.low:.2f} to {band.high:.2f}, {band.rows} rows, {band.groups} groups")


if __name__ == "__main__":
    main()
