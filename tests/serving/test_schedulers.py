"""Each built-in scheduler on workloads that can be followed by hand, and the guarantees that their papers give."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.serving.histogram import bin_of
from windtunnel.serving.outcome import PS, Status
from windtunnel.serving.queues import Fair, Fifo
from windtunnel.serving.rules import OUTPUT_CHARGE, PROMPT_CHARGE, RULES

STEP = 10 * PS // 1000
"""Picoseconds of every iteration here."""


def steps(ran: Any) -> list[tuple[int, int]]:
    """(prompt tokens, decodes) of each iteration in turn."""
    return [(step[4], step[5]) for step in ran.engine.tally.log for _ in range(step[3])]


def in_steps(times: Any) -> list[float]:
    return [float(t / STEP) for t in times]


def run(lab: Any, rules: str, asks: list[Any], **changes: Any) -> Any:
    """On an engine whose iterations all last as long."""
    options = {k: changes.pop(k) for k in ("make_queue", "scheduler") if k in changes}
    return lab.run(lab.spec(lab.flat(STEP), rules, **changes), asks, log_size=10_000, **options)


def all_at_once(lab: Any, *lengths: tuple[int, int], **more: Any) -> list[Any]:
    return [lab.Ask(0, n, m, **more) for n, m in lengths]


# Composition of iterations.


def test_a_static_batch_is_padded_and_closed(lab: Any) -> None:
    """The second request ends early, but keeps its place; the third waits for the whole batch."""
    asks = [*all_at_once(lab, (4, 5), (6, 2)), lab.Ask(STEP + 1, 3, 1)]
    ran = run(lab, "static", asks, most_sequences=8)
    assert steps(ran) == [(10, 0), (0, 2), (0, 2), (0, 2), (0, 2), (3, 0)]
    assert in_steps(ran.record.finish) == [5, 2, 6]
    assert in_steps(ran.record.start) == [0, 0, 5]


def test_a_static_batch_holds_its_cache_to_the_end(lab: Any) -> None:
    """With room for the first batch's whole answers only, a third fits when all of it has gone."""
    asks = all_at_once(lab, (17, 16), (1, 2), (1, 2))
    ran = run(lab, "static", asks, capacity=3)  # 2 + 1 blocks of 16
    assert in_steps(ran.record.finish) == [16, 2, 18]


