"""Whole runs: the mean against playing them out, against Young and Daly, and against published failures."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.errors import Infeasible, ScenarioError
from windtunnel.training.checkpoints import Checkpoints, StorageTier, daly_interval_s, get_tier, young_interval_s
from windtunnel.training.failures import (
    FailureRates,
    default,
    expected_largest,
    reliability,
    spare_nodes,
    straggler_slowdown,
)
from windtunnel.training.run import TrainingRun, daly_estimate_s, estimate_run, simulate_run

FACTS = yaml.safe_load((Path(__file__).parent / "data" / "failures.yaml").read_text())
GB = 1e9
DISK, MEMORY = StorageTier("disk", GB, GB), StorageTier("memory", 8 * GB, 8 * GB)


def a_run(every_s: float | None = None, asynchronous: bool = False, **changes: object) -> TrainingRun:
    """About 55 hours on one node that fails every half hour and writes its 40 GB in 40 s."""
    saves = Checkpoints(40 * GB, DISK, every_s, asynchronous, MEMORY, slowdown=0.1 if asynchronous else 0.0)
    base = TrainingRun(1.0, 1.0, 200_000, 8, 1, mtbf_hours=0.5, checkpoints=saves, detection_s=30.0, restart_s=20.0)
    return replace(base, **changes)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("every_s", [None, 100.0, 900.0])
@pytest.mark.parametrize("mtbf_hours", [0.2, 0.5, 5.0])
def test_mean_is_that_of_runs_played_out(mtbf_hours: float, every_s: float | None, asynchronous: bool) -> None:
    run = a_run(every_s, asynchronous, mtbf_hours=mtbf_hours, tokens=100_000)
    mean, played = estimate_run(run), simulate_run(run, seed=7, trials=400)
    assert played.time_s.mean() == pytest.approx(mean.time_to_train_s, rel=0.01)
    assert played.failures.mean() == pytest.approx(mean.failures, rel=0.03)
    assert played.down_s.mean() == pytest.approx(mean.lost_s["restarts"], rel=0.04)


def test_a_slow_write_behind_the_next_interval_makes_it_wait() -> None:
    run = a_run(10.0, asynchronous=True, tokens=20_000)
    mean, played = estimate_run(run), simulate_run(run, seed=1, trials=300)
    assert mean.lost_s["checkpoints"] > 20_000 / 10 * 25  # each interval lasts the write's 40 s instead of 10
    assert played.time_s.mean() == pytest.approx(mean.time_to_train_s, rel=0.01)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_automatic_interval_is_the_best_one_when_played_out(asynchronous: bool) -> None:
    best = estimate_run(a_run(asynchronous=asynchronous)).checkpoint_interval_s
    intervals, times = [], []
    for factor in (0.5, 0.65, 0.8, 1.0, 1.25, 1.55, 2.0):
        run = a_run(best * factor, asynchronous)
        intervals.append(math.log(estimate_run(run).checkpoint_interval_s))
        times.append(simulate_run(run, seed=3, trials=100).time_s.mean())
    curve = np.polyfit(intervals, times, 3)
    fine = np.linspace(intervals[0], intervals[-1], 2001)
    assert np.exp(fine[np.argmin(np.polyval(curve, fine))]) == pytest.approx(best, rel=0.05)


def test_automatic_interval_is_dalys_for_synchronous_checkpoints() -> None:
    for mtbf_hours in (0.1, 0.5, 5.0, 50.0):
        run = a_run(mtbf_hours=mtbf_hours, tokens=2_000_000)
        assert estimate_run(run).checkpoint_interval_s == pytest.approx(daly_estimate_s(run), rel=0.01)
    assert young_interval_s(40.0, 36_000.0) == pytest.approx(math.sqrt(2 * 40 * 36_000))
    assert daly_interval_s(40.0, 36_000.0) == pytest.approx(young_interval_s(40.0, 36_000.0), rel=0.02)
    assert daly_interval_s(100.0, 40.0) == 40.0


def test_mean_is_dalys_complete_model() -> None:
    """M·e^(R/M)·(e^((τ+δ)/M) − 1)·N with M 1800 s, R 90 s, δ 40 s, τ 400 s."""
    estimate = estimate_run(a_run(400.0))
    expected = 1800 * math.exp(90 / 1800) * math.expm1(440 / 1800) * 500
    assert estimate.checkpoints == 500
    assert estimate.time_to_train_s == pytest.approx(expected, rel=1e-12)


@settings(max_examples=100)
@given(
    mtbf_hours=st.floats(0.3, 1e4),
    every_s=st.one_of(st.none(), st.floats(1.0, 2000.0)),
    asynchronous=st.booleans(),
    slowdown=st.floats(0.0, 1.0),
    share=st.floats(0.0, 0.5),
    cv=st.floats(0.0, 0.1),
)
def test_parts_add_up_and_are_not_negative(
    mtbf_hours: float, every_s: float | None, asynchronous: bool, slowdown: float, share: float, cv: float
) -> None:
    run = a_run(every_s, asynchronous, mtbf_hours=mtbf_hours, straggler_share=share, step_time_cv=cv)
    run = replace(run, checkpoints=replace(run.checkpoints, slowdown=slowdown))
    e = estimate_run(run)
    assert e.useful_s + sum(e.lost_s.values()) == e.time_to_train_s
    assert set(e.lost_s) == {"failures", "checkpoints", "restarts", "stragglers"}
    assert all(part >= 0 for part in e.lost_s.values())
    assert e.useful_s == 200_000
    assert e.goodput_fraction == pytest.approx(e.useful_s / e.time_to_train_s)
    assert e.gpu_hours == pytest.approx(8 * e.time_to_train_s / 3600)
    assert e.failures == pytest.approx(e.time_to_train_s / 3600 / mtbf_hours)
    longer = estimate_run(replace(run, mtbf_hours=2 * mtbf_hours))
    assert longer.time_to_train_s <= e.time_to_train_s * (1 + 1e-12)
    if every_s is not None:
        assert estimate_run(replace(run, checkpoints=replace(run.checkpoints, every_s=None))).time_to_train_s <= (
            e.time_to_train_s * (1 + 1e-9)
        )


def test_nothing_fails_without_a_rate_and_no_checkpoint_costs_the_whole_run() -> None:
    quiet = estimate_run(a_run(mtbf_hours=None))
    assert quiet.failures == 0
    assert quiet.checkpoints == 1
    assert quiet.time_to_train_s == 200_000 + 40
    bare = TrainingRun(1.0, 1.0, 1000, 8, 1, mtbf_hours=0.5)
    assert estimate_run(bare).time_to_train_s == pytest.approx(1800 * math.expm1(1000 / 1800))
    assert estimate_run(replace(bare, mtbf_hours=None)).goodput_fraction == 1.0


def test_partial_steps_count_as_whole_and_rates_add_up() -> None:
    run = a_run(tokens=10.5, tokens_per_step=4.0)
    assert run.steps == 3
    rates = FailureRates(accelerator_mtbf_hours=1000.0, node_mtbf_hours=500.0)
    assert rates.job_mtbf_hours(16, 2) == pytest.approx(1 / (16 / 1000 + 2 / 500))
    assert replace(run, mtbf_hours=None, rates=rates, accelerators=16, nodes=2).mtbf_s == pytest.approx(180_000)
    assert FailureRates().job_mtbf_hours(10_000, 1250) == math.inf


@pytest.mark.parametrize("mtbf_hours", [1e-9, 1e-3])
@pytest.mark.parametrize("every_s", [None, 1e5])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_no_progress_is_said_not_computed(mtbf_hours: float, every_s: float | None, asynchronous: bool) -> None:
    run = a_run(every_s, asynchronous, mtbf_hours=mtbf_hours)
    with pytest.raises(Infeasible, match="leaves no time to progress"):
        estimate_run(run)
    with pytest.raises(Infeasible):
        simulate_run(run, seed=0)


def test_a_run_that_gaps_never_let_through_stops() -> None:
    """One failure every half hour, never later, and an interval of an hour; exponential gaps would let it pass."""
    with pytest.raises(Infeasible, match="no end"):
        simulate_run(a_run(3600.0), seed=0, trials=1, gaps_s=np.ones(1))


def test_same_seed_same_runs_whatever_their_number() -> None:
    few, many = simulate_run(a_run(), seed=5, trials=3), simulate_run(a_run(), seed=5, trials=9)
    np.testing.assert_array_equal(few.time_s, many.time_s[:3])
    assert not np.array_equal(few.time_s, simulate_run(a_run(), seed=6, trials=3).time_s)


def test_slowest_of_many_ranks() -> None:
    rng = np.random.default_rng(0)
    for ranks in (2, 8, 64, 1024):
        exact = rng.standard_normal((4000, ranks)).max(axis=1).mean()
        assert expected_largest(ranks) == pytest.approx(exact, abs=0.05)
    assert straggler_slowdown(1, 0.1) == 0.0
    assert straggler_slowdown(1024, 0.01, 0.02) == pytest.approx(1.02 * (1 + 0.01 * expected_largest(1024)) - 1)
    slow = estimate_run(a_run(mtbf_hours=None, straggler_share=0.1))
    assert slow.lost_s["stragglers"] == pytest.approx(20_000)


def test_storage_takes_the_narrower_of_nodes_and_store() -> None:
    tier = StorageTier("x", 4 * GB, 2 * GB, 100 * GB, 10 * GB)
    assert tier.write_s(40 * GB, 2) == pytest.approx(10)
    assert tier.write_s(40 * GB, 100) == pytest.approx(4)
    assert tier.read_s(400 * GB, 100) == pytest.approx(4)
    saves = Checkpoints(40 * GB, tier, asynchronous=True)
    assert saves.blocked_s(2) == pytest.approx(get_tier("dram").write_s(40 * GB, 2))
    assert saves.behind_s(2) == pytest.approx(10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: a_run(step_time_s=0.0), "step_time_s = 0.0"),
        (lambda: a_run(tokens=math.inf), "tokens = inf"),
        (lambda: a_run(nodes=0), "nodes = 0"),
        (lambda: a_run(detection_s=-1.0), "detection_s = -1.0"),
        (lambda: a_run(mtbf_hours=0.0), "mtbf_hours = 0.0"),
        (lambda: a_run(0.0), "a checkpoint every 0.0 s"),
        (lambda: Checkpoints(-1.0, DISK), "-1.0 bytes"),
        (lambda: Checkpoints(1.0, DISK, slowdown=-0.1), "slowdown -0.1"),
        (lambda: StorageTier("x", 0.0, 1.0), "storage tier x: read_bytes_per_s_per_node = 0.0"),
        (lambda: FailureRates(node_mtbf_hours=-3.0), "node_mtbf_hours = -3.0"),
        (lambda: get_tier("nvm"), "unknown checkpoint tier 'nvm'; did you mean nvme"),
        (lambda: straggler_slowdown(8, -0.1), "cv -0.1"),
        (lambda: expected_largest(0), "0 ranks"),
        (lambda: spare_nodes(10, 100.0, 1.0, 2.0), "shortage 2.0"),
        (lambda: simulate_run(a_run(), 0, trials=0), "0 trials"),
        (lambda: simulate_run(a_run(), -1), "seed -1"),
        (lambda: simulate_run(a_run(), 0, gaps_s=np.zeros(3)), "gaps between failures"),
        (lambda: daly_estimate_s(TrainingRun(1.0, 1.0, 10, 1, 1)), "without checkpoints"),
    ],
)
def test_wrong_figures_are_named(make, message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        make()


# Against published figures.


def test_default_rates_are_llama3s() -> None:
    facts = FACTS["llama3"]
    accelerators, hours = facts["accelerators"], 24 * facts["days"]
    nodes = accelerators // facts["accelerators_per_node"]
    assert default("accelerator_mtbf_hours") == pytest.approx(accelerators * hours / facts["of_accelerators"], rel=1e-3)
    others = facts["unexpected_interruptions"] - facts["of_accelerators"]
    assert default("node_mtbf_hours") == pytest.approx(nodes * hours / others, rel=1e-3)
    job = FailureRates.published().job_mtbf_hours(accelerators, nodes)
    assert hours / job == pytest.approx(facts["unexpected_interruptions"], rel=1e-3)
    assert all(entry["source"] for name, entry in reliability().items() if name != "tiers")
    assert all(get_tier(name).source for name in reliability()["tiers"])


def test_llama3_interruptions_follow_from_another_clusters_failures() -> None:
    """StepFun's 400 servers fail every 238 days each: 464 times in 54 days on 2,048 servers, where Llama 3 saw 419."""
    trace, facts = FACTS["stepfun"], FACTS["llama3"]
    assert sum(trace["faults_by_level"].values()) == trace["faults"]
    rates = FailureRates(node_mtbf_hours=24 * trace["nodes"] * trace["days"] / trace["faults"])
    nodes = facts["accelerators"] // facts["accelerators_per_node"]
    expected = 24 * facts["days"] / rates.job_mtbf_hours(facts["accelerators"], nodes)
    assert expected == pytest.approx(facts["unexpected_interruptions"], rel=0.15)


