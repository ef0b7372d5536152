"""Techniques and studies as text."""

from __future__ import annotations

import pytest

from windtunnel.report.studies import figure
from windtunnel.report.techniques import example, first_sentence
from windtunnel.scenario.registry import describe, read_technique, technique_names


@pytest.mark.parametrize("name", technique_names())
def test_the_example_of_a_technique_is_understood(name: str) -> None:
    assert read_technique(example(describe(name))).name == name


def test_the_first_sentence_is_whole() -> None:
    assert first_sentence("One. Two.") == "One."
    assert first_sentence("Only one.") == "Only one."


def test_figures_are_short() -> None:
    assert [figure(v) for v in (None, [2.3, 3.6], 0.34512, 13000.0, 10)] == ["–", "2.3 to 3.6", "0.345", "13,000", "10"]
