"""What papers on scheduling measured inside an engine, beside their claims."""

from __future__ import annotations

import pytest

from windtunnel.studies.iterations import iteration_s
from windtunnel.studies.papers.sarathi import SETUP as SARATHI
from windtunnel.studies.papers.sarathi_serve import SETUP as SERVE

A6000 = {"model": SARATHI.small, "on": SARATHI.small_on, "engine": SARATHI.engine, "precision": SARATHI.precision}


def test_iterations_of_sarathis_table_2() -> None:
    """arXiv 2308.16369, table 2: LLaMA-13B on an A6000, 1,024 tokens: a prompt 234.8 ms, four decodes 49.96 ms, a chunk
    with three decodes 238.4 ms."""
    assert iteration_s(prompt=1024, **A6000) == pytest.approx(0.2348, rel=0.05)
    assert iteration_s(decodes=4, context=1024, **A6000) == pytest.approx(0.04996, rel=0.05)
    assert iteration_s(prompt=1021, decodes=3, context=1024, **A6000) == pytest.approx(0.2384, rel=0.05)


def test_the_decodes_that_sarathi_serves_limits_are_made_of() -> None:
    """arXiv 2403.02310, table 3: strict limits are five decode iterations of 32 requests with 4,096 tokens."""
    options = {"model": SERVE.small, **SERVE.small_machine, "engine": SERVE.engine}
    assert 5 * iteration_s(decodes=32, context=4096, **options) == pytest.approx(SERVE.small_limit_s, rel=0.3)
