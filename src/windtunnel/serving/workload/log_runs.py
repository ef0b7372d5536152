"""A benchmark's run as one JSON object of lists: what vLLM's and SGLang's serving benchmarks write.

vLLM: ``vllm bench serve --save-result --save-detailed`` (vllm/benchmarks/serve.py). SGLang: ``python -m
sglang.bench_serving --output-file FILE --output-details`` (sglang/bench_serving.py). Both count a request's time from
when it was sent: ``ttfts`` [N], then ``itls`` [N, messages after the first].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from windtunnel.errors import ScenarioError
from windtunnel.scenario.text import shown
from windtunnel.scenario.workload import Closed, Renewal
from windtunnel.serving.workload.conversations import closed_loop
from windtunnel.serving.workload.logged import LONGEST_S, Log, known, shifted, times_per_token, whole_tokens
from windtunnel.serving.workload.processes import open_times
from windtunnel.serving.workload.requests import OPEN, Floats, Ints, Workload

STARTS = ("start_times", "arrival_times", "request_start_times", "start_timestamps")
"""Names of the list of times at which requests were sent."""

BUSY = 0.9
"""Mean requests under way over the most allowed, from which on the limit made the pace rather than the rate."""

WHOLE = 0.99
"""Gaps of a log over tokens after the first, from which on each message counts as a token."""


def is_run(found: Mapping[str, Any]) -> bool:
    """Whether an object is a run, with its single requests or without."""
    return "request_rate" in found or isinstance(found.get("input_lens"), list)


def read_run(found: Mapping[str, Any], name: str, where: str, seed: int) -> Log:
    """The log of one run. ``where`` names the file; ``seed``: of arrival times that the run does not state.

    Raises:
        ScenarioError: lists of single requests are missing, of unequal length or hold what is no time or token count.
    """
    lacking = [key for key in ("input_lens", "output_lens", "ttfts") if key not in found]
    if lacking:
        raise ScenarioError(
            f"{where} has no {lacking[0]}, a list of single requests: write it with --save-detailed (vLLM) or "
            "--output-details (SGLang)"
        )
    inputs, outputs = _list(found, "input_lens", where), _list(found, "output_lens", where)
    n = len(inputs)
    ttft, (after_first, gaps) = _list(found, "ttfts", where, n), _gaps(found, where, n)
    if len(outputs) != n:
        raise ScenarioError(f"{where}: output_lens has {len(outputs):,} entries, input_lens {n:,}")
    failed = (outputs == 0) | _errors(found, n)
    good = np.flatnonzero(~failed)
    if not len(good):
        raise ScenarioError(f"{where} has no answered request of {n:,}")
    for key, values in (("input_lens", inputs), ("output_lens", outputs)):
        bad = good[~whole_tokens(values[good])]
        if len(bad):
            raise ScenarioError(
                f"{where}: {key}[{bad[0]}] {values[bad[0]]:g} is no whole number of tokens of at least 1"
            )
    slow = good[ttft[good] > LONGEST_S]
    if len(slow):
        raise ScenarioError(f"{where}: ttfts[{slow[0]}] {ttft[slow[0]]:g} is no time of at most {LONGEST_S:g} s")
    ttft = np.where(ttft > 0, ttft, np.nan)  # 0: of one that failed, or was not streamed
    e2e = ttft + after_first
    warnings = []
    if len(good) < n:
        warnings.append(f"{where}: {n - len(good):,} of {n:,} requests left out: failed")
    tokens = outputs[good].astype(np.int64)
    measured = {"ttft_s": ttft[good], "tpot_s": times_per_token(ttft[good], e2e[good], tokens), "e2e_s": e2e[good]}
    kept_gaps = np.concatenate([gaps[i] for i in good]) if gaps else np.zeros(0)
    expected = int((tokens - 1).sum())
    if gaps and not WHOLE * expected <= len(kept_gaps) <= expected / WHOLE:
        warnings.append(
            f"{where}: gaps between tokens are not compared: {len(kept_gaps):,} messages bring {expected:,} tokens"
        )
        kept_gaps = np.zeros(0)
    duration = _positive(found, "duration")
    arrival, after, order, said = _arrivals(found, where, good, measured["e2e_s"], duration, seed)
    workload = Workload(
        name=name,
        arrival_s=arrival,
        input_tokens=inputs[good].astype(np.int64)[order],
        output_tokens=tokens[order],
        after=after,
        think_s=None if after is None else np.zeros(len(good)),
        warnings=(*warnings, *said),
    )
    columns = known({metric: values[order] for metric, values in measured.items()}, where, list(found))
    return Log(workload, columns, kept_gaps if len(kept_gaps) else None, duration)


def _arrivals(
    found: Mapping[str, Any], where: str, good: Ints, e2e: Floats, duration: float | None, seed: int
) -> tuple[Floats, Ints | None, Ints, list[str]]:
    """(arrival times, ``Workload.after``, the order of the answered requests, warnings)."""
    n = len(good)
    as_sent = np.arange(n, dtype=np.int64)
    key = next((k for k in STARTS if isinstance(found.get(k), list) and found[k]), None)
    if key is not None:
        times = _list(found, key, where, int(good.max()) + 1)[good]
        if not np.isfinite(times).all():
            raise ScenarioError(f"{where}: {key} holds what is no time")
        order = np.argsort(times, kind="stable").astype(np.int64)
        return shifted(times[order], where), None, order, []
    rate, most = _rate(found, where), _positive(found, "max_concurrency")
    under_way = float(np.nansum(e2e)) / duration if duration else math.inf
    if most is not None and (math.isinf(rate) or under_way >= BUSY * most):
        concurrency = max(int(min(most, n)), 1)
        after = closed_loop(Closed(concurrency, 0.0), n, seed)[0]
        said = f"a closed loop of max_concurrency {concurrency:,}"
        return np.zeros(n), after if np.any(after != OPEN) else None, as_sent, [_rebuilt(where, said)]
    if math.isinf(rate):
        return np.zeros(n), None, as_sent, [_rebuilt(where, "all at once, request_rate inf")]
    burstiness = _positive(found, "burstiness") or 1.0
    process = Renewal("poisson", 1.0) if burstiness == 1 else Renewal("gamma", burstiness**-0.5)
    times = open_times(process, int(good.max()) + 1, rate, seed)[good]
    kind = "Poisson" if burstiness == 1 else f"gamma (burstiness {burstiness:g})"
    said = f"{kind} at request_rate {rate:g} with seed {seed}, so single requests differ from the run's"
    return shifted(times, where), None, as_sent, [_rebuilt(where, said)]


def _rebuilt(where: str, how: str) -> str:
    return f"{where} has no arrival times; rebuilt: {how}"


def _rate(found: Mapping[str, Any], where: str) -> float:
    """Requests a second; infinite where the run names none."""
    given = found.get("request_rate")
    if given is None:
        return math.inf
    try:
        rate = float(given) if isinstance(given, int | float | str) and not isinstance(given, bool) else math.nan
    except (ValueError, OverflowError):
        rate = math.nan
    if not rate > 0:
        raise ScenarioError(
            f"{where} has no arrival times (start_times), and its request_rate {shown(given)} is no number above 0"
        )
    return rate


def _positive(found: Mapping[str, Any], key: str) -> float | None:
    given = found.get(key)
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given <= LONGEST_S:
        return None
    return float(given)


def _errors(found: Mapping[str, Any], n: int) -> Any:
    """[n] whether a request has an error."""
    errors = found.get("errors")
    listed = errors if isinstance(errors, list) and len(errors) == n else [None] * n
    return np.array([bool(e) for e in listed], dtype=bool)


def _list(found: Mapping[str, Any], key: str, where: str, least: int = 0) -> Floats:
    """The numbers of a list; null is NaN.

    Raises:
        ScenarioError: no list, a shorter one than ``least``, or an entry that is no number.
    """
    values = found[key]
    if not isinstance(values, list):
        raise ScenarioError(f"{where}: {key} {shown(values)} is no list of numbers")
    if len(values) < least:
        raise ScenarioError(f"{where}: {key} has {len(values):,} entries, input_lens {least:,} or more")
    return _numbers(values, key, where)


def _numbers(values: Sequence[Any], what: str, where: str) -> Floats:
    for i, value in enumerate(values):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ScenarioError(f"{where}: {what}[{i}] {shown(value)} is no number")
    try:
        return np.array([np.nan if v is None else float(v) for v in values], dtype=np.float64)
    except OverflowError:
        raise ScenarioError(f"{where}: {what} holds a number that is too large") from None


def _gaps(found: Mapping[str, Any], where: str, n: int) -> tuple[Floats, list[Floats]]:
    """([n] seconds from the first token to the last, the gaps of each request); NaN and none where they are absent."""
    given = found.get("itls")
    if given is None or given == []:
        return np.full(n, np.nan), []
    if not isinstance(given, list) or len(given) != n or not all(isinstance(x, list) for x in given):
        raise ScenarioError(f"{where}: itls is not a list of {n:,} lists, one for each of input_lens")
    each = [_numbers(x, f"itls[{i}]", where) for i, x in enumerate(given)]
    for i, x in enumerate(each):
        if len(x) and not (x.min() >= 0 and x.max() <= LONGEST_S):
            raise ScenarioError(f"{where}: itls[{i}] holds what is no time from 0 to {LONGEST_S:g} s")
    return np.array([x.sum() for x in each]), each