def llama3_run(**changes: object) -> TrainingRun:
    """54 days of Llama 3 405B: 14 bytes a parameter (bf16 weights, fp32 master and two moments) to its own storage."""
    facts = FACTS["llama3"]
    store = StorageTier("tectonic", math.inf, math.inf, facts["storage_bytes_per_s"], facts["storage_bytes_per_s"])
    days, nodes = facts["days"], facts["accelerators"] // facts["accelerators_per_node"]
    run = TrainingRun(
        10.0,
        1.0,
        days * 8640,
        facts["accelerators"],
        nodes,
        mtbf_hours=24 * days / facts["unexpected_interruptions"],
        checkpoints=Checkpoints(14 * facts["parameters"], store),
        detection_s=FACTS["megascale"]["detection_s"],
        restart_s=default("restart_s"),
    )
    return replace(run, **changes)


def test_llama3_and_megascale_train_effectively_for_over_90_percent_of_the_time() -> None:
    """With MegaScale's 10 minutes to detect: 92.4 % predicted, more than 90 % reported by both."""
    estimate = estimate_run(llama3_run())
    for facts in (FACTS["llama3"], FACTS["megascale"]):
        assert facts["least_effective_training_time"] < estimate.goodput_fraction < 0.95
    assert estimate.failures == pytest.approx(FACTS["llama3"]["unexpected_interruptions"] / 0.924, rel=0.01)
    # Half an hour to restart by hand would not have allowed it.
    assert estimate_run(llama3_run(detection_s=1800.0)).goodput_fraction < 0.85


