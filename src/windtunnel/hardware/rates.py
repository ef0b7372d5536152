"""Machines that differ in the rate of one resource, one by one or all in one array."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from windtunnel.errors import ScenarioError, unknown
from windtunnel.hardware.machine import RESOURCES, Accelerator, Cluster, Memory, Resource
from windtunnel.ops.values import Value


def scale_resource(cluster: Cluster, resource: Resource, factor: Value) -> Cluster:
    """The cluster with one resource's rates multiplied by ``factor``, a positive number or an array of them.

    What belongs to a resource: tensor, every rate of the matrix unit; vector, the fp32 rate outside it; hbm and l2,
    their bandwidth; scale_up and scale_out, the bandwidth of those levels; pcie, accelerator to host (peer traffic
    over PCIe is scale_up); nvme, the drives' bandwidth; host, its single-thread speed. Capacities, latencies, powers
    and prices stay. With an array the scaled rates are arrays of its shape. Raises :class:`ScenarioError` for an
    unknown resource or a factor that is not above zero and finite.
    """
    if resource not in RESOURCES:
        raise unknown("resource", resource, RESOURCES)
    if not np.all(np.isfinite(factor)) or not np.all(np.greater(factor, 0)):
        raise ScenarioError(f"the rate of {resource} is multiplied by a finite number above 0, not {factor}")
    if resource in ("scale_up", "scale_out"):
        levels = tuple(
            replace(level, bandwidth_bytes_per_s=level.bandwidth_bytes_per_s * factor)
            if level.resource == resource
            else level
            for level in cluster.levels
        )
        return replace(cluster, levels=levels)
    if resource == "pcie":
        return replace(cluster, pcie_bytes_per_s=cluster.pcie_bytes_per_s * factor)
    if resource == "nvme":
        return replace(cluster, nvme=_faster(cluster.nvme, factor))
    if resource == "host":
        return replace(cluster, host_relative_speed=cluster.host_relative_speed * factor)
    return replace(cluster, accelerator=_scale_device(cluster.accelerator, resource, factor))


def _scale_device(device: Accelerator, resource: Resource, factor: Value) -> Accelerator:
    if resource == "tensor":
        return replace(device, peak_flops={dtype: rate * factor for dtype, rate in device.peak_flops.items()})
    if resource == "vector":
        return replace(device, vector_flops=device.vector_flops * factor)
    if resource == "hbm":
        return replace(device, hbm=_faster(device.hbm, factor))
    return replace(device, l2=_faster(device.l2, factor))


def _faster(memory: Memory, factor: Value) -> Memory:
    return replace(memory, bandwidth_bytes_per_s=memory.bandwidth_bytes_per_s * factor)


def spread(cluster: Cluster, epsilon: float) -> Cluster:
    """One cluster for all elasticities: every rate is an array of shape (1 + number of resources,).

    Row 0 is the cluster as it is; row i has :data:`RESOURCES` [i - 1] multiplied by 1 + ``epsilon``. Pricing it once
    gives times t with elasticity −ln(t[i] / t[0]) / ln(1 + epsilon). The cluster's own rates must be plain numbers.
    Raises :class:`ScenarioError` if ``epsilon`` is not finite, zero, or not above −1.
    """
    if not math.isfinite(epsilon) or epsilon == 0 or epsilon <= -1:
        raise ScenarioError(f"a rate is varied by a finite fraction above -1 and not 0, not {epsilon}")
    for i, resource in enumerate(RESOURCES):
        factor = np.ones(1 + len(RESOURCES))
        factor[1 + i] += epsilon
        cluster = scale_resource(cluster, resource, factor)
    return cluster
