"""The recipes for an engine profile and a pipeline schedule work as they are written, and none is left out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import yaml

from windtunnel.scenario.engines import ServeEngine, TrainEngine
from windtunnel.scenario.options import SCHEDULES as NAMES
from windtunnel.training.layout import _ORDERS as ORDERS
from windtunnel.training.schedules import SCHEDULES

ROOT = Path(__file__).resolve().parents[2]
Follow = Callable[[str], Any]


def test_an_engine_profile(follow: Follow) -> None:
    shop = follow("An engine profile")
    profiles = "src/windtunnel/scenario/profiles"
    changed = {
        "extends": "vllm", "name": "vllm@lab", "description": "A test", "max_batched_tokens": 512,
        "host_s_per_step": 5e-3, "last_token_s": 0.25, "sources": {"host_s_per_step": "a stop-watch"},
    }  # fmt: skip
    shop.create(f"{profiles}/vllm@lab.yaml", yaml.safe_dump(changed))
    training = {"name": "lab-train", "kind": "train", "description": "A test", "zero": 3, "workspace_bytes": 3e9}
    shop.create(f"{profiles}/lab-train.yaml", yaml.safe_dump(training))
    # A behaviour that no key describes.
    shop.change("src/windtunnel/scenario/engines.py", "    asynchronous: bool = False\n",
                "    last_token_s: float = Field(0, ge=0)\n    asynchronous: bool = False\n")  # fmt: skip
    shop.change("src/windtunnel/serving/infer.py", "    tpot = (last - first)",
                "    last = last + engine.last_token_s\n    tpot = (last - first)")  # fmt: skip
    with shop.opened() as wt:
        request: dict[str, Any] = {"on": "1xh100-sxm", "batch": 8, "input": 2048, "output": 32}
        own = wt.infer("llama-3.1-8b", engine="vllm@lab", **request)
        base = wt.infer("llama-3.1-8b", engine="vllm", **request)
        assert own.plan["engine"] == "vllm@lab"
        assert (own.plan["chunk"], own.plan["block_size"]) == (512, base.plan["block_size"])
        waiting = own.decode.time_s["host"] - base.decode.time_s["host"]
        assert waiting == pytest.approx(5e-3)
        assert own.e2e_s - own.ttft_s == pytest.approx(31 * own.tpot_s)
        assert own.e2e_s > base.e2e_s + 0.25

        # What the version does not say is what the older profile says, with the source it has there.
        from windtunnel.scenario.engines import load_engine

        ours, theirs = load_engine("vllm@lab", "serve"), load_engine("vllm", "serve")
        assert ours.sources["host_s_per_step"] == "a stop-watch"
        assert ours.sources["first_token_s"] == theirs.sources["first_token_s"]
        same = {"name", "description", "sources", "max_batched_tokens", "host_s_per_step", "last_token_s"}
        assert ours.model_dump(exclude=same) == theirs.model_dump(exclude=same)

        step = wt.train("gpt2", on="4xh100-sxm", engine="lab-train", seq=1024)
        assert step.plan["zero"] == 3
        assert step.memory_bytes["workspace"] > 3e9
        with pytest.raises(wt.ScenarioError, match="lab-train"):
            wt.train("gpt2", on="4xh100-sxm", engine="lab-trian", seq=1024)
        with pytest.raises(wt.ScenarioError, match="vllm@lab"):
            wt.infer("gpt2", on="1xh100-sxm", engine="vllm@labs")


def test_every_key_of_a_profile_is_explained() -> None:
    """The page on engines has a row for each key."""
    page = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"^\| `([a-z0-9_]+)` \|", page, flags=re.M))
    keys = set(TrainEngine.model_fields) | set(ServeEngine.model_fields)
    assert explained == keys - {"name", "kind", "description", "sources"}


# Every micro-batch goes there and back before the next one starts.
SERIAL = '''

@dataclass(frozen=True, slots=True)
class OneAtATime:
    """No two stages ever work at the same time."""

    name: str = "one-at-a-time"
    overlaps: bool = False

    def length(self, stages: tuple[StageTimes, ...], micro_batches: Value, virtual_stages: Value = 1) -> Value:
        st = Stages(stages, micro_batches, 1.0)
        back = [b + w for b, w in zip(st.backward, st.weight, strict=True)]
        sends = 2 * st.below(st.send, st.p) - st.at(st.send, st.p - 1) - st.at(st.send, 0 * st.p)
        end = st.m * (st.below(st.forward, st.p) + st.below(back, st.p) + sends)
        total = np.zeros(st.shape)
        for count, e, epilogue in zip(st.counts, st.starts, st.epilogue, strict=True):
            after = st.below(back, e) + st.below(st.send, e) + st.at(st.send, e) - st.at(st.send, 0 * st.p)
            total = np.maximum(total, np.where(count > 0, end - after + epilogue, 0.0))
        return st.answer(total)

    def in_flight(self, stage: Value, stages: Value, micro_batches: Value, virtual_stages: Value = 1) -> Value:
        return 1.0 + 0.0 * stage


SCHEDULES["one-at-a-time"] = OneAtATime()
'''
SERIAL_ORDER = """

