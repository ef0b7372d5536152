"""Splitwise: requests a second within nine limits on slowdowns, of clusters of one power, against mixed batching."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from windtunnel.scenario.provenance import assumption, catalogue, paper
from windtunnel.scenario.simulation import SimulateResult
from windtunnel.serving.latency import request_latency_s
from windtunnel.studies import ask
from windtunnel.studies.capacity import capacity
from windtunnel.studies.study import Claim, Setup, Study, Sweep

SETUP = Setup(
    model=catalogue("llama-2-70b", "Llama2-70B, one of the two models of section 3"),
    tp=paper(8, "section 3: all GPUs of a machine"),
    engine=assumption("vllm@2023", "section 5: built on vLLM of 2023"),
    baseline=assumption("orca", "section 6: mixed continuous batching, prompts whole among decodes"),
    router=assumption("least-loaded", "section 4.2: the shortest queue"),
    # A fifth of the paper's clusters of one power: 40 DGX-H100 or 70 DGX-A100.
    new=assumption(
        {"on": "64xh100-sxm", "set": {"price_usd_per_hour": 4.75}, "replicas": 8},
        "section 6.2: 40 DGX-H100, of which a fifth; table 1: 38 USD an hour each",
    ),
    old=assumption(
        {"on": "112xa100-80gb-sxm", "set": {"price_usd_per_hour": 2.2}, "replicas": 14},
        "section 6.2: 70 DGX-A100 draw what 40 DGX-H100 do; table 1: 17.6 USD an hour each",
    ),
    chats=catalogue("azure-conv-2023", "the paper's conversation trace, with which section 6.2 compares: lengths"),
    code=catalogue("azure-code-2023", "the paper's coding trace: lengths"),
    # Prompt and token machines: the best of all splits, as the paper's search over designs finds them.
    old_chats=assumption((6, 8), "the best split of fourteen A100 machines for conversations"),
    new_chats=assumption((2, 6), "the best split of eight H100 machines for conversations"),
    new_code=assumption((5, 3), "the best split of eight H100 machines for code"),
    reference=paper("8xa100-80gb-sxm", "section 6.1: slowdowns are over a request alone on a DGX-A100"),
    quantiles=paper((0.5, 0.9, 0.99), "table 6"),
    ttft=paper((2.0, 3.0, 6.0), "table 6: slowdown of the first token, by quantile"),
    tbt=paper((1.25, 1.5, 5.0), "table 6: slowdown of the time between tokens, by quantile"),
    e2e=paper((1.25, 1.5, 5.0), "table 6: slowdown from end to end, by quantile"),
    lengths=assumption((1, 256, 1024, 4096, 16384), "prompts between which the reference is interpolated"),
    answer=assumption(64, "tokens over which the reference's time between tokens is taken"),
    longest=assumption(20480, "no request of the traces is turned away"),
    requests=assumption(1200, "enough for a 99th percentile"),
    start=assumption(16.0, "requests a second at which the search begins"),
    tokens_swept=assumption((2.0, 4.0, 6.0, 8.0, 10.0), "token machines of fourteen"),
)


def _engine() -> dict[str, Any]:
    return {"model": SETUP.model, "engine": SETUP.engine, "tp": SETUP.tp, "max_model_len": SETUP.longest}


@cache
def _reference() -> tuple[tuple[float, float], ...]:
    """(Seconds to the first token, between tokens) of a request alone, by length."""
    runs = [
        ask.infer(on=SETUP.reference, batch=1, input=n, output=SETUP.answer, chunk=SETUP.longest, **_engine())
        for n in SETUP.lengths
    ]
    return tuple((run.ttft_s, run.tpot_s) for run in runs)


def _meets(result: SimulateResult) -> bool:
    """Whether no quantile of a slowdown is above its limit."""
    workload = result.workload
    first, later = (
        np.interp(workload.input_tokens, SETUP.lengths, column) for column in zip(*_reference(), strict=True)
    )
    alone = {"ttft_s": first, "tpot_s": later, "e2e_s": first + later * (workload.output_tokens - 1)}
    for metric, limits in zip(alone, (SETUP.ttft, SETUP.tbt, SETUP.e2e), strict=True):
        slower = request_latency_s(result.outcome, workload, metric) / alone[metric]
        if np.any(np.nanquantile(slower, SETUP.quantiles) > limits):
            return False
    return True


@cache
def _capacity(trace: str, machines: str, technique: str) -> float:
    """Requests a second of a cluster; without a technique of the baseline."""
    how = {"techniques": [technique]} if technique else {"scheduler": SETUP.baseline}
    return capacity(
        _meets, SETUP.start, requests=SETUP.requests, router=SETUP.router, input_length=f"trace:{trace}",
        output_length=f"trace:{trace}", **_engine(), **getattr(SETUP, machines), **how,
    )  # fmt: skip


def _split(prompts: int, tokens: int) -> str:
    return f"splitwise:prompt_engines={prompts},token_engines={tokens}"


def _gain(trace: str, machines: str, split: tuple[int, int]) -> float:
    """Splitwise over the baseline on the new machines."""
    return _capacity(trace, machines, _split(*split)) / _capacity(trace, "new", "")


def _cost(machines: str) -> float:
    """USD a second of a cluster."""
    run = ask.simulate(
        requests=SETUP.requests, rate=SETUP.start, input_length=f"trace:{SETUP.chats}",
        output_length=f"trace:{SETUP.chats}", **_engine(), **getattr(SETUP, machines),
    )  # fmt: skip
    assert run.cost_usd is not None
    return run.cost_usd / run.makespan_s


def _swept(tokens: float) -> float:
    split = _split(SETUP.old["replicas"] - int(tokens), int(tokens))
    return _capacity(SETUP.chats, "old", split) / _capacity(SETUP.chats, "old", "")


STUDY = Study(
    name="splitwise",
    seed="P063",
    title="Splitwise: Efficient generative LLM inference using phase splitting",
    technique="splitwise",
    setup=SETUP,
    setup_stated=False,
    claim=Claim(
        metric="Requests a second within limits, split A100 machines over mixed H100 machines of the same power",
        published=paper(1.4, "abstract"),
        kind="ratio",
        predict=lambda: _gain(SETUP.chats, "old", SETUP.old_chats),
        why="It is a sample's: 1.22 with 800 requests, 1.36 with 1,500. A fifth of the cluster is simulated; at a "
        "tenth the best splits gave 1.11 for conversations and 1.75 for code.",
    ),
    also=(
        Claim(
            metric="Cost of those A100 machines over that of the H100 machines",
            published=paper(0.8, "abstract: 20 % lower cost"),
            kind="absolute",
            predict=lambda: _cost("old") / _cost("new"),
        ),
        Claim(
            metric="Requests a second within limits, split H100 machines over as many mixed ones: same cost and power",
            published=paper(2.35, "abstract"),
            kind="ratio",
            predict=lambda: max(_gain(SETUP.chats, "new", SETUP.new_chats), _gain(SETUP.code, "new", SETUP.new_code)),
            why="Mixed batching loses more here with the coding trace: a prompt of up to 7,400 tokens runs whole among "
            "decodes of 28 tokens each, and the machines of a pool never change to the other.",
        ),
    ),
    sweep=Sweep(
        variable="Token machines of fourteen",
        values=SETUP.given["tokens_swept"],
        gain=_swept,
        metric="Requests a second over mixed batching on the same A100 machines, conversations",
        logarithmic=False,
    ),
)
