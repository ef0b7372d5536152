"""What can go wrong on the command line: one line on standard error, nothing on standard output, the right code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import windtunnel.engine
from windtunnel.cli import main

Run = Callable[..., Any]

ON = ("--on", "8xh100-sxm")
WRONG: list[tuple[tuple[str, ...], str]] = [
    (("trian",), "'trian'"),
    (("train",), "model is missing"),
    (("train", "gpt2"), "on is missing"),
    (("train", "gpt5", *ON), "'gpt5'"),
    (("train", "gpt2", "--on", "8xh1000"), "h1000"),
    (("train", "gpt2", "more", *ON), "more"),
    (("train", "gpt2", *ON, "--bogus", "1"), "--bogus"),
    (("train", "gpt2", *ON, "--tp"), "--tp"),
    (("train", "gpt2", *ON, "--tp", "two"), "'two'"),
    (("train", "gpt2", *ON, "--tp", "0"), "'0'"),
    (("train", "gpt2", *ON, "--tp", "-1"), "'-1'"),
    (("train", "gpt2", *ON, "--tp", "5", "--dp", "1"), "tp=5" ),
    (("train", "gpt2", *ON, "--zero", "7"), "'7'"),
    (("train", "gpt2", *ON, "--seq", "1e400"), "1e400"),
    (("train", "gpt2", *ON, "--tokens", "nan"), "nan"),
    (("train", "gpt2", *ON, "--recompute", "some"), "'some'"),
    (("train", "gpt2", *ON, "--optimizer", "adamx"), "'adamx'"),
    (("train", "gpt2", *ON, "--engine", "megatorn"), "megatron"),
    (("train", "gpt2", *ON, "--set", "hbm"), "'hbm'"),
    (("train", "gpt2", *ON, "--set", "a=1", "--set", "a=2"), "twice"),
    (("train", "gpt2", *ON, "--set", "nic_gbps=1"), "nic_gbps"),
    (("train", "gpt2", *ON, "--set", "nic_gbit_per_s=nan"), "nan"),
    (("train", "gpt2", *ON, "--sweep", "tp"), "'tp'"),
    (("train", "gpt2", *ON, "--sweep", "top=1,2"), "'top'"),
    (("train", "gpt2", *ON, "--sweep", "tp=1,,2"), "tp=1,,2"),
    (("train", "gpt2", *ON, "--sweep", "tp=1", "--sweep", "tp=2"), "twice"),
    (("train", "gpt2", *ON, "--sweep", "tp=" + ",".join(map(str, range(3000)))), "3,000 points"),
    (("train", "gpt2", *ON, "--plot", "a.png"), "--sweep"),
    (("train", "gpt2", *ON, "--sweep", "tp=1,2", "--plot", "a.bmp"), "a.bmp"),
    (("train", "gpt2", *ON, "--sweep", "tp=1,2", "--timeline", "a.json"), "--timeline"),
    (("train", "gpt2", *ON, "--timeline", "/no/such/folder/a.json"), "/no/such/folder"),
    (("train", "gpt2", *ON, "--save-scenario", "/no/such/folder/a.yaml"), "/no/such/folder"),
    (("train", "gpt2", *ON, "--calibration", "/no/such/file"), "/no/such/file"),
    (("infer", "gpt2", *ON, "--timeline", "a.json"), "--timeline"),
    (("infer", "gpt2", *ON, "--memory-utilization", "1.5"), "'1.5'"),
    (("run",), "FILE is missing"),
    (("run", "/no/such/file.yaml"), "/no/such/file.yaml"),
    (("compare", "a.yaml"), "two scenario files"),
    (("models", "gpt5"), "'gpt5'"),
    (("hardware", "h1000"), "'h1000'"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "said"), WRONG, ids=[" ".join(a)[:60] for a, _ in WRONG])
def test_a_wrong_request_is_one_line(run: Run, arguments: tuple[str, ...], said: str) -> None:
    for more in ((), ("--json",)):
        ran = run(arguments[0], *more, *arguments[1:])
        assert ran.code == 2
        assert ran.out == ""
        assert len(ran.err.splitlines()) == 1
        assert said in ran.err
        assert "Traceback" not in ran.err


def test_no_argument_meets_a_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """INV: whatever is typed, the exit code is 0, 2 or 3, and on 2 there is one line."""
    words = st.sampled_from(
        ["train", "infer", "run", "models", "gpt2", "--on", "8xh100-sxm", "1xt4", "--tp", "--seq", "2", "-1", "1e99",
         "nan", "--json", "--set", "--sweep", "tp=1,2", "--", "-", "", "--batch", "--zero", "--finetune", "lora:r=0",
         "--offload", "--packed-lengths", "uniform:1", "--precision", "fp8", "--output", "0",
         "\N{SNOWMAN}", "\x1b[31m", "a\nb"]
    )  # fmt: skip
    monkeypatch.delenv("WINDTUNNEL_DEBUG", raising=False)

    @settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(words | st.text(max_size=5), max_size=9))
    def check(arguments: list[str]) -> None:
        capsys.readouterr()
        code = main(arguments)
        captured = capsys.readouterr()
        assert code in (0, 2, 3), captured.err
        if code == 2:
            assert captured.out == ""
            assert len(captured.err.splitlines()) == 1

    check()


def test_a_bug_is_one_line_that_asks_to_report_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(options: object) -> None:
        raise KeyError("odd\nkey")

    monkeypatch.setattr(windtunnel.engine, "train", broken)
    ran = run("train", "gpt2", *ON)
    assert ran.code == 1
    assert ran.out == ""
    assert len(ran.err.splitlines()) == 1
    assert "report it" in ran.err
    assert "KeyError" in ran.err
    monkeypatch.setenv("WINDTUNNEL_DEBUG", "1")
    with pytest.raises(KeyError):
        main(["train", "gpt2", *ON])


def test_an_interruption_is_no_bug(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(windtunnel.engine, "train", stopped)
    ran = run("train", "gpt2", *ON)
    assert ran.code == 130
    assert ran.err == "windtunnel: interrupted\n"


def _start(*arguments: str, **extra: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2] / "src"), **extra}
    command = [sys.executable, "-m", "windtunnel", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


def test_a_reader_may_leave() -> None:
    process = _start("hardware", "--json")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 0


def test_a_poor_terminal_gets_plain_letters() -> None:
    out, err = _start("train", "gpt2", *ON, PYTHONIOENCODING="ascii").communicate(timeout=60)
    assert err == b""
    assert b"#####" in out
    assert b"10 % faster -> step" in out


def test_a_full_disk_is_told() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with open("/dev/full", "wb") as full:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2] / "src")}
        done = subprocess.run([sys.executable, "-m", "windtunnel", "models"], stdout=full, stderr=subprocess.PIPE,
                              env=environment, timeout=60)  # fmt: skip
    assert done.returncode == 2
    assert b"cannot write the output" in done.stderr
    assert len(done.stderr.splitlines()) == 1
