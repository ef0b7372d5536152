"""Cluster files: a machine as a YAML file that a user can edit (:class:`windtunnel.hardware.schema.ClusterFile`)."""

from __future__ import annotations

import math
import os
from pathlib import Path

import yaml
from pydantic import ValidationError

from windtunnel.errors import ScenarioError, unknown
from windtunnel.hardware.machine import Cluster
from windtunnel.hardware.overrides import one_line
from windtunnel.hardware.schema import ClusterFile
from windtunnel.hardware.yaml_file import read_user_yaml
from windtunnel.ops.values import Value

GIGA = 1e9


def read_cluster_file(path: str) -> ClusterFile:
    """The validated contents of a user's cluster file. Raises :class:`ScenarioError`."""
    shown = one_line(path)
    data = read_user_yaml(os.path.expanduser(path))
    if not isinstance(data, dict):
        raise ScenarioError(f"{shown} describes no cluster: expected keys such as accelerator and count")
    extra = [key for key in data if key not in ClusterFile.model_fields]
    if extra:
        raise unknown(f"key in {shown}", extra[0], ClusterFile.model_fields)
    try:
        return ClusterFile.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"][:4])
        message = first["msg"].removeprefix("Value error, ")
        raise ScenarioError(f"{shown}: {one_line(where + ': ' if where else '')}{one_line(message, 160)}") from None


def plain(value: Value) -> float:
    """A figure of a cluster that holds plain numbers, as every cluster does that was just read."""
    if isinstance(value, int | float):
        return float(value)
    raise ScenarioError("a cluster whose rates are arrays stands for many machines and cannot be written as one")


def write_cluster(cluster: Cluster, path: str | os.PathLike[str]) -> None:
    """Write a cluster file that :func:`windtunnel.hardware.parse_cluster` reads back as the same machine.

    Raises :class:`ScenarioError` if the file cannot be written or a rate is an array.
    """
    text = yaml.safe_dump(cluster_data(cluster), sort_keys=False)
    try:
        Path(path).write_text(text)
    except (OSError, ValueError) as error:
        raise ScenarioError(f"cannot write {one_line(os.fsdecode(path))}: {one_line(str(error), 120)}") from None


def cluster_data(cluster: Cluster) -> dict[str, object]:
    """The contents of a cluster file (see :class:`windtunnel.hardware.schema.ClusterFile`) for a cluster of plain
    numbers, with every figure spelled out. Raises :class:`ScenarioError` if a rate is an array.
    """
    device = cluster.accelerator
    figures: dict[str, object] = {
        **{f"{dtype}_tflops": plain(rate) / 1e12 for dtype, rate in device.peak_flops.items()},
        "vector_tflops": plain(device.vector_flops) / 1e12,
        "compute_units": device.compute_units,
        "kernel_gap_us": device.kernel_gap_s * 1e6,
        "tdp_watt": device.tdp_w,
        "idle_watt": device.idle_w,
        "gpus_per_node": cluster.node_size,
        "pcie_gbyte_per_s": plain(cluster.pcie_bytes_per_s) / GIGA,
        "node_power_watt": cluster.node_power_w,
        "host_relative_speed": plain(cluster.host_relative_speed),
    }
    if math.isfinite(device.power_cap_w):
        figures["power_cap_watt"] = device.power_cap_w
    for name, memory in (("hbm", device.hbm), ("l2", device.l2), ("dram", cluster.dram), ("nvme", cluster.nvme)):
        figures[f"{name}_gbyte"] = memory.capacity_bytes / GIGA
        figures[f"{name}_gbyte_per_s"] = plain(memory.bandwidth_bytes_per_s) / GIGA
    if not math.isnan(cluster.price_usd_per_hour):
        figures["price_usd_per_hour"] = cluster.price_usd_per_hour
    levels = [
        {
            "name": level.name,
            "resource": level.resource,
            "domain": level.domain,
            "gbyte_per_s": plain(level.bandwidth_bytes_per_s) / GIGA,
            "latency_us": level.latency_s * 1e6,
            "topology": level.topology,
            "in_network_reduction": level.in_network_reduction,
        }
        for level in cluster.levels
    ]
    return {
        "accelerator": device.name,
        "count": cluster.count,
        "node": cluster.node,
        "set": figures,
        "levels": levels,
    }
