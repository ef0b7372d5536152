"""Plans that differ in sizes alone, one after the other: what a search is given to choose from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from windtunnel.ops.values import Array
from windtunnel.planning.train.grid import Mask


class Cells:
    """Plans picked from a grid."""

    def __init__(self, index: tuple[NDArray[np.intp], ...]) -> None:
        self._index = index
        self._places: dict[tuple[int, ...], NDArray[np.intp]] = {}

    def __len__(self) -> int:
        return len(self._index[0])

    def some(self, at: Any) -> Cells:
        """Those at some positions, or of a mask."""
        return Cells(tuple(i[at] for i in self._index))

    def take(self, value: Any) -> Any:
        """The value of each, of an array on the grid (or one for all)."""
        value = np.asarray(value)
        if value.size == 1:
            return np.broadcast_to(value.reshape(()), (len(self),))
        if value.shape not in self._places:
            place: Any = 0
            for i, n in zip(self._index, value.shape, strict=True):
                place = place * n + (i if n > 1 else 0)
            self._places[value.shape] = place
        return value.ravel()[self._places[value.shape]]


@dataclass(frozen=True, eq=False)
class Group:
    """Plans of a chunk with the same ZeRO stage and schedule, one after the other.

    ``options``: one value for all, or an array on the grid; ``memory``: bytes of the fullest rank; ``fits`` and what
    is given for those that do, in their order: ``least``, a bound of the step's seconds from below, and two functions
    of positions among them: ``length``, the seconds, and ``energy``, joules of the step given its seconds.
    """

    options: Mapping[str, Any]
    cells: Cells
    memory: Array
    fits: Mask
    least: Array
    length: Callable[[NDArray[np.intp]], Array]
    energy: Callable[[NDArray[np.intp], Array], Array]

    @property
    def fitting(self) -> NDArray[np.intp]:
        return np.flatnonzero(self.fits)

    def option(self, name: str, at: NDArray[np.intp] | None = None) -> Any:
        """An option of every plan, or of those at some positions: one value, or an array."""
        value = self.options[name]
        if not isinstance(value, np.ndarray):
            return value
        return (self.cells if at is None else self.cells.some(at)).take(value)
