"""A whole training run: its time with failures, checkpoints and stragglers, and where that time goes.

Failures come at random at a constant rate 1/M, at any time, also while the job is down. The run is cut into equal
intervals, each τ of work and a checkpoint after it. A failure throws it back to the last checkpoint that is written,
after an outage R (detection, start, loading) that begins anew if another failure falls into it: E_R = M(e^(R/M) − 1)
on average. With synchronous checkpoints of δ this is Daly's complete model (FGCS 22(3), 2006): an interval takes
(M + E_R)(e^((τ+δ)/M) − 1) = M·e^(R/M)·(e^((τ+δ)/M) − 1).

An asynchronous checkpoint stops training for the copy δ only, and is written during the next w seconds. Let L be an
interval with a checkpoint being written behind it and A the mean time of one that starts from a written checkpoint,
A = (M + E_R)(e^((τ+δ)/M) − 1). By the same renewal argument, the w until it is written take
(M + E_R + A)(e^(w/M) − 1), since a failure there costs the interval before as well, and the rest
(M + E_R + A)(1 − e^(−(L−w)/M)). w = 0 gives back the synchronous case.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from windtunnel.errors import Infeasible, ScenarioError
from windtunnel.training.checkpoints import Checkpoints, daly_interval_s
from windtunnel.training.failures import HOUR, FailureRates, straggler_slowdown

LEAST_GOODPUT = 1e-3
"""A run of which a smaller share would be useful does not get anywhere: it is infeasible."""

LARGEST_EXPONENT = 600.0
"""e to more than this is infinite here (floats end at e^709)."""


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """What is run, on what, and what can happen.

    ``step_time_s``: one step without stragglers. ``nodes``: how many machines write checkpoints, and fail.
    ``mtbf_hours``: mean hours between interruptions of the whole job; left out, it follows from ``rates`` (hours per
    accelerator and per node); without either, nothing fails. ``checkpoints`` None: none are written, and a failure
    costs the whole run so far. ``detection_s``: from a failure to the decision to restart; ``restart_s``: from there
    to loading the checkpoint. ``straggler_share`` and ``step_time_cv``: see ``failures.straggler_slowdown``;
    ``straggler_ranks``: how many ranks wait for each other (all accelerators if None).
    """

    step_time_s: float
    tokens_per_step: float
    tokens: float
    accelerators: int
    nodes: int
    mtbf_hours: float | None = None
    rates: FailureRates | None = None
    checkpoints: Checkpoints | None = None
    detection_s: float = 0.0
    restart_s: float = 0.0
    straggler_share: float = 0.0
    step_time_cv: float = 0.0
    straggler_ranks: int | None = None

    def __post_init__(self) -> None:
        for name in ("step_time_s", "tokens_per_step", "tokens", "accelerators", "nodes"):
            if not 0 < getattr(self, name) < math.inf:
                raise ScenarioError(f"{name} = {getattr(self, name)}; a finite number above 0 is accepted")
        for name in ("detection_s", "restart_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ScenarioError(f"{name} = {getattr(self, name)}; a finite number of at least 0 is accepted")
        if self.mtbf_hours is not None and not self.mtbf_hours > 0:
            raise ScenarioError(f"mtbf_hours = {self.mtbf_hours}; hours above 0 are accepted")

    @property
    def steps(self) -> int:
        """Optimizer steps; the last may be partial."""
        return math.ceil(self.tokens / self.tokens_per_step)

    @property
    def mtbf_s(self) -> float:
        """Mean seconds between interruptions of the job."""
        if self.mtbf_hours is not None:
            return HOUR * self.mtbf_hours
        return HOUR * self.rates.job_mtbf_hours(self.accelerators, self.nodes) if self.rates else math.inf

    @property
    def slowdown(self) -> float:
        """Extra share of every step that goes to waiting for the slowest rank."""
        ranks = self.accelerators if self.straggler_ranks is None else self.straggler_ranks
        return straggler_slowdown(ranks, self.step_time_cv, self.straggler_share)

    @property
    def work_s(self) -> float:
        """Seconds of all steps, stragglers included."""
        return self.steps * self.step_time_s * (1 + self.slowdown)


@dataclass(frozen=True, slots=True)
class RunEstimate:
    """The mean run. ``useful_s`` and the four parts of ``lost_s`` add up to ``time_to_train_s``.

    ``lost_s``: ``failures`` (work and checkpoints done again), ``checkpoints`` (training stopped or slowed by them),
    ``restarts`` (the job being down) and ``stragglers``. ``failures`` counts all, also those that strike while it is
    down. ``checkpoint_interval_s``: work between checkpoints; ``checkpoints``: how many are kept, the last included.
    """

    time_to_train_s: float
    useful_s: float
    goodput_fraction: float
    lost_s: dict[str, float]
    failures: float
    mtbf_hours: float
    checkpoint_interval_s: float
    checkpoints: int
    gpu_hours: float


@dataclass(frozen=True, slots=True)
class _Cycle:
    """One way to cut the run: ``count`` intervals. All in seconds; see the module's text for the letters."""

    count: float
    first: float  # τ + δ: an interval that starts from a written checkpoint
    usual: float  # L
    behind: float  # w
    outage: float  # R
    mtbf: float  # M

    @property
    def without_failures(self) -> float:
        return self.first + (self.count - 1) * self.usual + self.behind

    @property
    def mean_outage(self) -> float:
        """E_R."""
        return _scaled_growth(self.mtbf, self.outage, self.mtbf)

    @property
    def mean(self) -> float:
        """Mean seconds of the run; infinite where floats end."""
        if math.isinf(self.mtbf):
            return self.without_failures
        base = self.mtbf + self.mean_outage
        start = _scaled_growth(base, self.first, self.mtbf)
        again = base + start
        written = _scaled_growth(again, self.behind, self.mtbf)
        rest = -again * math.expm1(-(self.usual - self.behind) / self.mtbf) if self.count > 1 else 0.0
        if math.isinf(start) or math.isinf(written):
            return math.inf
        return start + (self.count - 1) * (written + rest) + written


