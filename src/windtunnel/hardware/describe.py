"""What the catalogue says about an entry, every figure with its unit and source, as plain data."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from windtunnel.errors import ScenarioError, unknown
from windtunnel.hardware.catalogue import (
    accelerator_file,
    accelerator_names,
    aliases,
    fabric_file,
    fabric_names,
    node_file,
    node_names,
    resolve_accelerator,
)
from windtunnel.hardware.schema import AcceleratorFile, FabricFile, Figure, FigureOrZero, NodeFile

# The unit is the end of the key; the longest that fits is it.
_UNITS = {
    "_usd_per_hour": "USD/h",
    "_gbyte_per_s": "GB/s",
    "_gbit_per_s": "Gbit/s",
    "_tflops": "TFLOP/s",
    "_gibyte": "GiB",
    "_mibyte": "MiB",
    "_gbyte": "GB",
    "_watt": "W",
    "_us": "µs",
}


def describe(name: str) -> dict[str, Any]:
    """An accelerator (with its usual node and network), a node or a network of the catalogue, by name or alias.

    ``figures`` maps each figure's key to ``value``, ``unit`` ("" for a count or ratio) and ``source``; an unknown
    price has a null value. ``levels`` lists links from the innermost outward, per accelerator and direction.
    Raises :class:`ScenarioError` for an unknown name.
    """
    if not isinstance(name, str):
        raise ScenarioError(f"a name of the catalogue is text, not {name!r}")
    plain = name.strip().lower()
    if plain in node_names():
        return _node(node_file(plain))
    if plain in fabric_names():
        return _fabric(fabric_file(plain))
    try:
        return _accelerator(accelerator_file(resolve_accelerator(name)))
    except ScenarioError:
        raise unknown("hardware", plain, (*accelerator_names(), *node_names(), *fabric_names())) from None


def _figure(key: str, figure: Figure | FigureOrZero) -> dict[str, Any]:
    unit = next((unit for suffix, unit in _UNITS.items() if key.endswith(suffix)), "")
    return {"value": figure.value, "unit": unit, "source": figure.source}


def _figures(file: BaseModel) -> dict[str, Any]:
    values = {key: getattr(file, key) for key in type(file).model_fields}
    return {key: _figure(key, value) for key, value in values.items() if isinstance(value, Figure | FigureOrZero)}


def _accelerator(file: AcceleratorFile) -> dict[str, Any]:
    price = file.price_usd_per_hour
    node = node_file(file.node)
    return {
        "kind": "accelerator",
        "name": file.name,
        "vendor": file.vendor,
        "family": file.family,
        "note": file.note,
        "aliases": sorted(alias for alias, name in aliases().items() if name == file.name),
        "figures": {
            **{f"{dtype}_tflops": _figure("_tflops", figure) for dtype, figure in file.peak_tflops.items()},
            **_figures(file),
            "price_usd_per_hour": {
                "value": None if price is None else price.value,
                "unit": "USD/h",
                "source": "no published price" if price is None else price.source,
                "date": None if price is None else price.date,
            },
        },
        "node": _node(node),
        "fabric": _fabric(fabric_file(node.fabric)),
    }


def _node(file: NodeFile) -> dict[str, Any]:
    return {
        "kind": "node",
        "name": file.name,
        "description": file.description,
        "size": file.size,
        "fabric": file.fabric,
        "figures": _figures(file),
        "levels": [
            {
                "name": level.name,
                "resource": "scale_up",
                "domain": level.domain,
                "topology": level.topology,
                "in_network_reduction": level.in_network_reduction,
                **_figures(level),
            }
            for level in file.levels
        ],
    }


def _fabric(file: FabricFile) -> dict[str, Any]:
    return {
        "kind": "fabric",
        "name": file.name,
        "description": file.description,
        "figures": _figures(file),
        "levels": [
            {
                "name": level.name,
                "resource": "scale_out",
                "nodes": level.nodes,
                "topology": level.topology,
                "in_network_reduction": level.in_network_reduction,
                **_figures(level),
            }
            for level in file.levels
        ],
    }
