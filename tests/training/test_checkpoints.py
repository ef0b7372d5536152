"""How checkpoints leave the devices: behind passes, through a buffer, by so many writers, to a tier of one's own."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.errors import ScenarioError
from windtunnel.training.checkpoints import Checkpoints, StorageTier, get_tier
from windtunnel.training.run import TrainingRun, estimate_run, simulate_run

GB = 1e9
DISK, LINK = StorageTier("disk", GB, GB), StorageTier("link", 8 * GB, 8 * GB)
LAZY = Checkpoints(40 * GB, DISK, 100.0, asynchronous=True, copy_tier=LINK, unchanged_s=4.0, streamed=True)


def a_run(saves: Checkpoints) -> TrainingRun:
    return TrainingRun(
        5.0, 1.0, 20_000, 8, 1, mtbf_hours=0.5, checkpoints=saves, detection_s=30.0, restart_s=20.0
    )  # fmt: skip


def test_what_does_not_fit_behind_the_passes_stops_training() -> None:
    assert LAZY.blocked_s(1) == pytest.approx(40 / 8 - 4)
    assert LAZY.behind_s(1) == pytest.approx(40 - (40 / 8 - 4))
    assert replace(LAZY, unchanged_s=5.0).blocked_s(1) == 0
    assert replace(LAZY, unchanged_s=5.0).behind_s(1) == pytest.approx(40)


def test_an_unstreamed_copy_comes_before_the_write() -> None:
    serial = replace(LAZY, streamed=False)
    assert serial.blocked_s(1) + serial.behind_s(1) == pytest.approx(40 / 8 + 40)


@given(buffer=st.floats(0, 80), unchanged=st.floats(0, 60))
def test_a_buffer_lets_the_rest_leave_as_fast_as_it_is_written(buffer: float, unchanged: float) -> None:
    """By t, min(c·t, B + w·t) are copied; all are written at S/w, whatever the buffer."""
    saves = replace(LAZY, buffer_bytes=buffer * GB, unchanged_s=unchanged)
    copied = max(40 / 8, 40 - buffer)
    assert saves.blocked_s(1) == pytest.approx(max(copied - unchanged, 0.0), abs=1e-9)
    assert saves.blocked_s(1) + saves.behind_s(1) == pytest.approx(40)


def test_without_a_buffer_or_passes_it_is_a_synchronous_write() -> None:
    bare = replace(LAZY, buffer_bytes=0.0, unchanged_s=0.0)
    assert bare.blocked_s(1) == Checkpoints(40 * GB, DISK).blocked_s(1)
    assert bare.behind_s(1) == 0.0


def test_writers_are_a_limit_of_their_own() -> None:
    slow = Checkpoints(40 * GB, DISK, writing_bytes_per_s=0.5 * GB)
    assert slow.blocked_s(1) == slow.blocked_s(100) == pytest.approx(80)
    assert Checkpoints(40 * GB, DISK, writing_bytes_per_s=5 * GB).blocked_s(1) == pytest.approx(40)


@pytest.mark.parametrize("every_s", [None, 20.0, 100.0])
@pytest.mark.parametrize("buffer", [math.inf, 10 * GB])
def test_mean_is_that_of_runs_played_out(every_s: float | None, buffer: float) -> None:
    run = a_run(replace(LAZY, every_s=every_s, buffer_bytes=buffer))
    played = simulate_run(run, seed=3, trials=300)
    assert played.time_s.mean() == pytest.approx(estimate_run(run).time_to_train_s, rel=0.015)


def test_steps_between_checkpoints_are_counted() -> None:
    run = a_run(replace(LAZY, every_s=None, every_steps=7))
    found = estimate_run(run)
    assert found.checkpoints == math.ceil(20_000 / 7)
    assert found.checkpoint_interval_s == pytest.approx(35, rel=1e-3)


def test_a_tier_takes_figures_of_ones_own() -> None:
    tier = get_tier("parallel-fs:aggregate_write_gbyte_per_s=650, write_gbyte_per_s_per_node=10")
    assert (tier.name, tier.aggregate_write_bytes_per_s, tier.write_bytes_per_s_per_node) == (
        "parallel-fs",
        650e9,
        1e10,
    )
    assert tier.read_bytes_per_s_per_node == get_tier("parallel-fs").read_bytes_per_s_per_node


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: get_tier("nvme:write=3"), "unknown figure of checkpoint tier nvme: 'write'"),
        (lambda: get_tier("nvme:write_gbyte_per_s_per_node=0"), "write_gbyte_per_s_per_node '0' is not a number above"),
        (lambda: Checkpoints(1.0, DISK, every_steps=0), "every 0 steps"),
        (lambda: Checkpoints(1.0, DISK, writing_bytes_per_s=0.0), "written at 0.0 bytes/s"),
        (lambda: Checkpoints(1.0, DISK, unchanged_s=-1.0), "unchanged_s = -1.0"),
        (lambda: Checkpoints(1.0, DISK, buffer_bytes=math.nan), "buffer_bytes = nan"),
    ],
)
def test_wrong_figures_are_named(make, message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        make()
