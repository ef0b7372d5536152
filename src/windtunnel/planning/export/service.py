"""A plan of ``simulate`` or ``infer`` as engines, each with its place on the cluster's nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from windtunnel.planning.export.model import Model
from windtunnel.planning.export.nodes import RANK, Nodes, node_size, spread
from windtunnel.planning.export.shell import HERE, script
from windtunnel.scenario.engines import ServeEngine, load_engine
from windtunnel.scenario.fleet import EngineGroup, fleet

PORT = 8000
"""Of the first engine of a node; the next ones follow."""

OWN = (
    "tp", "pp", "dp", "ep", "precision", "kv_precision", "scheduler", "kv_blocks", "block_size", "memory_utilization",
    "max_model_len", "chunk", "max_batch", "prefix_cache", "cache_tiers", "preemption", "reserve",
)  # fmt: skip
"""Fields of a plan that belong to an engine."""


@dataclass(frozen=True, slots=True)
class Engine:
    """Like engines of one pool. ``chunk``: tokens of an iteration; ``max_batch``: sequences of one, on each of ``dp``
    ranks."""

    role: Literal["engine", "prefill", "decode"]
    count: int
    tp: int
    pp: int
    dp: int
    ep: int
    precision: str
    kv_precision: str
    scheduler: str
    kv_blocks: int | None
    block_size: int
    memory_utilization: float
    max_model_len: int | None
    chunk: int
    max_batch: int
    prefix_cache: bool
    cache_tiers: str | None
    preemption: str
    reserve: str
    asynchronous: bool | None
    all_reduce: str | None

    @property
    def world(self) -> int:
        return self.tp * self.pp * self.dp

    @property
    def layout(self) -> dict[str, int]:
        """The degrees as a plan has them."""
        return {"tp": self.tp, "pp": self.pp, "dp": self.dp, "ep": self.ep}


@dataclass(frozen=True, slots=True)
class Place:
    """Where one engine runs: the first of its nodes, its first accelerator there, and its number on that node."""

    engine: Engine
    nodes: Nodes
    node: int
    device: int
    number: int

    @property
    def port(self) -> int:
        return PORT + self.number

    @property
    def devices(self) -> str:
        return ",".join(str(d) for d in range(self.device, self.device + self.nodes.each))


def engines(plan: Mapping[str, Any], asked: Mapping[str, Any]) -> list[Engine]:
    """The service's pools, engine settings filled in.

    A pool's own options come before the plan's, which are those of the first pool; where that has an option of its
    own and another pool does not, what was asked for counts, else the engine's default.

    Raises:
        ScenarioError: a pool that cannot be read.
    """
    pools: list[tuple[Any, EngineGroup]] = []
    if plan.get("prefill") and plan.get("decode"):
        pools = [(role, g) for role in ("prefill", "decode") for g in fleet(str(plan[role]), role)]
    elif plan.get("fleet"):
        pools = [("engine", g) for g in fleet(str(plan["fleet"]))]
    else:
        pools = [("engine", EngineGroup(int(plan.get("replicas") or 1), {}))]
    profile = load_engine(str(plan.get("engine", "vllm")), "serve")
    assert isinstance(profile, ServeEngine)
    first = pools[0][1].options
    return [_engine(role, g, {**{k: plan.get(k) for k in OWN if k not in first or g is pools[0][1]}, **{
        k: asked[k] for k in OWN if k in first and k not in g.options and asked.get(k) is not None}, **g.options},
        profile, asked) for role, g in pools]  # fmt: skip


def _engine(
    role: Any, group: EngineGroup, told: Mapping[str, Any], profile: ServeEngine, asked: Mapping[str, Any]
) -> Engine:
    def number(name: str, default: int) -> int:
        return int(told[name]) if told.get(name) is not None else default

    optional = {k: None if told.get(k) is None else int(told[k]) for k in ("kv_blocks", "max_model_len")}
    share = told.get("memory_utilization")
    cached = told.get("prefix_cache")
    return Engine(
        role=role, count=group.count, tp=number("tp", 1), pp=number("pp", 1), dp=number("dp", 1), ep=number("ep", 1),
        precision=str(told.get("precision") or "bf16"), kv_precision=str(told.get("kv_precision") or "bf16"),
        scheduler=str(told.get("scheduler") or profile.scheduler), kv_blocks=optional["kv_blocks"],
        block_size=number("block_size", profile.block_size),
        memory_utilization=float(profile.memory_utilization if share is None else share),
        max_model_len=optional["max_model_len"], chunk=number("chunk", profile.max_batched_tokens),
        max_batch=number("max_batch", profile.max_sequences),
        prefix_cache=cached if isinstance(cached, bool) else str(cached).lower() in ("true", "yes", "1", "on"),
        cache_tiers=told.get("cache_tiers"), preemption=str(told.get("preemption") or "recompute"),
        reserve=str(told.get("reserve") or "prompt"), asynchronous=asked.get("async_scheduling"),
        all_reduce=asked.get("all_reduce"),
    )  # fmt: skip


def place(pools: Sequence[Engine], asked: Mapping[str, Any]) -> list[Place]:
    """Every engine in order, on the first nodes that have room; one larger than a node has nodes of its own.

    Raises:
        ScenarioError: the cluster cannot be read.
    """
    return list(_place(pools, node_size(asked)))


def _place(pools: Sequence[Engine], size: int) -> Iterator[Place]:
    node = device = number = 0
    for engine in pools:
        nodes = spread(engine.world, size)
        for _ in range(engine.count):
            if device + nodes.each > size or (nodes.count > 1 and device > 0):
                node, device, number = node + 1, 0, 0
            yield Place(engine, nodes, node, device, number)
            if nodes.count > 1:
                node += nodes.count
            else:
                device, number = device + nodes.each, number + 1


def used_nodes(places: Sequence[Place]) -> int:
    """Nodes that the service takes."""
    return max(p.node + p.nodes.count for p in places)


def launch(
    tool: str,
    asked: Mapping[str, Any],
    model: Model,
    places: Sequence[Place],
    lines: Mapping[int, Sequence[str]],
    notes: Sequence[str],
) -> str:
    """The script that starts on every node the engines that run there. ``lines``: commands by node."""
    count = used_nodes(places)
    settings = [model.setting, RANK]
    if any("$HERE" in command for commands in lines.values() for command in commands):
        settings.append(HERE)
    many = count > 1
    settings.append(
        f"read -r -a NODES <<<\"${{NODES:?set NODES to the names of the {count} nodes, in order}}\""
        if many else "NODES=(localhost)"
    )  # fmt: skip
    body = ['case "$NODE_RANK" in'] if many else []
    for node, commands in sorted(lines.items()):
        body += [f"{node})"] if many else []
        body += [f"{command} &" for command in commands]
        body += [";;"] if many else []
    body += ["esac"] if many else []
    body.append("wait")
    where = f"on each of {count} nodes, with NODE_RANK=0 to {count - 1}" if many else "once"
    total = len(places)
    about = [
        f"{asked['model']} on {asked['on']}: {total} engine{'s' if total > 1 else ''}; written by windtunnel for "
        f"{tool}.",
        f"Run it {where}.",
        *(f"Note: {note}." for note in notes),
    ]
    return script(about, settings, body)
