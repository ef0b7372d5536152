"""The explicit layout: every pass once, in its schedule's order, never before its rank and its input are free."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.errors import ScenarioError
from windtunnel.training.layout import Slot, layout, makespan, peak_in_flight
from windtunnel.training.schedules import SCHEDULES

NAMES = sorted(SCHEDULES)


def equal(name: str, p: int, m: int, v: int = 1, send: float = 0.0) -> list[Slot]:
    return layout(name, [1.0] * p, [1.0] * p, [1.0] * p, [send] * p, m, v)


def order(slots: list[Slot], rank: int) -> str:
    """``F0 F1 B0``; passes run together are joined by ``&``, chunks above 0 are marked."""
    text, last = "", None
    for s in slots:
        if s.stage == rank:
            together = last is not None and (s.start, s.end) == (last.start, last.end)
            text += ("&" if together else " ") + f"{s.phase}{s.micro_batch}" + "'" * s.chunk
            last = s
    return text.strip()


@pytest.mark.parametrize(
    ("name", "p", "m", "v", "rank", "expected"),
    [
        ("gpipe", 2, 3, 1, 0, "F0 F1 F2 B0 B1 B2"),
        ("1f1b", 4, 6, 1, 0, "F0 F1 F2 F3 B0 F4 B1 F5 B2 B3 B4 B5"),
        ("1f1b", 4, 4, 1, 3, "F0 B0 F1 B1 F2 B2 F3 B3"),
        # Megatron-LM: 2(p − 1 − rank) + (v − 1)p = 4 forward passes of chunks ahead on rank 0, micro-batches by twos.
        ("interleaved", 2, 4, 2, 0, "F0 F1 F0' F1' F2 B0' F3 B1' F2' B0 F3' B1 B2' B3' B2 B3"),
        ("interleaved", 2, 4, 2, 1, "F0 F1 F0' B0' F1' B1' F2 B0 F3 B1 F2' B2' F3' B3' B2 B3"),
        ("zero-bubble", 3, 4, 1, 0, "F0 F1 F2 B0 W0 F3 B1 W1 B2 W2 B3 W3"),
        ("zero-bubble", 3, 4, 1, 2, "F0 B0 F1 B1 F2 B2 W0 F3 B3 W1 W2 W3"),
        # One micro-batch direction is marked; the middle ranks do not overlap their first pair.
        ("dualpipe", 2, 6, 1, 0, "F0 F3' F1 B3' F4'&B0 F2&B4' F5'&B1 B5' B2 W2"),
    ],
)
def test_ranks_follow_the_published_orders(name: str, p: int, m: int, v: int, rank: int, expected: str) -> None:
    slots = sorted(equal(name, p, m, v), key=lambda s: (s.start, "FBW".index(s.phase)))
    assert order(slots, rank) == expected


def test_a_small_pipeline_by_hand() -> None:
    """Two stages, two micro-batches, 1F1B: F 1 and 2 s, both gradients 3 and 4 s, a send of 0.5 s holds its sender."""
    slots = layout("1f1b", [1.0, 2.0], [2.0, 3.0], [1.0, 1.0], [0.5, 0.5], 2)
    spans = {(s.stage, s.phase, s.micro_batch): (s.start, s.end) for s in slots}
    assert spans == {
        (0, "F", 0): (0.0, 1.0),
        (0, "F", 1): (1.5, 2.5),
        (1, "F", 0): (1.5, 3.5),
        (1, "B", 0): (3.5, 7.5),
        (1, "F", 1): (8.0, 10.0),
        (0, "B", 0): (8.0, 11.0),
        (1, "B", 1): (10.0, 14.0),
        (0, "B", 1): (14.5, 17.5),
    }
    assert makespan(slots, [0.0, 0.0]) == 17.5
    assert makespan(slots, [1.0, 6.0]) == 20.0
    assert peak_in_flight(slots) == [2.0, 1.0]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30)
@given(data=st.data())
def test_passes_run_once_and_wait_for_their_rank_and_input(name: str, data: st.DataObject) -> None:
    p = data.draw(st.integers(1, 6))
    p += p % 2 if name == "dualpipe" and p > 1 else 0
    v = data.draw(st.integers(1, 3)) if name == "interleaved" else 1
    m = data.draw(st.integers(1, 12)) if name != "interleaved" else p * data.draw(st.integers(1, 3))
    times = st.lists(st.floats(0.1, 3.0), min_size=p, max_size=p)
    f, b, w, send = (data.draw(times) for _ in range(4))
    slots = layout(name, f, b, w, send, m, v)

    chunks = 2 if name == "dualpipe" and p > 1 and m > 1 else v
    passes = Counter((s.stage, s.chunk, s.micro_batch, s.phase) for s in slots)
    assert set(passes.values()) == {1}
    assert Counter(s.phase for s in slots)["F"] == Counter(s.phase for s in slots)["B"] == p * m * v
    assert {s.chunk for s in slots} == set(range(chunks))

    for rank in range(p):
        spans = sorted({(s.start, s.end) for s in slots if s.stage == rank})
        assert all(later[0] >= earlier[1] - 1e-12 for earlier, later in pairwise(spans))
        busy = sum(end - start for start, end in spans)
        if name != "dualpipe":
            assert busy == pytest.approx(m * (f[rank] + b[rank] + w[rank]))

    def position(s: Slot) -> int:
        return p - 1 - s.stage if name == "dualpipe" and s.chunk else s.chunk * p + s.stage

    by_position = {(position(s), s.micro_batch, s.phase): s for s in slots}
    depth = 1 + max(position(s) for s in slots)
    for s in slots:
        q = position(s)
        if s.phase == "F" and q > 0:
            before = by_position[q - 1, s.micro_batch, "F"]
        elif s.phase == "B":
            before = by_position[(q + 1, s.micro_batch, "B") if q + 1 < depth else (q, s.micro_batch, "F")]
        elif s.phase == "W":
            before = by_position[q, s.micro_batch, "B"]
        else:
            continue
        lag = send[position(before) % p] if before.stage != s.stage or position(before) != q else 0.0
        assert s.start >= before.end + (lag if p > 1 else 0.0) - 1e-9


def test_overlapped_pairs_take_the_mean_of_both_stages() -> None:
    slots = layout("dualpipe", [1.0] * 2, [1.0] * 2, [1.0] * 2, [0.0] * 2, 8, overlapped=[2.0, 2.6])
    spans = Counter((s.start, s.end) for s in slots if s.stage == 0)
    assert {round(end - start, 12) for (start, end), n in spans.items() if n == 2} == {2.3}


def test_activations_are_let_go_before_others_are_made() -> None:
    slots = [Slot(0, 0, 0, "F", 0, 1), Slot(0, 0, 0, "B", 1, 2), Slot(0, 1, 0, "F", 2, 3), Slot(0, 1, 0, "B", 3, 4)]
    assert peak_in_flight(slots) == [1.0]
    assert peak_in_flight(slots, virtual_stages=4) == [0.25]


def test_large_layouts_are_complete() -> None:
    slots = equal("1f1b", 64, 512)
    assert len(slots) == 2 * 64 * 512
    assert makespan(slots, [0.0] * 64) == pytest.approx((512 + 63) * 3.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("1f1b", [1.0, 1.0], [1.0], [1.0, 1.0], [0.0, 0.0], 4), "lengths"),
        (("1f1b", [], [], [], [], 4), "lengths"),
        (("1f1b", [1.0], [-1.0], [1.0], [0.0], 4), "negative"),
        (("1f1b", [1.0], [float("nan")], [1.0], [0.0], 4), "not a number"),
        (("1f1b", [1.0], [1.0], [1.0], [0.0], 0), "0 micro-batches"),
        (("interleaved", [1.0], [1.0], [1.0], [0.0], 1, 0), "0 virtual stages"),
        (("1F1B2", [1.0], [1.0], [1.0], [0.0], 1), "did you mean 1f1b"),
        (("dualpipe", [1.0] * 3, [1.0] * 3, [1.0] * 3, [0.0] * 3, 6), "dualpipe cannot run 3 stages"),
        (("interleaved", [1.0] * 4, [1.0] * 4, [1.0] * 4, [0.0] * 4, 6, 2), "a multiple of 4"),
    ],
)
def test_bad_pipelines_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        layout(*arguments)
