from __future__ import annotations

from collections.abc import Callable
from typing import Any

from windtunnel.hardware import accelerator_names
from windtunnel.models import catalogue_names

Run = Callable[..., Any]


def test_models_are_listed(run: Run) -> None:
    models = run("models", "--json").json()["models"]
    assert [m["name"] for m in models] == catalogue_names()
    text = run("models")
    assert text.code == 0
    assert all(name in text.out for name in catalogue_names())


def test_one_model(run: Run) -> None:
    model = run("models", "llama-3.1-70b", "--json").json()
    for key in ("name", "model_type", "total_parameters", "active_parameters", "kv_bytes_per_token",
                "forward_flops_per_token", "layers", "hidden_size"):  # fmt: skip
        assert key in model
    assert "70,553,706,496" in run("models", "llama-3.1-70b").out


def test_hardware_is_listed(run: Run) -> None:
    found = run("hardware", "--json").json()
    assert [a["name"] for a in found["accelerators"]] == list(accelerator_names())
    text = run("hardware").out
    assert all(name in text for name in accelerator_names())


def test_one_machine_with_its_sources(run: Run) -> None:
    machine = run("hardware", "h100-sxm", "--json").json()
    assert all(figure["source"] for figure in machine["figures"].values())
    assert set(machine["calibrated"].values()) <= {True, False}
    text = run("hardware", "h100-sxm").out
    assert "3,350" in text
    assert "NVIDIA H100 datasheet" in text
    assert "calibrated on this device" in text
    assert run("hardware", "hgx-h100").code == 0


def test_the_program_itself(run: Run) -> None:
    assert run("--version").out.startswith("windtunnel ")
    for ran in (run(), run("--help"), run("-h")):
        assert ran.code == 0
        names = ("train", "infer", "simulate", "run", "compare", "models", "hardware")
        assert all(name in ran.out for name in names)
