"""The recipes for a technique and a study work as they are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Follow = Callable[[str], Any]

TECHNIQUE = '''"""Half the vocabulary."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from windtunnel.models.network import Network
from windtunnel.scenario.provenance import paper
from windtunnel.scenario.technique import About, Technique, parameter


class SmallVocabulary(Technique):
    """Leaves out rows of the output projection."""

    name: ClassVar[str] = "small-vocabulary"
    about: ClassVar[About] = About(
        seed="P000", title="A toy", source="nowhere", summary="Leaves out rows of the vocabulary.",
        rewrites=("model",), commands=("infer",), neutral={"share": 1.0},
    )
    share: float = parameter(paper(0.5, "section 1"), "share of the rows that is kept", gt=0, le=1)

    def model(self, network: Network) -> Network:
        return replace(network, vocab_size=int(self.share * network.vocab_size))
'''

STUDY = '''"""P000: what half a vocabulary gains."""

from __future__ import annotations

from windtunnel.scenario.provenance import assumption, paper
from windtunnel.studies.ask import infer
from windtunnel.studies.study import Claim, Setup, Study, Sweep

SETUP = Setup(
    model=paper("gpt2", "abstract"), on=assumption("1xa100-80gb-sxm", "not stated"), claim=paper(1.1, "abstract"),
    technique=paper("small-vocabulary:share=0.5", "section 1"), batches=paper((1.0, 8.0), "figure 1"),
)


def gain(batch: float) -> float:
    asked = {"model": SETUP.model, "on": SETUP.on, "batch": int(batch)}
    return infer(**asked).tpot_s / infer(**asked, techniques=[SETUP.technique]).tpot_s


STUDY = Study(
    "small-vocabulary", "P000", "A toy", "small-vocabulary", SETUP, True,
    Claim("speed-up", SETUP.given["claim"], "ratio", lambda: gain(1)),
    sweep=Sweep("batch", SETUP.given["batches"], gain, "speed-up"),
)
'''


def test_a_technique_and_its_study(follow: Follow) -> None:
    shop = follow("A technique")
    shop.create("src/windtunnel/techniques/small_vocabulary.py", TECHNIQUE)
    with shop.opened() as wt:
        asked = {"on": "1xa100-80gb-sxm", "batch": 4}
        whole = wt.infer("gpt2", **asked)
        assert wt.infer("gpt2", **asked, techniques="small-vocabulary:share=1").tpot_s == whole.tpot_s
        assert wt.infer("gpt2", **asked, techniques="small-vocabulary").tpot_s < whole.tpot_s
        with pytest.raises(wt.ScenarioError, match="small-vocabulary changes infer"):
            wt.train("gpt2", on="1xa100-80gb-sxm", techniques="small-vocabulary")


def test_a_study(follow: Follow) -> None:
    shop = follow("A study")
    shop._copy("src/windtunnel/techniques/small_vocabulary.py").write_text(TECHNIQUE)
    shop.create("src/windtunnel/studies/papers/small_vocabulary.py", STUDY)
    with shop.opened() as wt:
        (row,) = wt.study("small-vocabulary")["studies"]
        assert row["predicted"] > 1
        assert row["published"] == 1.1
        assert row["assumptions"] == ["on = 1xa100-80gb-sxm: not stated"]
