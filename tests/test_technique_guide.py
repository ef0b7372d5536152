"""The technique that the guide shows works as it is printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from windtunnel.engine import train
from windtunnel.scenario import registry
from windtunnel.scenario.options import TrainOptions, read_options
from windtunnel.scenario.technique import Technique

GUIDE = (Path(__file__).resolve().parents[1] / "docs" / "technique-guide.md").read_text()


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> type[Technique]:
    (code,) = re.findall(r"^```python\n(.*?)^```", GUIDE, flags=re.M | re.S)
    made: dict[str, object] = {}
    exec(compile(code, "technique-guide.md", "exec"), made)
    cls = made["LayerPruning"]
    assert isinstance(cls, type)
    assert issubclass(cls, Technique)
    monkeypatch.setattr(registry, "technique_class", lambda name: cls)
    registry.read_technique.cache_clear()
    registry._used.cache_clear()
    return cls


def seconds(*techniques: str) -> float:
    asked = {"model": "llama-3.1-8b", "on": "8xh100-sxm", "seq": 2048, "global_batch": 8, "with": list(techniques)}
    return train(read_options(TrainOptions, asked)).step_time_s


def test_it_does_what_the_guide_says(shown: type[Technique]) -> None:
    assert seconds("layer-pruning:share=0") == seconds()
    assert 0.7 < seconds("layer-pruning:share=0.25") / seconds() < 0.85
    assert registry.describe("layer-pruning")["parameters"]["share"]["provenance"] == "assumption"
