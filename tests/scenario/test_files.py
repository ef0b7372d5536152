from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.errors import ScenarioError
from windtunnel.scenario.files import read_scenario, save_scenario, write_file
from windtunnel.scenario.options import InferOptions, TrainOptions, read_options


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scenarios")


def _write(folder: Path, text: str | bytes) -> Path:
    file = folder / "scenario.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    return file


def test_a_file_is_a_request(tmp_path: Path) -> None:
    text = """
    command: train
    model: llama-3.1-70b
    on: 64xh100-sxm      # YAML 1.1 takes this bare word for true
    tp: 8
    micro-batch: 2
    global_batch: 512
    packed-lengths: 512
    checkpoint-every: 600
    tokens: 1e12
    sequence-parallel: yes
    set: {nic_gbit_per_s: 100}
    """
    command, options = read_scenario(_write(tmp_path, text))
    assert command == "train"
    assert isinstance(options, TrainOptions)
    assert (options.on, options.tp, options.micro_batch, options.global_batch) == ("64xh100-sxm", 8, 2, 512)
    assert (options.packed_lengths, options.checkpoint_every, options.tokens) == ("512", "600", 1e12)
    assert options.sequence_parallel is True
    assert options.set == {"nic_gbit_per_s": 100}


def _said(file: Path) -> str:
    """The error that a file meets, if any."""
    try:
        read_scenario(file)
    except ScenarioError as error:
        return str(error)
    return ""


WRONG = {
    "": "holds nothing",
    "[1, 2]": "holds a list",
    "just text": "holds a str",
    "model: gpt2": "does not say which command",
    "command: fly\nmodel: gpt2": "unknown command",
    "command: {a: 1}": "unknown command",
    "command: train\nmodel: gpt2": "on is missing",
    "command: train\nmodel: gpt2\non: x\nbogus: 1": "unknown option 'bogus'",
    "command: train\nmodel: gpt2\non: x\ntp: many": "tp='many'",
    "command: train\nmodel: gpt2\non: x\ntp: yes": "tp=True",
    "command: train\nmodel: gpt2\non: x\n3: 4": "a int where the name",
    "command: train\nmodel: gpt2\non: x\ntp: 0xffffffffffffffffffff": "number is above",
    "a: &x [1]\nb: *x": "alias",
    "a: [1": "not valid YAML",
    "a: !!python/object:os.system x": "not valid YAML",
    "[" * 100: "nested deeper",
    "a: \x00": "not valid YAML",
    b"\xff\xfe\x00": "not valid YAML",
    "a: 2024-99-99": "not valid YAML",
}


@pytest.mark.parametrize(("text", "said"), WRONG.items(), ids=[repr(k)[:30] for k in WRONG])
def test_what_is_wrong_is_one_clear_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(ScenarioError, match=said) as error:
        read_scenario(_write(tmp_path, text))
    assert len(str(error.value).splitlines()) == 1


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    large = _write(tmp_path, "a: " + "x" * 2_000_000)
    for path in (tmp_path / "none.yaml", tmp_path, "bad\0name", large):
        with pytest.raises(ScenarioError):
            read_scenario(path)


NUMBERS = st.integers(1, 1000)
TRAIN = st.fixed_dictionaries(
    {"model": st.text(min_size=1, max_size=20), "on": st.text(min_size=1, max_size=20)},
    optional={
        "tp": NUMBERS, "dp": NUMBERS, "zero": st.sampled_from([0, 1, 2, 3]), "sequence_parallel": st.booleans(),
        "tokens": st.floats(1, 1e15), "recompute": st.sampled_from(["none", "full"]), "optimizer": st.text(max_size=9),
        "checkpoint_every": st.sampled_from(["auto", "600", "on", "1e3", "0x10", "null", "~", "1:30"]),
        "set": st.dictionaries(st.text("abc_ :#on", min_size=1), st.floats(-1e9, 1e9) | st.booleans(), max_size=3),
    },
)  # fmt: skip
INFER = st.fixed_dictionaries(
    {"model": st.just("gpt2"), "on": st.just("8xh100-sxm")},
    optional={"batch": NUMBERS, "memory_utilization": st.floats(0.01, 1.0), "engine": st.text(max_size=9)},
)


@given(st.one_of(st.tuples(st.just("train"), TRAIN), st.tuples(st.just("infer"), INFER)))
def test_a_saved_request_is_read_back(folder: Path, asked: tuple[str, dict[str, Any]]) -> None:
    command, given_ = asked
    options = read_options(TrainOptions if command == "train" else InferOptions, given_)
    file = folder / "saved.yaml"
    save_scenario(options, command, file)
    name, again = read_scenario(file)
    assert name == command
    assert again.model_dump() == options.model_dump()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates() | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | st.integers(), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from([*TrainOptions.model_fields, "command", "micro-batch"]) | st.text(max_size=6)


@given(st.dictionaries(KEYS, VALUES, max_size=6), st.sampled_from(["train", "infer", None]))
def test_no_mapping_meets_another_error(folder: Path, data: dict[str, Any], command: str | None) -> None:
    whole = {"model": "gpt2", "on": "8xh100-sxm", **data, **({"command": command} if command else {})}
    assert len(_said(_write(folder, yaml.safe_dump(whole))).splitlines()) <= 1


@given(
    st.text(max_size=60) | st.binary(max_size=60) | st.text(alphabet="[]{}:,&*!|>-?%@`\"'# \n\tatn01._", max_size=40)
)
def test_no_text_meets_another_error(folder: Path, text: str | bytes) -> None:
    assert len(_said(_write(folder, text)).splitlines()) <= 1


def test_a_file_appears_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_file(file, "one")
    write_file(file, b"two")
    assert file.read_text() == "two"
    assert os.listdir(tmp_path) == ["a.txt"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no" / "such" / "folder.txt", "bad\0name"):
        with pytest.raises(ScenarioError, match="cannot write"):
            write_file(path, "x")
    assert os.listdir(tmp_path) == []
