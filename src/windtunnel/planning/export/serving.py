"""What the writers for serving engines share: refusals and notes about a service."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from windtunnel.errors import ScenarioError
from windtunnel.models.network import Network
from windtunnel.planning.export.model import Model
from windtunnel.planning.export.service import Engine, Place, launch, place
from windtunnel.planning.export.writer import Exported, refused
from windtunnel.scenario.fleet import cache_tiers
from windtunnel.scenario.serve import serving_precision

PLAIN = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
"""Precisions of a checkpoint that is not quantised, by their names in PyTorch."""


def check(tool: str, engine: Engine, schedulers: Sequence[str], reserves: Sequence[str]) -> None:
    """Refuse policies that the tool does not have.

    Raises:
        ScenarioError: the first of them.
    """
    for name, accepted in (("scheduler", schedulers), ("reserve", reserves), ("preemption", ("recompute",))):
        if getattr(engine, name) not in accepted:
            raise refused(tool, name, getattr(engine, name), ", ".join(accepted))


def check_world(tool: str, engine: Engine, size: int) -> None:
    """Refuse attention data parallelism whose ranks are larger than a node.

    Raises:
        ScenarioError: one is.
    """
    if engine.dp > 1 and engine.tp * engine.pp > size:
        raise ScenarioError(
            f"--export {tool}: dp={engine.dp} ranks of tp x pp = {engine.tp * engine.pp} do not fit nodes of {size}; "
            f"accepted: tp x pp of at most {size}, or dp=1"
        )


def dtype(engine: Engine) -> str | None:
    """PyTorch's name of the weights' format; None: they are quantised."""
    return PLAIN.get(engine.precision)


def other_checkpoint(engine: Engine, network: Network) -> bool:
    """Whether the plan's weights are in a format of fewer, or other, bits than the model's configuration states."""
    own = serving_precision(network, None)[0]
    return engine.precision != own and (network.quantization is not None or engine.precision not in PLAIN)


def notes_on(plan: Mapping[str, Any], pools: Sequence[Engine], network: Network, online: Sequence[str]) -> list[str]:
    """What a service needs beside its engines. ``online``: precisions that the engine makes of any checkpoint."""
    found = []
    if sum(e.count for e in pools if e.role == "engine") > 1:
        found.append(
            f"requests are spread over the engines by a router of your own: {plan.get('router', 'round-robin')}"
        )
    if plan.get("autoscale"):
        found.append(f"autoscale={plan['autoscale']}: replicas that come and go are the orchestrator's work")
    for precision in sorted({e.precision for e in pools if other_checkpoint(e, network)}):
        if network.quantization is not None or precision not in online:
            found.append(f"MODEL must be a checkpoint in {precision}: the engine reads its format from it")
    return found


def host_cache_bytes(tool: str, engine: Engine) -> int:
    """Host memory for evicted prefixes of one engine.

    Raises:
        ScenarioError: a tier that is not host memory.
    """
    tiers = cache_tiers(engine.cache_tiers) if engine.cache_tiers else ()
    for tier in tiers:
        if tier.name != "host":
            raise refused(tool, "cache_tiers", engine.cache_tiers, "host:SIZE")
    return sum(t.capacity_bytes for t in tiers)


def start_everywhere(
    tool: str,
    asked: Mapping[str, Any],
    model: Model,
    pools: Sequence[Engine],
    notes: Sequence[str],
    command: Callable[[Place, int], str],
) -> Exported:
    """One script that starts every engine. ``command``: of an engine on its n-th node."""
    lines: dict[int, list[str]] = {}
    places = place(pools, asked)
    for where in places:
        for node in range(where.nodes.count):
            lines.setdefault(where.node + node, []).append(command(where, node))
    return Exported(tool, {"launch.sh": launch(tool, asked, model, places, lines, notes)}, tuple(notes))
