"""GaLore on plans of its own and of others."""

from __future__ import annotations

from typing import Any

import pytest

from windtunnel.engine import train
from windtunnel.errors import ScenarioError
from windtunnel.scenario.options import TrainOptions, read_options
from windtunnel.scenario.results import TrainResult

BASE: dict[str, Any] = {
    "model": "llama-7b", "on": "1xa100-80gb-sxm", "engine": "pytorch@bf16", "precision": "bf16", "seq": 256,
    "global_batch": 1, "optimizer": "adamw-bf16",
}  # fmt: skip


def run(*techniques: str, **changes: Any) -> TrainResult:
    return train(read_options(TrainOptions, {**BASE, **changes, "techniques": list(techniques)}))


def test_rank_0_changes_nothing() -> None:
    plain, off = run().to_dict(), run("galore:rank=0").to_dict()
    off["plan"].pop("with")
    assert off == plain


def test_a_full_rank_is_the_optimizer_itself() -> None:
    plain, full = run(), run("galore:rank=4096")
    assert full.memory_bytes["total"] == pytest.approx(plain.memory_bytes["total"], rel=1e-12)
    assert full.step_time_s == pytest.approx(plain.step_time_s, rel=1e-9)


def test_the_limit_of_no_rank_is_what_is_not_projected() -> None:
    """Tables, output projection and norms keep their two bf16 moments: LLaMA 7B has two tables of 32,000 rows."""
    outside = 2 * 32000 * 4096 + 65 * 4096
    found = run("galore:rank=1").memory_bytes["optimizer"]
    assert found == pytest.approx(4 * outside, rel=0.01)


@pytest.mark.parametrize("optimizer", ["adamw-bf16", "adam8bit", "adamw", "lion"])
def test_a_higher_rank_keeps_more_and_takes_longer(optimizer: str) -> None:
    ranks = [run(f"galore:rank={r}", optimizer=optimizer) for r in (64, 512, 2048)]
    memory = [r.memory_bytes["optimizer"] for r in ranks]
    assert memory == sorted(memory)
    times = [r.step_time_s for r in ranks]
    assert times == sorted(times)
    assert all(sum(r.time_s.values()) == pytest.approx(r.step_time_s) for r in ranks)


def test_decompositions_cost_as_often_as_they_come() -> None:
    plain = run("galore:refresh_steps=1000000000").step_time_s
    often, seldom = (run(f"galore:refresh_steps={n}").step_time_s - plain for n in (100, 400))
    assert often == pytest.approx(4 * seldom, rel=1e-3)


def test_work_is_within_physics() -> None:
    found = run("galore")
    assert found.time_s["optimizer"] >= found.memory_bytes["weights"] / 2039e9
    assert 0 < (found.hfu or 0) < 1


def test_on_many_accelerators() -> None:
    asked = {"on": "16xh100-sxm", "tp": 2, "pp": 2, "global_batch": 64, "engine": "megatron", "optimizer": "adamw"}
    plain, low = run(**asked), run("galore", **asked)
    assert low.memory_bytes["optimizer"] < plain.memory_bytes["optimizer"]
    assert low.memory_bytes["weights"] == plain.memory_bytes["weights"]


@pytest.mark.parametrize(
    ("technique", "changes", "match"),
    [
        ("galore", {"finetune": "lora:r=16"}, "finetune=lora"),
        ("galore", {"engine": "deepspeed", "offload": "optimizer:cpu"}, "offload optimizer"),
        ("galore:layerwise=true", {"global_batch": 4}, "4 micro-batches"),
    ],
)
def test_what_it_cannot_be_combined_with(technique: str, changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ScenarioError, match=match) as caught:
        run(technique, **changes)
    assert "galore" in str(caught.value)


def test_checkpoints_hold_the_state_that_there_is() -> None:
    asked = {"on": "16xh100-sxm", "tp": 2, "pp": 2, "global_batch": 64, "engine": "megatron", "optimizer": "adamw"}
    plain, low = (run(*t, **asked, tokens=1e9).run for t in ((), ("galore",)))
    assert plain is not None
    assert low is not None
    parameters = plain["checkpoint_bytes"] / 14
    assert parameters == pytest.approx(6.74e9, rel=0.01)
    assert 6 * parameters < low["checkpoint_bytes"] < 0.75 * plain["checkpoint_bytes"]
