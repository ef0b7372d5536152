"""DistServe: requests a second for each GPU within limits on the first token and on those after it, against vLLM."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from windtunnel.scenario.provenance import assumption, catalogue, paper
from windtunnel.serving.latency import request_latency_s
from windtunnel.studies import ask
from windtunnel.studies.capacity import attained, capacity
from windtunnel.studies.study import Claim, Setup, Study, Sweep

SETUP = Setup(
    model=catalogue("opt-66b", "one of the models of section 6.1"),
    precision=paper("fp16", "section 6.1"),
    on=paper("32xa100-80gb-sxm", "section 6.1: four nodes of eight A100 of 80 GB, NVLink inside"),
    network=paper({"nics_per_node": 1, "nic_gbit_per_s": 25}, "section 6.1: 25 Gbit/s between nodes"),
    engine=assumption("vllm@2023", "section 6.1 compares with vLLM; the paper is of January 2024"),
    baseline=assumption("vllm", "vLLM of 2023: waiting prompts first, whole"),
    baseline_tp=paper(4, "section 6.1: vLLM's tensor parallelism for OPT-66B, as its own paper has it"),
    # Engines, tp and pp of prompts; engines, tp and pp of decoding. The best counts, as the paper's search does.
    plans=assumption(
        ((1, 2, 2, 1, 4, 1), (2, 4, 1, 1, 4, 1)),
        "splits of 8 to 12 GPUs that hold the model; the paper's own search is over more",
    ),
    share=paper(0.9, "abstract: within latency constraints for more than 90 % of requests"),
    # Mean tokens of prompts and answers, the limits in seconds on the first token and on the mean time to the next.
    summaries=paper((1738.3, 90.7, 15.0, 0.15), "section 6.1: LongBench, table 1 and figure 7"),
    code=paper((171.3, 98.2, 0.125, 0.2), "section 6.1: HumanEval, table 1 and figure 7"),
    chats=assumption((755.5, 200.3, 2.5, 0.15), "ShareGPT: lengths of figure 7, limits between those of the others"),
    prompt_cv=assumption(
        0.4, "figure 7 shows distributions of lengths; prompts are cut to the model's 2,048 positions"
    ),
    answer_cv=assumption(0.7, "figure 7 shows distributions of lengths"),
    longest=assumption(4096, "no request of the drawn ones is turned away"),
    requests=assumption(1500, "a run many times as long as the limit on the first token"),
    start=assumption(2.0, "requests a second at which the search begins"),
    scales=assumption(
        (0.6, 0.8, 1.0, 1.5, 2.5, 5.0, 10.0), "from tighter limits than a lone prompt needs to loose ones"
    ),
)

Application = tuple[float, float, float, float]


def _common(application: Application, scale: float) -> dict[str, Any]:
    prompt, answer, ttft, tpot = application
    return {
        "model": SETUP.model, "precision": SETUP.precision, "on": SETUP.on, "set": SETUP.network,
        "engine": SETUP.engine, "requests": SETUP.requests, "max_model_len": SETUP.longest,
        "input_length": f"lognormal:mean={prompt},cv={SETUP.prompt_cv}",
        "output_length": f"lognormal:mean={answer},cv={SETUP.answer_cv}",
        "slo": f"ttft={ttft * scale},tpot={tpot * scale}",
    }  # fmt: skip


def _ours(plan: tuple[int, ...]) -> tuple[str, int]:
    """(Technique, GPUs) of a plan."""
    names = ("prefill_engines", "prefill_tp", "prefill_pp", "decode_engines", "decode_tp", "decode_pp")
    prompts, tp, pp, answers, answers_tp, answers_pp = plan
    told = ",".join(f"{name}={value}" for name, value in zip(names, plan, strict=True))
    return f"distserve:{told}", prompts * tp * pp + answers * answers_tp * answers_pp


def _theirs() -> dict[str, Any]:
    return {"scheduler": SETUP.baseline, "tp": SETUP.baseline_tp}


@cache
def _baseline(application: Application, scale: float) -> float:
    """vLLM's requests a second for each GPU."""
    rate = capacity(attained(SETUP.share), SETUP.start, **_common(application, scale), **_theirs())
    return float(rate / SETUP.baseline_tp)


@cache
def _best(application: Application, scale: float) -> float:
    """DistServe's, with the best of its plans."""
    rates = [
        capacity(attained(SETUP.share), SETUP.start, techniques=[technique], **_common(application, scale)) / gpus
        for technique, gpus in map(_ours, SETUP.plans)
    ]
    return max(rates)


def _gain(application: Application, scale: float) -> float:
    baseline = _baseline(application, scale)
    return _best(application, scale) / baseline if baseline else 0.0


def _needed(application: Application, rate: float, **options: Any) -> float:
    """How many times the limits nine in ten requests need at that rate."""
    _, _, ttft, tpot = application
    result = ask.simulate(rate=rate, **_common(application, 1), **options)
    found = [request_latency_s(result.outcome, result.workload, metric) for metric in ("ttft_s", "tpot_s")]
    worst = np.fmax(found[0] / ttft, found[1] / tpot)
    return float(np.quantile(worst[~np.isnan(worst)], SETUP.share))


def _tighter(application: Application) -> float:
    """Limits that vLLM just meets at its highest rate over those that DistServe meets at the same rate for each GPU."""
    rate = _baseline(application, 1)
    baseline = _needed(application, rate * SETUP.baseline_tp, **_theirs())
    return max(
        baseline / _needed(application, rate * gpus, techniques=[technique])
        for technique, gpus in map(_ours, SETUP.plans)
    )


STUDY = Study(
    name="distserve",
    seed="P010",
    title="DistServe: Disaggregating Prefill and Decoding for Goodput-optimized Large Language Model Serving",
    technique="distserve",
    setup=SETUP,
    setup_stated=False,
    claim=Claim(
        metric="Requests a second for each GPU within the limits, OPT-66B, up to (over summaries, code and chats)",
        published=paper(4.48, "abstract"),
        kind="ratio",
        why="The largest gain is for code, where vLLM hardly ever meets the limit on the first token: with limits 1.5 "
        "times as long it is below 1, so this figure hangs on one limit. For summaries, of which the paper tells 4.48, "
        "it is 1.3: prompts alone fill either.",
        predict=lambda: max(_gain(application, 1) for application in (SETUP.summaries, SETUP.code, SETUP.chats)),
    ),
    also=(
        Claim(
            metric="Tighter limits at the same rate, OPT-66B, up to",
            published=paper(10.2, "abstract"),
            kind="ratio",
            why="The largest gain is at vLLM's highest rate; beyond it vLLM's queues, and with them the ratio, grow "
            "without end, so the figure hangs on the rate that is looked at.",
            predict=lambda: max(_tighter(application) for application in (SETUP.summaries, SETUP.code, SETUP.chats)),
        ),
    ),
    sweep=Sweep(
        variable="Limits over those of code completion",
        values=SETUP.given["scales"],
        gain=lambda scale: _gain(SETUP.code, scale),
        metric="Requests a second for each GPU over vLLM's, OPT-66B",
    ),
)
