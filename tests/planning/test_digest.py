"""The text that stands for data."""

from __future__ import annotations

import os
import subprocess
import sys

from windtunnel.planning.digest import digest
from windtunnel.scenario.engines import load_engine

ASK = "from windtunnel.planning.digest import digest; from windtunnel.scenario.engines import load_engine; print(digest(load_engine('megatron', 'train').model_dump()))"  # noqa: E501


def test_sets_and_mappings_have_no_order():
    assert digest({"a": {1, 2}, "b": (1,)}) == digest({"b": (1,), "a": {2, 1}})
    assert digest({"a": 1}) != digest({"a": 1.5})


def test_it_is_the_same_in_every_process():
    own = digest(load_engine("megatron", "train").model_dump())
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        said = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True, env=env)
        assert said.stdout.strip() == own
