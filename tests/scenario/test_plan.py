"""Layouts, optimizers and results as plain data."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.ops.op import Group
from windtunnel.scenario.layout import Layout
from windtunnel.scenario.plan import OPTIMIZERS, TrainPlan
from windtunnel.scenario.results import Bottleneck, Phase

DEGREE = st.sampled_from([1, 2, 4])


def members(group: Group, rank: int, world: int) -> set[int]:
    """The ranks of ``rank``'s group."""
    size, stride = int(group.size), int(group.stride)
    first = rank - rank // stride % size * stride
    return {first + i * stride for i in range(size)} & set(range(world))


@given(DEGREE, DEGREE, DEGREE, DEGREE)
def test_groups_cover_the_world_once(tp: int, pp: int, dp: int, cp: int) -> None:
    layout = Layout(tp=tp, pp=pp, dp=dp, cp=cp, etp=tp)
    world = int(layout.world)
    assert world == tp * pp * dp * cp
    for group, size in ((layout.tp_group, tp), (layout.cp_group, cp), (layout.dp_group, dp * cp)):
        parts = {frozenset(members(group, rank, world)) for rank in range(world)}
        assert all(len(part) == size for part in parts)
        assert sum(len(part) for part in parts) == world
    # tp inside, then cp and dp together, then pp.
    assert members(layout.tp_group, 0, world) == set(range(tp))
    assert members(layout.dp_group, 0, world) == set(range(0, tp * cp * dp, tp))
    assert layout.pp_group.stride == tp * cp * dp


@given(DEGREE, DEGREE, DEGREE)
def test_expert_layers_use_the_same_ranks(tp: int, dp: int, ep: int) -> None:
    for etp in (1, tp):
        if tp * dp % (etp * ep):
            continue
        layout = Layout(tp=tp, dp=dp, ep=ep, etp=etp)
        assert layout.etp * layout.ep * layout.edp == layout.tp * layout.dp
        world = tp * dp
        groups = (layout.etp_group, layout.ep_group, layout.edp_group)
        reached = {0}
        for group in groups:
            reached = {r for start in reached for r in members(group, start, world)}
        assert reached == set(range(world))


def test_a_layout_may_be_many() -> None:
    layout = Layout(tp=np.array([1.0, 2.0]), dp=np.array([8.0, 4.0]))
    assert np.all(layout.world == 8)
    plan = TrainPlan(layout=layout, micro_batch=2, global_batch=64)
    assert np.all(plan.micro_batches == [4, 8])


def test_optimizer_states() -> None:
    """Bytes a parameter beside the master copy: two fp32 moments are eight (arXiv 1910.02054, section 3.1: K = 12)."""
    assert OPTIMIZERS["adamw"].state_bytes + 4 == 12
    assert OPTIMIZERS["sgd"].state_bytes == 0
    assert OPTIMIZERS["sgd-momentum"].state_bytes == OPTIMIZERS["lion"].state_bytes == 4
    assert OPTIMIZERS["adam8bit"].state_bytes == pytest.approx(2, rel=0.01)
    assert all(name == o.name for name, o in OPTIMIZERS.items())


def test_results_are_plain_json() -> None:
    phase = Phase(
        bottleneck=Bottleneck("hbm", np.float64(0.5)),  # type: ignore[arg-type]
        time_s={"gemm": np.float64(1.5), "list": [np.int64(2)]},  # type: ignore[dict-item]
        elasticity={},
    )
    shown = json.dumps(phase.to_dict(), allow_nan=False)
    assert json.loads(shown) == {
        "bottleneck": {"resource": "hbm", "share": 0.5}, "time_s": {"gemm": 1.5, "list": [2]}, "elasticity": {},
    }  # fmt: skip
    assert math.isclose(phase.to_dict()["bottleneck"]["share"], 0.5)
