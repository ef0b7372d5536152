"""The search against ``train`` itself, asked plan by plan."""

from __future__ import annotations

from itertools import product

import pytest

from windtunnel.engine.train import train
from windtunnel.errors import ScenarioError
from windtunnel.planning.train.axes import make_axes
from windtunnel.planning.train.grid import Key, Refused
from windtunnel.planning.train.keep import Goal, Keep
from windtunnel.planning.train.price import Pricer
from windtunnel.scenario.options import TrainOptions, read_options
from windtunnel.scenario.plan_options import TRAIN_SEARCHED, PlanTrainOptions

SPACES = {
    "dense": {
        "model": "llama-3.1-8b", "on": "16xh100-sxm", "global_batch": 32, "seq": 4096,
        "tp": "1,2,8", "pp": "1,2,4", "cp": "1,2", "micro_batch": "1,2", "virtual_stages": "1,2,3", "zero": "1",
    },
    "sharded": {
        "model": "llama-3.1-8b", "on": "16xh100-sxm", "global_batch": 16, "seq": 8192, "engine": "fsdp",
        "tp": "1,2", "pp": "1,2", "cp": "1,2", "micro_batch": "1", "schedule": "1f1b,zero-bubble",
        "recompute": "selective,full", "sequence_parallel": "off",
    },
    "too large": {
        "model": "gpt3-175b", "on": "64xa100-80gb-sxm", "global_batch": 64, "tp": "4,8", "cp": "1",
        "pp": "2,4,8", "micro_batch": "1,2", "virtual_stages": "1,2,6", "zero": "0,1", "recompute": "none,full",
    },
    "experts": {
        "model": "mixtral-8x7b", "on": "32xh100-sxm", "global_batch": 64, "seq": 4096, "cp": "1",
        "tp": "1,2,4", "pp": "1,2", "micro_batch": "1", "schedule": "1f1b,dualpipe,interleaved", "zero": "1,2",
        "virtual_stages": "1,2", "recompute": "none",
    },
    "both ways": {
        "model": "mixtral-8x7b", "on": "16xh100-sxm", "global_batch": 32, "seq": 2048, "cp": "1", "tp": "1,2",
        "pp": "1,2", "micro_batch": "1", "schedule": "dualpipe", "zero": "1", "recompute": "none,full",
    },
    "windows": {
        "model": "gemma-3-27b", "on": "16xh100-sxm", "global_batch": 16, "seq": 8192, "tp": "2,4", "cp": "1",
        "pp": "2,4", "micro_batch": "1", "zero": "1,3", "hsdp": "off,2", "schedule": "1f1b,gpipe,zero-bubble",
    },
    "offloaded": {
        "model": "llama-3.1-8b", "on": "8xa100-80gb-sxm", "global_batch": 8, "seq": 2048, "tp": "1,2", "pp": "1,2",
        "cp": "1", "micro_batch": "1", "schedule": "1f1b", "engine": "deepspeed", "recompute": "none", "zero": "1,3",
        "hsdp": "off", "offload": "all", "sequence_parallel": "off",
    },
    "eight bits": {
        "model": "llama-3.1-8b", "on": "8xh100-sxm", "global_batch": 16, "seq": 4096, "tp": "1,2", "pp": "1,2",
        "cp": "1", "schedule": "1f1b", "precision": "bf16,fp8", "zero": "1", "recompute": "none",
    },
    "fewer": {
        "model": "llama-3.1-8b", "on": "16xh100-sxm", "global_batch": 16, "seq": 2048, "gpus": "any", "cp": "1",
        "tp": "1,2", "pp": "1,3", "micro_batch": "1", "schedule": "1f1b", "recompute": "none", "zero": "1",
        "sequence_parallel": "off",
    },
    "adapters": {
        "model": "llama-3.1-8b", "on": "8xh100-sxm", "global_batch": 16, "seq": 4096, "tp": "1,2", "pp": "1,2",
        "cp": "1", "schedule": "1f1b", "finetune": "qlora:r=16,bits=4", "zero": "1,3", "micro_batch": "1,2",
        "recompute": "none,full", "hsdp": "off",
    },
    "compressed": {
        "model": "llama-3.1-8b", "on": "16xh100-sxm", "global_batch": 16, "seq": 2048, "tp": "1,2", "pp": "1,2",
        "cp": "1,2", "schedule": "1f1b", "zero": "0,1,2,3", "micro_batch": "1", "recompute": "full", "hsdp": "off,2",
        "engine": "deepspeed@2023", "sequence_parallel": "off", "techniques": ["deep-gradient-compression:warmup=0.1"],
    },
    "local": {
        "model": "llama-3.1-8b", "on": "16xh100-sxm", "global_batch": 16, "seq": 2048, "tp": "1,2", "pp": "1,2",
        "cp": "1,2", "schedule": "1f1b", "zero": "0,1,2,3", "micro_batch": "1", "recompute": "full", "hsdp": "off,2",
        "engine": "deepspeed@2023", "sequence_parallel": "off", "techniques": ["co2:period=2"],
    },
    "subspaces": {
        "model": "llama-3.1-8b", "on": "8xh100-sxm", "global_batch": 8, "seq": 2048, "tp": "1,2", "pp": "1,2",
        "cp": "1,2", "schedule": "1f1b", "zero": "0,3", "micro_batch": "1", "recompute": "none", "hsdp": "off",
        "sequence_parallel": "off", "techniques": ["galore:rank=512"],
    },
}  # fmt: skip
SHOWN = ("step_time_s", "memory_bytes", "energy_j")


