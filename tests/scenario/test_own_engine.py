"""A user's own engine constants, from the section ``engine`` of a calibration file."""

from __future__ import annotations

from pathlib import Path

import pytest

import windtunnel as wt
from windtunnel.errors import ScenarioError


def written(folder: Path, text: str) -> str:
    path = folder / "own.yaml"
    path.write_text(text)
    return str(path)


def test_constants_of_a_file_are_used_by_every_command(tmp_path: Path) -> None:
    serve = {"model": "llama-3.1-8b", "on": "1xh100-sxm"}
    file = written(
        tmp_path, "engine:\n  vllm: {host_s_per_step: 0.1, first_token_s: 3}\n  fsdp: {host_s_per_step: 9}\n"
    )
    assert wt.infer(**serve, calibration=file).tpot_s > wt.infer(**serve).tpot_s + 0.09
    asked = {**serve, "requests": 3, "rate": 1.0, "input_length": "100", "output_length": "5"}
    slow, usual = wt.simulate(**asked, calibration=file), wt.simulate(**asked)
    assert slow.ttft_s["mean"] > usual.ttft_s["mean"] + 2.9
    train = {"model": "llama-3.1-8b", "on": "8xh100-sxm", "engine": "fsdp", "micro_batch": 1, "seq": 4096}
    assert wt.train(**train, calibration=file).step_time_s > wt.train(**train).step_time_s + 8.9


def test_a_file_may_hold_kernels_beside_an_engine(tmp_path: Path) -> None:
    file = written(
        tmp_path, "kernels: {gemm: {bf16: {bandwidth: 0.2}}}\nengine: {vllm: {host_s_per_step: 0.1}}\n"
    )  # fmt: skip
    (tmp_path / "only").mkdir()
    only = written(tmp_path / "only", "engine: {vllm: {host_s_per_step: 0.1}}\n")
    asked = {"model": "llama-3.1-8b", "on": "1xh100-sxm"}
    assert wt.infer(**asked, calibration=file).tpot_s > wt.infer(**asked, calibration=only).tpot_s + 5e-3


def test_constants_of_other_engines_alone_are_told(tmp_path: Path) -> None:
    file = written(tmp_path, "engine: {sglang: {host_s_per_step: 0.1}}\n")
    asked = {"model": "llama-3.1-8b", "on": "1xh100-sxm"}
    found = wt.infer(**asked, calibration=file)
    assert found.tpot_s == wt.infer(**asked).tpot_s
    assert any("are for sglang: vllm has its shipped ones" in w for w in found.warnings)


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    asked = {"model": "llama-3.1-8b", "on": "1xh100-sxm"}
    first = wt.infer(**asked, calibration=written(tmp_path, "engine: {vllm: {host_s_per_step: 0.1}}\n"))
    second = wt.infer(**asked, calibration=written(tmp_path, "engine: {vllm: {host_s_per_step: 0.25}}\n"))
    assert second.tpot_s == pytest.approx(first.tpot_s + 0.15)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("engine: {vllm: {host_per_step: 1}}", "unknown field of vllm in calibration file"),
        ("engine: {vllm: {name: x}}", "unknown field of vllm"),
        ("engine: {vlm: {host_s_per_step: 1}}", "did you mean vllm"),
        ("engine: {vllm: {host_s_per_step: -1}}", "host_s_per_step=-1"),
        ("engine: {vllm: {memory_utilization: fast}}", "memory_utilization='fast'"),
        ("engine: {vllm: 3}", "engine is not a mapping of profiles"),
        ("engine: [vllm]", "engine is not a mapping of profiles"),
        ("motor: {}", "accepted: kernels, devices, collectives, engine"),
        ("- engine", "mapping"),
    ],
)
def test_a_wrong_section_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ScenarioError, match=said) as error:
        wt.infer(model="llama-3.1-8b", on="1xh100-sxm", calibration=written(tmp_path, text))
    assert "\n" not in str(error.value)
