"""Groups of ranks: tp first, then cp, dp, pp; experts over the same ranks as etp, ep, edp."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.ops.op import Group
from windtunnel.scenario.layout import Layout

degrees = st.sampled_from([1, 2, 3, 4])


def members(group: Group, ranks: int) -> set[frozenset[int]]:
    """All groups of this size and stride that tile ``ranks`` ranks."""
    size, stride = int(group.size), int(group.stride)
    found = set()
    for rank in range(ranks):
        start = rank - rank // stride % size * stride
        found.add(frozenset(start + i * stride for i in range(size)))
    return found


def equal_but(axis: int, sizes: tuple[int, ...]) -> set[frozenset[int]]:
    """Ranks that differ in one coordinate only; the first coordinate runs fastest."""
    index = np.arange(np.prod(sizes)).reshape(sizes[::-1])
    return {frozenset(row) for row in np.moveaxis(index, len(sizes) - 1 - axis, -1).reshape(-1, sizes[axis]).tolist()}


@given(degrees, degrees, degrees, degrees)
def test_groups_are_ranks_that_differ_in_one_degree(tp: int, cp: int, dp: int, pp: int) -> None:
    layout, sizes = Layout(tp=tp, cp=cp, dp=dp, pp=pp), (tp, cp, dp, pp)
    assert layout.world == tp * cp * dp * pp
    assert members(layout.tp_group, layout.world) == equal_but(0, sizes)
    assert members(layout.cp_group, layout.world) == equal_but(1, sizes)
    assert members(layout.dp_group, layout.world) == equal_but(1, (tp, cp * dp, pp))
    assert layout.pp_group == Group(2, tp * cp * dp)


def test_experts_use_all_ranks_of_a_stage() -> None:
    for tp, cp, dp, ep, etp in product((1, 2, 4), (1, 2), (1, 4), (1, 2, 4), (1, 2)):
        if (tp * cp * dp) % (ep * etp):
            continue
        layout = Layout(tp=tp, cp=cp, dp=dp, ep=ep, etp=etp)
        stage, edp = tp * cp * dp, int(layout.edp)
        assert etp * ep * edp == stage
        for axis, group in enumerate((layout.etp_group, layout.ep_group, layout.edp_group)):
            assert members(group, stage) == equal_but(axis, (etp, ep, edp))


def test_degrees_may_be_arrays() -> None:
    layout = Layout(tp=np.array([1, 2]), dp=np.array([4, 8]), ep=np.array([4, 4]))
    assert layout.world.tolist() == [4, 16]
    assert layout.edp.tolist() == [1, 4]
    assert layout.dp_group.stride.tolist() == [1, 2]
