"""Numbers that may be one or many: every formula of the tunnel takes Python floats and NumPy arrays alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Value = float | Array
"""A float, or an array that broadcasts with the others of the same evaluation."""


def maximum(a: Value, b: Value) -> Value:
    """The larger of two values, elementwise for arrays; floats stay Python floats (an order faster)."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.maximum(a, b)
    return a if a >= b else b


def minimum(a: Value, b: Value) -> Value:
    """The smaller of two values, elementwise for arrays."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.minimum(a, b)
    return a if a <= b else b


def where(condition: Any, a: Value, b: Value) -> Value:
    """``a`` where the condition holds, else ``b``; a plain choice for a plain bool."""
    if isinstance(condition, np.ndarray):
        return np.where(condition, a, b)
    return a if condition else b


def first_true(conditions: Iterable[Any]) -> list[Value]:
    """For each condition 1 where it is the first of them to hold, else 0; elementwise for arrays."""
    result: list[Value] = []
    none_before: Any = True
    for holds in conditions:
        if isinstance(holds, np.ndarray) or isinstance(none_before, np.ndarray):
            result.append(np.where(np.logical_and(holds, none_before), 1.0, 0.0))
            none_before = np.logical_and(none_before, np.logical_not(holds))
        else:
            result.append(1.0 if holds and none_before else 0.0)
            none_before = none_before and not holds
    return result


def ceil(a: Value) -> Value:
    """The smallest whole number not below ``a``."""
    if isinstance(a, np.ndarray):
        return np.ceil(a)
    return float(-(-a // 1))


def sqrt(a: Value) -> Value:
    if isinstance(a, np.ndarray):
        return np.sqrt(a)
    return float(a**0.5)


def exp(a: Value) -> Value:
    if isinstance(a, np.ndarray):
        return np.exp(a)
    return float(np.exp(a))


def log2(a: Value) -> Value:
    if isinstance(a, np.ndarray):
        return np.log2(a)
    return float(np.log2(a))
