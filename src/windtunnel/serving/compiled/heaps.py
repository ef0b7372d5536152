"""Binary heaps in parts of an array: pairs (key, load), the smallest key first, then the smallest load."""

from __future__ import annotations

from windtunnel.serving.compiled.jit import compiled
from windtunnel.serving.knots import Ints


@compiled
def before(M: Ints, base: int, i: int, j: int) -> bool:
    a, b = base + 2 * i, base + 2 * j
    return M[a] < M[b] or (M[a] == M[b] and M[a + 1] < M[b + 1])


@compiled
def swap(M: Ints, base: int, i: int, j: int) -> None:
    a, b = base + 2 * i, base + 2 * j
    M[a], M[b] = M[b], M[a]
    M[a + 1], M[b + 1] = M[b + 1], M[a + 1]


@compiled
def push(M: Ints, base: int, size: int, key: int, load: int) -> int:
    """The heap's new size."""
    i = size
    M[base + 2 * i], M[base + 2 * i + 1] = key, load
    while i > 0:
        parent = (i - 1) >> 1
        if not before(M, base, i, parent):
            break
        swap(M, base, i, parent)
        i = parent
    return size + 1


@compiled
def sink(M: Ints, base: int, size: int, i: int) -> None:
    while True:
        child = 2 * i + 1
        if child >= size:
            return
        if child + 1 < size and before(M, base, child + 1, child):
            child += 1
        if not before(M, base, child, i):
            return
        swap(M, base, i, child)
        i = child


@compiled
def pop(M: Ints, base: int, size: int) -> int:
    """Drops the smallest; the heap's new size."""
    size -= 1
    M[base], M[base + 1] = M[base + 2 * size], M[base + 2 * size + 1]
    sink(M, base, size, 0)
    return size