def _scaled_growth(scale: float, seconds: float, mtbf: float) -> float:
    """scale·(e^(seconds/M) − 1); its limit without failures, and infinity where floats end."""
    if math.isinf(mtbf):
        return seconds
    if seconds == 0:
        return 0.0
    exponent = seconds / mtbf
    return math.inf if exponent > LARGEST_EXPONENT or math.isinf(scale) else scale * math.expm1(exponent)


def _cycle(run: TrainingRun, count: float) -> _Cycle:
    saves = run.checkpoints
    outage = run.detection_s + run.restart_s
    if saves is None:
        return _Cycle(1, run.work_s, run.work_s, 0.0, outage, run.mtbf_s)
    work = run.work_s / count
    blocked, behind = saves.blocked_s(run.nodes), saves.behind_s(run.nodes)
    slower = 1 + saves.slowdown
    # While one checkpoint is written steps are slower, and the next waits for it.
    usual = work + behind * saves.slowdown / slower if behind <= work * slower else behind
    return _Cycle(count, work + blocked, usual + blocked, behind, outage + saves.load_s(run.nodes), run.mtbf_s)


def _best_count(run: TrainingRun) -> int:
    """How many intervals give the least mean time: golden section on its logarithm, which has one minimum."""
    most = float(run.steps)

    def cost(log_count: float) -> tuple[float, float]:
        # Where both are infinite, more intervals are nearer to a finite time.
        return _cycle(run, math.exp(log_count)).mean, -log_count

    low, high = 0.0, math.log(most)
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(100):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, b) if cost(a) <= cost(b) else (a, high)
        if high - low < 1e-10:
            break
    guess = math.exp(low)
    around = {min(max(1, round(guess) + i), run.steps) for i in range(-2, 3)} | {1}
    return min(around, key=lambda n: (_cycle(run, n).mean, -n))


def estimate_run(run: TrainingRun) -> RunEstimate:
    """The mean over all ways the run can go: exact for exponential failures and equal intervals.

    Raises:
        Infeasible: failures leave less than a thousandth of the time for useful work.
    """
    saves = run.checkpoints
    if saves is None:
        count = 1
    elif saves.every_steps is not None:
        count = math.ceil(run.steps / saves.every_steps)
    elif saves.every_s is None:
        count = _best_count(run)
    else:
        count = min(max(1, math.ceil(run.work_s / saves.every_s - 1e-9)), run.steps)
    cycle = _cycle(run, count)
    total = cycle.mean
    useful = run.steps * run.step_time_s
    if not useful >= LEAST_GOODPUT * total:
        raise Infeasible(
            f"a failure every {_pretty(run.mtbf_s)} on average leaves no time to progress: an interval of "
            f"{_pretty(cycle.first)} and a restart of {_pretty(cycle.outage)} must pass without one"
        )
    share_down = 0.0 if math.isinf(run.mtbf_s) else cycle.mean_outage / (run.mtbf_s + cycle.mean_outage)
    restarts = total * share_down
    stragglers = run.work_s - useful
    checkpoints = cycle.without_failures - run.work_s
    lost = {
        "failures": max(total - cycle.without_failures - restarts, 0.0),
        "checkpoints": checkpoints,
        "restarts": restarts,
        "stragglers": stragglers,
    }
    total = useful + sum(lost.values())
    return RunEstimate(
        time_to_train_s=total,
        useful_s=useful,
        goodput_fraction=useful / total,
        lost_s=lost,
        failures=0.0 if math.isinf(run.mtbf_s) else total / run.mtbf_s,
        mtbf_hours=run.mtbf_s / HOUR,
        checkpoint_interval_s=run.work_s / count,
        checkpoints=count if saves is not None else 0,
        gpu_hours=total / HOUR * run.accelerators,
    )


