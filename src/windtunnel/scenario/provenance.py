"""Where a figure comes from: a paper, the catalogue, a calibration, or an assumption that is named as one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

T = TypeVar("T")

Provenance = Literal["paper", "catalogue", "calibration", "assumption"]


@dataclass(frozen=True, slots=True)
class Given(Generic[T]):
    """A value with its provenance; ``note`` says where it stands or why it was chosen."""

    value: T
    provenance: Provenance
    note: str

    def __post_init__(self) -> None:
        if not self.note.strip():
            raise ValueError(f"{self.value!r} from {self.provenance}: say where it stands or why it was chosen")


def paper(value: T, where: str) -> Given[T]:
    """Stated by the paper: ``where`` it stands (abstract, section, table)."""
    return Given(value, "paper", where)


def catalogue(value: T, entry: str) -> Given[T]:
    """Of the catalogue of models or machines."""
    return Given(value, "catalogue", entry)


def calibration(value: T, fit: str) -> Given[T]:
    """Fitted to measurements that are not the claim's."""
    return Given(value, "calibration", fit)


def assumption(value: T, why: str) -> Given[T]:
    """Not stated: what was most plausibly used, and why."""
    return Given(value, "assumption", why)


def plain(value: Any) -> Any:
    """The bare value of a :class:`Given`, or of a mapping or sequence of them."""
    if isinstance(value, Given):
        return plain(value.value)
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(v) for v in value)
    return value
