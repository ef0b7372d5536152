"""Writes the README's example output anew: python scripts/refresh_readme.py [--check]

The block after ``<!-- output -->`` is what the README's run command prints. With --check nothing is written and the
exit code is 1 if the block is out of date.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCK = re.compile(r"(<!-- output -->\n```text\n).*?(^```)", re.S | re.M)


def run_command(text: str) -> list[str]:
    """The arguments of the ``windtunnel`` call in the README's run command."""
    found = re.search(r"<!-- run-command -->\n```sh\n(.*?)\n```", text, re.S)
    if found is None:
        raise SystemExit("README.md has no run command")
    words = shlex.split(found[1].rpartition("&&")[2])
    return words[1:]


def refreshed(text: str) -> str:
    """The README with the example's output as it is now."""
    from windtunnel.cli import main

    os.environ["COLUMNS"] = "100"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main(run_command(text))
    shown = "\n".join(line.rstrip() for line in printed.getvalue().splitlines())
    return BLOCK.sub(lambda m: m[1] + shown + "\n" + m[2], text)


if __name__ == "__main__":
    before = README.read_text()
    after = refreshed(before)
    if "--check" in sys.argv:
        sys.exit(before != after)
    README.write_text(after)
