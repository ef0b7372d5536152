"""Options: what is accepted, and that everything else is one line that says what would be."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.errors import ScenarioError
from windtunnel.scenario.options import InferOptions, Options, TrainOptions, read_options
from windtunnel.scenario.serve import infer_scenario
from windtunnel.scenario.train import train_scenario

BASE = {"model": "gpt2", "on": "8xh100-sxm"}
KINDS = [TrainOptions, InferOptions]


def said(kind: type[Options], given_: dict[Any, Any]) -> str:
    """The error that options meet, which must be one line of moderate length."""
    with pytest.raises(ScenarioError) as caught:
        read_options(kind, given_)
    text = str(caught.value)
    assert "\n" not in text
    assert 0 < len(text) < 2000
    return text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"tp": 0}, ["tp=0", "greater than or equal to 1"]),
        ({"tp": -4}, ["tp=-4", "greater than or equal to 1"]),
        ({"tp": 2_000_000}, ["tp=2000000", "less than or equal to 1000000"]),
        ({"tp": 10**400}, ["tp=1000", "less than or equal to 1000000"]),
        ({"tp": 10**5000}, ["tp=a number of thousands of digits", "less than or equal to 1000000"]),
        ({"tp": "1" * 5000}, ["tp='111", "integer"]),
        ({"tp": 1.5}, ["tp=1.5", "integer"]),
        ({"tp": "eight"}, ["tp='eight'", "integer"]),
        ({"tp": ""}, ["tp=''", "integer"]),
        ({"tp": math.nan}, ["tp=nan", "finite"]),
        ({"tp": math.inf}, ["tp=inf", "finite"]),
        ({"tp": True}, ["tp=True", "number"]),
        ({"dp": False}, ["dp=False", "number"]),
        ({"tp": [8]}, ["tp=[8]", "integer"]),
        ({"tp": {"x": 1}}, ["tp={'x': 1}", "integer"]),
        ({"model": ""}, ["model=''", "at least 1"]),
        ({"model": "x" * 5000}, ["model='xxx", "at most 4096"]),
        ({"model": "\ud800"}, ["model='\\ud800'", "string"]),
        ({"model": True}, ["model=True", "string"]),
        ({"precision": ["bf16"]}, ["precision=['bf16']", "string"]),
        ({"set": "nic_gbit_per_s=100"}, ["set='nic_gbit_per_s=100'", "dictionary"]),
        ({"set": [1]}, ["set=[1]", "dictionary"]),
        ({"set": {"nic_gbit_per_s": None}}, ["set.nic_gbit_per_s=None"]),
        ({"set": {"nic_gbit_per_s": [1]}}, ["set.nic_gbit_per_s=[1]"]),
        ({"set": {"a\nb": None}}, ["set.'a\\nb'=None"]),
        ({"set": {1: 2}}, ["set.1=1", "string"]),
        ({"micro-batchh": 1}, ["unknown option 'micro_batchh'"]),
        ({"bogus": 1}, ["unknown option 'bogus'", "known: "]),
        ({"a\nb": 1}, ["unknown option 'a\\nb'"]),
        ({"x" * 5000: 1}, ["unknown option 'xxx", "..."]),
        ({7: 1}, ["unknown option '7'"]),
        ({"max-batch": 4, "max_batch": 4, "cp": 1}, ["max_batch"]),
    ],
)
def test_wrong_options_are_one_clear_line(kind: type[Options], extra: dict[Any, Any], words: list[str]) -> None:
    text = said(kind, {**BASE, **extra})
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("kind", "extra", "words"),
    [
        (TrainOptions, {"zero": 4}, ["zero=4", "0, 1, 2 or 3"]),
        (TrainOptions, {"zero": "4"}, ["zero='4'", "0, 1, 2 or 3"]),
        (TrainOptions, {"zero": True}, ["zero=True", "number"]),
        (TrainOptions, {"recompute": "ful"}, ["recompute='ful'", "'none', 'selective' or 'full'"]),
        (TrainOptions, {"recompute": 1}, ["recompute=1", "'none', 'selective' or 'full'"]),
        (TrainOptions, {"context_parallel": "helix"}, ["context_parallel='helix'", "'ring' or 'ulysses'"]),
        (TrainOptions, {"flops_convention": "half"}, ["flops_convention='half'", "'full' or 'causal'"]),
        (TrainOptions, {"sequence_parallel": "maybe"}, ["sequence_parallel='maybe'", "boolean"]),
        (TrainOptions, {"tokens": math.nan}, ["tokens=nan", "finite"]),
        (TrainOptions, {"tokens": "inf"}, ["tokens='inf'", "finite"]),
        (TrainOptions, {"tokens": 0}, ["tokens=0", "greater than 0"]),
        (TrainOptions, {"tokens": 1e19}, ["tokens=1e+19", "less than or equal to"]),
        (TrainOptions, {"mtbf_hours": -1}, ["mtbf_hours=-1", "greater than 0"]),
        (TrainOptions, {"batch": 8}, ["unknown option 'batch'"]),
        (TrainOptions, {"micro-batch": 2, "micro_batch": 2}, ["micro_batch is given twice"]),
        (InferOptions, {"memory_utilization": 1.2}, ["memory_utilization=1.2", "less than or equal to 1"]),
        (InferOptions, {"memory_utilization": 0}, ["memory_utilization=0", "greater than 0"]),
        (InferOptions, {"memory_utilization": True}, ["memory_utilization=True", "number"]),
        (InferOptions, {"batch": 0}, ["batch=0", "greater than or equal to 1"]),
        (InferOptions, {"input": 1e9}, ["input=1000000000.0", "less than or equal to"]),
        (InferOptions, {"block_size": 100_000}, ["block_size=100000", "less than or equal to 65536"]),
        (InferOptions, {"zero": 3}, ["unknown option 'zero'"]),
    ],
)
def test_options_of_one_command(kind: type[Options], extra: dict[str, Any], words: list[str]) -> None:
    text = said(kind, {**BASE, **extra})
    for word in words:
        assert word in text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("missing", ["model", "on"])
def test_what_is_missing_is_named(kind: type[Options], missing: str) -> None:
    given_ = {**BASE, missing: None}
    assert f"{missing} is missing" in said(kind, given_)


def test_python_a_file_and_a_command_line_mean_the_same() -> None:
    typed = read_options(TrainOptions, {**BASE, "tp": 8, "zero": 3, "packed_lengths": 512, "tokens": 1e12})
    text = read_options(
        TrainOptions, {**BASE, "tp": "8", "zero": "3", "packed-lengths": "512", "tokens": "1e12", "ep": None}
    )
    assert typed == text
    assert (typed.tp, typed.zero, typed.packed_lengths) == (8, 3, "512")
    assert read_options(TrainOptions, {**BASE, "tp": 8.0}).tp == 8
    assert read_options(TrainOptions, {**BASE, "checkpoint_every": 600}).checkpoint_every == "600"


def test_hardware_figures_keep_their_type() -> None:
    figures = {"nic_gbit_per_s": 100, "node": "hgx-h100", "in_network_reduction": True}
    assert read_options(TrainOptions, {**BASE, "set": figures}).set == figures


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
    | st.sampled_from(["8xh100-sxm", "gpt2", "lora:r=8", "optimizer:cpu", "1e3", "8", "-1", "10" * 50])
    | st.sampled_from([10**30, -(10**400), 1e308, -0.0, "a\nb", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=4,
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_anything_is_options_or_one_line(kind: type[Options], data: st.DataObject) -> None:
    """INV-8: any JSON mapping is read, laid out or refused; nothing else comes of it."""
    names = st.sampled_from([*kind.model_fields, "micro-batch", "max-batch"])
    given_ = data.draw(st.dictionaries(names | st.text(max_size=8), ANYTHING, max_size=4))
    if data.draw(st.booleans()):
        given_ = {**BASE, **given_}
    text = "laid out"
    try:
        options = read_options(kind, given_)
        assert isinstance(options, kind)
        if isinstance(options, TrainOptions):
            train_scenario(options)
        elif isinstance(options, InferOptions):
            infer_scenario(options)
    except ScenarioError as error:
        text = str(error)
    assert text
    assert "\n" not in text
    assert len(text) < 5000
