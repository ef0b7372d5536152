"""SARATHI: decodes that ride on the chunks of prompts, against batches of prompts and of decodes in turn."""

from __future__ import annotations

import math
from typing import Any

from windtunnel.scenario.provenance import assumption, catalogue, paper
from windtunnel.studies import ask
from windtunnel.studies.iterations import iteration_s
from windtunnel.studies.study import Claim, Setup, Study, Sweep

SETUP = Setup(
    small=catalogue("llama-13b", "LLaMA-13B, of the abstract"),
    small_on=paper("a6000", "abstract"),
    small_batches=assumption(
        ((2, 1024), (4, 1024), (6, 1024), (12, 1024), (18, 1024), (9, 2048), (6, 3072)),
        "requests and their tokens: what the A6000 holds",
    ),
    middle=catalogue("llama-30b", "LLaMA-33B, of the abstract, is published as 30B"),
    middle_on=paper("a100-80gb-sxm", "abstract; section 5: 80 GB"),
    middle_batches=paper(((10, 1024), (5, 2048), (3, 3072)), "section 5.1: the largest batches that fit"),
    large=catalogue("gpt3-175b", "GPT-3, of the abstract"),
    large_on=paper("64xa100-80gb-sxm", "section 5.3: 64 A100 in eight servers"),
    large_layout=paper({"tp": 8, "pp": 8}, "section 5.3: tensor parallelism in a server, a stage each"),
    large_batch=paper(216, "section 5.3: 27 requests in each of eight micro-batches"),
    large_prompts=assumption("uniform:931,3724", "1,024 to 4,096 tokens in all (section 5.3), ten of them to one made"),
    large_answers=assumption("uniform:93,372", "1,024 to 4,096 tokens in all (section 5.3), ten of them to one made"),
    large_longest=paper(4096, "section 5.3"),
    large_requests=assumption(3000, "enough that filling and draining the pipeline is of no weight"),
    large_rate=assumption(math.inf, "all requests are there at the start, as in an offline job"),
    large_engine=assumption("orca", "section 5.3 compares with Orca's scheduling in the same system"),
    engine=assumption("nanogpt", "section 5: built on a plain PyTorch decoder; batches of prompts, then of decodes"),
    precision=assumption("fp16", "what LLaMA and GPT-3 are served in"),
    chunks=paper((256, 512), "section 5.1: chunk sizes"),
    groups=assumption(40, "batches one after the other: filling the first is of no weight"),
    longest=assumption(4096, "sequences of up to 3,072 tokens are measured, beyond LLaMA's 2,048 positions"),
    near=assumption((0.8, 1.0, 1.2), "prompt tokens for each made, around the ratio at which every chunk has decodes"),
    swept=assumption((1.0, 2.0, 5.0, 10.0, 15.0, 25.0, 50.0, 100.0), "from mostly answers to mostly prompts"),
)

Batches = tuple[tuple[int, int], ...]


