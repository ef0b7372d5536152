"""Medusa: heads of the model itself guess several tokens, and a tree of guesses is checked at once."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from windtunnel.scenario.provenance import assumption, paper
from windtunnel.scenario.speculation import Guess, Speculation, refusal, tree
from windtunnel.scenario.technique import About, ServeSetting, Technique, parameter

RANKS = 16
"""Guesses of a head that are looked at; a tree of up to thousands of nodes takes no more."""


class Medusa(Technique):
    """Extra decoding heads on a frozen or jointly trained model, with tree attention."""

    name: ClassVar[str] = "medusa"
    about: ClassVar[About] = About(
        seed="P242",
        title="Medusa: Simple LLM Inference Acceleration Framework with Multiple Decoding Heads",
        source="Cai et al., arXiv 2401.10774",
        summary=(
            "Heads on the last hidden state predict the tokens after the next one; their likeliest combinations form "
            "a tree that is checked in one pass with a tree-shaped attention mask."
        ),
        rewrites=("step", "policy"),
        commands=("infer", "simulate"),
        decides=("speculation",),
        neutral={"heads": 0},
    )

    heads: int = parameter(
        paper(5, "five heads are the authors' default"), "tokens beyond the next one that are guessed; 0: none",
        ge=0, le=16,
    )  # fmt: skip
    nodes: int = parameter(
        paper(64, "ablation of the tree: a sparse one of 64 nodes"), "tokens checked in a pass, the next one included",
        ge=1, le=4096,
    )  # fmt: skip
    accuracy: float = parameter(
        paper(0.6, "authors' announcement: the first head's first guess is right in about 60 %"),
        "how often the first guess of the first head is right", ge=0, le=1,
    )  # fmt: skip
    rank_ratio: float = parameter(
        assumption(0.25, "geometric: five guesses are right in over 80 % where one is in 60 % (the announcement)"),
        "how often each further guess of a head is right, over the one before it", ge=0, le=1,
    )  # fmt: skip
    head_ratio: float = parameter(
        assumption(0.8, "between 0.6, if each unknown token costs as much as the first, and 1, if none costs more"),
        "accuracy of each further head, over that of the one before it", ge=0, le=1,
    )  # fmt: skip
    tokens: float | None = parameter(
        assumption(None, "follows from the heads' accuracies and the tree"),
        "tokens accepted a pass where they have been measured, the next one included", ge=1, le=64,
    )  # fmt: skip

    def guess(self) -> Guess:
        """The tree of the likeliest guesses and what it is worth."""
        first = tuple(self.accuracy * self.rank_ratio**rank for rank in range(RANKS))
        heads = tuple(tuple(self.head_ratio**head * p for p in first) for head in range(self.heads))
        found = tree(heads, self.nodes - 1)
        if self.tokens is None:
            return found
        if self.tokens > self.heads + 1:
            raise self.refuse(f"tokens={self.tokens:g} are more than {self.heads} heads and the next token give")
        return replace(found, tokens=self.tokens)

    def serve(self, setting: ServeSetting) -> ServeSetting:
        """Every pass checks the tree and guesses the next one."""
        if self.heads == 0:
            return setting
        why = refusal(setting.network, int(setting.plan.layout.pp))
        if why is not None:
            raise self.refuse(why)
        speculation = Speculation((self.guess(),), heads=self.heads)
        return replace(setting, plan=replace(setting.plan, speculation=speculation))
