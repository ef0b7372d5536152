"""Sarathi-Serve: requests a second within a limit on the time between tokens, against vLLM and Orca."""

from __future__ import annotations

from typing import Any

from windtunnel.scenario.provenance import assumption, calibration, catalogue, paper
from windtunnel.studies.capacity import Limit, capacity, lognormal, within
from windtunnel.studies.study import Claim, Setup, Study, Sweep

SETUP = Setup(
    small=catalogue("mistral-7b-v0.1", "Mistral-7B, of the abstract"),
    small_machine=paper({"on": "a100-80gb-sxm"}, "abstract: a single A100; table 1: 80 GB"),
    large=catalogue("falcon-180b", "Falcon-180B, of the abstract"),
    large_machine=paper(
        {
            "on": "8xa100-80gb-sxm",
            "set": {"gpus_per_node": 4, "nics_per_node": 1, "nic_gbit_per_s": 100},
        },
        "abstract: 8 A100; section 5: two nodes of four, 100 Gbit/s Ethernet between them",
    ),
    large_ours=paper({"tp": 4, "pp": 2}, "section 5: Falcon-180B, TP4-PP2"),
    large_theirs=assumption({"tp": 8}, "vLLM had no pipeline parallelism before 0.5.1 (July 2024): tensor parallelism"),
    engine=calibration("vllm@sarathi", "its host work follows from table 3, decode iterations, not from the claims"),
    baselines=assumption(("vllm", "orca"), "vLLM of 2023: waiting prompts first, whole; Orca: whole, among decodes"),
    sequences=paper(128, "section 5: most requests of a batch"),
    chats=paper((1730.0, 5696.0, 415.0, 834.0), "table 2, openchat_sharegpt4: prompt median, p90, answer median, p90"),
    chats_longest=paper(8192, "section 5: longer requests are left out"),
    papers=paper((7059.0, 12985.0, 208.0, 371.0), "table 2, arxiv_summarization"),
    papers_longest=paper(16384, "section 5: longer requests are left out"),
    shape=assumption("lognormal", "lengths are drawn from the lognormal distributions with these quantiles"),
    small_limit_s=paper(0.1, "table 3: strict limit on the time between tokens, Mistral-7B"),
    large_limit_s=paper(1.0, "table 3: strict limit on the time between tokens, Falcon-180B"),
    technique=paper("sarathi-serve:token_budget=512", "section 5.1: token budget under the strict limit"),
    queue_s=paper(2.0, "section 5.1: median scheduling delay of a sustainable load"),
    quantile=paper("p99", "section 5.1: of the time between tokens"),
    requests=assumption(1500, "enough for a 99th percentile over hundreds of thousands of tokens"),
    start=assumption(2.0, "requests a second at which the search begins"),
    limits_swept=assumption((0.04, 0.06, 0.1, 0.2, 0.5, 2.0), "from what a decode takes to where whole prompts fit"),
)

Lengths = tuple[tuple[float, float, float, float], int]


def _workloads() -> tuple[Lengths, Lengths]:
    return (SETUP.chats, SETUP.chats_longest), (SETUP.papers, SETUP.papers_longest)


def _capacity(limit_s: float, lengths: Lengths, start: float, **options: Any) -> float:
    (prompt, prompt_90, answer, answer_90), longest = lengths
    return capacity(
        within(Limit("itl_s", SETUP.quantile, limit_s), Limit("queue_s", "p50", SETUP.queue_s)),
        start,
        engine=SETUP.engine,
        max_batch=SETUP.sequences,
        max_model_len=longest,
        requests=SETUP.requests,
        input_length=lognormal(prompt, prompt_90),
        output_length=lognormal(answer, answer_90),
        **options,
    )


def _gain(scheduler: str, limit_s: float, lengths: Lengths, ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """Rate of Sarathi-Serve over that of ``scheduler``, whose iterations take the longest prompt whole."""
    treated = _capacity(limit_s, lengths, SETUP.start, techniques=[SETUP.technique], **ours)
    plain = {} if scheduler == "orca" else {"chunk": lengths[1]}
    baseline = _capacity(limit_s, lengths, treated or SETUP.start, scheduler=scheduler, **plain, **theirs)
    return treated / baseline if baseline else 0.0


def _small() -> float:
    machine = {"model": SETUP.small, **SETUP.small_machine}
    return max(_gain(s, SETUP.small_limit_s, w, machine, machine) for w in _workloads() for s in SETUP.baselines)


def _large() -> float:
    machine = {"model": SETUP.large, **SETUP.large_machine}
    ours, theirs = {**machine, **SETUP.large_ours}, {**machine, **SETUP.large_theirs}
    return max(_gain(s, SETUP.large_limit_s, w, ours, theirs) for w in _workloads() for s in SETUP.baselines)


def _at(limit_s: float) -> float:
    machine = {"model": SETUP.small, **SETUP.small_machine}
    return _gain(SETUP.baselines[0], limit_s, _workloads()[0], machine, machine)


STUDY = Study(
    name="sarathi-serve",
    seed="P068",
    title="Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve",
    technique="sarathi-serve",
    setup=SETUP,
    setup_stated=True,
    claim=Claim(
        metric="Requests a second within the limit on the time between tokens, Mistral-7B on an A100, over vLLM and "
        "Orca, up to",
        published=paper(2.6, "abstract"),
        kind="ratio",
        predict=_small,
        why="vLLM's host time follows from the limits that the paper states as five decode iterations; with the "
        "general profile of that year (vllm@2023) the ratio was 3.6.",
    ),
    also=(
        Claim(
            metric="The same, Falcon-180B on 8 A100 in two nodes, up to",
            published=paper(6.9, "abstract"),
            kind="ratio",
            predict=_large,
            why="Against tensor parallelism over both nodes, since vLLM had no pipeline then; against a pipeline of "
            "two stages it is 3.5.",
        ),
    ),
    sweep=Sweep(
        variable="Limit on the time between tokens, s",
        values=SETUP.given["limits_swept"],
        gain=_at,
        metric="Requests a second over vLLM's, Mistral-7B on an A100",
    ),
)
