"""A user's scheduler: it decides as a built-in one does, and what it does wrong is one clear line."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from windtunnel.errors import ScenarioError
from windtunnel.serving.engine import MOST_WAKES
from windtunnel.serving.outcome import PS, Status
from windtunnel.serving.policy import Turn
from windtunnel.serving.request import Request

MS = PS // 1000


class Chunked:
    """Decodes, then prompts begun, then those that wait, in pieces."""

    def schedule(self, turn: Turn) -> None:
        turn.decode()
        if turn.preempted:
            return
        for request in turn.partial:
            if turn.tokens_left > 0:
                turn.prefill(request, turn.tokens_left)
        while turn.tokens_left > 0 and turn.head is not None:
            if not turn.prefill(turn.head, turn.tokens_left):
                break


class ShortestPromptFirst:
    """The shortest prompts get what the decodes leave."""

    def schedule(self, turn: Turn) -> None:
        turn.decode()
        left = turn.max_tokens - turn.decodes
        for request in turn.partial + tuple(sorted(turn.waiting, key=lambda r: r.input_tokens)):
            if left <= 0 or not turn.prefill(request, left):
                break
            left = turn.tokens_left
        if not turn.pieces:
            turn.stable_until = "event"


class Does:
    """Whatever a test wants done."""

    def __init__(self, what: Callable[[Turn], object]) -> None:
        self.schedule = what


def asks(lab: Any, n: int = 40, gap: int = 25 * MS) -> list[Any]:
    return [lab.Ask(i * gap, 37 * i % 190 + 1, 11 * i % 29 + 1) for i in range(n)]


@pytest.mark.parametrize("capacity", [1 << 30, 40])
def test_one_that_decides_as_a_built_in_one_has_its_results(lab: Any, capacity: int) -> None:
    spec = lab.spec(lab.rugged(), budget=64, most_sequences=6, capacity=capacity)
    own, built_in = lab.run(spec, asks(lab), scheduler=Chunked()), lab.run(spec, asks(lab))
    for name in ("start", "first", "finish", "status", "preempted"):
        assert getattr(own.record, name).tolist() == getattr(built_in.record, name).tolist()


@pytest.mark.parametrize("slots", [1, 2])
def test_the_shortest_prompt_goes_first(lab: Any, slots: int) -> None:
    spec = lab.spec(lab.rugged(groups=slots), budget=64, slots=slots, most_sequences=4)
    ran = lab.run(spec, asks(lab, gap=0), scheduler=ShortestPromptFirst())
    assert set(ran.record.status) == {Status.COMPLETED}
    if slots == 1:
        by_length = sorted(range(40), key=lambda i: ran.asks[i].input_tokens)
        assert sorted(range(40), key=lambda i: (ran.record.start[i], ran.asks[i].input_tokens)) == by_length


@pytest.mark.parametrize("until", [lambda now: "event", lambda now: 3, lambda now: now + 0.1, lambda now: now - 1.0])
def test_a_decision_that_holds_changes_nothing(lab: Any, until: Callable[[float], Any]) -> None:
    """Stable for so long or for so many iterations, it is the same as asked each time."""

    def schedule(turn: Turn) -> None:
        Chunked().schedule(turn)
        if not turn.given and not turn.preempted:
            turn.stable_until = until(turn.now_s)

    spec = lab.spec(lab.rugged(), budget=64, most_sequences=6, capacity=60)
    plain = lab.run(spec, asks(lab), scheduler=Chunked())
    ran = lab.run(spec, asks(lab), scheduler=Does(schedule))
    assert ran.record.finish.tolist() == plain.record.finish.tolist()
    assert ran.engine.tally.iterations == plain.engine.tally.iterations
    assert (ran.engine.tally.events < plain.engine.tally.events) == (until(0.0) != -1.0)


def twice(turn: Turn) -> None:
    for request in turn.waiting:
        turn.prefill(request)
    if not turn.given:
        turn.decode()
        turn.decode()


def late(turn: Turn) -> None:
    for request in turn.waiting:
        turn.prefill(request)
    if turn.decodes or turn.given:
        turn.decode()


def again(turn: Turn) -> None:
    for request in turn.waiting * 2:
        turn.prefill(request, 1)


def stable(value: Any) -> Callable[[Turn], None]:
    def schedule(turn: Turn) -> None:
        Chunked().schedule(turn)
        turn.stable_until = value

    return schedule


def waking(value: Any) -> Callable[[Turn], None]:
    return lambda turn: setattr(turn, "wake_at", value)


def all_of(amount: Any) -> Callable[[Turn], object]:
    return lambda turn: [turn.prefill(request, amount) for request in turn.waiting]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (twice, r"decode\(\) twice in one iteration"),
        (late, r"decode\(\) after prefill\(\)"),
        (again, r"prefill\(\) of request 0 twice in one iteration"),
        (lambda turn: turn.prefill(7), r"prefill\(\) of int; requests of turn.partial and turn.waiting"),
        (lambda turn: turn.prefill(Request(3, 0, 5, 5)), r"prefill\(\) of request 3, which is not in this batch"),
        (all_of(0), "prefill.. of 0 tokens; whole numbers from 1"),
        (all_of(-3), "prefill.. of -3 tokens"),
        (all_of(1.5), "prefill.. of 1.5 tokens"),
        (all_of(True), "prefill.. of True tokens"),
        (all_of("9"), "prefill.. of '9' tokens"),
        (stable("forever"), "stable_until is 'forever'"),
        (stable(0), "stable_until is 0;"),
        (stable(math.nan), "stable_until is nan"),
        (stable([1]), r"stable_until is \[1\]"),
        (waking(math.inf), "wake_at is inf"),
        (waking("soon"), "wake_at is 'soon'"),
    ],
)
def test_what_it_does_wrong_is_said_in_one_line(lab: Any, what: Callable[[Turn], object], said: str) -> None:
    spec = lab.spec(lab.flat())
    with pytest.raises(ScenarioError, match=said) as caught:
        lab.run(spec, [lab.Ask(0, 20, 8), lab.Ask(0, 30, 8)], scheduler=Does(what))
    assert "\n" not in str(caught.value)


def test_prompts_that_have_no_price_are_refused(lab: Any) -> None:
    spec = lab.spec(lab.flat(tokens=1000))
    with pytest.raises(ScenarioError, match="prompt tokens in one iteration; at most"):
        lab.run(spec, [lab.Ask(0, 5000, 1)], scheduler=Does(all_of(None)))


def test_a_request_that_decodes_has_no_prompt_left(lab: Any) -> None:
    def schedule(turn: Turn) -> None:
        for request in turn.running:
            turn.prefill(request)
        Chunked().schedule(turn)

    with pytest.raises(ScenarioError, match="request 0, which is decoding"):
        lab.run(lab.spec(lab.flat()), [lab.Ask(0, 20, 8)], scheduler=Does(schedule))


def test_a_turn_is_over_when_it_is_over(lab: Any) -> None:
    turns: list[Turn] = []

    def schedule(turn: Turn) -> None:
        turns.append(turn)
        Chunked().schedule(turn)

    ran = lab.run(lab.spec(lab.flat()), [lab.Ask(0, 20, 3)], scheduler=Does(schedule))
    assert ran.record.status[0] == Status.COMPLETED
    with pytest.raises(ScenarioError, match=r"decode\(\) outside schedule\(\)"):
        turns[0].decode()


@pytest.mark.parametrize("wakes", [False, True])
def test_an_engine_whose_scheduler_runs_nothing_stops_with_a_note(lab: Any, wakes: bool) -> None:
    asked = 0

    def schedule(turn: Turn) -> None:
        nonlocal asked
        asked += 1
        if wakes:
            turn.wake_at = turn.now_s

    ran = lab.run(lab.spec(lab.flat()), [lab.Ask(0, 20, 3), lab.Ask(PS, 20, 3)], scheduler=Does(schedule))
    assert ran.record.status.tolist() == [Status.UNFINISHED] * 2
    (note,) = ran.engine.notes
    assert "its scheduler ran nothing" in note
    assert "2 requests were left unfinished" in note
    assert asked <= 2 * MOST_WAKES + 4
    assert lab.run(lab.spec(lab.flat()), [lab.Ask(0, 20, 3)]).engine.notes == ()


def test_it_may_ask_to_be_asked_again(lab: Any) -> None:
    """Prompts are gathered for half a second; nobody asks when the engine is empty."""
    times = []

    def schedule(turn: Turn) -> None:
        times.append(turn.now)
        turn.decode()
        if turn.waits and turn.waiting[0].arrival / PS + 0.5 > turn.now_s and not turn.decodes:
            turn.wake_at = turn.waiting[0].arrival / PS + 0.5
            return
        for request in turn.waiting:
            turn.prefill(request)
        if turn.waits == 0:
            turn.wake_at = turn.now_s + 1e-9

    ran = lab.run(lab.spec(lab.flat()), [lab.Ask(0, 20, 1), lab.Ask(PS // 5, 20, 1)], scheduler=Does(schedule))
    assert ran.record.start.tolist() == [PS // 2, PS // 2]
    assert len(times) < 10
