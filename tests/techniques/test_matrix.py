"""Every technique with parameters that change nothing, alone, and in pairs, in one scenario a command."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from windtunnel.cost import effective_dtype
from windtunnel.engine import infer, simulate, train
from windtunnel.errors import ScenarioError
from windtunnel.hardware import parse_cluster
from windtunnel.hardware.machine import Cluster
from windtunnel.ops.fold import Evaluation
from windtunnel.scenario.options import InferOptions, TrainOptions, read_options
from windtunnel.scenario.registry import technique_class, technique_names
from windtunnel.scenario.simulate_options import SimulateOptions
from windtunnel.scenario.technique import Technique

TRAIN = {
    "model": "llama-3.1-8b", "on": "32xa100-80gb-sxm", "tp": 2, "pp": 4, "seq": 4096, "micro_batch": 1,
    "global_batch": 64, "engine": "deepspeed", "tokens": 1e10,
}  # fmt: skip
SERVE = {
    "model": "mixtral-8x7b", "on": "8xh100-sxm", "tp": 4, "ep": 4, "batch": 16, "input": 1024, "output": 64,
}  # fmt: skip
REQUESTS = {
    "model": "mixtral-8x7b", "on": "8xh100-sxm", "tp": 4, "ep": 4, "replicas": 2, "rate": 4.0, "requests": 60,
    "input_length": "lognormal:mean=800,cv=0.8", "output_length": "lognormal:mean=60,cv=0.6", "seed": 3,
}  # fmt: skip
COMMANDS: dict[str, tuple[Callable[[Any], Any], Any, dict[str, Any]]] = {
    "train": (train, TrainOptions, TRAIN),
    "infer": (infer, InferOptions, SERVE),
    "simulate": (simulate, SimulateOptions, REQUESTS),
}
LEFT_OUT = ("plan", "simulator", "warnings")
"""What names the technique itself, or the clock on the wall."""


def names(command: str) -> list[str]:
    return [n for n in technique_names() if command in technique_class(n).about.commands]


def asked(command: str, *techniques: str, **others: Any) -> Any:
    run, kind, base = COMMANDS[command]
    return run(read_options(kind, {**base, **others, **({"with": list(techniques)} if techniques else {})}))


def answer(command: str, *techniques: str) -> Any:
    """The answer, or the line in which it is refused."""
    try:
        return asked(command, *techniques)
    except ScenarioError as error:
        return str(error)


def neutral(name: str) -> str:
    given = ",".join(f"{k}={v}" for k, v in technique_class(name).about.neutral.items())
    return f"{name}:{given}" if given else name


def with_neutral() -> Iterator[tuple[str, str]]:
    for command in COMMANDS:
        yield from ((command, n) for n in names(command) if technique_class(n).about.neutral)


@pytest.mark.parametrize(("command", "name"), list(with_neutral()))
def test_parameters_that_change_nothing_change_nothing(command: str, name: str) -> None:
    found = answer(command, neutral(name))
    if isinstance(found, str):
        assert found.count("\n") == 0
        assert name in found
        pytest.skip(f"refused here: {found}")
    plain = asked(command).to_dict()
    changed = found.to_dict()
    for key in LEFT_OUT:
        plain.pop(key, None)
        changed.pop(key, None)
    assert changed == plain


DEPLOYMENTS = {"distserve", "splitwise"}
"""Techniques that are a deployment: without it there is nothing to compare with but the same pools by hand
(test_disaggregation.py)."""


@pytest.mark.parametrize("name", technique_names())
def test_every_technique_can_be_neutral(name: str) -> None:
    about = technique_class(name).about
    assert bool(about.neutral) != (name in DEPLOYMENTS)
    assert set(about.neutral) <= set(technique_class(name).model_fields)


@pytest.mark.parametrize("name", technique_names())
def test_a_technique_rewrites_where_it_says(name: str) -> None:
    """The model if and only if it says so; the step or the policy, if so, in a method for that."""
    cls = technique_class(name)

    def does(*methods: str) -> bool:
        return any(getattr(cls, m) is not getattr(Technique, m) for m in methods)

    rewrites = cls.about.rewrites
    assert ("model" in rewrites) == does("model")
    if "step" in rewrites:
        assert does("train", "serve", "engine")
    if "policy" in rewrites:
        assert does("request", "engine", "train", "serve")
    assert does("request", "model", "engine", "train", "serve")


def check_tree(evaluation: Evaluation, cluster: Cluster) -> None:
    """The work of the mean rank at the machine's peak rates is a lower bound of its time."""
    a, totals = cluster.accelerator, evaluation.totals()
    seconds = evaluation.seconds() * (1 + 1e-9)
    for dtype, flops in totals.flops.items():
        if dtype != "vector":
            assert np.all(flops / a.peak_flops[effective_dtype(a, dtype)] <= seconds)
    assert np.all(totals.bytes["hbm"] / a.hbm.bandwidth_bytes_per_s <= seconds)


def check(command: str, found: Any) -> None:
    """An answer within physics."""
    cluster = parse_cluster(found.on, {})
    if command == "train":
        check_tree(found.tree, cluster)
        assert 0 < found.mfu <= 1
        assert sum(found.time_s.values()) == pytest.approx(found.step_time_s)
        assert all(s >= 0 for s in found.time_s.values())
        assert all(b >= 0 for b in found.memory_bytes.values())
        assert found.run["goodput_fraction"] <= 1
    elif command == "infer":
        for tree in found.tree.values() if isinstance(found.tree, dict) else [found.tree]:
            check_tree(tree, cluster)
        assert 0 < found.ttft_s < math.inf
        assert 0 < found.tpot_s < math.inf
        assert all(b >= 0 for b in found.memory_bytes.values())
    else:
        assert found.completed + found.rejected + found.unfinished == found.requests
        assert found.completed == 60
        assert all(0 <= u <= 1 for u in found.utilization.values())
        assert 0 < found.tpot_s["mean"] < math.inf
    assert found.to_dict()["plan"]["with"]


@pytest.mark.parametrize(("command", "pair"), [(c, p) for c in COMMANDS for p in combinations(names(c), 2)])
def test_every_pair_composes_within_physics_or_refuses(command: str, pair: tuple[str, str]) -> None:
    found = answer(command, *pair)
    if isinstance(found, str):
        assert "\n" not in found
        assert any(name in found for name in pair), found
        return
    check(command, found)


@pytest.mark.parametrize(("command", "name"), [(c, n) for c in COMMANDS for n in names(c)])
def test_every_technique_alone_is_within_physics_or_says_why_not(command: str, name: str) -> None:
    found = answer(command, name)
    if isinstance(found, str):
        assert "\n" not in found
        assert name in found
        return
    check(command, found)
