"""The README shows what the command really prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_shown_output_is_the_real_one() -> None:
    """Refresh it with ``python scripts/refresh_readme.py``."""
    result = subprocess.run(
        [sys.executable, ROOT / "scripts" / "refresh_readme.py", "--check"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr or "README.md is out of date: run python scripts/refresh_readme.py"