def test_rsc_time_to_failure_falls_with_job_size() -> None:
    """1/N holds from 8 to 1,024 GPUs within 15 %, and between the two projected sizes, not from one pair to the other.

    The measured jobs failed 3.6 times as often per GPU as the projection has it.
    """
    facts = FACTS["rsc"]

    def predicted(hours: float, of: int, at: int) -> float:
        return FailureRates(accelerator_mtbf_hours=hours * of).job_mtbf_hours(at, 0)

    small, large = facts["measured_hours"], facts["projected_hours"]
    assert predicted(small[8], 8, 1024) == pytest.approx(small[1024], rel=0.15)
    assert predicted(large[16384], 16384, 131072) == pytest.approx(large[131072], rel=0.03)
    assert large[16384] / predicted(small[1024], 1024, 16384) == pytest.approx(3.6, rel=0.02)
    # Llama 3's jobs of 16,384 GPUs ran for 3.1 hours, longer than both.
    llama = FailureRates.published().job_mtbf_hours(16384, 2048)
    assert llama > large[16384] > predicted(small[1024], 1024, 16384)


def test_measured_gaps_are_not_exponential_but_cost_about_the_same() -> None:
    """Faults come in bursts (standard deviation 1.6 times the mean; 1.4 with faults of one hour taken as one)."""
    trace = FACTS["stepfun"]
    assert trace["gap_cv"] > trace["incident_gap_cv"] > 1.3
    hours = np.array(trace["gap_hours"])
    gaps = np.interp(np.linspace(0, 1, 1001), np.linspace(0, 1, len(hours)), hours)
    run = llama3_run(tokens=10 * 8640)
    bursts = simulate_run(run, seed=2, trials=200, gaps_s=3600 * gaps).time_s.mean()
    assert bursts == pytest.approx(estimate_run(run).time_to_train_s, rel=0.02)


