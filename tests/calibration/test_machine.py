"""The machine at hand as a cluster of one: a CPU from measured rows, a GPU by the name that its driver gives."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from windtunnel.calibration import machine
from windtunnel.calibration.fit import fit_table
from windtunnel.calibration.layout import table_of
from windtunnel.calibration.machine import last_cache_bytes, local_cpu, local_gpu
from windtunnel.errors import ScenarioError
from windtunnel.hardware import parse_cluster

ROWS: list[dict[str, Any]] = [
    *(
        {"kernel": "gemm", "dtype": "fp32", "m": m, "n": 512, "k": 512, "seconds": 1e-4 + m * 512 * 512 * 2 / 80e9}
        for m in (1, 4, 16, 64, 256, 1024)
    ),
    *({"kernel": "norm", "bytes": b, "cold_bytes": 0.0, "seconds": 1e-6 + b / 30e9} for b in (1e4, 1e6, 1e7)),
    {"kernel": "optimizer", "bytes": 0.0, "cold_bytes": 4e9, "seconds": 0.2},
    {"kernel": "copy", "pcie_bytes": 1e6, "seconds": 1e-4},
]
TORCH = SimpleNamespace(get_num_threads=lambda: 3)


def test_peaks_are_the_best_of_what_was_measured() -> None:
    cluster = local_cpu(TORCH, ROWS).cluster()
    device = cluster.accelerator
    fastest = max(2 * r["m"] * 512 * 512 / r["seconds"] for r in ROWS if r["kernel"] == "gemm")
    assert fastest < float(device.peak_flops["fp32"]) < 1.05 * fastest
    assert set(device.peak_flops.values()) == {device.peak_flops["fp32"]}
    assert float(device.hbm.bandwidth_bytes_per_s) == pytest.approx(20e9, rel=0.05)
    assert float(device.l2.bandwidth_bytes_per_s) == pytest.approx(40e9, rel=0.05)  # twice the memory's
    assert float(cluster.pcie_bytes_per_s) == pytest.approx(1e10, rel=0.05)
    assert device.compute_units == 3
    assert device.kernel_gap_s == 0
    assert device.idle_w < device.tdp_w < 40


def test_no_row_beats_the_machine_it_describes() -> None:
    cluster = local_cpu(TORCH, ROWS).cluster()
    for family in fit_table(table_of(ROWS), cluster, "a test").families:
        shares = [v for n, v in family.values.items() if n in ("compute", "bandwidth", "cache", "pcie")]
        assert all(0 < share <= 1 for share in shares)
        assert family.median < 0.25


def test_the_file_is_the_machine(tmp_path: Path) -> None:
    found = local_cpu(TORCH, ROWS)
    path = tmp_path / "here.yaml"
    path.write_text(found.text())
    assert parse_cluster(str(path)).accelerator.peak_flops == found.cluster().accelerator.peak_flops
    assert found.text().startswith(f"# {found.description}, as windtunnel calibrate --measure found it.")
    assert "3 threads" in found.description


@pytest.mark.parametrize(
    ("name", "on"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb-sxm"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA L40S", "l40s"),
        ("Tesla T4", "t4"),
    ],
)
def test_gpus_are_known_by_their_drivers_names(name: str, on: str) -> None:
    torch = SimpleNamespace(cuda=SimpleNamespace(get_device_name=lambda index: name))
    assert local_gpu(torch, None).on == on
    assert local_gpu(torch, "h800").on == "h800"


def test_an_unknown_gpu_asks_which_it_is() -> None:
    torch = SimpleNamespace(cuda=SimpleNamespace(get_device_name=lambda index: "Voodoo 3dfx"))
    with pytest.raises(ScenarioError, match=r"Voodoo 3dfx.*--on"):
        local_gpu(torch, None)
    with pytest.raises(ScenarioError, match="h1000"):
        local_gpu(torch, "h1000")


def test_the_last_cache_is_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CACHES", tmp_path)
    guessed = last_cache_bytes()
    assert 0 < guessed < 1e9
    for index, size in enumerate(("32K", "1024K", "32M", "nonsense")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(size + "\n")
    assert last_cache_bytes() == 32 * 2**20
