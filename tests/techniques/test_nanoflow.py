"""NanoFlow: neutral parameters, the ideal limit, and physics."""

from __future__ import annotations

import math
from typing import Any

import pytest

from windtunnel.models import load_network
from windtunnel.studies.ask import infer, simulate

BASE = {"model": "llama-2-70b", "on": "8xa100-80gb-sxm", "tp": 8, "input": 512, "output": 512, "batch": 1024}
LOAD = {
    "model": "llama-2-70b", "on": "8xa100-80gb-sxm", "tp": 8, "rate": 6.0, "requests": 300,
    "input_length": 500, "output_length": 100,
}  # fmt: skip
IDEAL = "nanoflow:memory_share=0,network_share=0,interference=0"


def asked(*techniques: str, **others: Any) -> Any:
    return infer(**{**BASE, **others}, techniques=list(techniques))


def test_one_nano_batch_is_the_baseline_exactly() -> None:
    plain, neutral = asked().to_dict(), asked("nanoflow:nano_batches=1").to_dict()
    plain.pop("plan"), neutral.pop("plan")
    assert plain == neutral
    one, other = simulate(**LOAD), simulate(**LOAD, techniques=["nanoflow:nano_batches=1"])
    assert (one.ttft_s, one.tpot_s, one.makespan_s) == (other.ttft_s, other.tpot_s, other.makespan_s)


def test_without_disturbance_a_layer_lasts_as_its_longest_stream() -> None:
    """Computing alone, at this batch: attention and messages are hidden."""
    found = asked(IDEAL, chunk=8192).tree["decode"]
    shown = found.by_kind()
    assert shown.get("attention_decode", 0.0) == pytest.approx(0.0, abs=1e-6)
    outside = {"all_reduce", "all_gather"}  # of the embedding and the head
    assert sum(float(shown.get(k, 0.0)) for k in outside) < 0.02 * float(found.seconds())


def test_it_gains_between_nothing_and_all_of_what_is_hidden() -> None:
    base, found, ideal = asked(chunk=2048), asked("nanoflow"), asked(IDEAL)
    assert base.e2e_s > found.e2e_s > ideal.e2e_s
    parameters = load_network(BASE["model"]).total_parameters
    optimum = 8 * 312e12 / (2 * parameters)
    assert ideal.total_tokens_per_second < optimum


def test_small_batches_pay_for_reading_weights_twice() -> None:
    assert asked("nanoflow", batch=8).tpot_s > 1.3 * asked(batch=8).tpot_s


def test_a_stream_that_holds_the_device_hides_nothing() -> None:
    held = asked("nanoflow:memory_share=1,network_share=1,interference=0")
    disturbed = asked("nanoflow:memory_share=0,network_share=0,interference=1")
    assert held.e2e_s == pytest.approx(disturbed.e2e_s, rel=1e-9)


@pytest.mark.parametrize("loop", ["python", "naive"])
def test_every_loop_agrees(loop: str) -> None:
    one, other = (simulate(**LOAD, techniques=["nanoflow"], loop=x) for x in ("auto", loop))
    assert one.makespan_s == pytest.approx(other.makespan_s, rel=1e-9)
    assert one.tpot_s == pytest.approx(other.tpot_s, rel=1e-9)


def test_it_runs_on_any_decoder() -> None:
    for model, on, more in (
        ("mixtral-8x7b", "8xh100-sxm", {"dp": 8, "ep": 8}),
        ("deepseek-v2-lite", "4xh100-sxm", {"tp": 4}),
        ("mamba2-2.7b", "a100-80gb-sxm", {}),
        ("gemma-2-9b", "2xh100-sxm", {"tp": 2, "precision": "fp8"}),
    ):
        found = infer(model=model, on=on, batch=64, input=256, output=16, techniques=["nanoflow"], **more)
        assert 0 < found.e2e_s < math.inf
