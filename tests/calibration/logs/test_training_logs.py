"""Step times from Megatron's and torchtitan's output and from tables of runs, in the tools' own formats."""

from __future__ import annotations

from pathlib import Path

import pytest

from windtunnel.calibration.logs import calibrate_from_log, recognise
from windtunnel.calibration.logs.training_logs import read_megatron, read_runs, read_torchtitan
from windtunnel.errors import ScenarioError

GIVEN = {"model": "llama-3.1-8b", "on": "8xh100-sxm", "global_batch": 16, "seq": 4096}


def megatron_line(n: int, ms: float, batch: int = 16) -> str:
    return (
        f" [2025-03-01 10:00:{n:02d}] iteration {n:8d}/     500 | consumed samples: {n * batch:12d} | "
        f"elapsed time per iteration (ms): {ms:.1f} | throughput per GPU (TFLOP/s/GPU): 412.3 | "
        f"learning rate: 1.500000E-06 | global batch size: {batch:5d} | lm loss: 1.189337E+01 | "
        "loss scale: 1.0 | grad norm: 11.2 | number of skipped iterations:   0 | number of nan iterations:   0 |\n"
    )


def titan_line(n: int, tps: str, key: str = "tps") -> str:
    return (
        f"[rank0]:[titan] 2025-05-01 10:00:00,123 - root - INFO - \x1b[31mstep: {n:2}  \x1b[32mloss:  8.1234  "
        f"\x1b[38;2;180;60;0mgrad_norm:  1.2345  \x1b[33mmemory: 41.20GiB(52.09%)  \x1b[34m{key}: {tps}  "
        "\x1b[36mtflops: 380.12  \x1b[35mmfu: 38.43%\x1b[39m\n"
    )


def test_megatron_takes_the_median_of_warm_steps_and_a_run_for_each_batch_size(tmp_path: Path) -> None:
    log = tmp_path / "train.out"
    arguments = "------------------------ arguments ------------------------\n" + "".join(
        f"  {key} {'.' * (48 - len(key))} {value}\n"
        for key, value in (("tensor_model_parallel_size", 2), ("micro_batch_size", 1), ("lr", 0.001))
    )
    steps = [megatron_line(1, 30000.0), *(megatron_line(n, 1000.0 + n % 3) for n in range(2, 12))]
    log.write_text(arguments + "".join(steps) + megatron_line(12, 1900.0, 32) + megatron_line(13, 2000.0, 32))
    assert recognise(log) == "megatron"
    small, large = read_megatron(log, GIVEN)
    assert small.step_time_s == pytest.approx(1.001)
    assert (small.options.tp, small.options.global_batch) == (2, 16)
    assert 0 < small.spread < 0.002
    assert large.options.global_batch == 32
    assert large.step_time_s == pytest.approx(2.0)
    assert read_megatron(log, {**GIVEN, "tp": 4})[0].options.tp == 4, "the user's options win"


@pytest.mark.parametrize("key", ["tps", "wps"])
def test_torchtitan_turns_tokens_a_second_of_a_gpu_into_steps(tmp_path: Path, key: str) -> None:
    log = tmp_path / "titan.log"
    log.write_text(titan_line(1, "312", key) + "".join(titan_line(n, "8,192", key) for n in (10, 20, 30)))
    assert recognise(log) == "torchtitan"
    (run,) = read_torchtitan(log, {**GIVEN, "engine": "fsdp"})
    assert run.step_time_s == pytest.approx(16 * 4096 / 8 / 8192)


def test_a_table_has_options_as_columns(tmp_path: Path) -> None:
    table = tmp_path / "runs.csv"
    table.write_text("tp,micro_batch,sequence_parallel,iteration_time_ms\n1,1,,900\n1,1,,1100\n2,2,false,800\n")
    assert recognise(table) == "training runs"
    first, second = read_runs(table, GIVEN)
    assert first.step_time_s == pytest.approx(1.0), "repeated runs are one"
    assert (second.options.tp, second.options.micro_batch, second.options.sequence_parallel) == (2, 2, False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tp,step_time_s\n1\n", "line 2: not as many cells"),
        ("tp,step_time_s\n1,-3\n", "no time or rate above 0"),
        ("tp,step_time_s\n1,inf\n", "no time or rate above 0"),
        ("tp,step_time_s\nmany,3\n", "line 2: tp='many'"),
        ("degree,step_time_s\n1,3\n", "line 2: unknown option 'degree'"),
        ("tp,step_time_s\n", "has no row"),
        (megatron_line(1, 0.0), "no time or rate above 0"),
        ("nothing at all\n", "is no log that is known"),
        ("", "is no log that is known"),
    ],
)
def test_a_malformed_log_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    log = tmp_path / "log"
    log.write_text(text)
    with pytest.raises(ScenarioError, match=said) as error:
        calibrate_from_log(log, GIVEN)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="no such file"):
        calibrate_from_log(tmp_path / "log", GIVEN)


def test_other_tables_are_no_logs(tmp_path: Path) -> None:
    kernels = tmp_path / "gemm.csv"
    kernels.write_text("m,n,k,dtype,time_us\n1,2,3,bf16,4\n")
    assert recognise(kernels) is None
    assert recognise(tmp_path) is None
