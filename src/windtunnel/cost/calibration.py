"""Measured kernel constants: efficiencies and fixed costs by device family, each with its source and its error.

One YAML file a family in ``calibrations/`` names its parent, so a device without measurements of its own uses its
family's constants, and a family without measurements its parent's, down to ``generic``. ``scripts/fit_kernels.py``
writes the fitted entries. Bounds here keep constants physical: no efficiency exceeds 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from windtunnel.errors import ScenarioError
from windtunnel.hardware.machine import Accelerator
from windtunnel.hardware.yaml_file import SafeLoader, read_user_yaml

FOLDER = Path(__file__).parent / "calibrations"

Fraction = Annotated[float, Field(gt=0, le=1)]
Seconds = Annotated[float, Field(ge=0, le=1)]
Tile = Annotated[int, Field(ge=1, le=4096)]


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Fit(_Data):
    """What an entry was fitted on. Errors are |predicted/measured - 1| of models or shapes left out of the fit."""

    device: str
    data: str
    points: int = Field(gt=0)
    median: float = Field(ge=0)
    p90: float = Field(ge=0)


class _Entry(_Data):
    """``source``: where the constants come from. ``fit`` is None for published or inherited ones."""

    source: str = ""
    fit: Fit | None = None


class Gemm(_Entry):
    """Matrix products; ``compute`` and ``bandwidth`` are fractions of the device's peaks.

    ``tiles``: the (rows, columns) that kernels cut a result into; ``up_to``: the rows of a product up to which each but
    the last is taken (none: the fastest is); ``wave``: how much of a partly filled last wave of tiles is lost (1: all);
    ``alone``: rate of one unit while others idle over its share of ``compute`` (clocks fall under full load);
    ``load``: bytes that a unit draws from the last-level cache over its share of that cache's bandwidth (thread-block
    clusters share loads; 0: no limit); ``k_ramp``: depth of the inner dimension that a tile's prologue and write-back
    cost; ``split_k``: least depth of a part where tiles leave units idle (0: never split) and ``split_s`` the seconds
    to add parts up; ``cast``: fraction of the cache's bandwidth at which inputs are first narrowed, where the format
    needs it (0: not timed with the product); ``power``: of the smooth maximum; ``sustained``: fraction of ``compute``
    left when the device runs at full power for hours.
    """

    fixed_s: Seconds
    compute: Fraction
    bandwidth: Fraction
    tiles: tuple[tuple[Tile, Tile], ...] = Field(((128, 128), (64, 64), (16, 64)), min_length=1, max_length=6)
    up_to: tuple[Tile, ...] = ()
    wave: float = Field(0.0, ge=0, le=1)
    alone: float = Field(1.0, ge=1, le=2)
    load: float = Field(0.0, ge=0, le=16)
    k_ramp: float = Field(0.0, ge=0, le=1024)
    split_k: float = Field(0.0, ge=0, le=65536)
    split_s: Seconds = 0.0
    cast: float = Field(0.0, ge=0, le=1)
    power: Literal[2, 4, 8] = 4
    sustained: Fraction = 1.0

    @model_validator(mode="after")
    def _limits(self) -> Gemm:
        if self.up_to and len(self.up_to) != len(self.tiles) - 1:
            raise ValueError("up_to has one number fewer than tiles")
        return self


class Attention(_Entry):
    """Fused attention over prompts. ``vector``: fraction of the vector rate that its exponentials reach, not
    overlapped with the products; ``diagonal``: masked keys computed for each query; ``queries``: of a tile; ``tile_s``:
    seconds of a wave of tiles beside its keys; ``alone``: rate of one tile while units idle over its share;
    ``write``: times that new keys and values cross memory on their way into the cache of a serving engine;
    ``wave`` as in :class:`Gemm`.
    """

    fixed_s: Seconds
    compute: Fraction
    vector: Fraction = 1.0
    bandwidth: Fraction
    cache: Fraction = 1.0
    wave: float = Field(0.0, ge=0, le=1)
    diagonal: float = Field(0.0, ge=0, le=1024)
    queries: Literal[64, 128] = 128
    tile_s: Seconds = 0.0
    alone: float = Field(2.0, ge=0.25, le=2)
    write: float = Field(0.0, ge=0, le=4)
    power: Literal[2, 4, 8] = 2
    sustained: Fraction = 1.0


class Decode(_Entry):
    """Attention of one query a sequence, on items: (sequence, KV head) pairs.

    ``wave_s``: seconds of each round of items over the compute units beyond the first; ``head_s``: of each query head
    of a sequence; ``draw``: bytes that a unit reads over its share of the bandwidth; ``block``: least keys of a part
    where items leave units idle (0: never split), ``combine_s`` the seconds to join parts and ``split_s`` of each
    part; ``split_from``: query heads a KV head from which keys are split; ``regroup_s``: seconds to put the grouped
    queries of several sequences in order.
    """

    fixed_s: Seconds
    compute: Fraction
    bandwidth: Fraction
    cache: Fraction = 1.0
    wave_s: Seconds = 0.0
    head_s: Seconds = 0.0
    draw: float = Field(0.0, ge=0, le=16)
    block: float = Field(0.0, ge=0, le=65536)
    combine_s: Seconds = 0.0
    split_s: Seconds = 0.0
    split_from: Literal[1, 2] = 1
    regroup_s: Seconds = 0.0
    power: Literal[2, 4, 8] = 2


class Stream(_Entry):
    """Kernels bound by moving data: fractions of HBM's and of the last-level cache's bandwidth that they reach."""

    fixed_s: Seconds
    bandwidth: Fraction
    cache: Fraction = 1.0
    vector: Fraction = 1.0
    power: Literal[2, 4, 8] = 4


class Scan(Stream):
    """A state-space recurrence: a stream that also uses the matrix unit."""

    compute: Fraction
    sustained: Fraction = 1.0


class Copy(_Entry):
    """Transfers to the host and to storage: fractions of the nominal rates, seconds to start one. ``dram``: of the
    host's memory bandwidth, for work that the host itself does on what was moved there."""

    fixed_s: Seconds
    pcie: Fraction
    nvme: Fraction
    dram: Fraction


