"""Shell text: words come back as they went in, whatever they hold."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.planning.export import EXPORTS, export
from windtunnel.planning.export.shell import Expanded, command, comment

BASH = shutil.which("bash")

CONFIG = {
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256,
}  # fmt: skip


@pytest.mark.parametrize("tool", sorted(EXPORTS))
@pytest.mark.skipif(BASH is None, reason="needs bash")
def test_a_script_for_many_nodes_is_sound(tool: str, tmp_path: Path) -> None:
    writer = EXPORTS[tool]
    wide = {"dp": 16, "global_batch": 16} if writer.kind == "train" else {"tp": 8, "pp": 2, "replicas": 2}
    told = {**PLANS[writer.kind], "engine": writer.engine, **({"zero": 3} if tool == "torchtitan" else {}), **wide}
    exported = export(tool, told, {"model": "llama-3.1-8b", "on": "32xh100-sxm"})
    script = tmp_path / "launch.sh"
    script.write_text(exported.files["launch.sh"], encoding="utf-8")
    assert BASH is not None
    subprocess.run([BASH, "-n", str(script)], check=True)


PLANS: dict[str, dict[str, Any]] = {
    "train": {"tp": 1, "pp": 1, "dp": 8, "micro_batch": 1, "global_batch": 8, "seq": 2048},
    "serve": {"tp": 1, "pp": 1, "dp": 1, "ep": 1, "replicas": 1},
}

words = st.text(st.characters(blacklist_characters="\x00", blacklist_categories=("Cs",)), max_size=20)


@given(st.lists(words, min_size=1, max_size=4))
def test_any_word_comes_back(checks: Any, given_words: list[str]) -> None:
    text = command(["run"], {"--words": given_words})
    assert shlex.split(text.replace(" \\\n", " ")) == ["run", "--words", *given_words]


@given(words)
def test_a_comment_stays_one(text: str) -> None:
    assert all(line.startswith("#") for line in comment(text).splitlines())


def test_options_that_say_nothing_are_left_out() -> None:
    assert command(["run"], {"--a": None, "--b": False, "--c": True, "--d": 0}) == "run \\\n  --c \\\n  --d 0"
    assert command(["run"], {"--json": {"a": 1}}) == "run \\\n  --json '{\"a\": 1}'"
    assert command(["run", Expanded("$MODEL")], {}) == 'run "$MODEL"'


@pytest.mark.parametrize("tool", sorted(EXPORTS))
@pytest.mark.parametrize("folder", ["plain", 'it\'s "a" $(touch pwned) `folder`; #x', "line\nbreak"])
@pytest.mark.skipif(BASH is None, reason="needs bash")
def test_a_script_is_sound_whatever_the_path(tool: str, folder: str, tmp_path: Path) -> None:
    place = tmp_path / folder
    place.mkdir()
    (place / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    writer = EXPORTS[tool]
    told = {**PLANS[writer.kind], "engine": writer.engine, **({"zero": 3} if tool == "torchtitan" else {})}
    exported = export(tool, told, {"model": str(place), "on": "8xh100-sxm"})
    for name, text in exported.files.items():
        if name.endswith(".sh"):
            script = tmp_path / name
            script.write_text(text, encoding="utf-8")
            assert BASH is not None
            subprocess.run([BASH, "-n", str(script)], check=True)
            stubs = tmp_path / "bin"
            stubs.mkdir(exist_ok=True)
            for program in ("torchrun", "vllm", "python", "trtllm-serve", "env"):
                (stubs / program).write_text('#!/bin/sh\nprintf "%s\\n" "$MODEL" "$@" >>"$SEEN"\n', encoding="utf-8")
                (stubs / program).chmod(0o755)
            seen = tmp_path / "seen"
            environment = {"PATH": f"{stubs}:/usr/bin:/bin", "SEEN": str(seen), "MEGATRON": "m", "TRAIN": "t.py"}
            subprocess.run([BASH, str(script)], check=True, env=environment, cwd=tmp_path)
            if tool not in ("megatron", "torchtitan"):
                assert str(place) in seen.read_text(encoding="utf-8")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(("model", "line"), [
    ("llama-3.1-8b", "MODEL=${MODEL:?"),
    ("meta-llama/Llama-3.1-8B", "MODEL=${MODEL:-meta-llama/Llama-3.1-8B}"),
])  # fmt: skip
def test_a_name_stands_for_what_the_user_has(model: str, line: str) -> None:
    exported = export("vllm", {**PLANS["serve"], "engine": "vllm"}, {"model": model, "on": "8xh100-sxm"})
    assert line in exported.files["launch.sh"]
