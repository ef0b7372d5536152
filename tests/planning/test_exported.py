"""Searches for a tool to export to."""

from __future__ import annotations

import pytest

from windtunnel.errors import ScenarioError
from windtunnel.models import load_network
from windtunnel.planning import plan_train
from windtunnel.planning.export import EXPORTS, find_export
from windtunnel.scenario.options import read_options
from windtunnel.scenario.plan_options import EXPORTS as NAMED
from windtunnel.scenario.plan_options import PlanTrainOptions

ASKED = {"model": "llama-3.1-8b", "on": "16xh100-sxm", "global_batch": 32, "seq": 4096, "micro_batch": "1,2"}


def ask(**options):
    return plan_train(read_options(PlanTrainOptions, {**ASKED, **options}))


def test_every_tool_that_can_be_asked_for_has_a_writer():
    assert {name: each.kind for name, each in EXPORTS.items()} == dict(NAMED)


@pytest.mark.parametrize("tool", ["megatron", "torchtitan", "deepspeed"])
def test_all_of_the_best_can_be_run_by_the_tool(tool):
    result = ask(export=tool, top=20)
    network = load_network(ASKED["model"])
    for entry in [*result.best, *result.pareto]:
        find_export(tool).check({"engine": find_export(tool).engine, **entry["plan"]}, network)
    assert result.exported


def test_the_best_for_a_tool_is_the_best_of_all_that_it_can_run():
    everything = ask(engine="deepspeed", context_parallel="ulysses", top=1000)
    network, tool = load_network(ASKED["model"]), find_export("deepspeed")

    def runs(plan):
        try:
            tool.check({"engine": "deepspeed", **plan}, network)
        except ScenarioError:
            return False
        return True

    first = next(entry for entry in everything.best if runs(entry["plan"]))
    assert ask(export="deepspeed").best[0]["step_time_s"] == pytest.approx(first["step_time_s"], rel=1e-12)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"export": "megatron", "engine": "fsdp"}, "engine=fsdp cannot be exported for megatron"),
        ({"export": "megatron", "schedule": "dualpipe"}, "schedule='dualpipe' cannot be exported"),
        ({"export": "deepspeed", "context_parallel": "ring"}, "context_parallel=ring cannot be exported"),
    ],
)
def test_what_a_tool_cannot_run_is_refused(wrong, said):
    with pytest.raises(ScenarioError, match=said):
        ask(**wrong)
