"""Engines that are textbook queues: with iterations as long as a prompt has tokens and a single place, an engine is a
single server whose service times are the lengths of prompts.

Formulas: Kleinrock, Queueing Systems, vol. 1 (1975), chapters 3 (M/M/1, with and without a limit) and 5 (M/G/1), and
vol. 2 (1976), chapter 3 (priorities). Means of simulated queues are held against them within four standard errors,
found from the means of successive batches of requests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from windtunnel.serving.outcome import PS, Status

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TOKEN = PS // 1000
"""Picoseconds of a token: a prompt of a thousand lasts a second."""
SIGMAS = 4.0
BATCHES = 40


def geometric(rng: np.random.Generator, n: int) -> tuple[Ints, float, float]:
    """Memoryless lengths of 1000 tokens in the mean, and their first and second moments."""
    p = 1e-3
    return rng.geometric(p, n), 1 / p, (2 - p) / p**2


def constant(rng: np.random.Generator, n: int) -> tuple[Ints, float, float]:
    return np.full(n, 1000), 1e3, 1e6


def lognormal(rng: np.random.Generator, n: int) -> tuple[Ints, float, float]:
    """Drawn from a thousand quantiles, so that the moments are exact: a coefficient of variation of about 1.4."""
    quantiles = np.exp(6.3 + 1.1 * np.sort(np.random.default_rng(5).normal(size=1000))).astype(np.int64) + 1
    return rng.choice(quantiles, n), float(quantiles.mean()), float((quantiles.astype(float) ** 2).mean())


Lengths = Callable[[np.random.Generator, int], tuple[Ints, float, float]]


def poisson(rng: np.random.Generator, n: int, rate: float) -> Ints:
    """Times of arrival [n] in ps, ``rate`` a second."""
    return np.cumsum(rng.exponential(PS / rate, n)).astype(np.int64)


def server(
    lab: Any, arrival: Ints, tokens: Ints, *, classes: Ints | None = None, rules: str = "chunked", **spec: Any
) -> Any:
    """A run of an engine with one place, for prompts that get a single token of output."""
    cost = lab.flat(0, TOKEN, 32_000, 2)
    made = lab.spec(cost, rules, budget=1 << 30, **{"most_sequences": 1, **spec})
    priority = np.zeros(len(arrival), int) if classes is None else classes
    rows = zip(arrival.tolist(), tokens.tolist(), priority.tolist(), strict=True)
    return lab.run(made, [lab.Ask(a, n, 1, priority=p) for a, n, p in rows])


def near(sample: Any, expected: float) -> None:
    """The mean of a correlated series is what is expected, within its sampling error."""
    values = np.asarray(sample, float)
    values = values[: len(values) // BATCHES * BATCHES]
    means = values.reshape(BATCHES, -1).mean(axis=1)
    error = float(means.std(ddof=1)) / BATCHES**0.5
    assert abs(values.mean() - expected) <= SIGMAS * error, (values.mean(), expected, error)
    # A test that would pass anyway tests nothing.
    assert error < 0.12 * abs(expected)


def waits(ran: Any) -> Floats:
    """Seconds in the queue."""
    found: Floats = (ran.record.start - ran.record.arrival) / PS
    return found


@pytest.mark.parametrize("lengths", [geometric, constant, lognormal])
def test_a_single_place_follows_lindley_to_the_picosecond(lab: Any, lengths: Lengths) -> None:
    """w(n+1) = max(w(n) + s(n) - a(n), 0) (Lindley 1952)."""
    rng = np.random.default_rng(1)
    tokens, mean, _ = lengths(rng, 3000)
    arrival = poisson(rng, len(tokens), 0.8e3 / mean)
    ran, wait = server(lab, arrival, tokens), 0
    for i, (start, came, n) in enumerate(zip(ran.record.start, arrival, tokens, strict=True)):
        assert start == came + wait
        assert ran.record.finish[i] == start + n * TOKEN
        if i + 1 < len(tokens):
            wait = max(wait + int(n) * TOKEN - int(arrival[i + 1] - came), 0)


@pytest.mark.parametrize(("lengths", "rho"), [
    (geometric, 0.5), (geometric, 0.8), (constant, 0.5), (constant, 0.9), (lognormal, 0.3), (lognormal, 0.7),
])  # fmt: skip
def test_the_mean_wait_is_that_of_pollaczek_and_khinchine(lab: Any, lengths: Lengths, rho: float) -> None:
    """E[W] = lambda E[S^2] / (2 (1 - rho)); for constant service rho / (2 mu (1 - rho)); for memoryless service
    rho / (mu - lambda)."""
    rng = np.random.default_rng(11)
    tokens, mean, square = lengths(rng, 24_000)
    rate = rho / (mean * 1e-3)
    ran = server(lab, poisson(rng, len(tokens), rate), tokens)
    near(waits(ran), rate * square * 1e-6 / (2 * (1 - rho)))
    near(waits(ran) == 0, 1 - rho)  # arrivals see time averages
    assert ran.engine.tally.busy == int(tokens.sum()) * TOKEN
    busy, end = ran.engine.tally.busy, int(ran.record.finish.max())
    assert busy / end == pytest.approx(rho, rel=0.04)


def test_stays_in_a_memoryless_queue_are_memoryless(lab: Any) -> None:
    """M/M/1: the time in the system is exponential with rate mu - lambda; rho / (1 - rho) are in the system."""
    rng, rho = np.random.default_rng(12), 0.6
    tokens, _, _ = geometric(rng, 30_000)
    ran = server(lab, poisson(rng, len(tokens), rho), tokens)
    stay = (ran.record.finish - ran.record.arrival) / PS
    near(stay, 1 / (1 - rho))
    for multiple in (0.5, 1.0, 2.0, 3.0):
        near(stay > multiple / (1 - rho), float(np.exp(-multiple)))
    inside = np.arange(len(tokens)) - np.searchsorted(ran.record.finish, ran.record.arrival, side="right")
    near(inside, rho / (1 - rho))
    for n in range(4):
        near(inside == n, (1 - rho) * rho**n)


@pytest.mark.parametrize(("rho", "room"), [(0.9, 1), (0.8, 3), (1.5, 4)])
def test_a_full_queue_turns_away_as_many_as_it_should(lab: Any, rho: float, room: int) -> None:
    """M/M/1/K: (1 - rho) rho^K / (1 - rho^(K+1)) of the requests, K with the one in service."""
    rng, most = np.random.default_rng(13), room + 1
    tokens, _, _ = geometric(rng, 20_000)
    ran = server(lab, poisson(rng, len(tokens), rho), tokens, max_queue=room)
    near(ran.record.status == Status.QUEUE_FULL, (1 - rho) * rho**most / (1 - rho ** (most + 1)))


def test_waits_of_priorities_are_those_of_cobham(lab: Any) -> None:
    """Non-preemptive priorities: E[W_p] = lambda E[S^2] / 2 / ((1 - sigma_(p-1)) (1 - sigma_p)), sigma_p the load of
    the classes up to p."""
    rng, rho, shares = np.random.default_rng(14), 0.75, (0.3, 0.3, 0.4)
    tokens, mean, square = geometric(rng, 30_000)
    classes, rate = rng.choice(3, len(tokens), p=shares), rho / (mean * 1e-3)
    ran = server(lab, poisson(rng, len(tokens), rate), tokens, classes=classes, rules="priority")
    left, wait = 1.0, waits(ran)
    for p, share in enumerate(shares):
        before, left = left, left - rho * share
        near(wait[classes == p], rate * square * 1e-6 / 2 / (before * left))
    near(wait, rate * square * 1e-6 / (2 * (1 - rho)) * conserved(rho, shares))


def conserved(rho: float, shares: tuple[float, ...]) -> float:
    """With classes that are served alike the mean over all does not depend on their order (Kleinrock's conservation
    law): this is 1."""
    left, total = 1.0, 0.0
    for share in shares:
        before, left = left, left - rho * share
        total += share * (1 - rho) / (before * left)
    return total


def test_shortest_first_waits_as_priorities_do(lab: Any) -> None:
    """Shortest job first is priority by length: two lengths, M/G/1 with two classes."""
    rng, rate = np.random.default_rng(15), 0.7
    tokens = rng.choice([200, 1800], 24_000)
    cost = lab.flat(0, TOKEN, 32_000, 2)
    arrival = poisson(rng, len(tokens), rate)
    asks = [lab.Ask(a, n, 1, predicted=n) for a, n in zip(arrival.tolist(), tokens.tolist(), strict=True)]
    ran = lab.run(lab.spec(cost, "sjf", budget=1 << 30, most_sequences=1), asks)
    residual, short, both = rate * (0.2**2 + 1.8**2) / 4, rate * 0.1, rate
    near(waits(ran)[tokens == 200], residual / (1 - short))
    near(waits(ran)[tokens == 1800], residual / ((1 - short) * (1 - both)))


def test_requests_dealt_out_at_random_make_independent_queues(lab: Any) -> None:
    """A Poisson stream split at random over k engines: k times M/M/1 at a k-th of the rate."""
    rng, rho, k = np.random.default_rng(16), 0.7, 4
    tokens, _, _ = geometric(rng, 32_000)
    arrival, where = poisson(rng, len(tokens), k * rho), rng.integers(0, k, len(tokens))
    stays = np.empty(len(tokens))
    for engine in range(k):
        mine = where == engine
        ran = server(lab, arrival[mine], tokens[mine])
        stays[mine] = (ran.record.finish - ran.record.arrival) / PS
    near(stays, 1 / (1 - rho))


def test_a_full_pipeline_yields_a_batch_for_each_time_of_its_slowest_stage(lab: Any) -> None:
    """Four stages of a second, a batch of one for each of them: four seconds each, and one comes out every second."""
    cost = replace(lab.flat(0, TOKEN, 32_000, 2), copies=np.array([4]))
    ran = lab.run(lab.spec(cost, budget=1 << 30, most_sequences=1, slots=4), [lab.Ask(0, 1000, 1)] * 50)
    assert (ran.record.finish / PS).tolist() == [4.0 + i for i in range(50)]


def test_a_pipeline_is_no_faster_than_a_server_as_slow_as_its_slowest_stage(lab: Any) -> None:
    """Entries are those of D service from a single queue or later: requests are dealt to batches as they come, and
    one that has been dealt to a busy batch does not change over."""
    rng, rho = np.random.default_rng(17), 0.8
    cost = replace(lab.flat(0, TOKEN, 32_000, 2), copies=np.array([4]))
    arrival = poisson(rng, 8000, rho).tolist()
    ran = lab.run(lab.spec(cost, budget=1 << 30, most_sequences=1, slots=4), [lab.Ask(a, 1000, 1) for a in arrival])
    assert np.all(ran.record.finish - ran.record.start == 4 * PS)
    free = 0
    for came, start in zip(arrival, sorted(ran.record.start.tolist()), strict=True):
        assert start >= max(came, free)
        free = max(came, free) + PS
    assert waits(ran).mean() < 1.5 * rho / (2 * (1 - rho))


def test_with_room_for_all_nobody_delays_anybody(lab: Any) -> None:
    """Iterations that all last as long, and always a place: M/G/infinity. Requests stay for their tokens and for half
    of the iteration in which they come; how many are inside is Poisson, whatever the lengths of answers."""
    rng, rate, step = np.random.default_rng(18), 40.0, 0.01
    output = rng.choice([10, 40, 100], 20_000)
    cost = lab.flat(int(step * PS), 0, 4096, 512)
    arrival = poisson(rng, len(output), rate)
    asks = [lab.Ask(a, 5, n) for a, n in zip(arrival.tolist(), output.tolist(), strict=True)]
    ran = lab.run(lab.spec(cost, budget=4096, most_sequences=512), asks)
    stay = (ran.record.finish - arrival) / PS
    near(stay / (step * (output + 0.5)), 1.0)
    mean = rate * step * (50 + 0.5)
    inside = np.arange(len(output)) - np.searchsorted(np.sort(ran.record.finish), arrival, side="right")
    settled = inside[500:]
    near(settled, mean)
    near((settled - mean) ** 2, mean)
    near(waits(ran), step / 2)
    assert ran.engine.tally.batch_max < 100
