"""The studies of the KV cache: H2O and the long-context analysis."""

from __future__ import annotations

import pytest

from windtunnel.studies.papers import h2o, long_context
from windtunnel.studies.study import outcome


@pytest.fixture(scope="module")
def tried() -> dict[tuple[str, str, str], float]:
    """Tokens a second by engine, model and placement at the shortest output."""
    s = h2o.SETUP
    shortest = s.outputs[0]
    return {
        (engine, model, place): h2o._best(engine, model, shortest, place)
        for model in s.models
        for engine, places in (
            (s.h2o_engine, (s.in_place[model],)),
            (s.deepspeed, (s.streamed,)),
            (s.accelerate, s.placed),
        )
        for place in places
    }


def test_baselines_are_where_such_systems_were_reported(tried: dict[tuple[str, str, str], float]) -> None:
    """FlexGen's own comparison on a T4, 512 + 32 tokens (arXiv 2303.06865, table 2): ZeRO-Inference 9.28 and 0.60,
    Accelerate 25.12 and 0.62, FlexGen 25.26 and 7.32 tokens a second: within a factor of 1.7."""
    s = h2o.SETUP
    small, large = s.models
    reported = {(s.deepspeed, small): 9.28, (s.deepspeed, large): 0.60, (s.accelerate, small): 25.12}
    reported |= {(s.accelerate, large): 0.62, (s.h2o_engine, small): 25.26, (s.h2o_engine, large): 7.32}
    for (engine, model), figure in reported.items():
        best = max(v for (e, m, _), v in tried.items() if (e, m) == (engine, model))
        assert 1 / 1.7 < best / figure < 1.7, (engine, model, best)


def test_heavy_hitters_beat_every_baseline() -> None:
    told = outcome(h2o.STUDY)
    assert told["verdict"] == "reproduced"
    offloading = [row for row in told["also"] if "over" in row["metric"] and "latency" not in row["metric"]]
    assert len(offloading) == 2
    assert all(row["predicted"] > told["predicted"] and row["verdict"] != "missed" for row in offloading)


def test_sparse_caches_help_where_contexts_are_long() -> None:
    sweep = h2o.STUDY.sweep
    assert sweep is not None
    gains = [sweep.gain(v) for v in sweep.values.value]
    assert gains == sorted(gains)
    assert gains[0] < 1.05
    assert 1.5 < gains[-1] < 5


def test_a_long_context_costs_what_the_analysis_says() -> None:
    told = outcome(long_context.STUDY)
    assert told["verdict"] == "reproduced"
    assert [row["verdict"] for row in told["also"]] == [None, "reproduced", "reproduced"]
