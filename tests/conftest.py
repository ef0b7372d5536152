"""What all tests share: how Hypothesis searches, where the measured data are, the command line run in this process, a
service to report on, and answers of searches."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from windtunnel import engine
from windtunnel.cli import main
from windtunnel.scenario.options import TrainOptions, read_options
from windtunnel.scenario.plans import PlanResult
from windtunnel.scenario.results import Bottleneck
from windtunnel.scenario.simulation import SimulateResult
from windtunnel.scenario.workload import Slo
from windtunnel.serving.histogram import BINS, add_run
from windtunnel.serving.metrics import Paid, Physics, Setting, nothing_run, summarise
from windtunnel.serving.outcome import PS, Cells, Iterations, Outcome, Pool, Series, Status
from windtunnel.serving.workload.requests import Workload

# Repeatable by default: the same code gives the same verdict everywhere. HYPOTHESIS_PROFILE=explore looks further.
settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("explore", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# A shell's background jobs ignore Ctrl-C, and so would all that the tests of it start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def measured_data() -> Path:
    """The folder of measured data sets, named by WINDTUNNEL_DATA; a test that needs it is skipped without it."""
    folder = os.environ.get("WINDTUNNEL_DATA")
    if not folder:
        pytest.skip("WINDTUNNEL_DATA does not name a folder of measured data")
    return Path(folder)


@dataclass(frozen=True)
class Ran:
    """What one run of the command line gave."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        """The one object on standard output; NaN and infinity would not be JSON."""

        def refuse(text: str) -> None:
            raise AssertionError(f"{text} is no JSON")

        value = json.loads(self.out, parse_constant=refuse)
        assert isinstance(value, dict)
        return value


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """``run("train", "gpt2", "--json")``: the exit code, standard output and standard error."""
    monkeypatch.delenv("WINDTUNNEL_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str) -> Ran:
        capsys.readouterr()
        code = main(arguments)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


class FakeService:
    """A small serving engine of invented speed, so that metrics and reports are tested without the real ones.

    Chunked prefill in order of arrival, one replica; ``slots`` and ``kv_tokens`` limit what runs at once.
    """

    def workload(self, n: int = 120, rate: float = 25.0, seed: int = 0) -> Workload:
        rng = np.random.default_rng(seed)
        return Workload(
            name="fake",
            arrival_s=np.cumsum(rng.exponential(1 / rate, n)),
            input_tokens=np.clip(rng.lognormal(6.0, 0.8, n), 1, 6000).astype(np.int64),
            output_tokens=np.clip(rng.lognormal(4.4, 0.7, n), 1, 900).astype(np.int64),
            warnings=("an invented workload",),
        )

    def outcome(
        self,
        workload: Workload,
        *,
        slots: int = 48,
        kv_tokens: int = 40_000,
        stop_s: float = math.inf,
        speed: float = 1,
    ) -> Outcome:
        n = len(workload)
        arrival = np.round(workload.arrival_s * PS).astype(np.int64)
        start, first, finish = (np.full(n, -1, np.int64) for _ in range(3))
        prompt, output = workload.input_tokens.tolist(), workload.output_tokens.tolist()
        itl = np.zeros(BINS, np.int64)
        done, made, last = [0] * n, [0] * n, [0] * n
        running: list[int] = []
        rows: list[tuple[int, ...]] = []
        samples: list[tuple[float, ...]] = []
        now = fresh = batch_sum = batch_max = tokens = 0
        busy = integral = 0.0
        blocked = {"kv_cache": 0.0, "max_batch": 0.0}
        kv_peak = kv_time = 0.0
        while (fresh < n or running) and now < stop_s * PS:
            if not running and arrival[fresh] > now:
                now = int(arrival[fresh])
            held = sum(prompt[r] + output[r] for r in running)
            reason = ""
            while fresh < n and arrival[fresh] <= now:
                reason = "max_batch" if len(running) >= slots else ""
                reason = reason or ("kv_cache" if held + prompt[fresh] + output[fresh] > kv_tokens and running else "")
                if reason:
                    break
                held += prompt[fresh] + output[fresh]
                running.append(fresh)
                fresh += 1
            budget, prefill, decodes, context = 2048, 0, 0, 0
            work = []
            for r in running:
                todo = prompt[r] - done[r]
                take = min(todo, budget) if todo else 1
                if take:
                    budget -= take
                    work.append((r, take))
                    prefill, decodes = (prefill + take, decodes) if todo else (prefill, decodes + 1)
                    context += done[r] + made[r]
            length = round((6e-3 + 5e-5 * prefill + 2e-5 * decodes + 2e-8 * context) / speed * PS)
            begun, now = now, now + length
            busy += length / PS
            integral += length / PS * len(running)
            waiting = int(np.searchsorted(arrival, now, side="right")) - fresh
            for r, take in work:
                if start[r] < 0:
                    start[r] = begun
                if done[r] < prompt[r]:
                    done[r] += take
                    if done[r] < prompt[r]:
                        continue
                    first[r] = now
                else:
                    add_run(itl, now - last[r], 0, 1, 1)
                last[r] = now
                made[r] += 1
                tokens += 1
                if made[r] == output[r]:
                    finish[r] = now
                    running.remove(r)
            if reason:
                blocked[reason] += length / PS
            kv_peak, kv_time = max(kv_peak, held / kv_tokens), kv_time + length / PS * held / kv_tokens
            batch_sum, batch_max = batch_sum + len(work), max(batch_max, len(work))
            rows.append((0, 0, begun, now, 1, prefill, decodes, context))
            samples.append((now / PS, waiting, len(running), held / kv_tokens, tokens, int((finish >= 0).sum())))
        status = np.where(finish >= 0, Status.COMPLETED, Status.UNFINISHED).astype(np.int8)
        stays = np.where(finish >= 0, finish, now) - arrival
        pool = Pool(
            name="engine", replicas=1, accelerators=1, cells=Cells(np.zeros(0), {}),
            kv_capacity_tokens=float(kv_tokens), kv_peak=kv_peak,
            kv_mean=kv_time / (now / PS), busy_s=busy, up_s=now / PS, accelerator_seconds=now / PS,
            blocked_s=blocked, iterations=len(rows), batch_sum=float(batch_sum), batch_max=batch_max,
        )  # fmt: skip
        zeros = np.zeros(n, np.int32)
        return Outcome(
            arrival=arrival, start=start, first=first, finish=finish, status=status, preempted=zeros,
            cached_tokens=np.zeros(n, np.int64), replica=np.where(start >= 0, 0, -1).astype(np.int32), retries=zeros,
            itl=itl, pools=(pool,), series=Series(*(np.array(c, float) for c in zip(*samples, strict=True))),
            end=now, events=len(rows), wall_s=0.25, compiled=False,
            iterations=Iterations(*(np.array(c, np.int64) for c in zip(*rows, strict=True))),
            queue_integral_s=float(np.clip(stays, 0, None).sum()) / PS,
        )  # fmt: skip

    def result(
        self,
        outcome: Outcome | None,
        workload: Workload,
        *,
        warmup_s: float = 0.0,
        slo: Slo | None = None,
        **changes: Any,
    ) -> SimulateResult:
        """The answer; None is a service that does not fit. ``changes``: fields of the setting."""
        fields: dict[str, Any] = {
            "model": "toy", "on": "1xh100-sxm", "seed": 0, "accelerators": 1.0,
            "plan": {"tp": 1, "replicas": 1, "precision": "bf16", "engine": "vllm", "scheduler": "chunked"},
            "memory_bytes": {"weights": 15 * 2.0**30, "kv_cache": 50 * 2.0**30, "activations": 3 * 2.0**30,
                             "total": 68 * 2.0**30, "capacity": 79 * 2.0**30},
            "shortfall_bytes": 0.0 if outcome is not None else 2.0**33,
            "calibrated": True, "warnings": ["no error interval yet"], **changes,
        }  # fmt: skip
        if outcome is None:
            physics = Physics({}, 0.0, None, 0.0)
            return summarise(nothing_run(workload), workload, Setting(**fields), physics, slo=slo)
        physics = Physics({"tensor": 0.21, "hbm": 0.62, "scale_up": 0.0}, 520.0 * outcome.end / PS,
                          Bottleneck("hbm", 0.71), 2.5 / 3600 * outcome.end / PS,
                          tuple(Paid(1.0, None, 700.0, 1.0) for _ in outcome.pools))  # fmt: skip
        return summarise(outcome, workload, Setting(**fields), physics, slo=slo, warmup_s=warmup_s)


@pytest.fixture(scope="session")
def service() -> FakeService:
    return FakeService()


@pytest.fixture(scope="session")
def served(service: FakeService) -> SimulateResult:
    """A short simulation with two limits, as the reports take it."""
    workload = service.workload()
    return service.result(service.outcome(workload), workload, slo=Slo(ttft_s=1.0, tpot_s=0.03))


TRAINED: Mapping[str, Any] = {"model": "llama-3.1-8b", "on": "64xa100-80gb-sxm", "global_batch": 512, "seq": 4096}
LAYOUTS: tuple[Mapping[str, Any], ...] = (
    {"tp": 2, "pp": 2, "micro_batch": 1},
    {"tp": 4, "pp": 1, "micro_batch": 2},
    {"tp": 2, "pp": 4, "micro_batch": 1, "virtual_stages": 2, "recompute": "selective"},
    {"tp": 8, "pp": 1, "micro_batch": 4, "recompute": "full"},
)


def priced(options: Mapping[str, Any]) -> dict[str, Any]:
    """A plan as a search shows it, with the figures of ``train``."""
    asked = {**TRAINED, **options}
    found = engine.train(read_options(TrainOptions, asked)).to_dict()
    tokens = asked["global_batch"] * asked["seq"]
    gpus = math.prod(found["plan"][k] for k in ("tp", "pp", "dp", "cp"))
    words = [f"--{k.replace('_', '-')} {v}" for k, v in asked.items() if k not in ("model", "on")]
    held = found["memory_bytes"]
    return {
        **found, "command": " ".join(["windtunnel train", asked["model"], "--on", asked["on"], *words]), "gpus": gpus,
        "energy_j_per_token": found["energy_j"] / tokens, "head_room_bytes": held["capacity"] - held["total"],
        "cost_usd_per_million_tokens": found["cost_usd_per_step"] / tokens * 1e6,
    }  # fmt: skip


@pytest.fixture(scope="session")
def train_plans() -> PlanResult:
    """What a search of training plans found, of a few plans."""
    plans = sorted((priced(layout) for layout in LAYOUTS), key=lambda p: float(p["step_time_s"]))
    return PlanResult(
        question="train", model=TRAINED["model"], on=(TRAINED["on"],), objective="time", evaluated=8_402,
        feasible=5_121, seconds=0.31, best=plans[:3], pareto=plans,
        why_not={"memory": 3_281, "tp does not divide the heads": 12_000},
        pareto_axes=("step_time_s", "head_room_bytes", "cost_usd_per_step"),
        obvious={"plan": plans[-1]["plan"], "why": "it takes 1.57 times as long, most of it computing"}, resumed=400,
        warnings=("an invented search",), search={"combinations": 20_402, "priced": 8_402},
    )  # fmt: skip


@pytest.fixture(scope="session")
def nothing_found(train_plans: PlanResult) -> PlanResult:
    """What a search found where no plan fits."""
    large = {**priced(LAYOUTS[0]), "fits": False}
    return replace(
        train_plans, feasible=0, best=(), pareto=(), obvious=None, resumed=0, nearest=large,
        binding={"constraint": "memory_bytes", "value": 96 * 2.0**30, "limit": 80 * 2.0**30, "ratio": 1.2},
        why_not={"memory": 8_402},
    )  # fmt: skip


@pytest.fixture(scope="session")
def serve_plans(service: FakeService) -> PlanResult:
    """What a search of services found: three plans, two of them with a curve of latency."""
    plans, frontier = [], []
    machines = (("2xh100-sxm", 48, 1.0), ("4xa100-80gb-sxm", 32, 0.9), ("2xh100-sxm", 8, 1.0))
    for number, (on, slots, speed) in enumerate(machines):
        for rate in (25.0, 5.0, 10.0, 20.0, 30.0):
            workload = service.workload(rate=rate)
            outcome = service.outcome(workload, slots=slots, speed=speed)
            found = service.result(outcome, workload, slo=Slo(ttft_s=1.0, tpot_s=0.03)).to_dict()
            options = {"model": "toy", "on": on, "tp": 2, "max_batch": slots, "rate": rate, "slo": "ttft=1,tpot=0.03"}
            words = [f"--{k.replace('_', '-')} {v}" for k, v in options.items() if k != "model"]
            late = {m: found[m]["p90"] for m in ("ttft_s", "tpot_s", "e2e_s")}
            if rate != 25:
                meets = late["ttft_s"] <= 1 and late["tpot_s"] <= 0.03
                tokens = found["output_tokens_per_second"]
                point = {"plan": number, "name": on, "rate_requests_per_second": rate, **late, "meets": meets}
                frontier.append({**point, "output_tokens_per_second": tokens})
                continue
            plan = {
                **{k: v for k, v in found.items() if k not in ("model", "on", "slo")}, "plan": options,
                "command": " ".join(["windtunnel simulate toy", *words]), "accelerators": int(on[0]),
                "cost_usd_per_hour": 2.5 * int(on[0]), "rate_requests_per_second": rate,
                "slo_percentile": {"percentile": 90.0, **late},
                "max_rate_requests_per_second": 26.5,
            }  # fmt: skip
            plans.append(plan)
    return PlanResult(
        question="serve", model="toy", on=("2xh100-sxm", "4xa100-80gb-sxm"), objective="cost", evaluated=320,
        feasible=41, seconds=12.4, best=plans, pareto=plans, frontier=frontier,
        pareto_axes=("cost_usd_per_million_tokens", "ttft_s", "tpot_s"),
        why_not={"TPOT p90 above its limit": 200, "memory": 79},
    )  # fmt: skip
