"""Kernels bound by moving data: pointwise and reducing ones, state-space scans, copies; and work on the host."""

from __future__ import annotations

from collections.abc import Mapping

from windtunnel.cost.calibration import Copy, Scan, Stream
from windtunnel.cost.kernels import Kernel, Rates, matrix_rates, smooth_max
from windtunnel.hardware.machine import Cluster
from windtunnel.ops.op import Op, Price
from windtunnel.ops.values import maximum

POINTWISE = (
    "norm", "activation", "elementwise", "rope", "embedding", "softmax", "sampling", "dropout", "cross_entropy",
    "optimizer", "quantize", "none",
)  # fmt: skip
"""Operator kinds priced by bandwidth. ``none`` has no work: it only carries parameters or saved bytes."""


def stream_kernel(rates: Rates, table: Mapping[str, Stream], kind: str) -> Kernel:
    """Prices one pointwise kind; a kind without an entry of its own is priced as ``elementwise``."""
    c = table.get(kind) or table["elementwise"]
    hbm_s, l2_s = 1.0 / (c.bandwidth * rates.hbm), 1.0 / (c.cache * rates.l2)
    vector_s = 1.0 / (c.vector * rates.vector)

    def price(op: Op) -> Price:
        hbm = rates.from_memory(op.hbm_bytes, op.cached_bytes) * hbm_s
        l2 = (op.hbm_bytes + op.cached_bytes) * l2_s
        vector = op.vector_flops * vector_s
        latency = rates.launch(op, c.fixed_s)
        seconds = latency + smooth_max(c.power, vector, hbm, l2)
        return Price(seconds, {"vector": vector, "hbm": hbm, "l2": l2}, latency, rates.issue(op))

    return price


def scan_kernel(rates: Rates, table: Mapping[str, Scan]) -> Kernel:
    """Prices ``scan``: products (Mamba-2, delta nets) and recurrences take turns, loading overlaps both."""
    c = table["default"]
    hbm_s, l2_s = 1.0 / (c.bandwidth * rates.hbm), 1.0 / (c.cache * rates.l2)
    vector_s = 1.0 / (c.vector * rates.vector)
    compute = c.compute * (c.sustained if rates.sustained else 1.0)
    by_format = matrix_rates(rates, compute)

    def price(op: Op) -> Price:
        resource, compute_s = by_format[op.dtype]
        hbm = rates.from_memory(op.hbm_bytes, op.cached_bytes) * hbm_s
        l2 = (op.hbm_bytes + op.cached_bytes) * l2_s
        vector, products = op.vector_flops * vector_s, op.flops * compute_s
        latency = rates.launch(op, c.fixed_s)
        seconds = latency + smooth_max(c.power, vector + products, hbm, l2)
        busy = {"vector": vector, "hbm": hbm, "l2": l2}
        busy[resource] = busy.get(resource, 0.0) + products
        return Price(seconds, busy, latency, rates.issue(op))

    return price


def copy_kernel(rates: Rates, cluster: Cluster, constants: Copy) -> Kernel:
    """Prices ``copy``: the slower of the link to the host and this device's share of the node's storage; at most
    ``shape["bytes_per_s"]``, if there is one, where the host copies what it sends to page-locked memory first."""
    sharers = min(cluster.node_size, cluster.count)
    pcie_s = 1.0 / (constants.pcie * cluster.pcie_bytes_per_s)
    nvme_s = sharers / (constants.nvme * cluster.nvme.bandwidth_bytes_per_s)

    def price(op: Op) -> Price:
        pcie, nvme = op.pcie_bytes * pcie_s, op.nvme_bytes * nvme_s
        latency = op.kernels * constants.fixed_s
        busy = {"pcie": pcie, "nvme": nvme}
        if "bytes_per_s" in op.shape:
            busy["host"] = op.pcie_bytes / op.shape["bytes_per_s"] / cluster.host_relative_speed
            return Price(latency + maximum(maximum(pcie, nvme), busy["host"]), busy, latency, rates.issue(op))
        return Price(latency + maximum(pcie, nvme), busy, latency, rates.issue(op))

    return price


def host_memory_kernel(cluster: Cluster, constants: Copy) -> Kernel:
    """Prices ``host_memory``: the host streams ``shape["bytes"]`` through this device's share of the node's DRAM while
    the device waits (an offloaded optimizer, arXiv 2101.06840, section 5)."""
    sharers = min(cluster.node_size, cluster.count)
    byte_s = sharers / (constants.dram * cluster.dram.bandwidth_bytes_per_s) / cluster.host_relative_speed

    def price(op: Op) -> Price:
        seconds = op.shape["bytes"] * byte_s
        return Price(seconds, {"host": seconds})

    return price


def host_kernel(rates: Rates) -> Kernel:
    """Prices ``host``: the device waits for nothing here; the tree's folds let the host run beside it."""

    def price(op: Op) -> Price:
        return Price(0.0, {}, 0.0, rates.issue(op))

    return price
