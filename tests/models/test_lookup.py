"""Finding a network by name or path, and reading files that are not what they should be."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from windtunnel.errors import ScenarioError
from windtunnel.models import catalogue_names, describe, load_network
from windtunnel.models.lookup import FOLDER, entries, find_name
from windtunnel.models.reader import MAX_FILE_BYTES

SMALL = (FOLDER / "gpt2.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("llama-3.1-70b", "llama-3.1-70b"),
        ("LLaMA-3.1-70B", "llama-3.1-70b"),
        ("meta-llama/Llama-3.1-70B", "llama-3.1-70b"),
        ("Meta-Llama-3.1-70B-Instruct", "llama-3.1-70b"),
        ("llama3.1_70b", "llama-3.1-70b"),
        ("deepseek-ai/DeepSeek-V3", "deepseek-v3"),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b"),
        ("gpt-3", "gpt3-175b"),
        (" gpt2 ", "gpt2"),
        ("opt13b", "opt-13b"),
        ("OPT_1.3B", "opt-1.3b"),
    ],
)
def test_spellings(spelling: str, name: str) -> None:
    assert load_network(spelling).name == name


def test_each_entry_has_a_file_and_sources_and_names_are_unambiguous() -> None:
    assert sorted(entries()) == catalogue_names()
    assert len(catalogue_names()) >= 125
    plain = Counter(name.replace("-", "") for name in catalogue_names())
    assert max(plain.values()) == 1
    for name, entry in entries().items():
        assert find_name(name) == name
        assert entry.config_source
        assert entry.count_source
        assert entry.published > 0
        for alias in entry.aliases:
            assert find_name(alias) == name, alias


def test_path_and_folder(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(SMALL, encoding="utf-8")
    assert load_network(str(file)).total_parameters == 124_439_808
    assert load_network(str(tmp_path)).name == str(file)


def test_folder_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(SMALL, encoding="utf-8-sig")
    monkeypatch.chdir(tmp_path)
    assert load_network("mine").total_parameters == 124_439_808


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama-3.1-71b", "did you mean llama-3.1-70b"),
        ("meta-llama/Llama-3.1-71B", "did you mean llama-3.1-70b"),
        ("zzzzzz", "known: bert-base"),
        ("", "unknown model ''"),
        ("no/such/folder", "cannot be read"),
        ("nothing.json", "cannot be read"),
        ("~no_such_user_here/x/config", "cannot be read"),
        ("a\0b", "unknown model"),
        ("a\0b/c/d", "cannot be read"),
        ("x" * 5000 + ".json", "cannot be read"),
    ],
)
def test_unknown_names_and_paths(name: str, expected: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        load_network(name)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not valid JSON"),
        (SMALL.encode()[:100], "not valid JSON"),
        (b"[1, 2]", "expected a JSON object"),
        (b"null", "expected a JSON object"),
        (b"12", "expected a JSON object"),
        (b"{'a': 1}", "not valid JSON"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b'{"model_type": "gpt2", "n_embd": 1, "n_embd": 2}', "'n_embd' appears twice"),
        (b"[" * 100_000, "nests deeper"),
        (b'{"a":' * 80 + b"1" + b"}" * 80, "nests deeper"),
        (b'{"model_type": "gpt2", "n_embd": ' + b"9" * 6000 + b"}", "thousands of digits"),
        (b'{"model_type": "gpt2", "n_embd": 1e999}', "holds inf"),
        (b'{"model_type": "gpt2", "n_embd": NaN}', "holds nan"),
        (b"{}", "model_type is missing"),
        (b" " * (MAX_FILE_BYTES + 1), "larger than 16 MiB"),
    ],
    ids=range(15),
)
def test_unusable_files(tmp_path: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(ScenarioError) as caught:
        load_network(str(file))
    assert expected in str(caught.value)
    assert "config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"holds no config\.json"):
        load_network(str(tmp_path))
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ScenarioError, match="a folder"):
        load_network(str(tmp_path))
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(ScenarioError, match="not a regular file"):
        load_network(str(tmp_path / "pipe.json"))


def test_describe_is_json_and_complete() -> None:
    for name in ("gpt-oss-20b", "t5-11b", "mamba2-2.7b", "llama-4-scout"):
        summary = describe(load_network(name))
        assert json.loads(json.dumps(summary)) == summary
        for key in ("name", "model_type", "total_parameters", "active_parameters", "kv_bytes_per_token", "layers"):
            assert key in summary
        assert summary["forward_flops_per_token"]["context_0"] > 0
        assert summary["source"]
        assert summary["published_parameters"] > 0
    assert describe(load_network("gpt2"))["kv_bytes_per_token"] == 2 * 2 * 12 * 768
