"""The function that prices an operator on a cluster: one kernel model for each operator kind."""

from __future__ import annotations

from functools import partial

from windtunnel.cost.attention import attention_kernel, decode_kernel
from windtunnel.cost.calibration import Calibration, load_calibration
from windtunnel.cost.collectives import load_collective_constants, price_collective
from windtunnel.cost.gemm import gemm_kernel, grouped_kernel
from windtunnel.cost.kernels import Kernel, Rates
from windtunnel.cost.runtime import Runtime
from windtunnel.cost.stream import POINTWISE, copy_kernel, host_kernel, host_memory_kernel, scan_kernel, stream_kernel
from windtunnel.cost.sustained import capped
from windtunnel.errors import unknown
from windtunnel.hardware.machine import Cluster
from windtunnel.ops.build import COLLECTIVES
from windtunnel.ops.op import Op, Price

DEFAULT = Runtime()


def make_pricer(cluster: Cluster, runtime: Runtime = DEFAULT, calibration: Calibration | None = None) -> Kernel:
    """A function from an :class:`Op` to its :class:`Price` on ``cluster``, constants resolved once.

    ``calibration``: by default the shipped one of the cluster's accelerator. Rates of the cluster and quantities of
    the operators may be arrays that broadcast.

    Raises:
        ScenarioError: the calibration has no constants for the runtime's attention kernels. The returned function
            raises it for an operator kind or number format that nothing prices.
    """
    c = calibration or load_calibration(cluster.accelerator)
    if not runtime.sustained:  # otherwise the constants are those at the cap already
        c = capped(c, cluster.accelerator)
    rates = Rates.of(cluster, c, runtime)
    kernels: dict[str, Kernel] = {kind: stream_kernel(rates, c.pointwise, kind) for kind in POINTWISE}
    kernels |= {
        "gemm": gemm_kernel(rates, c.gemm),
        "grouped_gemm": grouped_kernel(rates, c.grouped_gemm),
        "attention": attention_kernel(rates, c.attention, runtime.attention),
        "attention_backward": attention_kernel(rates, c.attention_backward, runtime.attention),
        "attention_decode": decode_kernel(rates, c.attention_decode, runtime.attention),
        "scan": scan_kernel(rates, c.scan),
        "copy": copy_kernel(rates, cluster, c.copies),
        "host_memory": host_memory_kernel(cluster, c.copies),
        "host": host_kernel(rates),
    }
    a = cluster.accelerator
    constants = load_collective_constants(a.name, a.family, c.collectives or None)
    collective = partial(price_collective, cluster=cluster, constants=constants, runtime=runtime)
    kernels |= dict.fromkeys(COLLECTIVES, collective)

    def price(op: Op) -> Price:
        try:
            kernel = kernels[op.kind]
        except KeyError:
            raise unknown("operator kind", op.kind, kernels) from None
        return kernel(op)

    return price
