"""ZeRO: nothing at stage 0, the memory of its formulas, and messages that no stage but the third adds to."""

from __future__ import annotations

from typing import Any

import pytest

from windtunnel.errors import ScenarioError
from windtunnel.models import load_network
from windtunnel.scenario.results import TrainResult
from windtunnel.studies.ask import train

BASE: dict[str, Any] = {
    "model": "gpt2-xl", "on": "64xv100-sxm", "set": {"node": "dgx-2"}, "global_batch": 64, "seq": 1024,
    "precision": "fp16", "engine": "megatron@2019", "recompute": "full",
}  # fmt: skip
PARAMETERS = load_network("gpt2-xl").total_parameters


def figures(result: Any) -> dict[str, Any]:
    """All of an answer but the plan, which names techniques."""
    return {k: v for k, v in result.to_dict().items() if k != "plan"}


def staged(stage: int, **changes: Any) -> TrainResult:
    return train(**{**BASE, **changes}, techniques=[f"zero:stage={stage},partition_activations=false"])


def test_stage_0_changes_nothing() -> None:
    assert figures(staged(0)) == figures(train(**BASE))


@pytest.mark.parametrize(("stage", "per_parameter"), [(0, 16), (1, 4 + 12 / 64), (2, 2 + 14 / 64)])
def test_state_is_that_of_the_paper(stage: int, per_parameter: float) -> None:
    """Figure 1 of arXiv 1910.02054: 2 + 2 + 12 bytes a parameter, of which each stage shards more."""
    memory = staged(stage).memory_bytes
    state = memory["weights"] + memory["gradients"] + memory["optimizer"]
    assert state == pytest.approx(per_parameter * PARAMETERS, rel=0.03)


def test_every_stage_saves_memory_and_the_update_is_shared() -> None:
    found = [staged(stage) for stage in (0, 1, 2, 3)]
    totals = [r.memory_bytes["total"] for r in found]
    assert totals == sorted(totals, reverse=True)
    assert found[1].time_s["optimizer"] == pytest.approx(found[0].time_s["optimizer"] / 64, rel=0.5)


def test_messages_of_stage_2_hide_and_those_of_stage_3_are_half_as_many_again() -> None:
    plain, two, three = staged(0), staged(2), staged(3)
    assert two.time_s["dp_comm"] < plain.time_s["dp_comm"]
    assert three.step_time_s > two.step_time_s > two.time_s["compute"]


WIDE = {"model": "zero-100b", "tp": 16, "micro_batch": 4, "global_batch": 16, "on": "64xv100-sxm"}


def test_partitioned_activations_save_what_the_paper_says() -> None:
    """Layer inputs fall to a sixteenth, for less than a tenth of what tensor parallelism sends (section 8)."""
    kept = train(**{**BASE, **WIDE}, techniques=["zero:partition_activations=false"])
    shared = train(**{**BASE, **WIDE}, techniques=["zero"])
    inputs = 125 * 4 * 1024 * 8192 * 2
    saved = kept.memory_bytes["activations"] - shared.memory_bytes["activations"]
    assert saved == pytest.approx(inputs * 15 / 16, rel=0.02)
    assert 1 < shared.time_s["tp_comm"] / kept.time_s["tp_comm"] < 1.12
    assert shared.time_s["compute"] == pytest.approx(kept.time_s["compute"], rel=1e-6)


def test_partitioning_needs_full_recomputation_and_several_ranks() -> None:
    asked = ["zero:stage=0"]
    assert figures(train(**BASE, techniques=asked)) == figures(train(**BASE))
    kept = {**BASE, **WIDE, "recompute": "none"}
    assert figures(train(**kept, techniques=asked)) == figures(train(**kept))


def test_another_stage_asked_for_is_named() -> None:
    with pytest.raises(ScenarioError, match="zero sets zero=2; leave out zero=1 or the technique"):
        staged(2, zero=1)
