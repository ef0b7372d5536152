from __future__ import annotations

import io
import sys

import pytest

from windtunnel.cli.progress import Progress, telling


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_short_run_says_nothing() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(stream, clock)
    clock.now = 0.9
    progress(0.5)
    progress.close()
    assert stream.getvalue() == ""


def test_a_long_run_is_told_and_cleared() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(stream, clock)
    for clock.now, fraction in ((2.0, 0.0), (4.0, 0.5), (4.01, 0.6), (6.0, 7.0)):
        progress(fraction)
    progress.close()
    lines = stream.getvalue().split("\r")
    assert "0 %" in lines[1]
    assert "left" not in lines[1]
    assert "50 %, 4.00 s left" in lines[2]
    assert "100 %" in lines[3]  # the third was too soon, and no fraction is above 1
    assert lines[-2].strip() == lines[-1] == ""
    assert stream.getvalue().isascii()


def test_only_a_terminal_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with telling() as progress:
        assert progress is None
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", stream)
    with telling() as progress:
        assert progress is not None
        progress(0.5)
    assert stream.getvalue() == ""
