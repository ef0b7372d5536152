"""Fuyou on machines of its own and of others, and the share of layers that swap."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from windtunnel.engine import train
from windtunnel.errors import ScenarioError
from windtunnel.hardware import parse_cluster
from windtunnel.scenario.options import TrainOptions, read_options
from windtunnel.scenario.results import TrainResult
from windtunnel.scenario.train import train_scenario
from windtunnel.training.swapping import SHARES, cheapest_recompute_share

HOST: dict[str, Any] = {"gpus_per_node": 1, "nvme_gbyte": 20000, "nvme_gbyte_per_s": 40, "dram_gbyte": 256}
BASE: dict[str, Any] = {
    "model": "opt-13b", "on": "1xrtx-4090", "engine": "deepspeed@infinity", "precision": "fp16", "seq": 1024,
    "micro_batch": 16, "global_batch": 16, "set": HOST,
}  # fmt: skip


def run(*techniques: str, **changes: Any) -> TrainResult:
    return train(read_options(TrainOptions, {**BASE, **changes, "techniques": list(techniques)}))


def test_without_a_tier_nothing_changes() -> None:
    plain, off = run().to_dict(), run("fuyou:tier=none").to_dict()
    off["plan"].pop("with")
    assert off == plain


def test_fast_links_leave_the_computing_alone() -> None:
    """With no bytes to wait for, a step is that of a device which had room for everything."""
    free = {**HOST, "nvme_gbyte_per_s": 1e6, "pcie_gbyte_per_s": 1e6, "dram_gbyte_per_s": 1e6}
    room = {**HOST, "hbm_gbyte": 1000}
    found = run("fuyou", set=free)
    roomy = run(set=room)
    assert found.time_s["compute"] == pytest.approx(roomy.time_s["compute"], rel=1e-6)
    assert found.time_s["offload"] + found.time_s["optimizer"] < 0.01 * found.step_time_s


def test_state_crosses_the_drives_once() -> None:
    found = run("fuyou:swap=0", set={**HOST, "nvme_gbyte_per_s": 5})
    parameters = 12.85e9
    # Two passes read the weights; state goes in and out, and new weights out.
    assert found.step_time_s >= (2 + 2 + 24 + 2) * parameters / 5e9


def test_faster_machines_are_never_slower() -> None:
    for name, rates in {"nvme": (5, 20, 80), "pcie": (8, 32, 128), "dram": (50, 200, 800)}.items():
        times = [run("fuyou", set={**HOST, f"{name}_gbyte_per_s": rate}).step_time_s for rate in rates]
        assert times == sorted(times, reverse=True)


def test_the_share_that_swaps_is_the_cheapest() -> None:
    best = run("fuyou").step_time_s
    tried = [run(f"fuyou:swap={s}").step_time_s for s in SHARES]
    assert best == pytest.approx(min(tried), rel=1e-9)
    # Slow drives make it pay to compute again, a fast link to swap.
    assert run("fuyou", set={**HOST, "nvme_gbyte_per_s": 4}).hfu > run("fuyou").hfu * 0.1


@pytest.mark.parametrize(("nvme", "expected"), [(1.0, 1.0), (1e5, 0.0)])
def test_a_share_at_either_end(nvme: float, expected: float) -> None:
    scenario = train_scenario(read_options(TrainOptions, {**BASE, "techniques": ["fuyou"]}))
    cluster = parse_cluster("1xrtx-4090", {**HOST, "nvme_gbyte_per_s": nvme, "pcie_gbyte_per_s": 1e4 * nvme})
    plan = replace(scenario.plan, recompute_share=1.0)
    assert cheapest_recompute_share(scenario.network, plan, scenario.engine, cluster) == expected


def test_stages_of_a_pipeline_keep_their_layers_elsewhere() -> None:
    asked = {"on": "4xrtx-4090", "pp": 4, "micro_batch": 4, "global_batch": 64, "set": {"nvme_gbyte": 9000}}
    found = run("fuyou", **asked)
    assert found.fits
    assert not run(**asked).fits
    assert sum(found.time_s.values()) == pytest.approx(found.step_time_s)


def test_what_the_host_holds_decides_what_can_be_trained() -> None:
    large = {"model": "gpt3-175b", "micro_batch": 8, "global_batch": 8}
    found = run("fuyou", **large)
    assert found.fits_nodes
    assert not any("host memory" in w for w in found.warnings)
    queued = run(**large, recompute="full", offload="optimizer:nvme,params:nvme,activations:cpu")
    assert queued.fits
    assert not queued.fits_nodes
    assert any("host memory" in w for w in queued.warnings)


def test_data_parallel_ranks_share_what_they_keep() -> None:
    eight = run("fuyou", on="8xrtx-4090", global_batch=128, set={"nvme_gbyte": 20000, "nvme_gbyte_per_s": 40})
    assert sum(eight.time_s.values()) == pytest.approx(eight.step_time_s)
    (storage,) = [needed for name, needed, _ in eight.offloaded if name == "storage"]
    one = next(needed for name, needed, _ in run("fuyou").offloaded if name == "storage")
    # State once, activations eight times.
    assert one < storage < 8 * one


@pytest.mark.parametrize(
    ("technique", "changes", "match"),
    [
        ("fuyou", {"finetune": "lora:r=8"}, "finetune=lora"),
        ("fuyou", {"set": {"nvme_gbyte": 0}}, "nvme"),
        ("fuyou:tier=cpu", {"set": {"dram_gbyte": 0}}, "cpu"),
    ],
)
def test_what_it_cannot_be_combined_with(technique: str, changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ScenarioError, match=match) as caught:
        run(technique, **changes)
    assert str(caught.value).startswith("fuyou")
