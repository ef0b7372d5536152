"""``windtunnel explain`` as a user calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]

TRAIN = ("train", "gpt2", "--on", "1xh100-sxm", "--seq", "512", "--global-batch", "2")
INFER = ("infer", "gpt2", "--on", "1xh100-sxm", "--batch", "2", "--input", "128", "--output", "8")


@pytest.fixture
def trace(tmp_path: Path) -> str:
    kernels = [("nvjet_hsh", 400.0), ("flash_fwd_kernel", 90.0), ("ncclDevKernel_AllReduce", 50.0), ("mine", 20.0)]
    events = [
        {"ph": "X", "cat": "kernel", "name": name, "ts": 600.0 * i, "dur": dur, "args": {"device": 0, "correlation": i}}
        for i, (name, dur) in enumerate(kernels)
    ]
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"traceEvents": events}))
    return str(path)


def test_without_a_trace_it_is_the_tree(run: Run, tmp_path: Path) -> None:
    for arguments in (TRAIN, INFER):
        ran = run("explain", *arguments)
        assert ran.code == 0
        assert "attn.qkv" in ran.out
        # The same lines as the option prints below the answer.
        assert ran.out.strip() in run(*arguments, "--explain").out
        whole = run(*arguments, "--explain", "--json").json()
        assert run("explain", *arguments, "--json").json()["operators"] == whole["operators"]
    file = str(tmp_path / "s.yaml")
    run(*TRAIN, "--save-scenario", file)
    assert run("explain", file).out == run("explain", *TRAIN).out


def test_with_a_trace_it_is_a_comparison(run: Run, trace: str) -> None:
    ran = run("explain", *TRAIN, "--against", trace, "--json")
    assert ran.code == 0
    found = ran.json()
    assert list(found) == ["step", "groups", "kinds", "gemms", "other", "warnings"]
    kinds = {row["kind"]: row for row in found["kinds"]}
    assert kinds["gemm"]["measured_s"] == pytest.approx(400e-6)
    assert kinds["gemm"]["ratio"] == pytest.approx(kinds["gemm"]["predicted_s"] / 400e-6)
    assert kinds["all_reduce"]["predicted_s"] == 0
    assert kinds["all_reduce"]["ratio"] is None
    assert found["other"][0]["name"] == "mine"
    answer = run(*TRAIN, "--json").json()
    assert found["step"]["predicted"]["step_s"] == answer["step_time_s"]
    assert all(line.startswith("warning: ") for line in ran.err.splitlines())


def test_the_report_is_for_people(run: Run, trace: str) -> None:
    ran = run("explain", *TRAIN, "--against", trace)
    assert ran.code == 0
    for word in ("measured", "predicted", "difference", "device idle", "gemm", "mine", "one rank's step", "note: "):
        assert word in ran.out
    assert all(line == line.rstrip() and len(line) <= 100 for line in ran.out.splitlines())


def test_phases_are_compared_one_at_a_time(run: Run, trace: str) -> None:
    steps = {}
    for phase, kind in (("prefill", "attention"), ("decode", "attention_decode")):
        found = run("explain", *INFER, "--against", trace, "--phase", phase, "--json").json()
        kinds = {row["kind"]: row for row in found["kinds"]}
        assert kinds[kind]["measured_s"] == pytest.approx(90e-6)  # engines run both through one kernel
        assert kinds[kind]["predicted_s"] > 0
        steps[phase] = found["step"]["predicted"]["step_s"]
    assert steps["prefill"] != steps["decode"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "say what to explain"),
        (("trian", "gpt2"), "did you mean train"),
        (("simulate", "gpt2"), "known: infer, train"),
        ((*TRAIN, "--batch", "3"), "train has no option --batch"),
        ((*INFER, "--schedule", "1f1b"), "infer has no option --schedule"),
        ((*TRAIN, "--steps", "3"), "add --against"),
        ((*TRAIN, "--against", "{trace}", "--steps", "0"), "steps=0"),
        ((*TRAIN, "--against", "{trace}", "--phase", "decode"), "--phase is for infer"),
        ((*INFER, "--against", "{trace}"), "--phase prefill or --phase decode"),
        ((*INFER, "--against", "{trace}", "--phase", "decoding"), "did you mean decode"),
        ((*TRAIN, "--against", "/no/trace.json"), "no file '/no/trace.json'"),
        (("none.yaml",), "no file 'none.yaml'"),
        (("none.yaml", "--seq", "4"), "--seq is not accepted beside a file"),
    ],
)
def test_wrong_requests(arguments: tuple[str, ...], said: str, run: Run, trace: str) -> None:
    ran = run("explain", *(a.format(trace=trace) for a in arguments))
    assert ran.code == 2
    assert ran.out == ""
    assert said in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_simulation_has_no_tree(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("command: simulate\nmodel: gpt2\non: 1xh100-sxm\nrequests: 3\nrate: 1\n")
    ran = run("explain", str(path))
    assert ran.code == 2
    assert "asks for simulate; explain takes train or infer" in ran.err