def _decode_gain(batch: int, tokens: int, **machine: Any) -> float:
    """Seconds of a decode among decodes over what it adds to an iteration with a chunk."""
    chunk, riding = SETUP.chunks[0], batch - 1
    machine |= {"engine": SETUP.engine, "precision": SETUP.precision}
    alone = iteration_s(decodes=batch, context=tokens, **machine) / batch
    part = {"prompt": chunk - riding, "before": tokens // len(SETUP.chunks), **machine}
    mixed = iteration_s(decodes=riding, context=tokens, **part)
    return alone / ((mixed - iteration_s(**part)) / riding)


def _end_to_end(batch: int, tokens: int, chunk: int, prompts: float, **machine: Any) -> float:
    """Tokens a second over the baseline's, with ``prompts`` prompt tokens for each that is made."""
    made = max(round(tokens / (1 + prompts)), 1)
    run = {
        "engine": SETUP.engine, "precision": SETUP.precision, "batch": batch * SETUP.groups, "max_batch": batch,
        "input": tokens - made, "output": made, "max_model_len": SETUP.longest, **machine,
    }  # fmt: skip
    treated = ask.infer(techniques=[f"sarathi:token_budget={chunk}"], **run)
    return float(treated.total_tokens_per_second / ask.infer(**run).total_tokens_per_second)


def _best(batches: Batches, **machine: Any) -> float:
    return max(
        _end_to_end(batch, tokens, chunk, near * chunk / (batch - 1), **machine)
        for batch, tokens in batches
        for chunk in SETUP.chunks
        for near in SETUP.near
    )


def _pipeline(**options: Any) -> Any:
    return ask.simulate(
        model=SETUP.large, on=SETUP.large_on, engine=SETUP.engine, precision=SETUP.precision, reserve="output",
        max_batch=SETUP.large_batch, input_length=SETUP.large_prompts, output_length=SETUP.large_answers,
        requests=SETUP.large_requests, rate=SETUP.large_rate, max_model_len=SETUP.large_longest,
        **SETUP.large_layout, **options,
    )  # fmt: skip


def _orca() -> Any:
    return _pipeline(scheduler=SETUP.large_engine)


def _sarathi() -> Any:
    return _pipeline(techniques=["sarathi"])


def _idle_s(result: Any) -> float:
    """Seconds that a stage stands still."""
    return float(result.makespan_s * (1 - result.pools[0]["stage_busy_fraction"]))


def _small() -> dict[str, Any]:
    return {"model": SETUP.small, "on": SETUP.small_on}


def _middle() -> dict[str, Any]:
    return {"model": SETUP.middle, "on": SETUP.middle_on}


def _swept(prompts: float) -> float:
    batch, tokens = SETUP.middle_batches[0]
    return _end_to_end(batch, tokens, SETUP.chunks[0], prompts, **_middle())


_PIPELINE = (
    "Orca's baseline is too slow here: every request that can joins with its whole prompt, several of them in one "
    "iteration, and the seven other batches in the pipeline wait for it. How many prompts the authors' Orca takes at "
    "once, and how requests' lengths are spread (uniform here), are not in the abstract; SARATHI's own pipeline is "
    "nearly without idle time, so the ratio of idle times follows the baseline's."
)

STUDY = Study(
    name="sarathi",
    seed="P299",
    title="SARATHI: Efficient LLM Inference by Piggybacking Decodes with Chunked Prefills",
    technique="sarathi",
    setup=SETUP,
    setup_stated=True,
    claim=Claim(
        metric="Decodes a second, LLaMA-13B on an A6000: alone over riding on a chunk, up to",
        published=paper(10.0, "abstract"),
        kind="ratio",
        predict=lambda: max(_decode_gain(*each, **_small()) for each in SETUP.small_batches),
    ),
    also=(
        Claim(
            metric="Tokens a second end to end, LLaMA-13B on an A6000, up to",
            published=paper(1.33, "abstract"),
            kind="ratio",
            predict=lambda: _best(SETUP.small_batches, **_small()),
            why="A token in a chunk of 256 costs 30 % more here than in a whole prompt: too much for the A6000, whose "
            "products have the constants of its family, not measured ones.",
        ),
        Claim(
            metric="Decodes a second, LLaMA-33B on an A100, up to",
            published=paper(4.25, "abstract"),
            kind="ratio",
            predict=lambda: max(_decode_gain(*each, **_middle()) for each in SETUP.middle_batches),
        ),
        Claim(
            metric="Tokens a second end to end, LLaMA-33B on an A100",
            published=paper(1.25, "abstract"),
            kind="ratio",
            predict=lambda: _best(SETUP.middle_batches, **_middle()),
            why="Chunks of 256 and 512 tokens cost 10 to 30 % more a token here than whole prompts, which eats half of "
            "what riding decodes gain.",
        ),
        Claim(
            metric="Seconds that a pipeline stage idles, GPT-3 on 64 A100: Orca's over SARATHI's",
            published=paper(6.29, "abstract"),
            kind="ratio",
            predict=lambda: _idle_s(_orca()) / _idle_s(_sarathi()),
            why=_PIPELINE,
        ),
        Claim(
            metric="Requests a second, GPT-3 with a pipeline on 64 A100, over Orca's scheduling",
            published=paper(1.91, "abstract"),
            kind="ratio",
            predict=lambda: _orca().makespan_s / _sarathi().makespan_s,
            why=_PIPELINE,
        ),
    ),
    sweep=Sweep(
        variable="Prompt tokens for each token made",
        values=SETUP.given["swept"],
        gain=_swept,
        metric="Tokens a second over the baseline's, LLaMA-33B on an A100, ten requests of 1,024 tokens",
    ),
)
