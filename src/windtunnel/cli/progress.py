"""How far a simulation or a search is, on a terminal that somebody waits at."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from windtunnel.report import units

PATIENCE_S = 1.0
"""Nothing is told of what is shorter."""

EVERY_S = 0.1
COLUMNS = 30


class Progress:
    """Redraws one line of ``stream`` when it is told the fraction (0 to 1) that is done, and what to say of it.
    ``clock``: seconds; ``what``: is being done."""

    def __init__(
        self, stream: TextIO, clock: Callable[[], float] = time.monotonic, *, what: str = "simulating"
    ) -> None:
        self.stream = stream
        self.clock = clock
        self.what = what
        self.started = self.told = clock()
        self.written = 0

    def __call__(self, fraction: float, said: str = "") -> None:
        now = self.clock()
        if now - self.started < PATIENCE_S or now - self.told < EVERY_S:
            return
        self.told = now
        done = min(max(fraction, 0.0), 1.0)
        left = f", {units.duration((now - self.started) * (1 - done) / done)} left" if done > 0 else ""
        columns = COLUMNS // 2 if said else COLUMNS
        bar = "#" * round(columns * done)
        more = f"; {' '.join(said.split())}" if said else ""
        self._write(f"{self.what} [{bar:<{columns}}] {100 * done:.0f} %{left}{more}")

    def close(self) -> None:
        """Leave the line empty."""
        if self.written:
            self._write("")
            self.stream.write("\r")
            self.stream.flush()

    def _write(self, line: str) -> None:
        # A line that the terminal breaks could not be drawn over.
        plain = line.encode("ascii", "replace").decode()[: shutil.get_terminal_size().columns - 1]
        self.stream.write(f"\r{plain:<{self.written}}")
        self.stream.flush()
        self.written = len(plain)


@contextmanager
def telling(what: str = "simulating") -> Iterator[Progress | None]:
    """What to tell progress to; None where standard error is no terminal. ``what`` is being done."""
    if not sys.stderr.isatty():
        yield None
        return
    progress = Progress(sys.stderr, what=what)
    try:
        yield progress
    finally:
        progress.close()
