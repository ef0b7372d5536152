"""``windtunnel calibrate --from`` a log of runs, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import windtunnel as wt
from windtunnel.cli import main


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight runs that were a fifth slower than predicted."""
    lines = ["tp,micro_batch,global_batch,step_time_s"]
    for tp in (1, 2, 4, 8):
        for micro in (1, 4):
            step = wt.train(
                "mpt-1b", on="8xa100-80gb-sxm", engine="megatron", tp=tp, micro_batch=micro, global_batch=64, seq=1024
            )
            lines.append(f"{tp},{micro},64,{1.2 * step.step_time_s}")
    path = tmp_path_factory.mktemp("log") / "runs.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_log_and_its_options_give_a_calibration(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "own.yaml"
    request = ["mpt-1b", "--on", "8xa100-80gb-sxm", "--engine", "megatron", "--seq", "1024"]
    assert main(["calibrate", "--from", str(log), *request, "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["engine"] == "megatron"
    assert found["runs"] == 8
    (step,) = found["errors"]
    assert step["before"]["median"] == pytest.approx(1 - 1 / 1.2, abs=0.01)
    assert step["after"]["median"] < 0.5 * step["before"]["median"]
    plain = wt.train("mpt-1b", on="8xa100-80gb-sxm", tp=2, global_batch=64, seq=1024).step_time_s
    own = wt.train("mpt-1b", on="8xa100-80gb-sxm", tp=2, global_batch=64, seq=1024, calibration=str(out)).step_time_s
    assert own > 1.05 * plain


def test_a_report_says_what_the_log_identifies(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "--from", str(log), "mpt-1b", "--on", "8xa100-80gb-sxm", "--seq", "1024"]) == 0
    text = capsys.readouterr().out
    assert "host_s_per_layer" in text
    assert "held out" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from", "{log}"], "model is missing"),
        (["--measure", "gpt2"], "MODEL is for a log of a run"),
        (["--measure", "--tp", "2"], "--tp is for a log of a run"),
        (["--from", "{log}", "mpt-1b", "--on", "8xa100", "--engine", "megatrom"], "megatrom"),
        (["--from", "/no/such/file", "mpt-1b", "--on", "8xa100"], "no such file"),
    ],
)
def test_wrong_requests(arguments: list[str], said: str, log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", *(a.format(log=log) for a in arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert len(err.splitlines()) == 1
