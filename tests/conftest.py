"""What all tests share: how Hypothesis searches, and where the measured data are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Repeatable by default: the same code gives the same verdict everywhere. HYPOTHESIS_PROFILE=explore looks further.
settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("explore", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session")
def measured_data() -> Path:
    """The folder of measured data sets, named by WINDTUNNEL_DATA; a test that needs it is skipped without it."""
    folder = os.environ.get("WINDTUNNEL_DATA")
    if not folder:
        pytest.skip("WINDTUNNEL_DATA does not name a folder of measured data")
    return Path(folder)
