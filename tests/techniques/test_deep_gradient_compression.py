"""Deep Gradient Compression on plans of its own and of others."""

from __future__ import annotations

from typing import Any

import pytest

from windtunnel.engine import train
from windtunnel.scenario.options import TrainOptions, read_options
from windtunnel.scenario.results import TrainResult

NAME = "deep-gradient-compression"
BASE: dict[str, Any] = {
    "model": "gpt2", "on": "64xa100-40gb-sxm", "engine": "pytorch", "precision": "fp32", "seq": 512,
    "global_batch": 256, "set": {"nics_per_node": 1, "nic_gbit_per_s": 1},
}  # fmt: skip


def run(*techniques: str, **changes: Any) -> TrainResult:
    return train(read_options(TrainOptions, {**BASE, **changes, "techniques": list(techniques)}))


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_all_gradients_are_no_compression(zero: int) -> None:
    plain, off = run(zero=zero).to_dict(), run(f"{NAME}:density=1", zero=zero).to_dict()
    off["plan"].pop("with")
    assert off == plain


def test_a_vanishing_density_costs_its_choice_alone() -> None:
    """Nothing to send on a network without latency leaves the compute of one accelerator, and choosing."""
    fast = {"nics_per_node": 1, "nic_gbit_per_s": 1, "scale_out_latency_us": 0, "scale_up_latency_us": 0}
    alone = run(on="1xa100-40gb-sxm", global_batch=4, set={}).step_time_s
    found = run(f"{NAME}:density=1e-9,nodes=false,select_bytes=0", set=fast).step_time_s
    assert found == pytest.approx(alone, rel=0.02)
    chosen = run(f"{NAME}:density=1e-9,nodes=false", set=fast)
    moved = 32 * chosen.memory_bytes["weights"] / 4
    assert chosen.step_time_s - found >= moved / 1555e9


def test_sparse_payloads_grow_with_the_nodes() -> None:
    """So that compression wins less the more there are."""
    gains = []
    for nodes in (2, 8, 32):
        asked = {"on": f"{8 * nodes}xa100-40gb-sxm", "global_batch": 32 * nodes}
        gains.append(run(**asked).time_s["dp_comm"] / run(NAME, **asked).time_s["dp_comm"])
    assert gains == sorted(gains, reverse=True)
    assert gains[0] > 10


def test_bytes_still_cross_the_wire() -> None:
    found = run(f"{NAME}:density=0.01")
    parameters = found.memory_bytes["weights"] / 4
    # Each of eight nodes takes in what the seven others have chosen.
    wire = 7 * parameters * 0.01 * 48 / 8 / (1e9 / 8)
    assert found.time_s["dp_comm"] >= wire


def test_denser_is_slower_and_warm_up_is_between() -> None:
    times = [run(f"{NAME}:density={d}").step_time_s for d in (0.0001, 0.001, 0.01)]
    assert times == sorted(times)
    warm = run(f"{NAME}:warmup=0.1").step_time_s
    assert warm == pytest.approx(0.1 * run().step_time_s + 0.9 * times[1])


def test_buffers_are_kept_for_what_a_rank_sends() -> None:
    plain = run().memory_bytes["gradients"]
    every, node = (run(f"{NAME}:nodes={n}").memory_bytes["gradients"] - plain for n in ("false", "true"))
    assert every == pytest.approx(8 * node)
    assert every == pytest.approx(2 * plain)
