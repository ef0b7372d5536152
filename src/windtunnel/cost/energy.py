"""Electrical energy of a step: what an accelerator draws by being on, by running, and by each unit of work.

    power = idle + (TDP - idle) · (active + Σ fraction of the resource · its useful rate / its peak), at most TDP

The fractions were fitted on measured power of an A100 serving Llama-2-70B (see the ``energy`` section of
``calibrations/generic.yaml``), where useful work over the datasheet's rate was the utilisation. There they add up to
more than one: large prompts reach the power limit at about half of the peak FLOP rate, as training does. Other devices
use the same fractions of their own TDP and idle power. Links outside the accelerator cost joules a byte (Grace Hopper
whitepaper: NVLink-C2C 1.3 pJ/bit and PCIe 5.0 about five times that; a QSFP-DD module of class 6: 12 W at 400 Gbit/s).
"""

from __future__ import annotations

from windtunnel.cost.calibration import Calibration, load_calibration
from windtunnel.cost.kernels import Rates
from windtunnel.cost.runtime import Runtime
from windtunnel.hardware.machine import Cluster
from windtunnel.ops.fold import Totals
from windtunnel.ops.values import Value, minimum

RUNTIME = Runtime()


def energy_j(totals: Totals, seconds: Value, cluster: Cluster, calibration: Calibration | None = None) -> Value:
    """Joules that one accelerator and its share of the node draw in a step of ``seconds`` that does ``totals``.

    Work costs the same however long it takes, so a step that waits draws less power; the mean power of the accelerator
    never exceeds its TDP, or the cap below it. Each byte is charged to HBM (what the cache serves is not told apart in
    the totals), each message byte to the network unless scale-up links reach all of the cluster: both err upwards.
    """
    c = calibration or load_calibration(cluster.accelerator)
    return drawn_j(*at_work(totals, cluster, c), seconds, cluster, c)


def at_work(totals: Totals, cluster: Cluster, calibration: Calibration) -> tuple[Value, Value]:
    """(seconds at full power that the work amounts to, joules of links outside the accelerator). Both are sums over
    the work, so that the parts of a step can be added up."""
    a, e = cluster.accelerator, calibration.energy
    rates = Rates.of(cluster, calibration, RUNTIME)
    full: Value = 0.0
    for dtype, flops in totals.flops.items():
        if dtype == "vector":
            full = full + e.vector * flops / a.vector_flops
            continue
        resource, peak = rates.peak(dtype)
        full = full + (e.vector if resource == "vector" else e.tensor) * flops / peak
    moved = totals.bytes["hbm"] + totals.bytes["cached"]
    full = full + e.hbm * moved / a.hbm.bandwidth_bytes_per_s
    inside = any(level.resource == "scale_up" and level.domain >= cluster.count for level in cluster.levels)
    per_byte = e.scale_up_j_per_byte if inside else e.scale_out_j_per_byte
    links: Value = e.pcie_j_per_byte * (totals.bytes["pcie"] + totals.bytes["nvme"])
    for sent in totals.messages.values():
        links = links + per_byte * sent
    return full, links


def drawn_j(full: Value, links: Value, seconds: Value, cluster: Cluster, calibration: Calibration) -> Value:
    """Joules of a step of ``seconds`` with the work that :func:`at_work` found. Grows with ``seconds``."""
    a, e = cluster.accelerator, calibration.energy
    busy = e.active * seconds + full
    device = minimum(a.idle_w * seconds + (a.tdp_w - a.idle_w) * busy, a.power_w * seconds)
    sharers = min(cluster.node_size, cluster.count)
    return device + links + cluster.node_power_w / sharers * seconds
