"""Ulysses: nothing with one rank, messages of its formula, and heads that can be dealt."""

from __future__ import annotations

from typing import Any

import pytest

from windtunnel.errors import ScenarioError
from windtunnel.ops.rewrite import operators
from windtunnel.scenario.results import TrainResult
from windtunnel.studies.ask import train

BASE: dict[str, Any] = {
    "model": "llama-7b", "on": "32xa100-80gb-sxm", "global_batch": 32, "seq": 16384, "recompute": "full", "zero": 3,
    "engine": "deepspeed@2023", "flash_attention": True,
}  # fmt: skip


def figures(result: Any) -> dict[str, Any]:
    """All of an answer but the plan, which names techniques."""
    return {k: v for k, v in result.to_dict().items() if k != "plan"}


def ulysses(degree: int | None = None, **changes: Any) -> TrainResult:
    name = "deepspeed-ulysses" + ("" if degree is None else f":degree={degree}")
    return train(**{**BASE, **changes}, techniques=[name])


def sent(result: TrainResult) -> float:
    """Bytes that a rank puts into the exchanges around attention, forward, of all layers."""
    names = ("cp.scatter_heads", "cp.gather_heads")
    return sum(float(op.message_bytes) for op in operators(result.tree.tree) if op.name in names)


def test_one_rank_changes_nothing() -> None:
    assert figures(ulysses(1)) == figures(train(**BASE))
    assert figures(ulysses()) == figures(train(**BASE))


def test_it_is_what_options_can_ask_for() -> None:
    asked = train(**BASE, cp=8, context_parallel="ulysses")
    assert figures(ulysses(8)) == figures(asked) == figures(ulysses(cp=8))


def test_messages_stay_when_sequence_and_ranks_grow_together() -> None:
    """4·N·h/P a layer (arXiv 2309.14509, section 3.2): queries, keys, values and the output, 2 bytes each."""
    small, large = ulysses(8), ulysses(32, seq=4 * 16384)
    assert sent(small) == sent(large) == pytest.approx(2 * 4 * 16384 / 8 * 4096)


def test_exchanges_that_cost_nothing_leave_a_share_of_the_work() -> None:
    free = {"scale_out_gbyte_per_s": 1e6, "scale_up_gbyte_per_s": 1e6}
    alone = train(**{**BASE, "on": "1xa100-80gb-sxm", "global_batch": 1})
    shared = ulysses(8, on="8xa100-80gb-sxm", global_batch=1, set=free)
    assert shared.time_s["compute"] >= alone.time_s["compute"] / 8
    assert shared.time_s["compute"] == pytest.approx(alone.time_s["compute"] / 8, rel=0.15)


@pytest.mark.parametrize(
    ("degree", "changes", "message"),
    [
        (64, {"on": "64xa100-80gb-sxm", "global_batch": 64}, "32 attention heads of llama-7b cannot be dealt to"),
        (8, {"tp": 8, "on": "64xa100-80gb-sxm", "global_batch": 64}, "tp x cp = 8 x 8 ranks"),
        (8, {"cp": 4}, "deepspeed-ulysses sets cp=8; leave out cp=4"),
        (8, {"context_parallel": "ring"}, "sets context-parallel=ulysses; leave out context-parallel=ring"),
    ],
)
def test_what_cannot_be_dealt_is_named(degree: int, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        ulysses(degree, **changes)
