"""What guesses are worth, and who may draft."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.errors import ScenarioError
from windtunnel.models import load_network
from windtunnel.scenario.speculation import PLAIN, chain, draft_for, first_layers, refusal, tree


@given(st.integers(0, 12), st.floats(0, 1))
def test_a_chain_is_worth_what_its_leading_right_guesses_are(length: int, acceptance: float) -> None:
    tokens = 1 + sum(acceptance**i for i in range(1, length + 1))
    assert chain(length, acceptance).tokens == pytest.approx(tokens)
    assert chain(length, acceptance).candidates == length


def test_the_ends_of_a_chain() -> None:
    assert chain(0, 0.7) == PLAIN
    assert chain(5, 0).tokens == 1
    assert chain(5, 1).tokens == 6


@pytest.mark.parametrize("seed", range(4))
def test_a_tree_has_the_likeliest_nodes(seed: int) -> None:
    """Against all nodes of a small tree, sorted by the product along their paths."""
    rng = np.random.default_rng(seed)
    heads = tuple(tuple(np.sort(rng.dirichlet(np.ones(4)) * 0.9)[::-1].tolist()) for _ in range(3))
    every = [
        float(np.prod([heads[d][r] for d, r in enumerate(path)]))
        for depth in range(1, 4)
        for path in product(range(4), repeat=depth)
    ]
    every.sort(reverse=True)
    for nodes in (1, 5, 20, len(every)):
        found = tree(heads, nodes)
        assert found.candidates == nodes
        assert found.tokens == pytest.approx(1 + sum(every[:nodes]))
    assert tree(heads, 1000).candidates == len(every)
    assert tree((), 10) == PLAIN


def test_a_tree_without_ranks_is_a_chain() -> None:
    assert tree(((0.7,),) * 5, 5).tokens == pytest.approx(chain(5, 0.7).tokens)


def test_a_draft_speaks_the_language_of_its_target() -> None:
    target = load_network("llama-2-70b")
    own = first_layers(target, 0.05)
    assert own.layers == 4
    assert own.vocab_size == target.vocab_size
    assert own.total_parameters < 0.1 * target.total_parameters
    assert draft_for(target, "llama-2-7b", 0.05, 2).network == load_network("llama-2-7b")
    with pytest.raises(ScenarioError, match="vocabulary of its target"):
        draft_for(target, "opt-125m", 0.05, 1)
    with pytest.raises(ScenarioError, match="attention heads"):
        draft_for(target, "llama-2-7b", 0.05, 5)


def test_who_cannot_speculate() -> None:
    assert refusal(load_network("llama-2-7b"), 1) is None
    assert "pipeline" in str(refusal(load_network("llama-2-7b"), 2))
    assert "recurrent" in str(refusal(load_network("jamba-v0.1"), 1))
