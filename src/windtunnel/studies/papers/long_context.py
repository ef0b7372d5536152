"""Challenges in Deploying Long-Context Transformers (P008): a 34B model, 50K tokens of context, an A100."""

from __future__ import annotations

from functools import cache
from typing import Any

from windtunnel.scenario.provenance import assumption, catalogue, paper
from windtunnel.scenario.results import InferResult
from windtunnel.studies.ask import infer
from windtunnel.studies.study import Claim, Setup, Study, Sweep

SETUP = Setup(
    model=catalogue("yi-34b", "abstract: a 34B model; the paper's example is Yi-34B 200K, which has the same layers"),
    machine=paper("1xa100-80gb-sxm", "section 2: one A100 of 80 GB with NVLink"),
    context=paper(50_000, "abstract: 50K"),
    short=paper(4_000, "abstract: 4K"),
    answer=paper(250, "section 2: a screen of text, 250 tokens"),
    memory=assumption(1.0, "a peak analysis: weights and KV cache may take the whole memory"),
    engine=assumption("vllm", "chunked prefill and paged cache; the paper names no engine"),
    alone=assumption(1, "its times are those of one user"),
)


@cache
def _found(context: int, report: bool = False) -> InferResult:
    asked: dict[str, Any] = {"long_context": True, "short_context": SETUP.short} if report else {}
    return infer(
        model=SETUP.model, on=SETUP.machine, engine=SETUP.engine, memory_utilization=SETUP.memory, input=context,
        output=SETUP.answer, batch=SETUP.alone, **asked,
    )  # fmt: skip


def _report(context: int) -> Any:
    return _found(context, True).long_context


STUDY = Study(
    name="long-context",
    seed="P008",
    title="Challenges in Deploying Long-Context Transformers: A Theoretical Peak Performance Analysis",
    technique=None,
    setup=SETUP,
    setup_stated=True,
    claim=Claim(
        metric="time to prefill 50K tokens over that of 4K",
        published=paper(14.1 / 0.89, "section 2: 14.1 s against 0.89 s; the abstract has no number"),
        kind="ratio",
        predict=lambda: _found(SETUP.context).ttft_s / _found(SETUP.short).ttft_s,
    ),
    also=(
        Claim(
            metric="users that fit at once at 4K over those at 50K",
            published=paper(None, "abstract: substantially restricts the number of concurrent users"),
            kind="ratio",
            predict=lambda: 1 / _report(SETUP.context)["ratio"]["users"],
        ),
        Claim(
            metric="time to decode 250 tokens at 50K over that at 4K, one user",
            published=paper(9.8 / 8.5, "section 2: 9.8 s against 8.5 s"),
            kind="ratio",
            predict=lambda: float(_report(SETUP.context)["ratio"]["decode_alone_s_per_token"]),
        ),
        Claim(
            metric="seconds of a context switch at 50K",
            published=paper(1.1, "section 2: 1.1 s"),
            kind="absolute",
            predict=lambda: float(_report(SETUP.context)["asked"]["switch_s"]),
        ),
    ),
    sweep=Sweep(
        variable="context, tokens",
        values=assumption((4e3, 8e3, 16e3, 32e3, 50e3, 100e3), "from the short context to beyond 50K"),
        gain=lambda context: float(_report(int(context))["ratio"]["prefill_s"]),
        metric="time to prefill over that of 4K",
    ),
)
