"""An iteration of an engine that speculates: a share of a pass that checks guesses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from windtunnel.cost import load_calibration, make_pricer
from windtunnel.cost.runtime import runtime_of
from windtunnel.ops.fold import Evaluation, tree_totals
from windtunnel.ops.tree import Node
from windtunnel.parallel.iteration import forward, iteration, verified
from windtunnel.scenario.batch import Batch, decode, joined, prefill
from windtunnel.scenario.options import InferOptions, read_options
from windtunnel.scenario.serve import InferScenario, infer_scenario
from windtunnel.scenario.speculation import PLAIN, Draft, Guess, Speculation, chain, first_layers

DECODES = decode(12.0, 700.0)
BOTH = joined(DECODES, prefill(2.0, 300.0))


class Case:
    """A model on a machine."""

    def __init__(self, model: str = "llama-3.1-8b", on: str = "1xh100-sxm", **options: Any) -> None:
        self.scenario: InferScenario = infer_scenario(read_options(InferOptions, {"model": model, "on": on, **options}))
        s = self.scenario
        calibration = load_calibration(s.cluster.accelerator, None)
        self.price = make_pricer(s.cluster, runtime_of(s.engine), calibration)

    def seconds(self, tree: Node) -> Any:
        return Evaluation(tree, self.price).seconds()

    def forward(self, batch: Batch, **more: Any) -> Any:
        s = self.scenario
        return forward(s.network, s.plan, s.engine, batch, **more)

    def made(self, speculation: Speculation | None, batch: Batch) -> Any:
        s = self.scenario
        return iteration(s.network, replace(s.plan, speculation=speculation), s.engine, batch)


@pytest.fixture(scope="module")
def case() -> Case:
    return Case()


def test_no_guess_is_a_plain_iteration(case: Case) -> None:
    for batch in (DECODES, BOTH, prefill(2.0, 300.0)):
        plain = case.seconds(case.made(None, batch).tree)
        assert case.seconds(case.made(Speculation((PLAIN,)), batch).tree) == plain


def test_guesses_that_cost_nothing_and_are_right_share_one_pass(case: Case) -> None:
    guess = chain(3, 1.0)
    one = replace(DECODES, tokens=48.0, sequences=48.0, queries=4.0)
    whole = case.seconds(case.forward(one, sequences=12.0).tree)
    assert case.seconds(case.made(Speculation((guess,)), DECODES).tree) == pytest.approx(whole / 4)


def test_checking_reads_the_cache_once_and_works_for_every_query(case: Case) -> None:
    plain, checked = (
        tree_totals(case.forward(b).stages[0][1])
        for b in (DECODES, verified(DECODES, chain(3, 0.5), case.scenario.engine))
    )
    assert checked.flops["bf16"] == pytest.approx(4 * plain.flops["bf16"])
    weights_and_cache = plain.bytes["hbm"]
    assert weights_and_cache <= checked.bytes["hbm"] < 1.01 * weights_and_cache


def test_an_engine_that_checks_apart_reads_it_for_every_guess(case: Case) -> None:
    apart = case.scenario.engine.model_copy(update={"checks_apart": True})
    checked = verified(BOTH, chain(3, 0.5), apart)
    assert checked.decode_sequences == 4 * BOTH.decode_sequences
    assert checked.decode_context == 4 * BOTH.decode_context
    assert checked.queries == 1
    assert checked.tokens == verified(BOTH, chain(3, 0.5), case.scenario.engine).tokens


def test_prompts_beside_decodes_do_all_their_work(case: Case) -> None:
    """In the share of a pass that is one iteration, prompts compute as many tokens as without speculation."""
    guess = chain(3, 0.6)
    work = tree_totals(case.made(Speculation((guess,)), BOTH).tree).flops["bf16"]
    alone = tree_totals(case.made(Speculation((guess,)), DECODES).tree).flops["bf16"]
    plain = tree_totals(case.made(None, BOTH).tree).flops["bf16"]
    decodes = tree_totals(case.made(None, DECODES).tree).flops["bf16"]
    assert work - alone == pytest.approx(plain - decodes, rel=1e-3)


def test_the_best_of_several_guesses_is_taken_for_every_load(case: Case) -> None:
    guesses = tuple(chain(k, 0.6) for k in range(6))
    n = np.array([1.0, 16.0, 256.0, 4096.0])
    batch = decode(n, 300.0)
    each = np.array([case.seconds(case.made(Speculation((g,)), batch).tree) for g in guesses])
    best = case.seconds(case.made(Speculation(guesses), batch).tree)
    assert best == pytest.approx(each.min(axis=0))
    picked = each.argmin(axis=0)
    assert picked[0] > picked[-1]


def test_a_draft_costs_its_passes_its_prompts_and_its_memory(case: Case) -> None:
    network = first_layers(case.scenario.network, 0.1)
    own, part = Draft(network), Draft(network, shared=True)
    guess = chain(4, 0.7)
    free, drafted, shared = (
        case.seconds(case.made(Speculation((guess,), draft), DECODES).tree) for draft in (None, own, part)
    )
    assert free < shared == drafted
    prompts = [case.seconds(case.made(Speculation((guess,), d), prefill(1.0, 900.0)).tree) for d in (None, own, part)]
    assert prompts[0] == prompts[2] < prompts[1]
    weights = [
        tree_totals(case.made(Speculation((guess,), d), DECODES).stages[0][1]).held["weight_bytes"]
        for d in (None, own, part)
    ]
    assert weights[1] - weights[0] == pytest.approx(2.0 * network.total_parameters)
    assert weights[2] == weights[0]


def test_a_draft_that_reads_less_of_the_context_is_quicker(case: Case) -> None:
    far = decode(32.0, 30_000.0)
    guess = chain(4, 0.7)
    whole, little = (
        case.seconds(case.made(Speculation((guess,), Draft(case.scenario.network, context=c, shared=True)), far).tree)
        for c in (None, 2048)
    )
    assert little < whole


def test_heads_hold_a_square_layer_and_a_projection_each(case: Case) -> None:
    network = case.scenario.network
    some, none = (
        tree_totals(case.made(Speculation((Guess(15, 0, 2.5),), heads=h), DECODES).stages[0][1]).held["weight_bytes"]
        for h in (3, 0)
    )
    each = network.hidden_size * (network.hidden_size + 1) + network.vocab_size * network.hidden_size
    assert some - none == pytest.approx(3 * 2.0 * each)


def test_latent_attention_and_experts_are_checked_too() -> None:
    case = Case("deepseek-v2-lite")
    spent = [case.seconds(case.made(Speculation((chain(k, 1.0),)), DECODES).tree) * (k + 1) for k in (0, 3)]
    assert spent[0] < spent[1] < 4 * spent[0]
