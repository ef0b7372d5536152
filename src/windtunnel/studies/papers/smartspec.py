"""SmartSpec (arXiv 2406.14066): the length of speculation that gives most goodput, against no speculation."""

from __future__ import annotations

from functools import cache

from windtunnel.scenario.provenance import assumption, catalogue, paper
from windtunnel.studies.ask import simulate
from windtunnel.studies.study import Claim, Setup, Study, Sweep

SETUP = Setup(
    small=catalogue("vicuna-7b", "vicuna-7b: one of the sizes of targets"),
    large=catalogue("llama-2-70b", "llama-2-70b: one of the sizes of targets"),
    on_small=assumption("1xa100-80gb-sxm", "A100s of 80 GB were the usual machine of such studies in 2024"),
    on_large=assumption("4xa100-80gb-sxm", "as many as hold the 70B model with room for its cache"),
    tp=assumption(4, "over all of them"),
    engine=assumption("vllm@2024", "vLLM of that year, whose scorer expands the batch"),
    requests=assumption(300, "some minutes of requests"),
    input_length=assumption("lognormal:mean=220,cv=1", "chats: about ShareGPT's prompts"),
    output_length=assumption("lognormal:mean=200,cv=0.7", "chats: about ShareGPT's answers"),
    rates=assumption((0.5, 2.0), "requests a second from hardly any load on"),
    busy=assumption(8.0, "requests a second that one engine with the small model just serves"),
    draft=assumption("smartspec:most=5,acceptance=0.8", "a draft of two of the target's layers, on easy data"),
    lookup=assumption(
        "smartspec:most=5,acceptance=0.8,draft=lookup", "look-up in the prompt, on data that repeats itself"
    ),
    usual=assumption("smartspec:most=5", "a draft of two of the target's layers, at the usual acceptance of 0.7"),
    fixed=assumption("speculative-decoding:tokens=5,acceptance=0.7", "the same with a fixed length"),
    swept=assumption((0.5, 1.0, 2.0, 4.0, 6.0, 8.0, 12.0), "requests a second, from idle to saturated"),
)


@cache
def latency(large: bool, rate: float, technique: str) -> float:
    """Mean seconds of a request."""
    model, on, tp = (SETUP.large, SETUP.on_large, SETUP.tp) if large else (SETUP.small, SETUP.on_small, 1)
    ran = simulate(
        model=model, on=on, tp=tp, engine=SETUP.engine, rate=rate, requests=SETUP.requests,
        input_length=SETUP.input_length, output_length=SETUP.output_length,
        techniques=[technique] if technique else [],
    )  # fmt: skip
    mean = ran.e2e_s["mean"]
    assert mean is not None
    return mean


def gain(large: bool, rate: float, technique: str) -> float:
    """Mean latency without speculation over that with it."""
    return latency(large, rate, "") / latency(large, rate, technique)


def largest() -> float:
    """Over targets, ways to draft and request rates."""
    ways = ((False, SETUP.draft), (True, SETUP.lookup))
    return max(gain(large, rate, technique) for rate in SETUP.rates for large, technique in ways)


STUDY = Study(
    name="smartspec",
    seed="P271",
    title="Optimizing Speculative Decoding for Serving Large Language Models Using Goodput",
    technique="smartspec",
    setup=SETUP,
    setup_stated=False,
    claim=Claim(
        metric="mean request latency without speculation over that with SmartSpec, largest",
        published=paper(3.2, "abstract: up to 3.2x"),
        kind="ratio",
        predict=largest,
        why="Largest where requests are few and guesses cost nothing; it follows the acceptance that is assumed, 0.8. "
        "At 0.7 the largest of the sweep is 1.9.",
    ),
    also=(
        Claim(
            metric="the same at a load that one engine just serves, with a fixed length of 5",
            published=paper(None, "abstract: under higher request rates it paradoxically increases latency"),
            kind="ratio",
            predict=lambda: gain(False, SETUP.busy, SETUP.fixed),
        ),
        Claim(
            metric="the same at that load with SmartSpec",
            published=paper(None, "abstract: consistently reduces average request latency"),
            kind="ratio",
            predict=lambda: gain(False, SETUP.busy, SETUP.usual),
        ),
    ),
    sweep=Sweep(
        variable="requests a second",
        values=SETUP.given["swept"],
        gain=lambda rate: gain(False, rate, SETUP.usual),
        metric="mean request latency without speculation over that with it",
    ),
)
