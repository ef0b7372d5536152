"""SmartSpec: the length of speculation follows the load."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from windtunnel.scenario.provenance import assumption
from windtunnel.scenario.speculation import PLAIN, Guess, Speculation, chain, draft_for, refusal
from windtunnel.scenario.technique import About, ServeSetting, Technique, parameter


class SmartSpec(Technique):
    """Of all lengths from 0 on, each iteration takes the one with most tokens a second."""

    name: ClassVar[str] = "smartspec"
    about: ClassVar[About] = About(
        seed="P271",
        title="Optimizing Speculative Decoding for Serving Large Language Models Using Goodput",
        source="Liu et al., arXiv 2406.14066",
        summary=(
            "The number of tokens guessed, none included, is chosen for every iteration so that goodput is largest: "
            "the tokens expected to be accepted over the time of drafting and checking them at the present load."
        ),
        rewrites=("step", "policy"),
        commands=("infer", "simulate"),
        decides=("speculation",),
        neutral={"most": 0},
    )

    most: int = parameter(
        assumption(8, "beyond, hardly any guess is right: 0.7^8 = 0.06"), "tokens guessed at most; 0: none", ge=0, le=64
    )
    acceptance: float = parameter(
        assumption(0.7, "small drafts reach 0.6 to 0.8 (Leviathan et al., arXiv 2211.17192, table 3)"),
        "chance that a guess is right if those before it are",
        ge=0,
        le=1,
    )
    draft: str = parameter(
        assumption("", "any model has one: its own first layers"),
        "model that guesses; lookup: the prompt itself, at no cost; empty: the first layers of the target",
        max_length=4096,
    )
    draft_share: float = parameter(
        assumption(0.05, "drafts are one to two orders of magnitude smaller than their targets"),
        "share of the target's layers that its draft has where none is named",
        gt=0,
        le=1,
    )
    draft_tp: int = parameter(
        assumption(1, "a small draft is fastest without sums over ranks"), "ranks of the draft", ge=1, le=64
    )

    def serve(self, setting: ServeSetting) -> ServeSetting:
        """Each iteration runs with the best length."""
        if self.most == 0:
            return setting
        layout = setting.plan.layout
        why = refusal(setting.network, int(layout.pp))
        if why is not None:
            raise self.refuse(why)
        if layout.tp % self.draft_tp:
            raise self.refuse(f"draft_tp={self.draft_tp} does not divide tp={layout.tp}")
        lookup = self.draft == "lookup"
        draft = None if lookup else draft_for(setting.network, self.draft, self.draft_share, self.draft_tp)
        guesses: list[Guess] = [PLAIN, *(chain(k, self.acceptance) for k in range(1, self.most + 1))]
        return replace(setting, plan=replace(setting.plan, speculation=Speculation(tuple(guesses), draft)))