def test_storage_presets_are_the_measured_medians() -> None:
    reads = FACTS["mlperf_storage"]["gbyte_per_s"]
    alone = median(total for hosts, total in reads.values() if hosts == 1)
    shared = median(total for hosts, total in reads.values() if hosts > 1)
    tier = get_tier("parallel-fs")
    assert tier.read_bytes_per_s_per_node == pytest.approx(alone * GB, rel=2e-3)
    assert tier.aggregate_read_bytes_per_s == pytest.approx(shared * GB, rel=2e-3)
    assert get_tier("nvme").read_bytes_per_s_per_node == pytest.approx(
        FACTS["mlperf_storage"]["nvme_over_tcp_gbyte_per_s"] * GB, rel=2e-3
    )


def test_spares_cover_the_nodes_in_repair() -> None:
    """At StepFun's rates 9.3 of 400 servers are in repair on average; 17 spares are enough 99 % of the time."""
    trace = FACTS["stepfun"]
    mtbf = 24 * trace["nodes"] * trace["days"] / trace["faults"]
    assert default("node_repair_hours") == pytest.approx(trace["repair_hours"]["mean"], rel=2e-3)
    assert spare_nodes(trace["nodes"], mtbf, trace["repair_hours"]["mean"]) == 17
    rng = np.random.default_rng(1)
    in_repair = rng.poisson(trace["nodes"] * trace["repair_hours"]["mean"] / mtbf, 100_000)
    assert np.mean(in_repair > 17) <= 0.01 < np.mean(in_repair > 16)
    assert spare_nodes(400, mtbf, 0.0) == 0
    assert spare_nodes(100_000, mtbf, 132.8) == pytest.approx(2321 + 2.33 * math.sqrt(2321), rel=0.01)


def test_figures_are_those_of_the_trace(measured_data: Path) -> None:
    """The fixture again, from the trace itself."""
    rows = np.genfromtxt(
        measured_data / "f1_failures" / "stepfun_fault_trace_400nodes_348days.csv",
        delimiter=",",
        names=True,
        dtype=None,
        encoding="utf-8",
    )
    starts = np.sort(rows["event_time_days"][rows["event_type"] == "fault_start"]) * 24
    trace = FACTS["stepfun"]
    assert len(starts) == trace["faults"]
    gaps = np.diff(starts)
    gaps = gaps[gaps > 0]
    assert gaps.std() / gaps.mean() == pytest.approx(trace["gap_cv"], abs=0.01)
    percentiles = np.quantile(gaps, np.linspace(0, 1, 21))
    assert percentiles == pytest.approx(np.array(trace["gap_hours"]), abs=0.01)
    incidents = np.concatenate([starts[:1], starts[1:][np.diff(starts) > 1]])
    assert len(incidents) == trace["incidents"]
    between = np.diff(incidents)
    assert between.std() / between.mean() == pytest.approx(trace["incident_gap_cv"], abs=0.01)
