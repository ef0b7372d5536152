"""Speculative decoding with a draft model and a fixed length."""

from __future__ import annotations

from typing import ClassVar

from windtunnel.scenario.drafted import Drafted
from windtunnel.scenario.provenance import paper
from windtunnel.scenario.speculation import chain
from windtunnel.scenario.technique import About, ServeSetting, parameter


class SpeculativeDecoding(Drafted):
    """A draft guesses ``tokens`` tokens one after the other; the target checks them in one pass."""

    name: ClassVar[str] = "speculative-decoding"
    about: ClassVar[About] = About(
        seed="P271",
        title="Fast Inference from Transformers via Speculative Decoding (the fixed-length form that SmartSpec adapts)",
        source="Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318",
        summary=(
            "A small draft model proposes a few tokens, which the target checks in one pass; those before the first "
            "wrong one are kept, so that the target's weights are read once for several tokens."
        ),
        rewrites=("step", "policy"),
        commands=("infer", "simulate"),
        decides=("speculation",),
        neutral={"tokens": 0},
    )

    tokens: int = parameter(
        paper(4, "Chen et al., table 1: K = 4"), "tokens guessed before each check; 0: none", ge=0, le=64
    )
    acceptance: float = parameter(
        paper(0.75, "Leviathan et al., table 3: T5-small drafts for T5-XXL, greedy, translation"),
        "chance that a guess is right if those before it are",
        ge=0,
        le=1,
    )

    def serve(self, setting: ServeSetting) -> ServeSetting:
        """Every pass of the target is preceded by ``tokens`` passes of the draft."""
        if self.tokens == 0:
            return setting
        return self.speculate(setting, [chain(self.tokens, self.acceptance)])
