"""Operators from shapes, and numbers that may be one or many."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.ops.build import COLLECTIVES, attention, attention_decode, collective, gemm, transfer, wire_bytes
from windtunnel.ops.op import Group
from windtunnel.ops.values import ceil, exp, first_true, log2, maximum, minimum, sqrt, where

floats = st.floats(0.001, 1e6)


@given(st.lists(floats, min_size=1, max_size=5), floats)
def test_values_are_the_same_one_by_one_and_together(values: list[float], other: float) -> None:
    many = np.array(values)
    for f in (ceil, sqrt, log2, lambda x: exp(-x)):
        assert f(many) == pytest.approx(np.array([f(v) for v in values]), rel=1e-15)
    for g in (maximum, minimum, lambda a, b: where(a > b, a, 0.0)):
        assert g(many, other).tolist() == [g(v, other) for v in values]
    assert all(type(f(values[0])) is float for f in (ceil, sqrt, exp if values[0] < 700 else sqrt, log2))


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=4), st.booleans())
def test_first_true_marks_the_first_condition_that_holds(rows: list[list[bool]], plain: bool) -> None:
    conditions: list[object] = [np.array(row) for row in rows]
    if plain:
        conditions[0] = rows[0] = [rows[0][0]] * 3
        conditions[0] = rows[0][0]
    flags = [np.broadcast_to(f, 3) for f in first_true(conditions)]
    for i in range(3):
        column = [row[i] for row in rows]
        expected = [float(holds and not any(column[:j])) for j, holds in enumerate(column)]
        assert [f[i] for f in flags] == expected
        assert first_true(column) == expected


def test_a_group_of_one_sends_and_launches_nothing() -> None:
    for kind in COLLECTIVES:
        op = collective(kind, 8.0, Group(np.array([1, 4])), "tp_comm")
        assert np.asarray(op.message_bytes).tolist() == [0.0, 8.0]
        assert np.asarray(op.kernels).tolist() == [0.0, 1.0]
        assert np.asarray(wire_bytes(op))[0] == 0
        assert op.adjoint == ()


def test_bytes_on_the_wire_are_the_lower_bounds_of_thakur_et_al() -> None:
    """Rabenseifner's table: an all-reduce is a reduce-scatter and an all-gather, each of (n - 1) / n of the data."""
    sent = {kind: wire_bytes(collective(kind, 8.0, Group(4), "x")) for kind in COLLECTIVES}
    assert sent["all_reduce"] == sent["reduce_scatter"] + sent["all_gather"] == 12.0
    assert sent["all_to_all"] == 6.0
    assert sent["send_recv"] == sent["broadcast"] == 8.0
    assert wire_bytes(transfer("copy", "offload", pcie=8.0)) == 0


def test_attention_without_rows_launches_nothing() -> None:
    sizes = {"heads": 4, "kv_heads": 2, "head_dim": 8, "v_head_dim": 16, "dtype": "bf16", "act": 2.0}
    prompt = attention("a", tokens=np.array([0.0, 3.0]), pairs=6.0, context=3.0, **sizes)
    decode = attention_decode("d", sequences=np.array([0.0, 2.0]), context=10.0, kv_bytes_per_token=96.0, **sizes)
    assert prompt.kernels.tolist() == decode.kernels.tolist() == [0.0, 1.0]
    # Two products over every pair: queries with keys, weights with values.
    assert prompt.flops == 2 * 6 * 4 * (8 + 16)
    assert decode.flops == 2 * 10 * 4 * (8 + 16)
    assert decode.hbm_bytes == 960


def test_a_linear_layer_counts_its_bias_and_keeps_its_input() -> None:
    op = gemm("l", 5, 7, 11, dtype="bf16", weight=1.0, act=2.0, bias=True)
    assert (op.parameters, op.flops, op.hbm_bytes, op.saved_bytes) == (7 * 11 + 7, 770, 77, 110)
