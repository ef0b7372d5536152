"""Steps, sums and pairs of a comparison."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from windtunnel import engine
from windtunnel.errors import ScenarioError
from windtunnel.hardware import parse_cluster
from windtunnel.scenario.options import TrainOptions, read_options
from windtunnel.scenario.results import TrainResult
from windtunnel.validation.profile import against, read_trace
from windtunnel.validation.profile.measured import measure, product_shape
from windtunnel.validation.profile.predicted import predicted_step

ON = "1xh100-sxm"
NAMES = {
    "gemm": "nvjet_hsh", "attention": "flash_fwd_kernel", "attention_backward": "flash_bwd_kernel",
    "optimizer": "multi_tensor_apply_kernel", "norm": "rms_norm_kernel", "activation": "silu_kernel",
    "elementwise": "vectorized_elementwise_kernel", "rope": "rotary_kernel", "embedding": "embedding_kernel",
    "cross_entropy": "cross_entropy_kernel",
}  # fmt: skip


@pytest.fixture(scope="module")
def answer() -> TrainResult:
    return engine.train(predict(ON))


def predict(on: str, **more: Any) -> TrainOptions:
    given = {"model": "llama-3.2-1b", "on": on, "seq": 1024, "global_batch": 2, "micro_batch": 1, **more}
    options = read_options(TrainOptions, given)
    assert isinstance(options, TrainOptions)
    return options


def compared(recorder: Any, path: Path, answer: TrainResult, **more: Any) -> dict[str, Any]:
    return against(read_trace(recorder.write(path / "t.json")), answer.tree, parse_cluster(ON), **more)


def test_a_trace_that_went_as_predicted_has_ratios_of_one(recorder: Any, tmp_path: Path, answer: TrainResult) -> None:
    predicted = predicted_step(answer.tree)
    at = 10.0
    for shape, total in predicted.gemms.items():
        m, n, k = shape
        for _ in range(round(total.kernels)):
            each = total.seconds / total.kernels * 1e6
            recorder.kernel(NAMES["gemm"], at, each, op="aten::mm", dims=[[n, k], [k, m]])  # transposed: the same
            at += each
    for kind, total in predicted.kinds.items():
        if kind != "gemm":
            recorder.kernel(NAMES[kind], at, total.seconds * 1e6)
            at += total.seconds * 1e6
    found = compared(recorder, tmp_path, answer)
    assert {row["kind"]: row["ratio"] for row in found["kinds"]} == pytest.approx(dict.fromkeys(predicted.kinds, 1.0))
    assert [row["ratio"] for row in found["gemms"]] == pytest.approx([1.0] * len(found["gemms"]), rel=1e-5)
    assert all(row["measured_runs"] == pytest.approx(row["predicted_runs"]) for row in found["gemms"])
    assert {"attn.qkv", "mlp.down.wgrad"} <= {name for row in found["gemms"] for name in row["operators"]}
    assert found["step"]["measured"]["busy_s"] == pytest.approx(found["step"]["predicted"]["busy_s"], rel=1e-3)
    assert found["other"] == []


def test_the_kinds_predicted_are_the_busy_step(answer: TrainResult) -> None:
    """On one GPU nothing runs beside anything else: the kinds' sum is the step without the wait for the host."""
    predicted = predicted_step(answer.tree)
    assert sum(t.seconds for t in predicted.kinds.values()) == pytest.approx(predicted.busy_s)
    assert predicted.step_s == answer.step_time_s


def test_pipelines_are_told_by_the_busiest_stage() -> None:
    whole = predicted_step(engine.train(predict("4xh100-sxm", pp=4, global_batch=8)).tree)
    assert whole.bubble_s > 0
    assert 0 < sum(t.seconds for t in whole.kinds.values()) < whole.step_s
    assert max(t.kernels for s, t in whole.gemms.items() if 128_256 in s) == 8  # the head, once a micro-batch


def test_the_first_of_several_steps_is_left_out(recorder: Any, tmp_path: Path) -> None:
    for n, (start, each) in enumerate([(0, 90), (100, 30), (200, 50)]):
        recorder.step(n, start, 100)
        # The device runs behind the host: what was asked for in a step counts there.
        recorder.kernel("gemm", start + 95, each, launched=start + 20)
    found = measure(read_trace(recorder.write(tmp_path / "t.json")))
    assert (found.steps, found.dropped) == (2, 1)
    assert found.kinds["gemm"].seconds == pytest.approx(40e-6)
    assert found.kinds["gemm"].kernels == 1
    assert found.step_s == pytest.approx(100e-6)
    assert found.idle_s == pytest.approx(60e-6)


def test_steps_can_be_told(recorder: Any, tmp_path: Path, answer: TrainResult) -> None:
    for i in range(4):
        recorder.kernel("gemm", 100 * i, 50)
    found = compared(recorder, tmp_path, answer, steps=4)
    assert found["step"]["measured"]["busy_s"] == pytest.approx(50e-6)
    assert found["step"]["measured"]["step_s"] == pytest.approx(350e-6 / 4)
    assert not any("ProfilerStep" in w for w in found["warnings"])
    assert any("ProfilerStep" in w for w in compared(recorder, tmp_path, answer)["warnings"])


def test_steps_without_work_are_an_error(recorder: Any, tmp_path: Path) -> None:
    recorder.step(1, 0, 10)
    recorder.kernel("gemm", 500, 5)
    with pytest.raises(ScenarioError, match="--steps"):
        measure(read_trace(recorder.write(tmp_path / "t.json")))


