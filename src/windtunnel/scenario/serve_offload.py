"""What a serving engine keeps off its devices: ``weights:cpu``, ``weights:cpu=0.6,kv:cpu``, ``kv:nvme`` …"""

from __future__ import annotations

from collections.abc import Mapping

from windtunnel.errors import ScenarioError
from windtunnel.hardware.machine import Cluster
from windtunnel.scenario.plan import Away
from windtunnel.scenario.text import number, shown

ACCEPTED = "weights and kv, each followed by :cpu or :nvme and, for a part of it, =SHARE"


def serve_offload(text: str | None, cluster: Cluster) -> Mapping[str, Away]:
    """What of ``weights`` and ``kv`` is kept where.

    Raises:
        ScenarioError: something else, more than all of it, or a place that the machine does not have.
    """
    shares: dict[str, dict[str, float]] = {"weights": {}, "kv": {}}
    for part in [] if text is None else text.split(","):
        what, _, rest = (x.strip() for x in part.partition(":"))
        where, given, share = (x.strip() for x in rest.partition("="))
        if what not in shares or where not in ("cpu", "nvme") or where in shares[what] or (given and not share):
            raise ScenarioError(f"offload {shown(text)}: {shown(part)} is not understood; accepted: {ACCEPTED}")
        shares[what][where] = number(share, f"offload {shown(part)}: share", at_most=1.0) if given else 1.0
        memory, name = (cluster.dram, "host memory of its own") if where == "cpu" else (cluster.nvme, "local drive")
        if not memory.capacity_bytes > 0:
            key = "dram_gbyte" if where == "cpu" else "nvme_gbyte"
            raise ScenarioError(
                f"offload {shown(part)}: a node of {shown(cluster.node)} has no {name}; give it one with set {key}"
            )
    for what, places in shares.items():
        if sum(places.values()) > 1 + 1e-9:
            raise ScenarioError(f"offload {shown(text)}: the shares of {what} are more than 1 together")
    return {what: Away(**places) for what, places in shares.items()}
