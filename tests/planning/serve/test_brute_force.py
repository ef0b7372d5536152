"""The search against ``simulate`` itself, asked plan by plan."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from windtunnel.engine.simulate import simulate
from windtunnel.planning.serve import plan_serve
from windtunnel.planning.serve.search import EQUAL
from windtunnel.scenario.options import read_options
from windtunnel.scenario.plan_options import PlanServeOptions
from windtunnel.scenario.simulate_options import SimulateOptions

MODEL = "llama-3.1-8b"
WORK = {"rate": 6.0, "requests": 100, "input_length": "lognormal:mean=600,cv=1", "output_length": "uniform:20,200"}


def colocated(
    device: str, tps: tuple[int, ...], chunks: tuple[int, ...], batches: tuple[int, ...]
) -> Iterator[dict[str, Any]]:
    """On just the accelerators that each uses: a node's own power is that of all that are in it."""
    for tp, chunk, batch in product(tps, chunks, batches):
        for n in range(1, 4 // tp + 1):
            yield {"on": f"{tp * n}x{device}", "tp": tp, "replicas": n, "chunk": chunk, "max_batch": batch}


def apart(tps: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    for first, second in product(tps, tps):
        for a, b in product(range(1, 5), range(1, 5)):
            if a * first + b * second <= 4:
                yield {"prefill": f"{a}x(tp={first})", "decode": f"{b}x(tp={second})"}


def brute(plans: Iterator[dict[str, Any]], percentile: str, limits: dict[str, float], **fixed: Any) -> list[Any]:
    """Every plan that meets the SLO, as ``simulate`` answers it."""
    found = []
    for plan in plans:
        result = simulate(read_options(SimulateOptions, {"model": MODEL, **WORK, **fixed, **plan}))
        late = [getattr(result, f"{m}_s")[percentile] > limit for m, limit in limits.items()]
        if result.fits and result.completed == result.requests and not any(late):
            found.append((plan, result))
    return found


def ask(**options: Any) -> Any:
    return plan_serve(read_options(PlanServeOptions, {"model": MODEL, **WORK, **options}))


@pytest.mark.parametrize(
    ("device", "limits", "percentile"),
    [
        ("l4", {"ttft": 2.0, "tpot": 0.12}, "p90"),
        ("l4", {"ttft": 0.6}, "p50"),
        ("a100-80gb-sxm", {"ttft": 0.1, "tpot": 0.0135}, "p95"),
        ("l4", {"e2e": 12.0, "tpot": 0.09}, "p90"),
    ],
)
def test_the_best_of_a_small_space(device: str, limits: dict[str, float], percentile: str) -> None:
    good = brute(colocated(device, (1, 2, 4), (512, 2048), (8, 64)), percentile, limits)
    space = {"deployment": "colocated", "tp": "1,2,4", "chunk": "512,2048", "max_batch": "8,64", "top": 50}
    asked = {"on": f"4x{device}", "slo": ",".join(f"{k}={v}" for k, v in limits.items()), **space}
    for objective, name in (("cost", "cost_usd_per_million_tokens"), ("energy", "energy_j_per_token")):
        found = ask(percentile=float(percentile[1:]), objective=objective, **asked)
        values = [getattr(result, name) for _, result in good]
        assert bool(found.best) == bool(values)
        if not values:
            continue
        assert found.best[0][name] <= min(values) * (1 + EQUAL)
        assert found.best[0][name] in values
        # With every layout shown, each layout that meets the SLO is there, at its best.
        by_tp: dict[int, list[float]] = {}
        for plan, result in good:
            by_tp.setdefault(plan["tp"], []).append(getattr(result, name))
        shown = {p["plan"].get("tp", 1): p[name] for p in found.best}
        assert shown.keys() == by_tp.keys()
        assert all(shown[tp] <= min(by_tp[tp]) * (1 + EQUAL) for tp in shown)


def test_pools_apart() -> None:
    limits = {"ttft": 1.0, "tpot": 0.07}
    good = brute(apart((1, 2)), "p90", limits, on="4xl4")
    found = ask(
        on="4xl4", slo="ttft=1.0,tpot=0.07", deployment="disaggregated", tp="1,2", max_batch="256", chunk="8192"
    )
    assert found.best
    best = min(result.cost_usd_per_million_tokens for _, result in good)
    assert found.best[0]["cost_usd_per_million_tokens"] <= best * (1 + EQUAL)
    assert {"prefill", "decode"} <= found.best[0]["plan"].keys()


def test_the_highest_rate() -> None:
    """A rate that is a tenth higher misses the SLO with every plan."""
    space = {"tp": "1,2", "chunk": "512,2048", "max_batch": "64", "deployment": "colocated"}
    limits = {"ttft": 1.5, "tpot": 0.1}
    found = ask(on="2xl4", slo="ttft=1.5,tpot=0.1", objective="throughput", **space)
    best = found.best[0]
    rate = best["rate_requests_per_second"]
    assert best["max_rate_requests_per_second"] == rate == best["plan"]["rate"]
    assert best["slo_ratio"] <= 1
    whole = [p for p in colocated("l4", (1, 2), (512, 2048), (64,)) if p["on"] == "2xl4"]
    assert brute(iter(whole), "p90", limits, rate=rate)
    assert not brute(iter(whole), "p90", limits, rate=rate * 1.1)


def test_the_least_latency_for_a_budget() -> None:
    found = ask(
        on=["4xl4"], objective="latency", budget=2.0, tp="1,2", chunk="2048", max_batch="64", deployment="colocated"
    )
    assert all(p["cost_usd_per_hour"] <= 2.0 for p in found.best)
    every = brute(colocated("l4", (1, 2), (2048,), (64,)), "p90", {})
    price = found.best[0]["cost_usd_per_hour"] / found.best[0]["accelerators"]
    within = [r.e2e_s["p90"] for p, r in every if p["tp"] * p["replicas"] * price <= 2.0]
    assert found.best[0]["e2e_s"]["p90"] == min(within)