def test_communication_beside_computing_is_not_exposed(recorder: Any, tmp_path: Path) -> None:
    recorder.kernel("gemm", 0, 100)
    recorder.kernel("ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL", 60, 100)
    recorder.kernel("gemm", 200, 100)
    found = measure(read_trace(recorder.write(tmp_path / "t.json")))
    assert found.exposed_comm_s == pytest.approx(60e-6)
    assert found.busy_s == pytest.approx(260e-6)
    assert found.idle_s == pytest.approx(40e-6)
    assert found.kinds["reduce_scatter"].seconds == pytest.approx(100e-6)


def test_split_products_are_one_run(recorder: Any, tmp_path: Path) -> None:
    recorder.kernel("gemm_splitk", 10, 5, op="aten::addmm", launched=0, dims=[[3], [8, 4], [4, 3]])
    recorder.events[-1]["args"]["correlation"] = recorder.events[-2]["args"]["correlation"]
    again = {**recorder.events[-1], "name": "cublasLt::splitKreduce_kernel", "ts": 1e12 + 20, "dur": 1}
    recorder.events.append(again)
    found = measure(read_trace(recorder.write(tmp_path / "t.json")))
    assert list(found.gemms) == [(8, 3, 4)]
    assert (found.gemms[8, 3, 4].seconds, found.gemms[8, 3, 4].kernels) == (pytest.approx(6e-6), 1)
    assert found.kinds["gemm"].kernels == 2


@pytest.mark.parametrize(
    ("operator", "dims", "shape"),
    [
        ("aten::mm", ((8, 4), (4, 2)), (8, 2, 4)),
        ("aten::addmm", ((2,), (8, 4), (4, 2)), (8, 2, 4)),
        ("aten::bmm", ((3, 8, 4), (3, 4, 2)), (24, 2, 4)),
        ("aten::_scaled_mm", ((8, 4), (4, 2), (), ()), (8, 2, 4)),
        ("aten::mm", (), None),
        ("aten::mm", ((8, 4), ()), None),
        ("aten::mm", ((8, 4), (5, 2)), None),
        ("aten::relu", ((8, 4), (4, 2)), None),
    ],
)
def test_shapes_of_products(operator: str, dims: Any, shape: Any) -> None:
    assert product_shape(operator, dims) == shape


def test_doubts_are_said(recorder: Any, tmp_path: Path, answer: TrainResult) -> None:
    recorder.kernel("gemm", 0, 10, op="aten::mm", dims=[[7, 5], [5, 3]])
    recorder.kernel("who_knows", 20, 90)
    trace = read_trace(recorder.write(tmp_path / "t.json", distributedInfo={"rank": 0, "world_size": 8}))
    found = against(trace, answer.tree, parse_cluster("1xxeon-8480"), world=1)
    said = " | ".join(found["warnings"])
    assert "one of 8 ranks, and the plan has 1" in said
    assert "kernels of a GPU, and the prediction is for xeon-8480" in said
    assert "90 % of the measured time is of no known kind" in said
    assert "no measured matrix product is in the plan" in said
    assert found["other"] == [{"name": "who_knows", "seconds": pytest.approx(90e-6), "kernels": 1}]
    (stray,) = (row for row in found["gemms"] if row["measured_runs"])
    assert stray["predicted_each_s"] > 0
    assert stray["predicted_runs"] == 0


LAUNCHES = st.lists(
    st.tuples(
        st.sampled_from([*NAMES.values(), "ncclDevKernel_AllReduce", "secret", "Memcpy HtoD"]),
        st.sampled_from(["", "aten::mm", "aten::mul", "aten::_softmax", "mine::op"]),
        st.integers(0, 900),
        st.integers(1, 400),
    ),
    min_size=1, max_size=25,
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(launches=LAUNCHES, steps=st.integers(1, 4))
def test_every_second_of_the_steps_has_one_kind(
    launches: list[tuple[str, str, int, int]], steps: int, tmp_path: Path, answer: TrainResult
) -> None:
    path = tmp_path / "t.json"
    # A kernel of a step is what was launched in it, however late it runs.
    events: list[dict[str, Any]] = []
    for n in range(steps):
        events.append({"ph": "X", "cat": "user_annotation", "name": f"ProfilerStep#{n}", "ts": 1000 * n, "dur": 999.0})
    inside = 0.0
    first = 1 if steps > 1 else 0
    for i, (name, op, at, dur) in enumerate(launches, 1):
        n = i % steps
        launch = 1000 * n + at
        args = {"External id": i, "correlation": i}
        events.append(
            {"ph": "X", "cat": "cpu_op", "name": op or "x::y", "tid": i, "ts": launch, "dur": 9, "args": args}
        )
        events.append({"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "tid": i, "ts": launch, "dur": 1,
                       "args": args})  # fmt: skip
        events.append({"ph": "X", "cat": "kernel", "name": name, "ts": launch + 700, "dur": dur, "args": args})
        inside += dur * 1e-6 if n >= first else 0.0
    if inside == 0:
        return
    path.write_text(json.dumps({"traceEvents": events}))
    found = against(read_trace(path), answer.tree, parse_cluster(ON))
    many = found["step"]["steps"]
    assert sum(row["measured_s"] for row in found["kinds"]) * many == pytest.approx(inside)
    assert sum(row["measured_s"] for row in found["groups"]) * many == pytest.approx(inside)
    assert sum(row["seconds"] for row in found["other"]) == pytest.approx(
        sum(row["measured_s"] for row in found["kinds"] if row["kind"] == "other")
    )
    step = found["step"]["measured"]
    assert step["busy_s"] + step["idle_s"] == pytest.approx(step["step_s"])
    assert 0 <= step["exposed_comm_s"] <= step["busy_s"] <= step["step_s"] * (1 + 1e-9)
    order = [abs(row["difference_s"]) for row in found["kinds"]]
    assert order == sorted(order, reverse=True)
