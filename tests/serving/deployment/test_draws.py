"""Counter-based draws."""

from __future__ import annotations

import numpy as np
import pytest

from windtunnel.serving.deployment.draws import bits, uniform


def test_draws_depend_on_seed_and_place_alone() -> None:
    assert uniform(1, 2, 3) == uniform(1, 2, 3)
    places = [(s, *p) for s in range(4) for p in [(0,), (1,), (0, 0), (0, 1), (1, 0), (2**40,)]]
    assert len({bits(*p) for p in places}) == len(places)


def test_draws_are_uniform_and_independent_of_their_neighbours() -> None:
    for draws in (
        np.array([uniform(5, i) for i in range(20_000)]),
        np.array([uniform(i, 3) for i in range(20_000)]),
        np.array([uniform(9, i // 100, i % 100) for i in range(20_000)]),
    ):
        assert ((draws > 0) & (draws <= 1)).all()
        counts = np.histogram(draws, 20, (0, 1))[0]
        assert ((counts - 1000) ** 2 / 1000).sum() < 45  # chi-squared with 19 degrees of freedom: 99.9 %
        assert np.corrcoef(draws[:-1], draws[1:])[0, 1] == pytest.approx(0, abs=0.03)
