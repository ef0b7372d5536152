"""Medusa (arXiv 2401.10774): heads that guess, against plain decoding of one sequence."""

from __future__ import annotations

from windtunnel.scenario.provenance import assumption, catalogue, paper
from windtunnel.studies.ask import infer
from windtunnel.studies.study import Claim, Setup, Study, Sweep

SETUP = Setup(
    model=catalogue("vicuna-7b", "vicuna-7b"),
    large=catalogue("llama-30b", "llama-30b: the shape of Vicuna-33B"),
    on=assumption("1xa100-80gb-pcie", "the authors report a single A100; the 80 GB card holds all their models"),
    engine=assumption("transformers", "the authors' code extends Hugging Face Transformers"),
    batch=paper(1, "section 3: batch size one, the local use"),
    input=assumption(128, "a turn of MT-Bench, roughly"),
    output=assumption(512, "an answer of MT-Bench, roughly"),
    first=assumption("medusa", "heads on the frozen model, all parameters as the technique has them"),
    second=assumption("medusa:tokens={}", "heads trained with the model: what they were measured to accept"),
    accepted=paper(3.47, "table 1: tokens a step of Vicuna-7B"),
    accepted_large=paper(3.01, "table 1: tokens a step of Vicuna-33B"),
    batches=assumption((1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0), "from one sequence to where checking is computing"),
)


def gain(model: str, technique: str, batch: int) -> float:
    """Tokens a second over those without."""

    def seconds(techniques: list[str]) -> float:
        """Of a token."""
        return infer(
            model=model, on=SETUP.on, engine=SETUP.engine, batch=batch, input=SETUP.input, output=SETUP.output,
            techniques=techniques,
        ).tpot_s  # fmt: skip

    return seconds([]) / seconds([technique])


STUDY = Study(
    name="medusa",
    seed="P242",
    title="Medusa: Simple LLM Inference Acceleration Framework with Multiple Decoding Heads",
    technique="medusa",
    setup=SETUP,
    setup_stated=False,
    claim=Claim(
        metric="Medusa-2 on Vicuna-7B: tokens a second over plain decoding",
        published=paper((2.3, 3.6), "abstract: 2.3-3.6x over models and tasks"),
        kind="ratio",
        predict=lambda: gain(SETUP.model, SETUP.second.format(SETUP.accepted), SETUP.batch),
    ),
    also=(
        Claim(
            metric="Medusa-1 on Vicuna-7B: tokens a second over plain decoding",
            published=paper(2.2, "abstract: over 2.2x"),
            kind="ratio",
            predict=lambda: gain(SETUP.model, SETUP.first, SETUP.batch),
            why=(
                "It hangs on how fast the heads' accuracy falls with distance, which is assumed (head_ratio; 0.9 "
                "instead of 0.8 gives 2.85). And a step is 1.05 times as long as a plain one here, 1.2 times there: "
                "the tree's Python between two steps (candidates, acceptance, moving the cache's rows) is not "
                "modelled, and heads and tree alone cost hardly anything while the host is the slower part."
            ),
        ),
        Claim(
            metric="Medusa-2 on Vicuna-33B: tokens a second over plain decoding",
            published=paper((2.3, 3.6), "abstract: 2.3-3.6x over models and tasks"),
            kind="ratio",
            predict=lambda: gain(SETUP.large, SETUP.second.format(SETUP.accepted_large), SETUP.batch),
        ),
        Claim(
            metric="Medusa-2 on Vicuna-7B: time of a step over that of a plain one",
            published=paper(1.22, "table 1: overhead"),
            kind="ratio",
            predict=lambda: SETUP.accepted / gain(SETUP.model, SETUP.second.format(SETUP.accepted), SETUP.batch),
            why="The tree's Python between two steps is not modelled; what heads and tree cost on the device hides "
            "behind the host.",
        ),
    ),
    sweep=Sweep(
        variable="sequences in a batch",
        values=SETUP.given["batches"],
        gain=lambda batch: gain(SETUP.model, SETUP.first, int(batch)),
        metric="tokens a second over plain decoding",
    ),
)