def daly_estimate_s(run: TrainingRun) -> float:
    """Daly's interval for the run's checkpoints and MTBF, for comparison with the best one.

    Raises:
        ScenarioError: the run writes no checkpoints.
    """
    if run.checkpoints is None:
        raise ScenarioError("a run without checkpoints has no checkpoint interval")
    return daly_interval_s(run.checkpoints.blocked_s(run.nodes), run.mtbf_s)


@dataclass(frozen=True, slots=True)
class SimulatedRuns:
    """``time_s``, ``failures`` (all), ``down_s``: one entry a trial."""

    time_s: NDArray[np.float64]
    failures: NDArray[np.float64]
    down_s: NDArray[np.float64]


def simulate_run(
    run: TrainingRun, seed: int, trials: int = 1000, gaps_s: NDArray[np.float64] | None = None
) -> SimulatedRuns:
    """Play the run out, failure by failure, ``trials`` times; trial i draws from a Philox stream keyed (seed, i).

    ``gaps_s``: time between failures is drawn from these instead of exponentially, scaled to the run's MTBF. The
    checkpoint interval is that of :func:`estimate_run`.

    Raises:
        Infeasible: as :func:`estimate_run`, or gaps so even that the run never gets through an interval.
        ScenarioError: fewer than one trial, a seed out of range, or gaps that are not all positive.
    """
    if trials < 1:
        raise ScenarioError(f"{trials} trials; at least 1 is needed")
    if not 0 <= seed < 2**64:
        raise ScenarioError(f"seed {seed}; a whole number from 0 to 2^64 - 1 is accepted")
    if gaps_s is not None and not (len(gaps_s) and np.all(np.asarray(gaps_s) > 0)):
        raise ScenarioError("gaps between failures must be one or more positive numbers of seconds")
    estimate = estimate_run(run)
    cycle = _cycle(run, max(estimate.checkpoints, 1))
    relative = None if gaps_s is None else np.asarray(gaps_s, dtype=float) / np.mean(gaps_s)
    most = 100 * estimate.failures + 10_000
    results = np.array([_play(cycle, np.random.Philox(key=[seed, i]), relative, most) for i in range(trials)])
    return SimulatedRuns(results[:, 0], results[:, 1], results[:, 2])


def _play(
    cycle: _Cycle, bits: np.random.Philox, relative: NDArray[np.float64] | None, most_failures: float
) -> tuple[float, float, float]:
    """One run: (its seconds, its failures, its seconds of being down)."""
    if math.isinf(cycle.mtbf):
        return cycle.without_failures, 0.0, 0.0
    rng = np.random.Generator(bits)

    def draw() -> list[float]:
        if relative is None:
            return list(rng.exponential(cycle.mtbf, 256))
        return list(cycle.mtbf * rng.choice(relative, 256))

    gaps = draw()
    left, clock, failures, down = gaps.pop(), 0.0, 0, 0.0
    to_do = round(cycle.count)
    while True:
        remaining = cycle.first + (to_do - 1) * cycle.usual + cycle.behind
        if left >= remaining:
            return clock + remaining, float(failures), down
        clock += left
        if left >= cycle.first + cycle.behind:
            to_do -= 1 + int((left - cycle.first - cycle.behind) // cycle.usual)
        while True:  # down until an outage passes without another failure
            failures += 1
            if failures > most_failures:
                raise Infeasible(f"{failures} failures and no end: the gaps between them leave no time to progress")
            gaps = gaps or draw()
            left = gaps.pop()
            spell = min(left, cycle.outage)
            clock, down = clock + spell, down + spell
            if left > cycle.outage:
                left -= cycle.outage
                break


def _pretty(seconds: float) -> str:
    for unit, size in (("days", 24 * HOUR), ("hours", HOUR), ("minutes", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
