"""The recipes for a scheduler, a router and a trace layout work as they are written."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import windtunnel
from windtunnel.scenario.simulate_options import ROUTERS, SCHEDULERS
from windtunnel.serving.rules import RULES

ROOT = Path(__file__).resolve().parents[2]
SERVICE: dict[str, Any] = {"on": "1xa100-80gb-sxm", "rate": 8, "requests": 200, "chunk": 1024}
Follow = Callable[[str], Any]

# Longest prompts first.
BY_PROMPT = '''

class ByPrompt(Sorted):
    """By length of the prompt, longest first; equals in order of arrival."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(by_length=False)

    def push(self, request: Request) -> None:
        heapq.heappush(self._heap, (-request.input_tokens, request.number, request.epoch, request))

    push_back = push
'''


def test_a_scheduler(follow: Follow) -> None:
    shop = follow("A scheduler")
    rules, queues = "src/windtunnel/serving/rules.py", "src/windtunnel/serving/queues.py"
    shop.change(rules, '    "sjf": Rules(', '    "whole": Rules(cut=False),\n'
                '    "longest": Rules(order="prompt"),\n    "sjf": Rules(')  # fmt: skip
    shop.change("src/windtunnel/scenario/simulate_options.py", '"fair", "sjf"', '"fair", "sjf", "whole", "longest"')
    shop.change("src/windtunnel/scenario/simulate.py", '"shortest": "sjf",', '"shortest": "sjf", "ljf": "longest",')
    # An order that is not there yet.
    shop.change(rules, '"shortest", "fair"]', '"shortest", "fair", "prompt"]')
    shop.append(queues, BY_PROMPT)
    shop.change(queues, '    return Fair() if order', '    if order == "prompt":\n        return ByPrompt()\n'
                '    return Fair() if order')  # fmt: skip
    shop.change("src/windtunnel/engine/fleet.py", '        if rules.order == "shortest":\n',
                '        if rules.order == "prompt":\n            return -self.workload.input_tokens\n'
                '        if rules.order == "shortest":\n')  # fmt: skip
    shop.change("src/windtunnel/serving/compiled/replica.py", '"fair": library.FAIR}',
                '"fair": library.FAIR, "prompt": library.SORTED}')  # fmt: skip
    with shop.opened() as wt:
        from windtunnel.serving.compiled.build import find

        usual = wt.simulate("llama-3.1-8b", **SERVICE, loop="python")
        for name in ("whole", "longest"):
            own = wt.simulate("llama-3.1-8b", **SERVICE, scheduler=name, loop="python")
            assert own.plan["scheduler"] == name
            assert own.completed == 200
            assert own.ttft_s != usual.ttft_s
            steps = wt.simulate("llama-3.1-8b", **SERVICE, scheduler=name, loop="naive")
            assert steps.outcome.finish.tolist() == own.outcome.finish.tolist()
            if find().path is not None:
                fast = wt.simulate("llama-3.1-8b", **SERVICE, scheduler=name, loop="compiled")
                assert fast.outcome.finish.tolist() == own.outcome.finish.tolist()
        assert wt.simulate("llama-3.1-8b", **SERVICE, scheduler="ljf").plan["scheduler"] == "longest"
        with pytest.raises(wt.ScenarioError, match="did you mean longest"):
            wt.simulate("llama-3.1-8b", **SERVICE, scheduler="longst")


FIRST = '''

class FirstIdle:
    """The first with nothing to do; where there is none, as :class:`LeastRequests`."""

    needs_state = True

    def choose(self, request: Request, replicas: Sequence[Candidate]) -> int:
        idle = (r.index for r in replicas if not r.load.queued + r.load.running)
        return next(idle, LeastRequests().choose(request, replicas))