class Cache(_Entry):
    """``share`` of the last-level cache's capacity at which half of a reused tensor is still found there."""

    share: Fraction


class Energy(_Entry):
    """Fractions of (TDP - idle) drawn: ``active`` by running at all, the others at the full rate of a resource.

    They may add up to more than 1: the power limit then holds. ``*_j_per_byte``: links, which are outside of it.
    """

    active: float = Field(ge=0, le=1)
    tensor: float = Field(ge=0, le=2)
    vector: float = Field(ge=0, le=2)
    hbm: float = Field(ge=0, le=2)
    pcie_j_per_byte: float = Field(ge=0, le=1e-6)
    scale_up_j_per_byte: float = Field(ge=0, le=1e-6)
    scale_out_j_per_byte: float = Field(ge=0, le=1e-6)


class Calibration(_Data):
    """All constants of one device. Tables are by number format, attention generation or operator kind.

    ``collectives`` is a user's own section of that name, in place of the shipped one, as
    :func:`windtunnel.cost.collectives.parse_collective_constants` reads it; empty otherwise.
    """

    device: str
    family: str
    gemm: dict[str, Gemm]
    grouped_gemm: dict[str, Gemm]
    attention: dict[str, Attention]
    attention_backward: dict[str, Attention]
    attention_decode: dict[str, Decode]
    pointwise: dict[str, Stream]
    scan: dict[str, Scan]
    copies: Copy
    cache: Cache
    energy: Energy
    collectives: dict[str, Any] = Field(default_factory=dict)

    def records(self) -> Iterator[tuple[str, str, _Entry]]:
        """(kernel family, key, entry) of everything, with each entry's source and fit."""
        for name in _TABLES:
            for key, entry in getattr(self, name).items():
                yield name, key, entry
        for name in _SINGLE:
            yield name, "", getattr(self, name)

    @property
    def calibrated(self) -> dict[str, bool]:
        """By kernel family, whether constants were fitted on measurements of this very device."""
        result = dict.fromkeys((*_TABLES, *_SINGLE), False)
        for name, _, entry in self.records():
            result[name] |= entry.fit is not None and entry.fit.device == self.device
        return result


_TYPES = {name: field.annotation for name, field in Calibration.model_fields.items() if name != "collectives"}
_TABLES = tuple(name for name, kind in _TYPES.items() if get_origin(kind) is dict)
_SINGLE = tuple(name for name, kind in _TYPES.items() if isinstance(kind, type) and issubclass(kind, _Entry))