def _one_at_a_time(rank: int, p: int, m: int, v: int) -> list[Step]:
    return [(step,) for j in range(m) for step in (("F", 0, j), ("BW", 0, j))]


_ORDERS["one-at-a-time"] = _one_at_a_time
"""


def test_a_pipeline_schedule(follow: Follow, capsys: pytest.CaptureFixture[str]) -> None:
    shop = follow("A pipeline schedule")
    shop.append("src/windtunnel/training/schedules.py", SERIAL)
    shop.append("src/windtunnel/training/layout.py", SERIAL_ORDER)
    shop.change("src/windtunnel/scenario/options.py", '"zero-bubble", "dualpipe")',
                '"zero-bubble", "dualpipe", "one-at-a-time")')  # fmt: skip
    draw = Random(7)
    with shop.opened() as wt:
        from windtunnel.ops.pipeline import StageTimes
        from windtunnel.training.layout import layout, makespan, peak_in_flight
        from windtunnel.training.schedules import get_schedule

        schedule = get_schedule("one-at-a-time")
        for p, m in ((1, 1), (2, 1), (3, 4), (5, 3), (8, 16)):
            times = [[draw.uniform(0.5, 2.0) for _ in range(p)] for _ in range(5)]
            stages = tuple(StageTimes(1, *t) for t in zip(*times, strict=True))
            slots = layout("one-at-a-time", *times[:4], m)
            assert schedule.length(stages, m, 1) == pytest.approx(makespan(slots, times[4]), rel=1e-12)
            assert peak_in_flight(slots) == [schedule.in_flight(i, p, m, 1) for i in range(p)]
        many = schedule.length(stages, np.array([1.0, 16.0]), 1)
        assert many == pytest.approx([schedule.length(stages, 1, 1), schedule.length(stages, 16, 1)])

        request: dict[str, Any] = {"on": "8xh100-sxm", "pp": 4, "micro_batch": 1, "global_batch": 16, "seq": 1024}
        step = wt.train("llama-3.2-1b", **request, schedule="one-at-a-time")
        usual = wt.train("llama-3.2-1b", **request)
        worked = step.step_time_s - step.time_s["pp_bubble"] - step.time_s["pp_comm"]
        assert step.plan["schedule"] == "one-at-a-time"
        assert step.time_s["pp_bubble"] > worked > usual.time_s["pp_bubble"]  # three of four stages wait
        assert sum(step.time_s.values()) == pytest.approx(step.step_time_s)
        assert step.memory_bytes["activations"] < usual.memory_bytes["activations"] / 3
        assert len([e for e in step.timeline()["traceEvents"] if e.get("name") == "F3"]) == 4

        from windtunnel.cli import main

        line = "train llama-3.2-1b --on 8xh100-sxm --pp 4 --global-batch 16 --seq 1024 --json --schedule one-at-a-time"
        assert main(line.split()) == 0
        assert json.loads(capsys.readouterr().out)["step_time_s"] == pytest.approx(step.step_time_s)
        with pytest.raises(wt.ScenarioError, match="one-at-a-time"):
            wt.train("llama-3.2-1b", **request, schedule="one-at-once")


def test_schedules_are_the_same_everywhere() -> None:
    """Those that can be asked for, those with a formula, those with an order and those on the page."""
    page = (ROOT / "docs" / "concepts" / "pipeline.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^\| `([a-z0-9-]+)`", page, flags=re.M))
    assert set(NAMES) == set(SCHEDULES) == set(ORDERS) == described


def test_every_recipe_is_followed() -> None:
    chapter = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("\n## Recipes\n")[2]
    headings = re.findall(r"^### (.*)$", chapter, flags=re.M)
    tests = "".join(file.read_text(encoding="utf-8") for file in Path(__file__).parent.glob("test_*.py"))
    assert len(headings) >= 7
    assert sorted(re.findall(r'^    shop = follow\("(.*)"\)$', tests, flags=re.M)) == sorted(headings)