def searched(space, top=10**6, goal="time"):
    """(options of every plan: its figures), what is kept, what is refused."""
    axes = make_axes(read_options(PlanTrainOptions, space))
    pricer, refused, kept = Pricer(axes), Refused(), Keep(Goal(goal), top)
    found = {}
    ways = product(axes.pp, axes.sequence_parallel, axes.recompute, axes.precision, axes.offload)
    for key in (Key(*way) for way in ways):
        for group in pricer.groups(key, refused):
            every = range(len(group.memory))
            kept.consider(group)
            at = group.fitting
            seconds = group.length(range(len(at)) if len(at) == 0 else list(range(len(at))))
            energy = group.energy(list(range(len(at))), seconds)
            times = dict(zip(at.tolist(), zip(seconds.tolist(), energy.tolist(), strict=True), strict=True))
            columns = {name: group.option(name) for name in group.options}
            for i in every:
                plan = {k: v if not hasattr(v, "shape") else v[i].item() for k, v in columns.items()}
                found[identity(plan)] = (plan, float(group.memory[i]), times.get(i))
    return found, kept, refused.counts, axes


def identity(plan):
    """The options that were searched, as one key."""
    values = {k: plan.get(k) for k in TRAIN_SEARCHED}
    values["hsdp"] = values["hsdp"] or None
    return tuple(v if isinstance(v, str | bool) or v is None else int(v) for v in values.values())


def asked_for(plan):
    """The options of ``train`` for a row of the search."""
    found = {}
    for name in TRAIN_SEARCHED:
        value = plan[name]
        if name == "hsdp" and not value:
            continue
        if value is not None:
            found[name] = int(value) if isinstance(value, float) else value
    return found


@pytest.mark.parametrize("name", SPACES)
def test_every_plan_has_the_figures_of_train(name):
    found, _, _, axes = searched(SPACES[name])
    experts = name in ("experts", "both ways")
    assert found
    for plan, memory, times in list(found.values())[:: max(len(found) // 60, 1)]:
        options = asked_for(plan)
        if not experts:
            options.pop("etp")
        answer = train(read_options(TrainOptions, {**axes.fixed(), **options}))
        assert memory == pytest.approx(answer.memory_bytes["total"], rel=1e-9)
        crowded = any("offloading needs" in w for w in answer.warnings)
        assert (times is not None) == (answer.fits and not crowded)
        if times is not None:
            assert times == pytest.approx((answer.step_time_s, answer.energy_j), rel=1e-9)


@pytest.mark.parametrize("name", ["dense", "sharded", "experts", "windows", "fewer"])
def test_legal_plans_are_those_that_train_accepts(name):
    found, _, refused, axes = searched(SPACES[name])
    accepted = set()
    lists = {
        "tp": axes.tp, "pp": axes.pp, "dp": axes.dp or (None,), "cp": axes.cp, "ep": axes.ep,
        "micro_batch": axes.micro_batch, "virtual_stages": axes.virtual_stages, "schedule": axes.schedule,
        "zero": axes.zero, "hsdp": axes.hsdp, "sequence_parallel": axes.sequence_parallel,
    }  # fmt: skip
    for values in product(*lists.values()):
        options = {k: v for k, v in zip(lists, values, strict=True) if v is not None}
        if same_as_another(options, axes):
            continue
        try:
            plan = _scenario({**axes.fixed(), **options}).plan
        except ScenarioError:
            continue
        layout = plan.layout
        if options.get("hsdp") == layout.dp * layout.cp:
            continue
        if name != "experts" and layout.dp * layout.cp == 1 and plan.zero != axes.zero[0]:
            continue
        row = {**options, "dp": layout.dp, "etp": layout.etp}
        accepted.add(tuple(row.get(k) for k in ROW))
    mine = {tuple(_whole(plan[k]) for k in ROW) for plan, _, _ in found.values()}
    assert mine == accepted
    assert all(count > 0 for count in refused.values())


ROW = (
    "tp", "pp", "dp", "cp", "ep", "etp", "micro_batch", "virtual_stages", "schedule", "zero", "hsdp",
    "sequence_parallel",
)  # fmt: skip


def _whole(value):
    if isinstance(value, str | bool) or value is None:
        return value
    return int(value) if value else None if value == 0.0 and isinstance(value, float) else 0


def _scenario(options):
    from windtunnel.scenario.train import train_scenario

    return train_scenario(read_options(TrainOptions, options))


def same_as_another(options, axes):
    """Names of plans that the search has under another one."""
    v, pp, name = options["virtual_stages"], options["pp"], options["schedule"]
    if pp == 1 and (v > 1 or name != ("1f1b" if "1f1b" in axes.schedule else axes.schedule[0])):
        return True
    if name == "interleaved" and v == 1 and "1f1b" in axes.schedule:
        return True
    if options.get("hsdp") and options["zero"] != 3:
        return True
    return options["sequence_parallel"] and options["tp"] == 1


@pytest.mark.parametrize("goal", ["time", "energy", "cost"])
@pytest.mark.parametrize("name", ["dense", "sharded", "too large", "experts", "fewer"])
def test_what_is_kept_is_the_best_of_all(name, goal):
    found, kept, _, _ = searched(SPACES[name], top=7, goal=goal)
    rows = [(plan, memory, *times) for plan, memory, times in found.values() if times]
    value = {"time": lambda r: r[2], "energy": lambda r: r[3], "cost": lambda r: r[2] * r[0]["gpus"]}[goal]
    least = sorted(map(value, rows))[:7]
    assert [row["objective"] for row in kept.best] == pytest.approx(least, rel=1e-12)
    figures = [(t, m, t * p["gpus"]) for p, m, t, _ in rows]
    front = {
        f for f in figures
        if not any(all(x <= y for x, y in zip(g, f, strict=True)) and g != f for g in figures)
    }  # fmt: skip
    assert {(r["step_time_s"], r["memory_bytes"], r["step_time_s"] * r["gpus"]) for r in kept.front} == front
