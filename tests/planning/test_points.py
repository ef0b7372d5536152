"""Columns of points: what is kept, and how texts are coded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.planning.points import Text, found


@given(st.lists(st.none() | st.text(max_size=5), max_size=300))
def test_coded_texts_are_the_texts(texts: list[str | None]) -> None:
    column = Text.of(np.array(texts, dtype=object))
    assert column.values().tolist() == texts
    assert column.codes.dtype == np.int8 if len(set(texts)) <= 128 else column.codes.dtype == np.int16


def test_arrays_of_texts_are_coded() -> None:
    column = found("k", {"recompute": np.array(["full", "none", "full"])}, {}).table["recompute"]
    assert isinstance(column, Text)
    assert (column.codes.tolist(), column.names) == ([0, 1, 0], ("full", "none"))


def test_a_summary_is_as_json_gives_it_back() -> None:
    assert found("k", {}, {"best": (1, 2), "none": None}).summary == {"best": [1, 2], "none": None}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"a": np.zeros(2), "b": np.zeros(3)}, "unequal length"),
        ({"a b": np.zeros(2)}, "'a b' cannot name"),
        ({"chunk": np.zeros(2)}, "'chunk' cannot name"),
        ({"a": np.zeros(2, complex)}, "complex128"),
        ({"a": np.zeros((2, 2))}, "2-dimensional"),
        ({"a": Text(np.array([0, 1], np.int8), ("x",))}, "a code has no name"),
        ({"a": Text(np.array([-2], np.int8), ("x",))}, "a code has no name"),
        ({"a": Text(np.array([0], np.uint8), ("x",))}, "signed"),
        ({"a": Text(np.array([0], np.int8), ("x", "x"))}, "given once"),
    ],
)
def test_what_cannot_be_kept_is_refused(table: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        found("k", table, {})
