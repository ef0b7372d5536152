"""CO2 on plans of its own and of others."""

from __future__ import annotations

from typing import Any

import pytest

from windtunnel.engine import train
from windtunnel.errors import ScenarioError
from windtunnel.scenario.options import TrainOptions, read_options
from windtunnel.scenario.results import TrainResult

BASE: dict[str, Any] = {
    "model": "gpt2-xl", "on": "32xa100-80gb-sxm", "engine": "fsdp@2023", "zero": 0, "seq": 1024, "global_batch": 128,
    "set": {"nics_per_node": 1, "nic_gbit_per_s": 10},
}  # fmt: skip


def run(*techniques: str, **changes: Any) -> TrainResult:
    return train(read_options(TrainOptions, {**BASE, **changes, "techniques": list(techniques)}))


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_one_step_that_all_wait_for_is_data_parallelism(zero: int) -> None:
    plain, off = run(zero=zero).to_dict(), run("co2:period=1,asynchronous=false", zero=zero).to_dict()
    off["plan"].pop("with")
    assert off == plain


def test_the_limit_of_a_long_period_is_one_accelerator() -> None:
    """Workers that never meet run as one alone does, but for what the outer update keeps."""
    alone = run(on="1xa100-80gb-sxm", global_batch=4, set={})
    apart = run("co2:period=1000000000")
    assert apart.step_time_s == pytest.approx(alone.step_time_s, rel=1e-4)
    assert apart.time_s["dp_comm"] == pytest.approx(0, abs=1e-6)
    kept = apart.memory_bytes["optimizer"] - alone.memory_bytes["optimizer"]
    assert kept == pytest.approx(12 * alone.memory_bytes["weights"] / 4, rel=0.01)


@pytest.mark.parametrize("zero", [0, 2])
def test_longer_periods_and_less_waiting_are_never_slower(zero: int) -> None:
    before = float("inf")
    for period in (1, 2, 8, 64):
        waits = run(f"co2:period={period},asynchronous=false,worker=8", zero=zero).step_time_s
        hides = run(f"co2:period={period},worker=8", zero=zero).step_time_s
        assert hides <= waits * (1 + 1e-9)
        assert hides <= before * (1 + 1e-9)
        before = hides


def test_an_exchange_is_not_hidden_beyond_the_wire() -> None:
    """At a period of one step all bytes still cross the network once a step."""
    found = run("co2:period=1", set={"nics_per_node": 1, "nic_gbit_per_s": 1})
    parameters = found.memory_bytes["weights"] / 4
    # Of four nodes with one adapter each; 16-bit differences leave a node twice, less a share.
    wire = 2 * (1 - 8 / 32) * 2 * parameters / (1e9 / 8)
    assert found.step_time_s >= wire


def test_under_zero_workers_are_nodes() -> None:
    sharded, plain = run("co2", zero=3), run(zero=3)
    # Eight ranks share what 32 did.
    assert sharded.memory_bytes["weights"] > 2 * plain.memory_bytes["weights"]
    assert sharded.memory_bytes["optimizer"] > 4 * plain.memory_bytes["optimizer"]


def test_on_a_layout_of_its_own() -> None:
    asked = {"model": "llama-7b", "tp": 2, "pp": 2, "engine": "megatron", "zero": 1}
    found = run("co2", **asked)
    assert sum(found.time_s.values()) == pytest.approx(found.step_time_s)
    assert found.step_time_s < run(**asked).step_time_s


def test_experts_need_all_ranks() -> None:
    with pytest.raises(ScenarioError, match="co2: experts on ep=4"):
        run("co2", model="mixtral-8x7b", ep=4)
