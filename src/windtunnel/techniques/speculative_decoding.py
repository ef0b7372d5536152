"""Speculative decoding with a draft model and a fixed length."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from windtunnel.scenario.provenance import assumption, paper
from windtunnel.scenario.speculation import Speculation, chain, draft_for, refusal
from windtunnel.scenario.technique import About, ServeSetting, Technique, parameter


class SpeculativeDecoding(Technique):
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
    draft: str = parameter(
        assumption("", "any model has one: its own first layers"),
        "model that guesses, a name of the catalogue or a path; empty: the first layers of the target",
        max_length=4096,
    )
    draft_share: float = parameter(
        assumption(0.05, "drafts are one to two orders of magnitude smaller (Leviathan et al., section 3.5)"),
        "share of the target's layers that its draft has where none is named",
        gt=0,
        le=1,
    )
    draft_tp: int = parameter(
        assumption(1, "a small draft is fastest without sums over ranks"), "ranks of the draft", ge=1, le=64
    )

    def serve(self, setting: ServeSetting) -> ServeSetting:
        """Every pass of the target is preceded by ``tokens`` passes of the draft."""
        if self.tokens == 0:
            return setting
        layout = setting.plan.layout
        why = refusal(setting.network, int(layout.pp))
        if why is not None:
            raise self.refuse(why)
        if layout.tp % self.draft_tp:
            raise self.refuse(f"draft_tp={self.draft_tp} does not divide tp={layout.tp}")
        draft = draft_for(setting.network, self.draft, self.draft_share, self.draft_tp)
        speculation = Speculation((chain(self.tokens, self.acceptance),), draft)
        return replace(setting, plan=replace(setting.plan, speculation=speculation))
