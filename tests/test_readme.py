"""The README and the planning page show what the commands really print."""

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
    assert result.returncode == 0, f"{result.stderr}: run python scripts/refresh_readme.py"
