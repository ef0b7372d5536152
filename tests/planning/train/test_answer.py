"""What ``plan train`` answers: best plans as ``train`` answers them, resumed searches, and what is said of misses."""

from __future__ import annotations

import shlex

import pytest

from windtunnel.cli import main
from windtunnel.engine.train import train
from windtunnel.errors import ScenarioError
from windtunnel.planning import plan_train
from windtunnel.planning.train.keep import pareto
from windtunnel.scenario.options import TrainOptions, read_options
from windtunnel.scenario.plan_options import PlanTrainOptions

SMALL = {
    "model": "llama-3.1-8b", "on": "16xh100-sxm", "global_batch": 32, "seq": 4096, "cp": "1",
    "tp": "1,2,4", "pp": "1,2", "micro_batch": "1,2", "virtual_stages": "1,2", "zero": "1,3", "hsdp": "off",
}  # fmt: skip
TOO_LARGE = {**SMALL, "model": "llama-3.1-405b", "recompute": "none"}


def ask(**options):
    return plan_train(read_options(PlanTrainOptions, options))


@pytest.fixture(scope="module")
def answer():
    return ask(**SMALL)


def test_best_plans_are_answers_of_train(answer):
    for entry in answer.best:
        same = train(read_options(TrainOptions, {"model": SMALL["model"], "on": SMALL["on"], **entry["plan"]}))
        assert same.step_time_s == pytest.approx(entry["step_time_s"], rel=1e-12)
        assert same.fits
        assert entry["memory_bytes"] == same.to_dict()["memory_bytes"]
        assert entry["head_room_bytes"] == pytest.approx(same.memory_bytes["capacity"] - same.memory_bytes["total"])
        assert entry["gpus"] == 16
        tokens = 32 * 4096
        assert entry["energy_j_per_token"] == pytest.approx(same.energy_j / tokens, rel=1e-9)
        assert entry["cost_usd_per_million_tokens"] == pytest.approx(same.cost_usd_per_step / tokens * 1e6, rel=1e-9)
    times = [entry["step_time_s"] for entry in answer.best]
    assert times == sorted(times)


def test_the_command_of_a_plan_gives_its_figures(answer, capsys):
    command = shlex.split(answer.best[0]["command"])
    assert command[:2] == ["windtunnel", "train"]
    assert main([*command[1:], "--json"]) == 0
    import json

    said = json.loads(capsys.readouterr().out)
    assert said["step_time_s"] == pytest.approx(answer.best[0]["step_time_s"], rel=1e-12)


def test_the_front_holds_nothing_that_is_beaten(answer):
    figures = [(e["step_time_s"], -e["head_room_bytes"], e["cost_usd_per_step"]) for e in answer.pareto]
    assert figures[0][0] == pytest.approx(answer.best[0]["step_time_s"])
    for a in figures:
        assert not any(b != a and all(x <= y for x, y in zip(b, a, strict=True)) for b in figures)


def test_counts_add_up(answer):
    misses = ("does not fit in memory", "does not fit in the hosts' memory", "takes too long")
    assert answer.evaluated == answer.feasible + sum(answer.why_not.get(m, 0) for m in misses)
    illegal = sum(n for reason, n in answer.why_not.items() if reason not in misses)
    assert answer.search["combinations"] == answer.evaluated + illegal


def test_the_first_thought_is_no_better(answer):
    assert answer.obvious["ratio"] >= 1
    same = train(read_options(TrainOptions, {"model": SMALL["model"], "on": SMALL["on"], **answer.obvious["plan"]}))
    assert same.step_time_s == pytest.approx(answer.obvious["step_time_s"], rel=1e-12)


def shape(result):
    """What must not depend on how a search was run."""
    found = result.to_dict()
    found["search"] = {k: v for k, v in found["search"].items() if k not in ("laid_out", "workers")}
    return {k: v for k, v in found.items() if k not in ("seconds", "resumed")}


def test_workers_and_stores_make_no_difference(answer, tmp_path):
    store = str(tmp_path / "points.duckdb")
    first = ask(**SMALL, store=store, workers=2)
    again = ask(**SMALL, store=store)
    assert shape(first) == shape(again) == shape(answer)
    assert (first.resumed, again.resumed) == (0, again.search["chunks"])
    import duckdb

    with duckdb.connect(store, read_only=True) as con:
        rows, best = con.execute("select count(*), min(step_time_s) filter (exact) from train_points").fetchone()
    assert rows == answer.evaluated
    assert best == pytest.approx(answer.best[0]["step_time_s"], rel=1e-9)


def test_a_model_that_fits_nowhere_names_the_nearest_plan():
    result = ask(**TOO_LARGE)
    assert (result.feasible, result.best, result.pareto) == (0, [], [])
    assert result.evaluated == result.why_not["does not fit in memory"] > 0
    assert result.binding["constraint"] == "memory_bytes"
    assert result.binding["value"] == result.nearest["memory_bytes"]["total"] > result.binding["limit"]
    needs = [
        train(read_options(TrainOptions, {**{k: TOO_LARGE[k] for k in ("model", "on", "global_batch", "seq")}, **o}))
        for o in ({"tp": 4, "pp": 2, "zero": 3}, {"tp": 4, "pp": 2, "zero": 1}, {"tp": 2, "pp": 2, "zero": 3})
    ]
    assert result.binding["value"] <= min(a.memory_bytes["total"] for a in needs) * (1 + 1e-9)


