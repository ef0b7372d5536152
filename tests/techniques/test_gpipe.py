"""GPipe: nothing with one partition, the bubble of its formula, and memory that goes with its micro-batches."""

from __future__ import annotations

from typing import Any

import pytest

from windtunnel.errors import ScenarioError
from windtunnel.scenario.results import TrainResult
from windtunnel.studies.ask import train

BASE: dict[str, Any] = {
    "model": "gpipe-transformer-48", "on": "8xtpu-v3", "global_batch": 64, "seq": 1024, "engine": "gpipe",
}  # fmt: skip
FREE = {"scale_up_gbyte_per_s": 1e6, "kernel_gap_us": 0}


def figures(result: Any) -> dict[str, Any]:
    """All of an answer but the plan, which names techniques."""
    return {k: v for k, v in result.to_dict().items() if k != "plan"}


def piped(partitions: int, pieces: int, **changes: Any) -> TrainResult:
    name = f"gpipe:partitions={partitions},micro_batches={pieces}"
    return train(**{**BASE, **changes}, techniques=[name])


def test_one_partition_changes_nothing() -> None:
    assert figures(piped(1, 4)) == figures(train(**BASE))


@pytest.mark.parametrize("pieces", [4, 16])
def test_the_bubble_is_that_of_the_paper(pieces: int) -> None:
    """(K - 1)/(M + K - 1) of the step (arXiv 1811.06965, section 2.3), where stages are alike and sends are free: the
    last stage has the output projection besides, and the first the table."""
    found = piped(4, pieces, set=FREE, on="4xtpu-v3")
    passes = found.step_time_s - found.time_s["optimizer"] - found.time_s["dp_comm"]
    assert found.time_s["pp_bubble"] / passes == pytest.approx(3 / (pieces + 3), rel=0.1)


def test_more_pieces_never_hurt_where_kernels_stay_full() -> None:
    times = [piped(8, pieces).step_time_s for pieces in (1, 2, 4, 8, 16)]
    assert times == sorted(times, reverse=True)


def test_accelerators_give_no_more_than_their_number() -> None:
    two, eight = piped(2, 32, on="2xtpu-v3"), piped(8, 32, on="8xtpu-v3")
    assert 1 < two.step_time_s / eight.step_time_s < 4


def test_rematerialisation_saves_memory_and_takes_time() -> None:
    kept = train(**BASE, techniques=["gpipe:partitions=8,micro_batches=8,rematerialize=false"])
    again = piped(8, 8)
    assert again.memory_bytes["activations"] < kept.memory_bytes["activations"] / 4
    assert again.step_time_s > kept.step_time_s
    assert again.hfu == pytest.approx(again.mfu * 4 / 3, rel=0.05)  # type: ignore[operator]


def test_every_micro_batch_is_held() -> None:
    """All forward passes come first, so that cutting a mini-batch finer saves nothing of what is kept."""
    whole, fine = piped(8, 8), piped(8, 32)
    assert fine.memory_bytes["activations"] == pytest.approx(whole.memory_bytes["activations"], rel=0.35)


def test_a_batch_that_cannot_be_cut_is_named() -> None:
    with pytest.raises(ScenarioError, match="gpipe: global_batch=64 cannot be cut into 7 micro-batches on each of 1"):
        piped(8, 7)
    with pytest.raises(ScenarioError, match="gpipe sets recompute=full; leave out recompute=none"):
        train(**BASE, recompute="none", techniques=["gpipe:partitions=8"])
