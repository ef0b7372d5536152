"""The capacity of a service, and single iterations, against what can be known otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import windtunnel as wt
from windtunnel.studies.capacity import TOLERANCE, Limit, attained, capacity, lognormal, within
from windtunnel.studies.iterations import iteration_s

SMALL: dict[str, Any] = {
    "model": "llama-3.2-1b", "on": "1xa100-80gb-sxm", "requests": 300, "input_length": "500", "output_length": "40",
}  # fmt: skip


def test_capacity_is_where_the_limit_is_just_met() -> None:
    limit = Limit("ttft_s", "p90", 0.2)
    rate = capacity(within(limit), 5.0, **SMALL)
    given = {k: v for k, v in SMALL.items() if k != "model"}
    at, above = (wt.simulate(SMALL["model"], **given, rate=rate * f) for f in (1, 1 + 2 * TOLERANCE))
    assert limit.met(at)
    assert not limit.met(above)


def test_capacity_does_not_depend_on_the_guess() -> None:
    found = [capacity(within(Limit("e2e_s", "p50", 1.0)), start, **SMALL) for start in (0.5, 20.0, 300.0)]
    assert max(found) <= min(found) * (1 + TOLERANCE) ** 2


def test_capacity_grows_with_engines_and_with_the_limit() -> None:
    options = {**SMALL, "on": "2xa100-80gb-sxm", "slo": "ttft=0.3,tpot=0.02"}
    one, two = (capacity(attained(0.9), 10.0, replicas=n, **options) for n in (1, 2))
    assert one < two
    assert capacity(attained(0.99), 10.0, **options) <= one


def test_what_cannot_be_has_no_capacity() -> None:
    assert capacity(within(Limit("ttft_s", "p50", 1e-6)), 1.0, **SMALL) == 0.0
    assert capacity(within(), 1.0, **{**SMALL, "model": "llama-3.1-405b"}) == 0.0


@pytest.mark.parametrize(("median", "p90"), [(1730.0, 5696.0), (208.0, 371.0)])
def test_lognormal_has_its_quantiles(median: float, p90: float) -> None:
    r = wt.simulate("llama-3.2-1b", on="1xh100-sxm", requests=4000, rate=1000, output_length="1",
                    input_length=lognormal(median, p90))  # fmt: skip
    found = np.quantile(r.workload.input_tokens, (0.5, 0.9))
    assert found == pytest.approx([median, p90], rel=0.06)


def test_an_iteration_is_what_infer_says() -> None:
    """A prompt alone, and decoding at the middle of an answer, as ``infer`` prices them."""
    options = {"model": "llama-3.1-8b", "on": "1xa100-80gb-sxm", "engine": "transformers"}
    answer = wt.infer("llama-3.1-8b", on="1xa100-80gb-sxm", engine="transformers", batch=4, input=1000, output=3)
    one = wt.infer("llama-3.1-8b", on="1xa100-80gb-sxm", engine="transformers", batch=1, input=1000, output=1)
    assert iteration_s(prompt=1000, **options) == pytest.approx(one.ttft_s, rel=1e-9)
    assert iteration_s(decodes=4, context=1001, **options) == pytest.approx(answer.tpot_s, rel=1e-3)


def test_decodes_ride_on_a_chunk_for_less_than_alone() -> None:
    for model in ("llama-13b", "gemma-2-9b"):
        options = {"model": model, "on": "a100-80gb-sxm"}
        mixed = iteration_s(prompt=250, before=500, decodes=6, context=800, **options)
        prompt, decodes = (iteration_s(**part, **options) for part in (
            {"prompt": 250, "before": 500}, {"decodes": 6, "context": 800}))  # fmt: skip
        assert max(prompt, decodes) < mixed < prompt + decodes