def test_what_hosts_lack_is_told():
    asked = {**SMALL, "on": "1xh100-sxm", "global_batch": 4, "offload": "optimizer:cpu", "set": {"dram_gbyte": 8}}
    result = ask(**{**asked, "tp": "1", "pp": "1"})
    assert result.feasible == 0
    assert result.why_not["does not fit in the hosts' memory"] > 0
    assert result.binding["constraint"] == "host_memory_bytes"
    assert result.binding["ratio"] == pytest.approx(result.binding["value"] / 8e9)
    assert result.binding["ratio"] > 1


def test_every_combination_of_values_is_counted_once():
    asked = {**SMALL, "tp": "1,2,3,4", "pp": "2", "virtual_stages": "1,2", "zero": "0,1,3"}
    result = ask(**asked)
    schedules = 4 + 1  # interleaving with two chunks; with one it is 1f1b
    sizes = 4 * 2 * schedules * 3 * 2 * 3  # tp, micro_batch, schedules, zero, sequence_parallel, recompute
    assert result.search["combinations"] + result.search["same"] == sizes
    assert result.why_not["tp does not divide the model's heads or widths"] == sizes // 4


RUN = {
    "model": "llama-3.1-8b", "on": "256xh100-sxm", "global_batch": 128, "seq": 4096, "cp": "1", "tp": "1,2",
    "pp": "1,2", "micro_batch": "1", "schedule": "1f1b", "zero": "1", "recompute": "none", "objective": "cluster",
}  # fmt: skip


def test_the_smallest_cluster_keeps_its_time_and_no_smaller_one_does():
    result = ask(**RUN, tokens=1e12, days=60)
    best = result.best[0]
    assert best["run"]["time_to_train_s"] <= 60 * 86400
    smaller = [n for n in range(1, best["gpus"]) if 128 % n == 0 or n in (2, 4)]
    for gpus in smaller:
        other = ask(**{**RUN, "objective": "time", "gpus": str(gpus)}, tokens=1e12)
        assert not other.best or other.best[0]["run"]["time_to_train_s"] > 60 * 86400


def test_a_cluster_that_is_too_slow_says_by_how_much():
    result = ask(**RUN, tokens=1e14, days=10)
    assert result.feasible == 0
    assert result.binding["constraint"] == "time_to_train_s"
    assert result.binding["ratio"] == pytest.approx(result.nearest["run"]["time_to_train_s"] / (10 * 86400))
    assert result.binding["ratio"] > 1


def test_a_schedule_that_the_framework_lacks_is_told():
    result = ask(**{**SMALL, "on": "32xh100-sxm", "model": "llama-3.1-70b", "pp": "2,4", "zero": "1"})
    assert result.best[0]["plan"]["schedule"] not in ("1f1b", "interleaved")
    assert any("megatron has no schedule" in w for w in result.warnings)
    own = ask(**{**SMALL, "on": "32xh100-sxm", "model": "llama-3.1-70b", "pp": "2,4", "zero": "1"},
              schedule="1f1b,interleaved")  # fmt: skip
    assert result.runnable["step_time_s"] == pytest.approx(own.best[0]["step_time_s"], rel=1e-12)
    assert own.runnable is None
    assert not any("has no schedule" in w for w in own.warnings)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"tp": "3"}, "tp=3 does not divide"),
        ({"tp": "two"}, "not a whole number"),
        ({"pp": "99"}, "more than the 32 layers"),
        ({"schedule": "2f2b"}, "unknown schedule"),
        ({"recompute": "some"}, "unknown recompute"),
        ({"gpus": "64"}, "more than the 16"),
        ({"global_batch": None}, "global_batch is missing"),
        ({"sequence_parallel": "maybe"}, "accepted: on, off"),
        ({"zero": "4"}, "0 to 3"),
        ({"workers": "many"}, "workers=many"),
        ({"offload": "weights:cpu"}, "is not understood"),
        ({"objective": "cluster"}, "tokens and days"),
        ({"days": 3}, "objective=cluster"),
        ({"store": "/nowhere/at/all.duckdb"}, "/nowhere/at"),
    ],
)
def test_wrong_requests_are_refused_in_one_line(wrong, said):
    with pytest.raises(ScenarioError, match=said) as caught:
        ask(**{**SMALL, **wrong})
    assert "\n" not in str(caught.value)


def test_fronts_of_rows_keep_one_of_equals():
    rows = [
        {"step_time_s": t, "memory_bytes": m, "gpus": g, "key": k}
        for k, (t, m, g) in enumerate([(1, 5, 8), (1, 5, 8), (2, 4, 8), (2, 6, 8), (2.5, 9, 4), (9, 4, 8)])
    ]
    assert [row["key"] for row in pareto(rows)] == [0, 2]
