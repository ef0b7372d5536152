"""SmartSpec: the length of speculation follows the load."""

from __future__ import annotations

from typing import ClassVar

from windtunnel.scenario.drafted import Drafted
from windtunnel.scenario.provenance import assumption
from windtunnel.scenario.speculation import PLAIN, chain
from windtunnel.scenario.technique import About, ServeSetting, parameter


class SmartSpec(Drafted):
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

    def serve(self, setting: ServeSetting) -> ServeSetting:
        """Each iteration runs with the best length."""
        if self.most == 0:
            return setting
        return self.speculate(setting, [PLAIN, *(chain(k, self.acceptance) for k in range(1, self.most + 1))])