def load_calibration(accelerator: Accelerator, path: str | None = None) -> Calibration:
    """The constants for ``accelerator``, with those of the user's file ``path`` over them.

    A user's file has the layout of the shipped ones; every section, entry and field in it is optional.

    Raises:
        ScenarioError: the file cannot be read or holds something else.
    """
    if path is None:
        return _load(accelerator.family, accelerator.name, None, "")
    try:
        stamp = str(Path(path).stat())
    except (OSError, ValueError):
        stamp = ""  # reading it says what is wrong
    return _load(accelerator.family, accelerator.name, path, stamp)


@cache
def _load(family: str, device: str, path: str | None, stamp: str) -> Calibration:
    """``stamp`` changes when the user's file does."""
    sections: dict[str, Any] = {}
    for name in _chain(family):
        data = _shipped(name)
        _lay_over(sections, data.get("kernels", {}))
        _lay_over(sections, data.get("devices", {}).get(device, {}))
    if path is not None:
        data = _user_file(path)
        if not isinstance(data.get("devices", {}), dict):
            raise ScenarioError(f"calibration file {path}: devices is not a mapping")
        for part in (data.get("kernels", {}), data.get("devices", {}).get(device, {})):
            _check(part, path)
            _lay_over(sections, part)
        if not isinstance(data.get("collectives", {}), dict):
            raise ScenarioError(f"calibration file {path}: collectives is not a mapping")
        sections["collectives"] = data.get("collectives", {})
    try:
        return Calibration.model_validate({"device": device, "family": family, **sections})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ScenarioError(f"calibration file {path or family}: {where}: {first['msg']}") from None


def _user_file(path: str) -> dict[str, Any]:
    data = read_user_yaml(path)
    if not isinstance(data, dict):
        raise ScenarioError(f"calibration file {path} does not hold a mapping with sections kernels, collectives")
    for name in data:
        if name not in ("family", "parent", "kernels", "devices", "collectives", "engine"):
            accepted = "kernels, devices, collectives, engine"
            raise ScenarioError(f"calibration file {path}: unknown section {str(name)[:80]!r}; accepted: {accepted}")
    return data


def forget() -> None:
    """Read the files anew on the next call (after a fit has written them)."""
    _load.cache_clear()
    _shipped.cache_clear()


def _chain(family: str) -> list[str]:
    """Family files from the most general to the family itself; ``generic`` alone for a family without a file."""
    names: list[str] = []
    name = family if (FOLDER / f"{family}.yaml").is_file() else "generic"
    while name and name not in names:
        names.append(name)
        name = _shipped(name).get("parent", "")
    return names[::-1]


@cache
def _shipped(name: str) -> Mapping[str, Any]:
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        return {}
    loaded: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=SafeLoader)
    return loaded


def _check(part: Any, path: str) -> None:
    """The shape that merging needs: section → entry → fields."""
    if not isinstance(part, dict):
        raise ScenarioError(f"calibration file {path}: kernels is not a mapping of {', '.join(_TABLES + _SINGLE)}")
    for section, entries in part.items():
        if section not in _TABLES + _SINGLE:
            known = ", ".join(_TABLES + _SINGLE)
            shown = str(section)[:80]
            raise ScenarioError(f"calibration file {path}: unknown section {shown!r}; accepted: {known}")
        nested = entries.values() if isinstance(entries, dict) and section in _TABLES else [entries]
        if not isinstance(entries, dict) or not all(isinstance(e, dict) for e in nested):
            raise ScenarioError(f"calibration file {path}: section {section!r} is not a mapping of entries")
        for fields in nested:
            if not all(isinstance(name, str) for name in fields):
                raise ScenarioError(f"calibration file {path}: section {section!r} has a field that is not a name")


def _lay_over(base: dict[str, Any], part: Mapping[str, Any]) -> None:
    """Merge ``part`` into ``base`` field by field; the record of a fit does not outlive a change of its constants."""
    for section, entries in part.items():
        if section in _SINGLE:
            base[section] = {**base.get(section, {}), "fit": None, **entries}
            continue
        table = dict(base.get(section, {}))
        for key, fields in entries.items():
            table[key] = {**table.get(key, {}), "fit": None, **fields}
        base[section] = table