_BUILT_IN["first-idle"] = lambda seed: FirstIdle()
'''
FIRST_TEST = """

def test_the_first_idle_one() -> None:
    assert choices("first-idle", seen([2, 0, 0])) == [1]
    assert choices("first-idle", seen([2, 1, 3])) == [1]
"""


def test_a_router(follow: Follow) -> None:
    shop = follow("A router")
    shop.append("src/windtunnel/serving/deployment/routers.py", FIRST)
    options = "src/windtunnel/scenario/simulate_options.py"
    shop.change(options, '"prefix-aware", "session",', '"prefix-aware", "session", "first-idle",')
    shop.append("tests/serving/deployment/test_routers.py", FIRST_TEST)
    service = {**SERVICE, "on": "3xa100-80gb-sxm", "replicas": 3, "rate": 1, "requests": 60}
    with shop.opened() as wt:
        shop.load("tests/serving/deployment/test_routers.py").test_the_first_idle_one()
        own = wt.simulate("llama-3.1-8b", **service, router="first-idle")
        assert own.plan["router"] == "first-idle"
        assert own.completed == 60
        shares = [own.outcome.replica.tolist().count(i) for i in range(3)]
        assert shares == sorted(shares, reverse=True)  # little to do: mostly the first
        assert shares[0] > shares[2]
        with pytest.raises(wt.ScenarioError, match="did you mean first-idle"):
            wt.simulate("llama-3.1-8b", **service, router="first-idel")


LAB = "Sent at,Question tokens,Reply tokens,Desk\\n100,700,30,a\\n2600,90,200,b\\n"


def test_a_trace_layout(follow: Follow, tmp_path: Path) -> None:
    shop = follow("A trace layout")
    layouts, tests = "src/windtunnel/serving/workload/layouts.py", "tests/serving/workload/test_reader.py"
    shop.change(layouts, '    "request_time", "offset",', '    "request_time", "offset", "sent_at",')
    shop.change(layouts, '"input_toks", "isl",', '"input_toks", "isl", "question_tokens",')
    shop.change(layouts, '"output_toks", "osl",', '"output_toks", "osl", "reply_tokens",')
    shop.change(layouts, '"user", "tenant")', '"user", "tenant", "desk")')
    # Its times are milliseconds, which no name says.
    shop.change(
        layouts, "    stated = arrival ==", '    lab = arrival == found.get("sent_at")\n    stated = lab or arrival =='
    )
    shop.change(layouts, "(1e-3 if mooncake else 1.0)", "(1e-3 if mooncake or lab else 1.0)")
    shop.change(tests, "        (MOONCAKE, [0, 3]", f'        ("{LAB}", [0, 2.5], [700, 90], [30, 200]),\n'
                "        (MOONCAKE, [0, 3]")  # fmt: skip
    file = tmp_path / "lab.csv"
    file.write_text(LAB.replace("\\n", "\n"), encoding="utf-8")
    with shop.opened() as wt:
        reader = shop.load(tests)
        (cases,) = [mark.args[1] for mark in reader.test_layouts.pytestmark]
        for case in cases:
            reader.test_layouts(tmp_path, *case)
        found = wt.simulate("llama-3.1-8b", on="1xa100-80gb-sxm", trace=str(file), scheduler="fair")
        assert found.completed == 2
        assert found.outcome.arrival.tolist() == [0, 2_500_000_000_000]
        assert found.workload.client.tolist() == [0, 1]
    with pytest.raises(windtunnel.ScenarioError, match="has no column of input tokens"):
        windtunnel.simulate("llama-3.1-8b", on="1xa100-80gb-sxm", trace=str(file))


def _rows(page: str, heading: str) -> set[str]:
    """First cells of the table with that heading."""
    text = (ROOT / "docs" / "concepts" / page).read_text(encoding="utf-8")
    table = text.partition(f"| `--{heading}` |")[2].partition("\n\n")[0]
    return set(re.findall(r"^\| `([a-z0-9-]+)` \|", table, flags=re.M))


def test_schedulers_and_routers_are_the_same_everywhere() -> None:
    """Those that can be asked for, those that there are and those on the page."""
    assert set(SCHEDULERS) | {"prefill-first"} == set(RULES) == _rows("serving.md", "scheduler")
    assert set(ROUTERS) == _rows("serving.md", "router")