def test_orca_runs_whole_prompts_beside_decodes(lab: Any) -> None:
    """Selective batching: a prompt joins at the next iteration, however long it is."""
    asks = [lab.Ask(0, 10, 4), lab.Ask(STEP // 2, 3000, 2)]
    assert steps(run(lab, "orca", asks, budget=64)) == [(10, 0), (3000, 1), (0, 2), (0, 1)]


def test_vllm_runs_waiting_prompts_first_and_whole(lab: Any) -> None:
    """As many whole prompts as the budget takes, while decodes stand still."""
    asks = [lab.Ask(0, 10, 3), *(lab.Ask(STEP // 2, n, 2) for n in (30, 40, 20))]
    assert steps(run(lab, "vllm", asks, budget=64)) == [(10, 0), (30, 0), (60, 0), (0, 4), (0, 1)]


def test_a_long_prompt_may_run_alone_beside_who_comes_with_its_cache(lab: Any) -> None:
    """A prompt above the budget runs when no other prompt does; what needs no computing is none."""
    ran = lab.start(lab.spec(lab.flat(STEP), "vllm", budget=16), [lab.Ask(0, 130, 12, progress=130), lab.Ask(0, 20, 1)])
    ran.record.first[0] = 0
    ran.submit(0)
    ran.submit(1)
    assert in_steps(ran.advance().record.finish) == [12, 1]


def test_prefill_first_cuts_prompts_but_decodes_wait(lab: Any) -> None:
    asks = [lab.Ask(0, 10, 3), lab.Ask(STEP // 2, 150, 2)]
    assert steps(run(lab, "prefill-first", asks, budget=64)) == [(10, 0), (64, 0), (64, 0), (22, 0), (0, 2), (0, 1)]


@pytest.mark.parametrize("rules", ["chunked", "splitfuse"])
def test_chunks_fill_up_what_decodes_leave(lab: Any, rules: str) -> None:
    """Stall-free: the first request gets a token in every iteration, the prompt the other 63 tokens."""
    asks = [lab.Ask(0, 10, 5), lab.Ask(STEP // 2, 150, 2)]
    ran = run(lab, rules, asks, budget=64)
    assert steps(ran) == [(10, 0), (63, 1), (63, 1), (24, 1), (0, 2)]
    assert in_steps(ran.record.first) == [1, 4]


def test_decode_first_takes_no_prompts_before_all_have_ended(lab: Any) -> None:
    """Unlike in a static batch, the place and the cache of an ended request are free."""
    asks = [*all_at_once(lab, (4, 5), (6, 2)), lab.Ask(STEP // 2, 3, 1)]
    ran = run(lab, "decode-first", asks)
    assert steps(ran) == [(10, 0), (3, 0), (0, 2), (0, 1), (0, 1), (0, 1)]
    late = [*asks[:2], lab.Ask(2 * STEP + 1, 3, 1)]
    assert steps(run(lab, "decode-first", late)) == [(10, 0), (0, 2), (0, 1), (0, 1), (0, 1), (3, 0)]


def test_a_budget_below_the_decodes_still_leaves_a_token_for_prompts(lab: Any) -> None:
    asks = [*all_at_once(lab, (1, 9), (1, 9), (1, 9)), lab.Ask(4 * STEP, 2, 1)]
    mixed = [(1, 0), (1, 1), (1, 2), (0, 3), (1, 3), (1, 3)]
    assert steps(run(lab, "chunked", asks, budget=1)) == [*mixed, (0, 3), (0, 3), (0, 3), (0, 2), (0, 1)]


@settings(max_examples=120)
@given(st.data())
def test_no_iteration_exceeds_the_budget(lab: Any, data: st.DataObject) -> None:
    rules = data.draw(st.sampled_from(sorted(n for n, r in RULES.items() if r.limited)))
    budget = data.draw(st.sampled_from([1, 7, 64]))
    sizes = st.tuples(st.integers(0, 30), st.integers(1, 200), st.integers(1, 12))
    now, asks = 0, []
    for gap, n, m in data.draw(st.lists(sizes, min_size=1, max_size=15)):
        now += gap * STEP // 10
        asks.append(lab.Ask(now, n, m, predicted=m))
    ran = run(lab, rules, asks, budget=budget, most_sequences=data.draw(st.sampled_from([1, 4, 32])))
    for prompt, decodes in steps(ran):
        if RULES[rules].cut:
            assert prompt + decodes <= max(budget, decodes + 1)
        else:  # a prompt that is longer than the budget runs alone
            assert prompt <= max(budget, max(ask.input_tokens for ask in asks))
        assert not (prompt and decodes) or RULES[rules].mixed
    if RULES[rules].mixed:  # nobody stalls: every gap is a step
        assert np.flatnonzero(ran.engine.tally.gaps).tolist() in ([], [bin_of(STEP)])


@pytest.mark.parametrize("rules", sorted(RULES))
def test_a_lone_request_takes_its_prompt_and_its_tokens(lab: Any, rules: str) -> None:
    ran = run(lab, rules, [lab.Ask(7, 100, 6)])
    assert steps(ran) == [(100, 0)] + [(0, 1)] * 5
    assert (ran.record.finish - 7).tolist() == [6 * STEP]


@pytest.mark.parametrize("rules", sorted(RULES))
def test_places_are_never_more_than_there_are(lab: Any, rules: str) -> None:
    ran = run(lab, rules, all_at_once(lab, *[(5, 4)] * 10), most_sequences=3)
    assert max(decodes for _, decodes in steps(ran)) == 3
    assert Counter(in_steps(ran.record.finish)).most_common(1)[0][1] == 3


# Who is next.


def order(ran: Any) -> list[int]:
    found: list[int] = np.argsort(ran.record.start, kind="stable").tolist()
    return found


def test_first_come_is_first_served(lab: Any) -> None:
    ran = run(lab, "chunked", [lab.Ask(i, 9 - i, 1, priority=-i, predicted=9 - i) for i in range(6)], most_sequences=1)
    assert order(ran) == list(range(6))


def test_priorities_come_first_and_equals_in_order_of_arrival(lab: Any) -> None:
    """The first one is alone when it comes; nobody loses a place to a later one that is more urgent."""
    priorities = [5, 2, 1, 2, 0, 1]
    asks = [lab.Ask(i, 5, 3, priority=p) for i, p in enumerate(priorities)]
    assert order(run(lab, "priority", asks, most_sequences=1)) == [0, 4, 2, 5, 1, 3]


def test_shortest_first_goes_by_what_is_predicted(lab: Any) -> None:
    predicted = [3, 9, 2, 7, 2]
    asks = [lab.Ask(i, 5, 3, predicted=p) for i, p in enumerate(predicted)]
    assert order(run(lab, "sjf", asks, most_sequences=1)) == [0, 2, 4, 3, 1]


def test_shortest_first_lowers_the_mean_stay(lab: Any) -> None:
    rng = np.random.default_rng(4)
    outputs = rng.geometric(1 / 30, 400).tolist()
    arrival = np.cumsum(rng.exponential(30 / 4 / 0.95, 400) * STEP).astype(int).tolist()
    asks = [lab.Ask(t, 10, n) for t, n in zip(arrival, outputs, strict=True)]
    mean = {r: float(np.mean(run(lab, r, asks, most_sequences=4).record.finish - arrival)) for r in ("sjf", "chunked")}
    assert mean["sjf"] < 0.8 * mean["chunked"]


def metered(base: type[Any], seen: list[tuple[int, int, int, int]]) -> Any:
    """A queue that notes (client, charge, requests of client 0 and of client 1 that wait) whenever one is served."""

    class Meter(base):  # type: ignore[misc]
        def served(self, client: int, prompt: int, output: int) -> None:
            super().served(client, prompt, output)
            waiting = Counter(r.client for r in self)
            seen.append((client, PROMPT_CHARGE * prompt + OUTPUT_CHARGE * output, waiting[0], waiting[1]))

    return Meter


def largest_lead(seen: list[tuple[int, int, int, int]]) -> int:
    """The most that one of two clients has got more than the other in any interval in which both have waited."""
    lead, leads = 0, [0]
    for client, charge, first, second in seen:
        if not (first and second):
            break
        lead += charge if client == 0 else -charge
        leads.append(lead)
    return max(leads) - min(leads)


@pytest.mark.parametrize("seed", range(4))
def test_shares_are_fair_between_a_greedy_and_a_modest_client(lab: Any, seed: int) -> None:
    """Two clients that both have requests waiting get the same, to 2 max(w_p L_input, w_q M), M the tokens of a batch
    (arXiv 2401.00588, section 4: backlogged clients), and what one more iteration gives. By arrival they do not."""
    rng, places, longest, most = np.random.default_rng(seed), 8, 50, 20
    sizes = [(int(rng.integers(1, longest + 1)), int(rng.integers(1, most + 1))) for _ in range(800)]
    clients = [0] * 600 + [1] * 200
    asks = [lab.Ask(0, n, m, client=c) for (n, m), c in zip(sizes, clients, strict=True)]
    batch = places * (longest + most)
    bound = 2 * max(PROMPT_CHARGE * longest, OUTPUT_CHARGE * batch) + PROMPT_CHARGE * 128 + OUTPUT_CHARGE * places
    leads = {}
    for name, queue in (("fair", Fair), ("chunked", Fifo)):
        seen: list[tuple[int, int, int, int]] = []
        run(lab, name, asks, make_queue=metered(queue, seen), budget=128, most_sequences=places)
        leads[name] = largest_lead(seen)
    assert leads["fair"] <= bound < leads["chunked"]


def test_idling_earns_no_credit(lab: Any) -> None:
    """A client that comes late is lifted to the one that has been served meanwhile, so that they take turns."""
    asks = [lab.Ask(0, 10, 10) for _ in range(30)]
    asks += [lab.Ask(150 * STEP + 1, 10, 10, client=1) for _ in range(10)]
    ran = run(lab, "fair", asks, most_sequences=1)
    turns = [asks[i].client for i in order(ran)[15:35]]
    assert turns.count(1) == 10
    assert all(a != b for a, b in pairwise(turns[1:]))


def test_a_client_that_becomes_next_while_others_decode_is_taken_in(lab: Any) -> None:
    """The first client's second prompt does not fit beside its first (11 blocks and 9 of 19). When that one has been
    decoded three times more, the second client is next, whose prompt does."""
    asks = [lab.Ask(0, 130, 12), lab.Ask(0, 137, 1, client=1), lab.Ask(0, 170, 1), lab.Ask(0, 1, 1, client=1)]
    ran = run(lab, "fair", asks, capacity=19, budget=138)
    assert steps(ran)[:7] == [(138, 0), (129, 1), (0, 1), (0, 1), (0, 1), (1, 1), (0, 1)]
    assert in_steps(ran.record.start) == [0, 0, 12, 5]


# A full cache.


def test_the_last_admitted_loses_its_place_and_comes_back_first(lab: Any) -> None:
    """Blocks of 4, 5 of them: both take 2 for their prompts of 8; the first takes the fifth, the second has to go and
    computes its prompt and its first token again, together with the third's prompt but ahead of it."""
    asks = [*all_at_once(lab, (8, 5), (8, 5)), lab.Ask(1, 4, 2)]
    ran = run(lab, "vllm", asks, block=4, capacity=5, most_sequences=2)
    assert ran.record.preempted.tolist() == [0, 1, 0]
    assert order(ran) == [0, 1, 2]
    assert steps(ran) == [(16, 0), (0, 1), (0, 1), (0, 1), (0, 1), (13, 0), (0, 2), (0, 1), (0, 1)]


def test_swapping_keeps_what_has_been_computed(lab: Any) -> None:
    """The same with room in host memory: 2 blocks go out and come back at a step's time each, nothing is computed
    again."""
    asks = [*all_at_once(lab, (8, 5), (8, 5)), lab.Ask(1, 4, 2)]
    short = {"block": 4, "capacity": 5, "most_sequences": 2}
    swapped = run(lab, "vllm", asks, swap_units=100, swap_s=STEP / PS / 2, **short)
    computed = run(lab, "vllm", asks, **short)
    assert swapped.record.preempted.tolist() == computed.record.preempted.tolist()
    prompt = {name: sum(p for p, _ in steps(r)) for name, r in (("swap", swapped), ("again", computed))}
    assert prompt == {"swap": 20, "again": 29}
    assert swapped.engine.tally.busy == (len(steps(swapped)) + 2) * STEP
    # What does not fit into host memory is computed again.
    full = run(lab, "vllm", asks, swap_units=1, swap_s=STEP / PS / 2, **short)
    assert full.same_as(computed)


@settings(max_examples=60)
@given(st.data())
def test_reserving_whole_answers_never_takes_a_place_away(lab: Any, data: st.DataObject) -> None:
    sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
    asks = all_at_once(lab, *data.draw(st.lists(sizes, min_size=2, max_size=12)))
    rules = data.draw(st.sampled_from(sorted(RULES)))
    ran = run(lab, rules, asks, block=4, capacity=25, reserve_output=True)
    assert not ran.record.preempted.any()
    assert np.all(ran.record.status == Status.COMPLETED)
    assert not run(lab, "static", asks, block=4, capacity=25).record.preempted.any()


def test_a_watermark_keeps_some_cache_free_unless_the_engine_is_empty(lab: Any) -> None:
    """Blocks of 4, 10 of them: requests of 4 blocks. Two fit without a watermark and with one of 2, not of 3; alone,
    a request of 10 blocks is taken in all the same."""
    asks = all_at_once(lab, (16, 1), (16, 1))
    together = {
        w: in_steps(run(lab, "chunked", asks, block=4, capacity=10, watermark=w).record.start) for w in (0, 2, 3)
    }
    assert together == {0: [0, 0], 2: [0, 0], 3: [0, 1]}
    assert run(lab, "chunked", all_at_once(lab, (40, 1)), block=4, capacity=10, watermark=3).record.finish[0] == STEP


def test_why_the_head_of_the_queue_waits_is_noted(lab: Any) -> None:
    asks = all_at_once(lab, (8, 4), (8, 4))
    names = ("kv_cache", "max_batch", "budget", "gate", "policy")

    def reasons(**changes: Any) -> dict[str, float]:
        blocked = run(lab, "chunked", asks, **changes).engine.tally.blocked
        return {name: time / STEP for name, time in zip(names, blocked, strict=True) if time}

    assert reasons(block=4, capacity=3) == {"kv_cache": 4}
    assert reasons(most_sequences=1) == {"max_batch": 4}
    assert reasons(budget=8) == {"budget": 1}
    assert reasons() == {}


# Time.


def test_asynchronous_scheduling_takes_an_arrival_in_an_iteration_later(lab: Any) -> None:
    asks = [lab.Ask(0, 10, 6), lab.Ask(STEP + STEP // 2, 10, 2)]
    at_once, later = (run(lab, "chunked", asks, delayed=d) for d in (False, True))
    assert in_steps(at_once.record.start) == [0, 2]
    assert in_steps(later.record.start) == [0, 3]
    # What comes to an idle engine need not wait.
    assert in_steps(run(lab, "chunked", asks[:1], delayed=True).record.first) == [1]


def test_who_has_waited_too_long_is_turned_away(lab: Any) -> None:
    asks = all_at_once(lab, (5, 4), (5, 4), (5, 4))
    ran = run(lab, "chunked", asks, most_sequences=1, timeout_ps=4 * STEP)
    assert ran.record.status.tolist() == [Status.COMPLETED, Status.COMPLETED, Status.TIMED_OUT]


def test_a_full_queue_takes_nobody_in(lab: Any) -> None:
    asks = [lab.Ask(0, 5, 4)] + [lab.Ask(1, 5, 4)] * 3
    ran = run(lab, "chunked", asks, most_sequences=1, max_queue=2)
    assert [Status(s).name for s in ran.record.status] == ["COMPLETED"] * 3 + ["QUEUE_FULL"]


def test_a_request_longer_than_the_cache_or_the_limit_is_turned_away(lab: Any) -> None:
    """The last token of an answer is never in the cache."""
    asks = all_at_once(lab, (30, 3), (30, 4), (20, 2))
    assert run(lab, "chunked", asks, capacity=2).record.status.tolist() == [1, Status.TOO_LONG, 1]
    assert run(lab, "chunked", asks, longest=32).record.status.tolist() == [Status.TOO_LONG, Status.TOO_LONG, 1]


def test_what_a_request_passes_before_the_queue_delays_it(lab: Any) -> None:
    ran = run(lab, "chunked", [lab.Ask(5, 5, 1)], front_ps=3 * STEP)
    assert (ran.record.start[0], ran.record.finish[0]) == (5 + 3 * STEP, 5 + 4 * STEP)
