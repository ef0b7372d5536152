"""Engine profiles: each loads, each figure says where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from windtunnel.errors import ScenarioError
from windtunnel.scenario import engines
from windtunnel.scenario.engines import FOLDER, ServeEngine, TrainEngine, engine_names, load_engine

FILES = sorted(FOLDER.glob("*.yaml"))
UNSOURCED = {"name", "kind", "description", "sources"}


def raw(file: Path) -> dict[str, Any]:
    data = yaml.safe_load(file.read_text())
    assert isinstance(data, dict)
    return data


def kind_of(name: str) -> Literal["train", "serve"]:
    data = raw(FOLDER / f"{name}.yaml")
    return data["kind"] if "kind" in data else kind_of(data["extends"])


def profile(name: str) -> TrainEngine | ServeEngine:
    return load_engine(name, kind_of(name))


def test_both_kinds_are_there() -> None:
    assert {f.stem for f in FILES} == set(engine_names())
    kinds = {name: kind_of(name) for name in engine_names()}
    assert {n for n, k in kinds.items() if k == "train" and "@" not in n} >= {"megatron", "fsdp", "deepspeed"}
    assert {n for n, k in kinds.items() if k == "serve" and "@" not in n} >= {
        "vllm", "sglang", "tensorrt-llm", "transformers", "orca", "flexgen", "accelerate", "deepspeed-inference",
    }  # fmt: skip


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_a_profile_loads_under_its_own_name(file: Path) -> None:
    loaded = profile(file.stem)
    assert loaded.name == file.stem
    assert loaded.kind == kind_of(file.stem)
    assert len(loaded.description) > 20
    assert "\n" not in loaded.description
    base, _, version = file.stem.partition("@")
    if version:
        assert raw(file)["extends"].partition("@")[0] == base
    # YAML 1.1 reads 1e-3 as text; a figure must be a number.
    assert not [k for k, v in raw(file).items() if isinstance(v, str) and v[:1].isdigit()]


@pytest.mark.parametrize("name", engine_names())
def test_every_figure_has_a_source(name: str) -> None:
    loaded = profile(name)
    fields = {k: f for k, f in type(loaded).model_fields.items() if k not in UNSOURCED}
    stated = {k for k, f in fields.items() if getattr(loaded, k) != f.get_default()}
    assert not stated - set(loaded.sources)
    assert not set(loaded.sources) - set(fields)
    assert all(len(s) > 3 and "\n" not in s for s in loaded.sources.values())


@pytest.mark.parametrize("file", [f for f in FILES if "extends" in raw(f)], ids=lambda f: f.stem)
def test_a_version_is_its_parent_but_for_what_it_states(file: Path) -> None:
    own, parent = raw(file), profile(raw(file)["extends"])
    child = profile(file.stem)
    for key in type(child).model_fields:
        if key in own and key not in UNSOURCED:
            assert child.sources.get(key) == own.get("sources", {}).get(key), f"{key} needs a source of its own"
        elif key not in UNSOURCED:
            assert getattr(child, key) == getattr(parent, key)
            assert child.sources.get(key) == parent.sources.get(key) or key in own.get("sources", {})


def test_a_chain_of_versions() -> None:
    assert raw(FOLDER / "megatron@2022.yaml")["extends"] == "megatron@2021"
    loaded = load_engine("megatron@2022", "train")
    assert isinstance(loaded, TrainEngine)
    assert loaded.sequence_parallel
    assert loaded.attention == "eager"  # of 2021
    assert loaded.bucket_parameters == 40e6  # of the newest


@pytest.mark.parametrize("name", ["megatron@2020", "", "vllm.yaml", "../profiles/vllm", "a\nb", "VLLM "])
@pytest.mark.parametrize("kind", ["train", "serve"])
def test_unknown_names_list_the_known(name: str, kind: Literal["train", "serve"]) -> None:
    with pytest.raises(ScenarioError, match="unknown engine") as caught:
        load_engine(name, kind)
    assert "\n" not in str(caught.value)
    assert any(n in str(caught.value) for n in engine_names())


def test_an_engine_of_the_other_kind_is_not_suggested() -> None:
    with pytest.raises(ScenarioError) as caught:
        load_engine("vllm", "train")
    known = str(caught.value).split("known: ")[-1].split(", ")
    assert known
    assert {kind_of(name) for name in known} == {"train"}


def test_a_wrong_profile_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd.yaml").write_text("name: odd\nkind: serve\ndescription: x\nblock_size: 0\n")
    monkeypatch.setattr(engines, "FOLDER", tmp_path)
    engine_names.cache_clear()
    try:
        with pytest.raises(ScenarioError, match=r"engine profile 'odd': block_size: Input should be greater than 0"):
            load_engine("odd", "serve")
    finally:
        engine_names.cache_clear()
