"""The whole run of an answer: its parts add up, and it moves the way it must."""

from __future__ import annotations

from typing import Any

import pytest

from windtunnel.engine import train
from windtunnel.errors import ScenarioError
from windtunnel.scenario.options import TrainOptions, read_options
from windtunnel.scenario.results import TrainResult

BASE = {
    "model": "llama-3.1-8b", "on": "256xh100-sxm", "tp": 2, "micro_batch": 1, "global_batch": 512, "seq": 4096,
    "tokens": 1e12,
}  # fmt: skip


def answer(**changes: Any) -> TrainResult:
    return train(read_options(TrainOptions, {**BASE, **changes}))


def run(**changes: Any) -> dict[str, Any]:
    found = answer(**changes).run
    assert found is not None
    return dict(found)


def test_no_run_unless_tokens_are_given() -> None:
    assert answer(tokens=None).run is None


def test_the_parts_add_up() -> None:
    result = answer(mtbf_hours=20)
    assert result.run is not None
    whole = dict(result.run)
    assert whole["useful_s"] == pytest.approx(whole["steps"] * result.step_time_s)
    assert whole["useful_s"] + sum(whole["lost_s"].values()) == pytest.approx(whole["time_to_train_s"], rel=1e-12)
    assert whole["goodput_fraction"] == pytest.approx(whole["useful_s"] / whole["time_to_train_s"])
    assert whole["gpu_hours"] == pytest.approx(whole["time_to_train_s"] / 3600 * 256)
    assert whole["cost_usd"] == pytest.approx(
        result.cost_usd_per_step * whole["time_to_train_s"] / result.step_time_s  # type: ignore[operator]
    )
    assert result.energy_j * whole["steps"] < whole["energy_j"] < result.energy_j * whole["steps"] * 1.2


def test_failures_cost_and_rarer_ones_cost_less() -> None:
    often, seldom, published = run(mtbf_hours=2), run(mtbf_hours=200), run()
    assert often["time_to_train_s"] > seldom["time_to_train_s"]
    assert often["failures"] > seldom["failures"] > 0
    # Published rates of an accelerator and of a node, scaled to 256 and 32 of them.
    assert published["job_mtbf_hours"] == pytest.approx(1 / (256 / 79230 + 32 / 17577))
    assert run(accelerator_mtbf_hours=1000)["job_mtbf_hours"] == pytest.approx(1 / (256 / 1000 + 32 / 17577))


def test_more_failures_ask_for_more_spares() -> None:
    often, seldom = run(mtbf_hours=2)["spare_nodes"], run(mtbf_hours=2000)["spare_nodes"]
    assert often > seldom >= 0
    # A failure every 2 hours and 133 hours of repair: 66.5 nodes are away on average.
    assert 66.5 < often < 100


def test_asynchronous_and_faster_checkpoints_stop_training_less() -> None:
    plain = run(mtbf_hours=5, checkpoint_every=600)
    assert (
        run(mtbf_hours=5, checkpoint_every=600, checkpoint_async=True)["lost_s"]["checkpoints"]
        < (plain["lost_s"]["checkpoints"])
    )
    assert (
        run(mtbf_hours=5, checkpoint_every=600, checkpoint_to="dram")["lost_s"]["checkpoints"]
        < (plain["lost_s"]["checkpoints"])
    )
    best = run(mtbf_hours=5)
    assert all(best["time_to_train_s"] <= run(mtbf_hours=5, checkpoint_every=s)["time_to_train_s"] for s in (60, 6000))


def test_a_checkpoint_holds_the_trained_state_once() -> None:
    trained = 8_030_261_248
    assert run()["checkpoint_bytes"] == pytest.approx(14 * trained, rel=0.01)  # norms are held by each tp rank
    assert run(tp=1)["checkpoint_bytes"] == 14 * trained
    assert run(tp=1, finetune="lora:r=16")["checkpoint_bytes"] < 14 * trained / 50


def test_stragglers_slow_every_step() -> None:
    assert run()["lost_s"]["stragglers"] == 0
    slow = run(straggler_cv=0.02)
    assert 0.02 < slow["lost_s"]["stragglers"] / slow["useful_s"] < 0.08


def test_a_run_that_gets_nowhere_is_infeasible() -> None:
    result = answer(mtbf_hours=1e-4)
    assert result.fits
    assert not result.feasible
    assert result.run is not None
    assert "failure every" in result.run["problem"]
    assert result.run["time_to_train_s"] is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"checkpoint_every": "often"}, ["checkpoint_every", "'often'"]),
        ({"checkpoint_every": -3}, ["checkpoint_every", "-3"]),
        ({"checkpoint_to": "tape"}, ["checkpoint tier", "'tape'", "nvme"]),
        ({"mtbf_hours": 3, "node_mtbf_hours": 4}, ["mtbf_hours", "not both"]),
    ],
)
def test_wrong_runs_are_one_clear_line(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ScenarioError) as caught:
        answer(**changes)
    assert "\n" not in str(caught.value)
    assert all(w in str(caught.value) for w in words)


def test_checkpoints_every_so_many_steps() -> None:
    whole = run(checkpoint_every="10 steps", tokens=1e9)
    assert whole["checkpoints"] == -(-whole["steps"] // 10)
    assert run(checkpoint_every="1step", tokens=1e9)["checkpoints"] == whole["steps"]


@pytest.mark.parametrize("every", ["step", "0steps", "1.5 steps", "-2steps", "often"])
def test_an_interval_that_is_none_is_named(every: str) -> None:
    with pytest.raises(ScenarioError, match="checkpoint_every"):
        run(checkpoint_every=every)


def test_only_ranks_that_hold_a_part_of_the_state_write() -> None:
    """torch.save at 1 GB/s: tp x pp processes without sharding, all of them with ZeRO-1."""
    asked = {"engine": "deepspeed@2024", "mtbf_hours": 1e9, "checkpoint_every": "100steps", "tokens": 1e11}
    alone, shared = run(**asked, zero=0), run(**asked, zero=1)
    for whole, writers in ((alone, 2), (shared, 256)):
        each = whole["lost_s"]["checkpoints"] / whole["checkpoints"]
        assert each == pytest.approx(
            max(whole["checkpoint_bytes"] / (writers * 1e9), whole["checkpoint_bytes"] / 120.8e9)
        )
