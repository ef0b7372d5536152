"""The catalogue on disk: one small YAML file for each accelerator, node and fabric, read when asked for."""

from __future__ import annotations

import math
import re
from difflib import get_close_matches
from functools import cache
from pathlib import Path

import yaml

from windtunnel.errors import ScenarioError, unknown
from windtunnel.hardware.machine import Accelerator, Memory
from windtunnel.hardware.schema import AcceleratorFile, FabricFile, Figure, FigureOrZero, NodeFile
from windtunnel.hardware.yaml_file import SafeLoader

ROOT = Path(__file__).parent / "catalogue"

GIB, MIB, TERA, GIGA = 2.0**30, 2.0**20, 1e12, 1e9

_MAKERS = re.compile(r"^(nvidia|amd|intel|google|huawei|apple|geforce|instinct|tesla|quadro)(?=.)")


@cache
def _names(folder: str) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in (ROOT / folder).glob("*.yaml")))


def accelerator_names() -> tuple[str, ...]:
    """Names of all accelerators in the catalogue, sorted."""
    return _names("accelerators")


def node_names() -> tuple[str, ...]:
    """Names of all nodes in the catalogue, sorted."""
    return _names("nodes")


def fabric_names() -> tuple[str, ...]:
    """Names of all fabrics in the catalogue, sorted."""
    return _names("fabrics")


def _squash(name: str) -> str:
    """The letters and digits of a name without its maker's: "NVIDIA RTX 4090" and "rtx-4090" are the same."""
    squashed = re.sub(r"[\s_\-()]+", "", name.lower())
    while (shorter := _MAKERS.sub("", squashed)) != squashed:
        squashed = shorter
    return squashed


@cache
def aliases() -> dict[str, str]:
    """Other spellings: alias to accelerator name."""
    return dict(yaml.load((ROOT / "aliases.yaml").read_text(), Loader=SafeLoader))


@cache
def _by_spelling() -> dict[str, str]:
    spellings = {_squash(alias): name for alias, name in aliases().items()}
    return spellings | {_squash(name): name for name in accelerator_names()}


def resolve_accelerator(name: str) -> str:
    """The catalogue's name for any accepted spelling. Raises :class:`ScenarioError` for an unknown one."""
    if name in accelerator_names():
        return name
    found = _by_spelling().get(_squash(name))
    if found is None:
        spellings = (*accelerator_names(), *aliases())
        close = get_close_matches(name.strip().lower(), spellings, n=1, cutoff=0.6)
        raise unknown("accelerator", name.strip(), spellings if close else accelerator_names())
    return found


def _yaml(folder: str, name: str) -> object:
    return yaml.load((ROOT / folder / f"{name}.yaml").read_text(), Loader=SafeLoader)


@cache
def accelerator_file(name: str) -> AcceleratorFile:
    """The validated file of an accelerator by its exact name."""
    return AcceleratorFile.model_validate(_yaml("accelerators", name))


@cache
def node_file(name: str) -> NodeFile:
    """The validated file of a node. Raises :class:`ScenarioError` for an unknown name."""
    if name not in node_names():
        raise unknown("node", name, node_names())
    return NodeFile.model_validate(_yaml("nodes", name))


@cache
def fabric_file(name: str) -> FabricFile:
    """The validated file of a fabric. Raises :class:`ScenarioError` for an unknown name."""
    if name not in fabric_names():
        raise unknown("fabric", name, fabric_names())
    return FabricFile.model_validate(_yaml("fabrics", name))


def figure_sources(file: AcceleratorFile | NodeFile | FabricFile) -> dict[str, str]:
    """The source of every figure of a file, by the figure's key; a dtype's rate is ``DTYPE_tflops``."""
    sources: dict[str, str] = {}
    for key in type(file).model_fields:
        value = getattr(file, key)
        if isinstance(value, Figure | FigureOrZero):
            sources[key] = value.source
    if isinstance(file, AcceleratorFile):
        sources |= {f"{dtype}_tflops": figure.source for dtype, figure in file.peak_tflops.items()}
        price = file.price_usd_per_hour
        sources["price_usd_per_hour"] = "no published price" if price is None else f"{price.source} ({price.date})"
    return sources


def load_accelerator(name: str) -> Accelerator:
    """An accelerator of the catalogue, in SI units, by name or alias.

    Raises :class:`ScenarioError` for an unknown name, with the close ones.
    """
    if not isinstance(name, str):
        raise ScenarioError(f"an accelerator's name is text, not {name!r}")
    file = accelerator_file(resolve_accelerator(name))
    return Accelerator(
        name=file.name,
        vendor=file.vendor,
        family=file.family,
        peak_flops={dtype: figure.value * TERA for dtype, figure in file.peak_tflops.items()},
        vector_flops=file.vector_tflops.value * TERA,
        hbm=Memory(file.hbm_gibyte.value * GIB, file.hbm_gbyte_per_s.value * GIGA),
        l2=Memory(file.l2_mibyte.value * MIB, file.l2_gbyte_per_s.value * GIGA),
        compute_units=int(file.compute_units.value),
        kernel_gap_s=file.kernel_gap_us.value / 1e6,
        tdp_w=file.tdp_watt.value,
        idle_w=file.idle_watt.value,
        sources=figure_sources(file),
    )


def price_per_hour(name: str) -> float:
    """USD an hour of an accelerator by its exact name; NaN if no price is published."""
    price = accelerator_file(name).price_usd_per_hour
    return math.nan if price is None else price.value
