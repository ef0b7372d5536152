"""Writes the examples' output in README.md and docs/planning.md anew: python scripts/refresh_readme.py [--check]

The block after ``<!-- output -->`` is what the README's run command prints, that after ``<!-- output: LINE -->`` what
LINE prints, less how long a search took. With --check nothing is written and the exit code is 1 if a block is out of
date; without it, the pages' picture is drawn, too.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = (README, ROOT / "docs" / "planning.md")
BLOCK = re.compile(r"(<!-- output(?:: (?P<line>.*?))? -->\n```text\n).*?(^```)", re.S | re.M)
TOOK = re.compile(r"^([\d,]+ plans) in .*?;", re.M)
PICTURE = re.compile(r"<!-- picture: (.*?) -->\n!\[.*?\]\((.*?)\)")


def run_command(text: str) -> str:
    """The ``windtunnel`` call in the README's run command."""
    found = re.search(r"<!-- run-command -->\n```sh\n(.*?)\n```", text, re.S)
    if found is None:
        raise SystemExit("README.md has no run command")
    return found[1].rpartition("&&")[2]


def printed(line: str) -> str:
    """What a command line prints."""
    from windtunnel.cli import main

    os.environ["COLUMNS"] = "100"
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream):
        main(shlex.split(line)[1:])
    return "\n".join(line.rstrip() for line in TOOK.sub(r"\1;", stream.getvalue()).splitlines())


def refreshed(text: str) -> str:
    """A page with its examples' output as it is now."""
    return BLOCK.sub(lambda m: m[1] + printed(m["line"] or run_command(text)) + "\n" + m[3], text)


def draw(page: Path) -> None:
    """The pictures of a page."""
    for line, target in PICTURE.findall(page.read_text()):
        printed(f"{line} --plot {page.parent / target}")


if __name__ == "__main__":
    stale = []
    for page in PAGES:
        before = page.read_text()
        after = refreshed(before)
        if before != after:
            stale.append(page.name)
        if "--check" not in sys.argv:
            page.write_text(after)
            draw(page)
    if "--check" in sys.argv and stale:
        sys.exit(f"out of date: {', '.join(stale)}")
