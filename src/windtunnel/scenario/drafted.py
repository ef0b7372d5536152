"""What techniques have in common that speculate with a draft model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from windtunnel.scenario.provenance import assumption
from windtunnel.scenario.speculation import Guess, Speculation, draft_for, refusal
from windtunnel.scenario.technique import ServeSetting, Technique, parameter

LOOKUP = "lookup"


class Drafted(Technique):
    """Who guesses, and how an engine takes it in."""

    draft: str = parameter(
        assumption("", "any model has one: its own first layers"),
        "model that guesses, a name of the catalogue or a path; lookup: the prompt itself, at no cost; "
        "empty: the first layers of the target",
        max_length=4096,
    )
    draft_share: float = parameter(
        assumption(0.05, "drafts are one to two orders of magnitude smaller (arXiv 2211.17192, section 3.5)"),
        "share of the target's layers that its draft has where none is named",
        gt=0,
        le=1,
    )
    draft_tp: int = parameter(
        assumption(1, "a small draft is fastest without sums over ranks"), "ranks of the draft", ge=1, le=64
    )

    def speculate(self, setting: ServeSetting, guesses: Sequence[Guess]) -> ServeSetting:
        """The setting with an engine that guesses so.

        Raises:
            ScenarioError: an engine that cannot, or a draft that does not fit the target.
        """
        layout = setting.plan.layout
        why = refusal(setting.network, int(layout.pp))
        if why is not None:
            raise self.refuse(why)
        if layout.tp % self.draft_tp:
            raise self.refuse(f"draft_tp={self.draft_tp} does not divide tp={layout.tp}")
        named = self.draft != LOOKUP
        draft = draft_for(setting.network, self.draft, self.draft_share, self.draft_tp) if named else None
        return replace(setting, plan=replace(setting.plan, speculation=Speculation(tuple(guesses), draft)))
